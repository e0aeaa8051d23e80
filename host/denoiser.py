"""The model as measurements call it: in batches that fit, under several prompts, with gradients where asked for."""
import copy
import sys
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..schedules.timesteps import told_places
from .unconditional import Unconditional


class Denoiser:
    """denoise(x (n, ...), sigma) -> D, of a sampler function's `model`.

    sigma: a float or a 0-dim tensor, whose gradient counts. told: the level that the network is told in its place
    (needs `sampling`, a smooth()). batch: pictures in one call of the network. prompts: item k of a run has prompt
    k % prompts, of those that choose(prompt) sets; of(items) is the denoiser for some of the items of a run.
    Where gradients are on, every call is computed again on the way back: memory of one call, whatever the steps.
    check(): raises where the user interrupts, asked ahead of each call of the network.
    """

    def __init__(self, model, extra_args: dict, *, batch: int, prompts: int = 1, choose=None, sampling=None,
                 items: list[int] | None = None, check=None):
        self.model, self.extra_args, self.batch = model, extra_args, batch
        self.prompts, self.choose, self.sampling, self.items = prompts, choose, sampling, items
        self.check = check

    def of(self, items) -> "Denoiser":
        """For the items of a run that a slice or a list of places picks."""
        places = self.items if self.items is not None else range(10 ** 6)
        return self._with(items=places[items] if isinstance(items, slice) else [places[int(i)] for i in items])

    def _with(self, **changed) -> "Denoiser":
        found = copy.copy(self)
        found.__dict__.update(changed)
        return found

    def __call__(self, x: Tensor, sigma: float | Tensor, told: Tensor | None = None) -> Tensor:
        if self.prompts == 1:
            return torch.cat([self._piece(piece, sigma, told, 0) for piece in x.split(self.batch)])
        items = self.items if self.items is not None else range(len(x))
        found = [None] * len(x)
        for prompt in range(self.prompts):
            places = [i for i in range(len(x)) if items[i] % self.prompts == prompt]
            for start in range(0, len(places), self.batch):
                part = places[start:start + self.batch]
                for place, denoised in zip(part, self._piece(x[part], sigma, told, prompt)):
                    found[place] = denoised
        return torch.stack(found)

    def apart(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """D, and what guidance made of it: D - D_u, D_u what the model predicts without the prompt."""
        without = Unconditional(self.model, self.extra_args)

        def both(x: Tensor, level: Tensor, **extra_args) -> Tensor:
            denoised = self.model(x, level, **extra_args)
            return torch.stack([denoised, denoised - without()], 1)

        return self._with(model=both, extra_args=without.extra_args)(x, sigma).unbind(1)

    def alone(self, x: Tensor, sigma: float) -> Tensor:
        """One call for a whole batch, whose graph is kept as it is: for what is read inside the network."""
        if self.check is not None:
            self.check()
        return self.model(x, x.new_full((len(x),), sigma), **self.extra_args)

    def _piece(self, x: Tensor, sigma: float | Tensor, told: Tensor | None, prompt: int) -> Tensor:
        def call(x: Tensor, level: Tensor, told: Tensor | None) -> Tensor:
            if self.check is not None:
                self.check()
            if self.choose is not None:
                self.choose(prompt)
            if self.sampling is None:
                return self.model(x, level, **self.extra_args)
            self.sampling.told = told
            try:
                return self.model(x, level, **self.extra_args)
            finally:
                self.sampling.told = None

        level = sigma.to(x).expand(len(x)) if isinstance(sigma, Tensor) else x.new_full((len(x),), sigma)
        if not torch.is_grad_enabled():
            return call(x, level, told)
        return checkpoint(call, x, level, told, use_reentrant=False, preserve_rng_state=False)


def smooth(sampling):
    """A copy of a model's sampling object (its levels) whose timestep() has a slope in sigma.

    Its values stay what they are, rounded ones too; but where `told` is set it is that level's place in the table of
    sigmas, not rounded, for whatever sigma.
    """
    first, stride = told_places(getattr(sampling, "own_levels", sampling)) or (0, 1)

    class Smooth(type(sampling)):
        told = None

        def timestep(self, sigma: Tensor) -> Tensor:
            level = sigma if self.told is None else self.told.to(sigma).expand_as(sigma)
            exact = super().timestep(level)
            if exact.is_floating_point():
                return exact
            logs = self.log_sigmas.to(level.device).clone()
            value = level.log()
            low = torch.searchsorted(logs, value.detach().contiguous()).clamp(1, len(logs) - 1) - 1
            place = first + stride * (low + (value - logs[low]) / (logs[low + 1] - logs[low]))
            return place if self.told is not None else exact.float() + (place - place.detach())

    made = copy.copy(sampling)
    made.__class__ = Smooth
    return made


@cache
def pass_rotations() -> None:
    """Gives comfy_kitchen's rotary embeddings (ComfyUI since 0.8) the backward pass they lack: the turn back."""
    def keep(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[-1])

    def turn_back(ctx, *slopes):
        angles, = ctx.saved_tensors
        op = torch.ops.comfy_kitchen.apply_rope1
        return (*(None if slope is None else op(slope.contiguous(), angles.transpose(-1, -2).contiguous())
                  for slope in slopes), None)

    for name in ("apply_rope", "apply_rope1"):
        if hasattr(torch.ops.comfy_kitchen, name):
            torch.library.register_autograd(f"comfy_kitchen::{name}", turn_back, setup_context=keep)


def own_weights(network: nn.Module) -> None:
    """Lets gradients pass weights that were loaded in inference mode, by equal ones in their place, and operations of
    ComfyUI that have no backward pass."""
    if "comfy_kitchen" in sys.modules:
        pass_rotations()
    with torch.inference_mode(False):
        for module in network.modules():
            for name, value in module._parameters.items():
                if value is not None and value.is_inference():
                    module._parameters[name] = nn.Parameter(value.clone(), requires_grad=False)
            for name, value in module._buffers.items():
                if value is not None and value.is_inference():
                    module._buffers[name] = value.clone()


class NoGradients(ValueError):
    """A model that gives no gradients, with what to do in words."""


def require_gradients(denoise: Denoiser, x: Tensor, sigma: float, network: nn.Module) -> None:
    """Raises NoGradients where gradients do not come back through the model, its network included."""
    probe, level = x[:1].detach().requires_grad_(), torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    passed = []
    handle = network.register_forward_hook(lambda module, inputs, output: passed.append(output.requires_grad))
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(denoise.of([0])(probe, level).float().square().mean(), [probe, level],
                                        allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        raise NoGradients(f"this model gives no gradients ({str(error).splitlines()[0]}); {INSTEAD}") from error
    finally:
        handle.remove()
    if not all(passed) or any(value is None or not value.isfinite().all() for value in found) or not found[0].any():
        raise NoGradients("no gradient comes back through this model: its weights are quantized, or a patch or an "
                          f"attention backend has no backward pass; {INSTEAD}")


INSTEAD = ("load it in fp16, bf16 or fp32 with PyTorch's own attention, or take an optimizer that needs no gradients: "
           "AutoDiffusion, Align Your Steps, BOSS, GITS or OSS")
