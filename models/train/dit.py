"""The recipes of shapes-dit and shapes-dit-small: flow models that predict the velocity eps - x_0."""
import torch
from torch import Tensor, nn

from ...samplers.process import FLOW
from ..dit import CONFIGS, ShapesDiT
from ..text import TOKENS
from .captioned import LAYOUT_WEIGHT, CaptionedRecipe, naming_loss


class DiTRecipe(CaptionedRecipe):
    """Velocity prediction with levels from a logit-normal density (Esser et al. 2024, arXiv 2403.03206)."""
    name, steps, rate, ema, batch = "shapes-dit", 8000, 1e-3, 0.999, 32
    named_after = 1  # the single block whose features name the places

    def build(self) -> nn.ModuleDict:
        config = CONFIGS[self.name]
        model = self.parts(ShapesDiT(config), channels=config["hidden_size"], cells=config["patch_size"])
        model["network"].single_blocks[self.named_after].register_forward_hook(self._keep_features)
        return model

    def _keep_features(self, _module: nn.Module, _inputs: tuple, both: Tensor) -> None:
        self.features = both[:, TOKENS:].transpose(1, 2).unflatten(2, (8, 8))

    def loss(self, model: nn.ModuleDict, generator: torch.Generator) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        batch = self.draw(generator, device)
        sigma = torch.special.ndtri(self.even(generator).clamp(1e-4, 1.0 - 1e-4)).sigmoid().to(device)
        wide = sigma[:, None, None, None]
        with torch.autocast(device.type, torch.bfloat16):
            predicted = self.answer(model, (1.0 - wide) * batch.latents + wide * batch.noise, sigma,
                                    model["text"](batch.numbers))
            names = naming_loss(model["layout"](self.features), batch.layout)
        error = (predicted.float() - (batch.noise - batch.latents)).square().mean()
        return {"total": error + LAYOUT_WEIGHT * names, "loss": error, "names": names}

    def answer(self, model: nn.ModuleDict, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        return model["network"](x, sigma, context, context.mean(1))

    def schedule(self, steps: int) -> tuple:
        return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).tolist(), FLOW


class SmallDiTRecipe(DiTRecipe):
    name, steps = "shapes-dit-small", 10000
