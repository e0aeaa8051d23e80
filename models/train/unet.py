"""The recipes of the UNets: shapes-unet predicts noise, shapes-unet-v the velocity, shapes-unet-few the end at once."""
import torch
from torch import Tensor, nn

from ...samplers.process import VE
from ..levels import DiscreteLevels
from ..unet import ShapesUNet
from ..weights import load_weights
from .captioned import LAYOUT_WEIGHT, Batch, CaptionedRecipe, naming_loss

MIN_SNR, MAX_BOOST = 5.0, 25.0


class UNetRecipe(CaptionedRecipe):
    """Noise prediction on Stable Diffusion's levels. The weight of a level is min-SNR's, min(SNR, 5) / SNR, times
    min(1 + 1 / SNR, 25): without it the noisiest levels, which bind colours to things, count for nothing.

    Source: Hang et al. 2023, arXiv 2303.09556 (min-SNR).
    """
    name, steps, rate, ema, batch = "shapes-unet", 5000, 1e-3, 0.998, 32
    starts_from = ""  # the model whose weights training starts from
    levels = DiscreteLevels()

    def build(self) -> nn.ModuleDict:
        model = self.parts(ShapesUNet(), channels=128)
        if self.starts_from:
            model.load_state_dict({**model.state_dict(), **load_weights(self.starts_from, self.folder)})
        model["network"].output_blocks[1][-1].register_forward_hook(self._keep_features)
        return model

    def _keep_features(self, _module: nn.Module, _inputs: tuple, features: Tensor) -> None:
        self.features = features

    def loss(self, model: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        batch = self.draw(generator, device)
        sigma = self.levels.sigmas[(self.even(generator) * 1000).long()].to(device)
        target, weight = self.target(batch, sigma)
        with torch.autocast(device.type, torch.bfloat16):
            predicted = self.answer(model, batch.latents + _wide(sigma) * batch.noise, sigma,
                                    model["text"](batch.numbers))
            names = naming_loss(model["layout"](self.features), batch.layout)
        error = (predicted.float() - target).square().mean((1, 2, 3))
        weighted = (weight * error).mean()
        return {"total": weighted + LAYOUT_WEIGHT * names, "loss": weighted, "error": error.mean(), "names": names}

    def target(self, batch: Batch, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the network should answer (B, 4, 16, 16), and the weights (B,) of its squared error."""
        snr = sigma.pow(-2)
        return batch.noise, (MIN_SNR / snr).clamp(max=1.0) * (1.0 + 1.0 / snr).clamp(max=MAX_BOOST)

    def answer(self, model: nn.ModuleDict, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        return model["network"](x / _wide(1.0 + sigma.square()).sqrt(), self.levels.timestep(sigma), context)

    def schedule(self, steps: int) -> tuple:
        return [*self.levels.sigma(torch.linspace(999.0, 0.0, steps)).tolist(), 0.0], VE


class VelocityUNetRecipe(UNetRecipe):
    """v = (eps - sigma x_0) / sqrt(1 + sigma^2) on levels whose last one is pure noise, started from shapes-unet.

    Source: Salimans & Ho 2022, arXiv 2202.00512; Lin et al. 2023, arXiv 2305.08891 (zero terminal SNR).
    """
    name, steps, rate, starts_from = "shapes-unet-v", 600, 4e-4, "shapes-unet"
    levels = DiscreteLevels(zero_terminal=True)

    def target(self, batch: Batch, sigma: Tensor) -> tuple[Tensor, Tensor]:
        velocity = (batch.noise - _wide(sigma) * batch.latents) / _wide(1.0 + sigma.square()).sqrt()
        return velocity, (MIN_SNR * sigma.square()).clamp(max=1.0)

    def denoised(self, model: nn.ModuleDict, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        squared = _wide(1.0 + sigma.square())
        return x / squared - _wide(sigma) / squared.sqrt() * self.answer(model, x, sigma, context).float()


class FewStepUNetRecipe(VelocityUNetRecipe):
    """Consistency distillation: from two neighbouring levels of the teacher's path, the student sees the same end.

    The teacher is shapes-unet-v, one DDIM step between neighbours, without guidance: with a guided teacher the contrast
    of all levels adds up, pictures get spots, and more of them the more steps are taken. A quarter of the others' rate,
    and no naming beside it: both move the student away from what it starts with faster than it can agree with itself.
    Source: Song et al. 2023, arXiv 2303.01469, algorithm 2.
    """
    name, steps, rate, starts_from = "shapes-unet-few", 400, 1e-4, "shapes-unet-v"
    measured_at, order = {"cfg": 1.0, "steps": 2}, 1
    places = 8

    def build(self) -> nn.ModuleDict:
        model = super().build()
        self.teacher = nn.ModuleDict({"network": ShapesUNet(), "text": type(model["text"])()})
        self.teacher.load_state_dict(load_weights(self.starts_from, self.folder))
        self.teacher.eval().requires_grad_(False)
        return model

    def loss(self, model: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        batch, teacher = self.draw(generator, device), self.teacher.to(device)
        place = 1 + (self.even(generator) * self.places).long()
        sigma, lower = (self.levels.sigma(999.0 * value / self.places).to(device) for value in (place, place - 1))
        lower = torch.where(place.to(device) == 1, torch.zeros_like(lower), lower)
        x = batch.latents + _wide(sigma) * batch.noise
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                taught = self.denoised(teacher, x, sigma, teacher["text"](batch.numbers))
                there = taught + _wide(lower / sigma) * (x - taught)
                end = self.denoised(model, there, lower.clamp(min=1e-3), model["text"](batch.numbers))
                end = torch.where(_wide(lower == 0.0), taught, end)
            own = self.denoised(model, x, sigma, model["text"](batch.numbers))
        error = ((own - end).square().mean((1, 2, 3)) + 1e-3 ** 2).sqrt() - 1e-3
        return {"total": error.mean()}

    def schedule(self, steps: int) -> tuple:
        return [*self.levels.sigma(torch.linspace(999.0, 0.0, steps + 1)[:-1]).tolist(), 0.0], VE


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
