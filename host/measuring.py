"""Long measurements on a user's model: run inside the host's own sampling, kept through interruptions."""
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..measure.kept import read_tensors, write_tensors
from ..measure.progress import Progress
from .denoiser import Denoiser, own_weights, require_gradients

SAVE_SECONDS = 5.0
PLAIN = (str, int, float, bool, type(None))


class Measuring:
    """A sampler function in ComfyUI's form that measures instead of sampling; `result` is the last state.

    start(denoise, x, state=..., process=..., clock=...) -> Iterator[Progress], with denoise a Denoiser and x the state
    that a run would start from. partial: the file that holds what is measured so far, read at the start and removed at
    the end; about: what it must have been measured on to be read. report(progress) draws, and raises where the user
    interrupts, as check() does between model calls. batch: pictures in one model call, 0 all. prompts, choose,
    sampling: see Denoiser. weights_of(model): where gradients are wanted, the network they pass, which needs a
    sampling. interrupted: where the best "sigmas" so far go when a run is stopped, to be loaded as they are.
    """

    def __init__(self, start: Callable[..., Iterator[Progress]], *, partial: Path, about: dict, cost: int,
                 report: Callable[[Progress], None], process_of, clock_of, batch: int = 0, prompts: int = 1,
                 choose=None, sampling=None, weights_of=None, check=None,
                 interrupted: Path | None = None):
        self.start, self.partial, self.about, self.cost = start, partial, about, cost
        self.report, self.process_of, self.clock_of = report, process_of, clock_of
        self.batch, self.prompts, self.choose = batch, prompts, choose
        self.sampling, self.weights_of, self.check = sampling, weights_of, check
        self.interrupted = interrupted
        self.result: dict[str, Tensor] = {}

    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None) -> Tensor:
        denoise = Denoiser(model, extra_args or {}, batch=self.batch or len(x), prompts=self.prompts,
                           choose=self.choose, sampling=self.sampling, check=self.check)
        patcher = model.inner_model.model_patcher
        if self.weights_of is None:
            with torch.no_grad():
                self._measure(denoise, x, patcher)
        else:
            network = self.weights_of(patcher)
            own_weights(network)
            with torch.inference_mode(False), torch.no_grad():
                require_gradients(denoise, x.clone(), float(sigmas[0]), network)
                self._measure(denoise, x.clone(), patcher)
        return x

    def _measure(self, denoise: Denoiser, x: Tensor, patcher) -> None:
        name, state = self.about["what"], read_tensors(self.partial)[0] if self.partial.is_file() else None
        logging.info("Odeon: %s takes about %d model calls%s", name, self.cost,
                     "; going on with what an earlier run measured" if state else "")
        kept, saved_at = state, time.monotonic()
        try:
            with tqdm(total=self.cost, desc=name, unit="call") as bar:
                for progress in self.start(denoise, x, state=state, process=self.process_of(patcher),
                                           clock=lambda: self.clock_of(patcher)):
                    kept = progress.state
                    bar.total = progress.total
                    bar.update(progress.done - bar.n)
                    if progress.losses:
                        bar.set_postfix_str(f"{progress.losses[-1]:.4g}", refresh=False)
                    if time.monotonic() - saved_at > SAVE_SECONDS:
                        self._save(self.partial, kept)
                        saved_at = time.monotonic()
                    self.report(progress)
        except BaseException:  # an interruption too: what was measured stays
            if kept:
                self._save(self.partial, kept)
            if kept and self.interrupted is not None and "sigmas" in kept:
                best = {name: kept[name] for name in ("sigmas", "levels", "x", "d") if name in kept}
                self._save(self.interrupted, best if len(best) == 4 else {"sigmas": kept["sigmas"]})
                logging.info("Odeon: the best so far is kept as %s", self.interrupted.stem)
            raise
        self.partial.unlink(missing_ok=True)
        self.result = kept

    def _save(self, path: Path, state: dict[str, Tensor]) -> None:
        """Keeps what is measured so far; a full disk is no reason to lose a run that could end well."""
        try:
            write_tensors(path, state, self.about)
        except ValueError as error:
            logging.warning("Odeon: %s", error)


def key_of(value) -> str:
    """A short name for anything made of numbers, words, tensors, lists and dicts; functions go by their name and the
    plain values they enclose, other objects by their type."""
    digest, seen = hashlib.blake2b(digest_size=12), []

    def add(value) -> None:
        if isinstance(value, Tensor):
            digest.update(repr(tuple(value.shape)).encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for name in sorted(value, key=str):
                digest.update(str(name).encode())
                add(value[name])
        elif isinstance(value, (list, tuple)):
            digest.update(str(len(value)).encode())
            for item in value:
                add(item)
        elif isinstance(value, FunctionType):
            digest.update(f"{value.__module__}.{value.__qualname__}".encode())
            if value not in seen:  # a function may enclose itself
                seen.append(value)
                for cell in value.__closure__ or ():
                    add(cell.cell_contents)
        else:
            digest.update(repr(value if isinstance(value, PLAIN) else type(value).__name__).encode())

    add(value)
    return digest.hexdigest()


def fingerprint(network: nn.Module, originals: dict[str, Tensor]) -> dict:
    """What tells a network from others: the shapes of its weights, and one value of up to 64 of them.

    originals: weights by name as they were before a LoRA changed them in place.
    """
    state = network.state_dict()
    names = sorted(name for name, value in state.items() if value.numel() > 1)[::max(len(state) // 64, 1)]
    values = [originals.get(name, state[name]).reshape(-1)[7 % state[name].numel()].item() for name in names]
    return {"layout": key_of([[name, list(value.shape)] for name, value in sorted(state.items())]), "values": values}


def same_weights(one: dict, other: dict) -> bool:
    """Whether two fingerprints are of one network, in whatever of float32, bfloat16 or float16 it was loaded."""
    return one["layout"] == other["layout"] and all(
        abs(a - b) <= 0.005 * max(abs(a), abs(b)) + 1e-6 for a, b in zip(one["values"], other["values"]))
