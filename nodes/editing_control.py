"""Editing that is steered: larger pictures that keep their structure, a little more of an edit each time."""
import torch
from torch.nn import functional

from .. import host
from ..editing.diffuse_high import enlarged, scales_of_text, structure_guided
from ..editing.path import euler_progress
from ..editing.pie import pie_mixed, pie_round
from ..editing.wavelets import WAVES, low_band, wavelet_mix, with_low_band
from ..guidance.minority import noised
from ..samplers.noise import shared_noise
from ..schedules.classic import classic_sigmas
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SEED, SOCKET

TILE = 512  # the side of ComfyUI's tiles, px
WAVE = CHOICE(WAVES, "What splits structure from detail: db4 smoothly, haar in blocks of 2 x 2 px.", advanced=True)
POSITIVE = SOCKET("CONDITIONING", "What the picture shows.")
NEGATIVE = SOCKET("CONDITIONING", "What it shall not show; unused at cfg 1.")


def last_levels(model, steps: int, kept: int) -> list[float]:
    """The levels of the last `kept` of a model's `steps` even steps, ComfyUI's 'normal' schedule."""
    if not 1 <= kept <= steps:
        raise ValueError(f"the last steps to run must lie from 1 to the schedule's {steps}, got {kept}")
    levels = classic_sigmas("normal", host.levels_of(model), steps).tolist()
    return levels[-(kept + 1):]


def on_grid(pictures, ratio: int):
    """Pictures (B, C, H, W) filled up at the right and the bottom, by their last rows, to multiples of `ratio`."""
    height, width = pictures.shape[-2:]
    return functional.pad(pictures, (0, -width % ratio, 0, -height % ratio), mode="replicate")


class Run:
    """A MODEL under its prompts, for runs of Euler's steps (DDIM) within a node."""

    def __init__(self, model, positive, negative, cfg: float, what: str):
        self.model, self.prompts, self.what = model, (positive, negative, cfg), what

    def __call__(self, x, sigmas: list[float], steps=euler_progress, **about):
        """(state at the end, last prediction), both on the CPU and as the network sees latents, of steps(denoise, x,
        sigmas, state); about: what else the result depends on."""
        def start(denoise, like, *, state, process, clock):
            return steps(denoise, x.to(like), sigmas, state)

        state, _ = host.measure(
            self.model, *self.prompts, what=self.what, latent={"samples": x}, count=len(x),
            sigmas=torch.tensor(sigmas), seed=0, options={"from": host.key_of(x), **about}, start=start,
            cost=len(sigmas) - 1)
        return state["x"].cpu(), state["denoised"].cpu()


class OdeonWaveletMix:
    TITLE = "Wavelet mix"
    DESCRIPTION = "The coarse structure and colours of one picture with the fine detail of another."
    SEARCH_ALIASES = ["wavelet", "dwt", "frequency separation", "color transfer", "detail transfer", "db4", "haar"]
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The mix, as large as the picture with the details.",)
    FUNCTION = "mix"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "low": SOCKET("IMAGE", "Gives structure and colours; brought to the size of the other."),
            "details": SOCKET("IMAGE", "Gives edges and texture."),
            "levels": INT(1, 1, 10, "How coarse detail may be: about 2 px at 1, 4 at 2, 8 at 3."),
            "wave": WAVE,
        }}

    def mix(self, low, details, levels, wave):
        low, details = (image[..., :3].movedim(-1, 1).float() for image in (low, details))
        if low.shape[-2:] != details.shape[-2:]:
            low = enlarged(low, details.shape[-2:], alpha=0.0)
        if 1 not in (len(low), len(details)) and len(low) != len(details):
            raise ValueError(f"need as many pictures in both, or one in either, got {len(low)} and {len(details)}")
        low, details = torch.broadcast_tensors(low, details)
        return (wavelet_mix(low, details, wave=wave, levels=levels).clamp(0.0, 1.0).movedim(1, -1),)


class OdeonDiffuseHigh:
    TITLE = "DiffuseHigh"
    DESCRIPTION = "Makes a picture larger in steps: the model adds detail while wavelets hold its structure."
    SEARCH_ALIASES = ["upscale", "hires fix", "high resolution", "larger", "wavelet guidance", "progressive"]
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The picture at the last of the scales.",)
    FUNCTION = "enlarge"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model that drew the picture, or another one for detail."),
            "vae": SOCKET("VAE", "The model's."),
            "positive": POSITIVE,
            "negative": NEGATIVE,
            "image": SOCKET("IMAGE", "The picture, at a size the model draws well."),
            "scales": ("STRING", {"default": "1.5, 2", "tooltip": "The sizes to go through, as factors of the given "
                                  "one. Steps of at most 1.5 to 2 keep objects from doubling."}),
            "cfg": FLOAT(10.0, 0.0, 100.0, "About twice what you would draw with: 10 for SDXL, 4 to 6 for Shapes, 1 "
                                           "for Flux.", step=0.1),
            "noising_steps": INT(15, 1, 10000, "So many last steps are run at each size: more draws more anew."),
            "steps": INT(50, 1, 10000, "Steps of the whole schedule, of which the last are run."),
            "dwt_steps": INT(5, 0, 10000, "In so many of them the structure is held: 5 to 7, 0 never. Each decodes and "
                                          "encodes the picture once."),
            "seed": SEED,
            "sharpen_alpha": FLOAT(1.0, 0.0, 10.0, "How much the enlarged picture is sharpened first; 0 not at all."),
            "blur_sigma": FLOAT(1.05, 0.1, 10.0, "What sharpening takes for blur, in px.", advanced=True),
            "kernel": INT(3, 1, 63, "Where that blur is cut off, in px; odd.", advanced=True),
            "levels": INT(1, 1, 6, "How coarse detail may be: about 2 px at 1, 4 at 2, 8 at 3.", advanced=True),
            "wave": WAVE,
            "tiled_vae": BOOLEAN(True, "Decodes and encodes pictures of more than 512 px in tiles: needs less memory."),
        }}

    def enlarge(self, model, vae, positive, negative, image, scales, cfg, noising_steps, steps, dwt_steps, seed,
                sharpen_alpha, blur_sigma, kernel, levels, wave, tiled_vae):
        run, process = Run(model, positive, negative, cfg, "a larger picture"), host.process_of(model)
        sigmas, ratio = last_levels(model, steps, noising_steps), vae.spacial_compression_encode()
        picture = image[..., :3].movedim(-1, 1).float()
        sides, encode, decode = image.shape[1:3], *_codec(model, vae, tiled_vae)
        for scale in scales_of_text(scales):
            height, width = (round(side * scale) for side in sides)
            guide = on_grid(enlarged(picture, (height, width), alpha=sharpen_alpha, blur=blur_sigma, kernel=kernel),
                            ratio)
            low = low_band(guide, wave, levels)
            clean = encode(guide)
            noise = shared_noise(clean, seed, f"diffuse high/{scale:g}")(0.0, 0.0)

            def keep(denoised, low=low):
                return encode(with_low_band(low, decode(denoised), wave, levels))

            x = structure_guided(run, noised(clean, noise, sigmas[0], process), sigmas, keep=keep, dwt_steps=dwt_steps)
            picture = decode(x)[..., :height, :width]
        return (picture.movedim(1, -1),)


def _codec(model, vae, tiled: bool):
    """(pictures (B, 3, H, W) in [0, 1] to latents as a network sees them, and back); tiled: those above TILE px."""
    ratio = vae.spacial_compression_encode()

    def encode(pictures):
        pixels, large = pictures.movedim(1, -1), max(pictures.shape[-2:]) > TILE
        return host.of_latent(model, vae.encode_tiled(pixels) if tiled and large else vae.encode(pixels)).float().cpu()

    def decode(latents):
        latents, large = host.as_latent(model, latents), max(latents.shape[-2:]) * ratio > TILE
        found = vae.decode_tiled(latents) if tiled and large else vae.decode(latents)
        return found.movedim(-1, 1).float().cpu()

    return encode, decode


class OdeonPIE:
    TITLE = "Progressive editing (PIE)"
    DESCRIPTION = "A little more of an edit each time: a row of pictures on the way from one to what a prompt says."
    SEARCH_ALIASES = ["pie", "progression", "gradual", "morph", "img2img loop", "disease progression", "frames"]
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The source and then each round's result, as a batch.",)
    FUNCTION = "edit"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to edit with."),
            "positive": SOCKET("CONDITIONING", "What the picture shall come to show."),
            "negative": NEGATIVE,
            "latent": SOCKET("LATENT", "The source, from VAE Encode. A noise mask on it serves as the mask."),
            "n_steps": INT(10, 1, 1000, "Rounds, each a picture further on."),
            "strength": FLOAT(0.5, 0.0, 1.0, "How much noise each round adds, as a share of the schedule: 0 changes "
                                             "nothing, 0.3 to 0.6 goes gently."),
            "cfg": FLOAT(7.5, 0.0, 100.0, "How hard each round pulls to the prompt.", step=0.1),
            "steps": INT(50, 1, 10000, "Steps of the whole schedule, of which each round runs its share."),
            "beta_2": FLOAT(0.75, 0.0, 1.0, "With a mask: how far each round's result may be from the source inside "
                                            "it; 1 all the way."),
            "beta_1": FLOAT(0.01, 0.0, 1.0, "The same outside the mask; 0 keeps it exactly."),
            "seed": SEED,
        }, "optional": {
            "mask": SOCKET("MASK", "Where the picture may change; brought to its size. None: everywhere, and beta_1 "
                                   "and beta_2 have no effect."),
            "vae": SOCKET("VAE", "Decodes and encodes each round's result, as the authors' program does: what the "
                                 "decoder can't show is lost each time. None: stays in latents."),
        }}

    def edit(self, model, positive, negative, latent, n_steps, strength, cfg, steps, beta_2, beta_1, seed, mask=None,
             vae=None):
        source, process = host.of_latent(model, latent["samples"].float()), host.process_of(model)
        kept = int(strength * steps)
        mask = latent_mask(latent.get("noise_mask") if mask is None else mask, source)
        frames = [source]
        for n in range(n_steps if kept else 0):
            sigmas = last_levels(model, steps, kept)

            def draw(step, n=n):
                return shared_noise(source, seed, f"pie/{n}/{step}")(0.0, 0.0)

            def one_round(denoise, x, sigmas, state, draw=draw):
                return pie_round(denoise, x, source.to(x), sigmas, draw=lambda step: draw(step).to(x), process=process,
                                 mask=None if mask is None else mask.to(x), state=state)

            run = Run(model, positive, negative, cfg, f"round {n + 1} of {n_steps}")
            edited, _ = run(frames[-1], sigmas, one_round, source=host.key_of([source, mask]), seed=seed, round=n)
            edited = pie_mixed(source, edited, mask, beta_1=beta_1, beta_2=beta_2)
            frames.append(edited if vae is None else _through(vae, model, edited))
        frames += [source] * (n_steps + 1 - len(frames))
        extras = {key: value for key, value in latent.items() if key not in ("batch_index", "noise_mask")}
        return ({**extras, "samples": torch.cat([host.as_latent(model, frame) for frame in frames])},)


def latent_mask(mask, latents):
    """A MASK (B or 1, ..., H, W) brought to latents (B, C, h, w): (B, 1, h, w), None for None."""
    if mask is None:
        return None
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    if len(mask) not in (1, len(latents)):
        raise ValueError(f"need one mask, or one for each of the {len(latents)} pictures, got {len(mask)}")
    return functional.interpolate(mask, size=latents.shape[-2:], mode="bilinear").cpu()


def _through(vae, model, latents):
    """Latents as a network sees them, decoded and encoded."""
    return host.of_latent(model, vae.encode(vae.decode(host.as_latent(model, latents))[..., :3])).float().cpu()


NODES = (OdeonWaveletMix, OdeonDiffuseHigh, OdeonPIE)
