"""One training loop for every Shapes model: resumable, with progress, deterministic by seed on one machine."""
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

SAVE_SECONDS = 60.0
WARM_UP = 100
LOG_EVERY = 20
MUON_FACTOR = 3.0
# glibc hands large blocks back to the system after every step and faults them in again: 3 to 5 times slower.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "300000000"}


class Recipe(Protocol):
    """What one model is and how it learns."""
    name: str
    steps: int
    rate: float
    ema: float

    def build(self) -> nn.Module:
        """The model, initialized."""

    def loss(self, model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws a batch with the generator and gives its losses by name; their first is minimized."""

    def matrices(self, model: nn.Module) -> list[nn.Parameter]:
        """Weights of hidden layers, which Muon moves; AdamW moves the others."""

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Last changes to the trained model, and its measured quality on held-out scenes."""


def with_fast_allocator() -> None:
    """Restarts this process once with glibc told to keep memory; nothing elsewhere than on Linux."""
    if sys.platform == "linux" and not set(ALLOCATOR) <= set(os.environ):
        module = sys.modules["__main__"].__spec__.name.removesuffix(".__main__")
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **ALLOCATOR})


def rate_at(step: int, steps: int) -> float:
    """Share of the full rate: linear warm-up, then a cosine down to 5 %."""
    fall = 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))
    return min((step + 1) / WARM_UP, 1.0) * fall


class Optimizers:
    """Muon on matrices (convolutions as matrices of their output channels), AdamW on all other weights.

    Muon makes every step of a matrix orthogonal, here of the size an AdamW step has.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; sizes: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(self, model: nn.Module, matrices: list[nn.Parameter], rate: float):
        self.pairs = [(weight, nn.Parameter(weight.data.view(len(weight), -1))) for weight in matrices]
        taken = {id(weight) for weight in matrices}
        others = [weight for weight in model.parameters() if id(weight) not in taken]
        self.members = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)]
        if self.pairs:
            self.members.append(torch.optim.Muon([flat for _, flat in self.pairs], lr=MUON_FACTOR * rate,
                                                 weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))

    def step(self, factor: float) -> None:
        """One step at `factor` of the full rates."""
        for weight, flat in self.pairs:
            flat.grad = weight.grad.flatten(1)
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = factor * group.setdefault("full_lr", group["lr"])
            member.step()

    def state_dict(self) -> list[dict]:
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: list[dict]) -> None:
        for member, state in zip(self.members, states):
            member.load_state_dict(state)


def train(recipe: Recipe, folder: Path, *, steps: int | None = None, seed: int = 0, device: str = "cpu") -> dict:
    """Trains until `steps`, from the checkpoint in folder if there is one; writes weights and their card there.

    Returns the card: data, steps, time, machine, losses and measured quality. A run that is killed goes on from its
    last checkpoint (at most a minute older) with optimizer, average and random numbers as they were.
    """
    steps = steps or recipe.steps
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model, generator = recipe.build().to(device), torch.Generator("cpu").manual_seed(seed)
    optimizer = Optimizers(model, recipe.matrices(model), recipe.rate)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = {"step": 0, "seconds": 0.0, "losses": [], "goals": []}
    checkpoint = folder / f"{recipe.name}.checkpoint"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, state = saved["average"], saved["state"]
        generator.set_state(saved["generator"].cpu())

    goals = state.setdefault("goals", [])  # the cosine is laid over the goal; a resumed run may have another
    if not goals or goals[-1][1] != steps:
        goals.append([state["step"], steps])

    def save() -> None:
        part = checkpoint.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                    "state": state, "generator": generator.get_state()}, part)
        part.replace(checkpoint)

    started = last_save = time.monotonic()
    seconds_before = state["seconds"]
    model.train()
    with tqdm(total=steps, initial=state["step"], desc=recipe.name, unit="step") as bar:
        while state["step"] < steps:
            losses = recipe.loss(model, generator)
            model.zero_grad(set_to_none=True)
            next(iter(losses.values())).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(rate_at(state["step"], steps))
            _average(average, model, min(recipe.ema, (1.0 + state["step"]) / (10.0 + state["step"])))
            state["step"] += 1
            state["seconds"] = seconds_before + time.monotonic() - started
            bar.update()
            if state["step"] % LOG_EVERY == 0 or state["step"] == steps:
                shown = {name: round(value.item(), 5) for name, value in losses.items()}
                state["losses"].append({"step": state["step"], **shown})
                bar.set_postfix(shown)
            if time.monotonic() - last_save > SAVE_SECONDS:
                save()
                last_save = time.monotonic()
    save()
    model.load_state_dict(average)
    model.eval()
    return _finish(recipe, model, state, folder, seed)


@torch.no_grad()
def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1.0 - decay)
        else:
            average[name].copy_(value)


def _finish(recipe: Recipe, model: nn.Module, state: dict, folder: Path, seed: int) -> dict:
    """Writes NAME.safetensors (fp16) and NAME.json, its card, once the model has been measured."""
    from safetensors.torch import save_file

    quality = recipe.finish(model)
    card = {"name": recipe.name, "parameters": sum(p.numel() for p in model.parameters()),
            "steps": state["step"], "goals": state["goals"],
            "seconds": round(state["seconds"]), "threads": torch.get_num_threads(), "seed": seed,
            "machine": f"{platform.machine()} {platform.system()}, torch {torch.__version__}", "quality": quality,
            "losses": state["losses"][::max(len(state["losses"]) // 40, 1)]}
    weights = {name: value.half().contiguous() if value.is_floating_point() else value
               for name, value in model.state_dict().items()}
    part = folder / f"{recipe.name}.safetensors.part"
    save_file(weights, part, metadata={"odeon": "0.1.0", "model": recipe.name})
    part.replace(folder / f"{recipe.name}.safetensors")
    (folder / f"{recipe.name}.json").write_text(json.dumps(card, indent=1) + "\n")
    return card
