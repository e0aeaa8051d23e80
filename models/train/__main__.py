"""python -m odeon.models.train MODEL: makes the shipped weights from nothing, in this order: shapes-vae,
shapes-judge, then the networks, which need these two in their folder (shapes-unet-v also needs shapes-unet, and
shapes-unet-few needs shapes-unet-v). shapes-unet-minority, a classifier, needs shapes-vae and shapes-unet."""
from pathlib import Path
from typing import Annotated

import torch
import typer

from . import harness
from .autoencoder import AutoencoderRecipe
from .dit import DiTRecipe, SmallDiTRecipe
from .judge import JudgeRecipe
from .minority import MinorityRecipe
from .unet import FewStepUNetRecipe, UNetRecipe, VelocityUNetRecipe

RECIPES = {"shapes-vae": lambda folder: AutoencoderRecipe(), "shapes-judge": lambda folder: JudgeRecipe()}
RECIPES |= {recipe.name: recipe for recipe in (UNetRecipe, VelocityUNetRecipe, FewStepUNetRecipe, DiTRecipe,
                                               SmallDiTRecipe, MinorityRecipe)}
app = typer.Typer(add_completion=False)


@app.command()
def main(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    folder: Annotated[Path, typer.Option(help="Where checkpoint, weights and card go.")] = Path("training"),
    steps: Annotated[int | None, typer.Option(help="Stop after this many steps; default: the recipe's.", min=1)] = None,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train one model of the Shapes family, going on from its checkpoint if there is one."""
    if model not in RECIPES:
        raise typer.BadParameter(f"model must be one of {', '.join(RECIPES)}, got {model!r}")
    harness.with_fast_allocator()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    card = harness.train(RECIPES[model](folder), folder, steps=steps, seed=seed, device=device)
    typer.echo(f"{card['name']}: {card['steps']} steps in {card['seconds']} s, {card['quality']}")


if __name__ == "__main__":
    app()
