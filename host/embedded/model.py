"""MODEL, CLIP and VAE of the embedded runner, with the calls that nodes make on ComfyUI's."""
import torch
from torch import Tensor

from ...samplers.process import FLOW, VE, Process


class ModelSampling:
    """How a network's output and the state relate: input scaling, prediction of x_0, noising of a picture.

    Named and behaving as ComfyUI's, for predictions 'eps', 'v' (VE state, scaled to unit size for the network)
    and 'flow' (state (1 - sigma) x_0 + sigma eps).
    """

    def __init__(self, prediction: str, levels):
        self.prediction = prediction
        self.levels = levels

    @property
    def process(self) -> Process:
        return FLOW if self.prediction == "flow" else VE

    @property
    def sigma_max(self) -> Tensor:
        return self.levels.sigma_max

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told of sigma (B,)."""
        return self.levels.timestep(sigma)

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x if self.prediction == "flow" else x / (sigma.square() + 1.0).sqrt()

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        if self.prediction == "v":
            return x / (sigma.square() + 1.0) - output * sigma / (sigma.square() + 1.0).sqrt()
        return x - output * sigma

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        """The state a run starts from. max_denoise: from the top level, where the network expects unit input."""
        if self.prediction == "flow":
            return sigma * noise + (1.0 - sigma) * latent
        return noise * ((1.0 + sigma.square()).sqrt() if max_denoise else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1.0 - sigma) if self.prediction == "flow" else x


class Model:
    """A MODEL: a shared network, and this copy's own guidance rules and patches of the network's inside."""

    def __init__(self, network, *, prediction: str, levels, channels: int, rgb_factors: list | None = None):
        self.network, self.rgb_factors = network, rgb_factors
        self.channels = channels
        self.model_sampling = ModelSampling(prediction, levels)
        self.rules = []  # (kind, start) in the order of the MODEL wire, kinds as in rules.py
        self.model_options = {"transformer_options": {}}

    def clone(self) -> "Model":
        copy = object.__new__(Model)
        copy.__dict__ = {**self.__dict__, "rules": list(self.rules), "model_options": _copied(self.model_options)}
        return copy

    def with_rule(self, kind: str, start) -> "Model":
        """A clone with one more rule, whose state start() makes for every run."""
        copy = self.clone()
        copy.rules.append((kind, start))
        return copy

    def set_model_patch(self, patch, name: str) -> None:
        """One more patch called at the place `name`: "attn1_patch", "input_block_patch", ..."""
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault(name, []).append(patch)

    def set_model_patch_replace(self, patch, name: str, block_name: str, number: int,
                                transformer_index: int | None = None) -> None:
        """What runs instead of attention "attn1" or "attn2" in a UNet's block, or of a "dit" block."""
        place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        replaced = self.model_options["transformer_options"].setdefault("patches_replace", {})
        replaced.setdefault(name, {})[place] = patch

    def get_model_object(self, name: str):
        return getattr(self, name)

    def apply_model(self, x: Tensor, sigma: Tensor, context: Tensor | None, transformer_options: dict,
                    pooled: Tensor | None = None) -> Tensor:
        """x (B, C, ...) at sigma (B,) -> denoised, under a context (1 or B, tokens, dim) and pooled (1 or B, dim)."""
        wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
        context, pooled = (None if value is None else value.to(x.device).expand(x.shape[0], *value.shape[1:])
                           for value in (context, pooled))
        timesteps = self.model_sampling.timestep(sigma).float()
        output = self.network(self.model_sampling.calculate_input(wide, x), timesteps, context=context,
                              y=pooled, transformer_options={**self.model_options["transformer_options"],
                                                             **transformer_options})
        return self.model_sampling.calculate_denoised(wide, output.float(), x)

    def fix_empty_latent_channels(self, samples: Tensor) -> Tensor:
        """An all-zero latent with this model's channel count; any other latent as it is."""
        if samples.shape[1] == self.channels or torch.count_nonzero(samples) > 0:
            return samples
        return samples.new_zeros(samples.shape[0], self.channels, *samples.shape[2:])


def _copied(options):
    """Dicts and lists copied all the way down, what they hold shared."""
    if isinstance(options, dict):
        return {key: _copied(value) for key, value in options.items()}
    return list(options) if isinstance(options, list) else options


class Clip:
    """A CLIP: words to conditioning."""

    def __init__(self, tokenizer, encoder):
        self.tokenizer, self.encoder = tokenizer, encoder

    def tokenize(self, text: str) -> dict:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        cond, pooled = self.encoder.encode_token_weights(tokens)
        return [[cond, {"pooled_output": pooled}]]


class Vae:
    """A VAE: IMAGE (B, H, W, 3) in [0, 1] to latents and back."""

    def __init__(self, codec, ratio: int):
        self.codec, self.ratio = codec, ratio

    @property
    def first_stage_model(self):
        return self.codec

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of a picture, cropped around its middle to a multiple of the ratio."""
        for dim in (1, 2):
            kept = pixels.shape[dim] // self.ratio * self.ratio
            pixels = pixels.narrow(dim, (pixels.shape[dim] - kept) // 2, kept)
        return self.codec.encode(pixels.movedim(-1, 1) * 2.0 - 1.0)

    def encode_tiled(self, pixels: Tensor) -> Tensor:
        """encode: there is memory enough for any picture here."""
        return self.encode(pixels)

    def decode_tiled(self, samples: Tensor) -> Tensor:
        return self.decode(samples)

    def spacial_compression_encode(self) -> int:
        """Pixels a latent place, by ComfyUI's name for it."""
        return self.ratio

    def decode(self, samples: Tensor) -> Tensor:
        return ((self.codec.decode(samples) + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)
