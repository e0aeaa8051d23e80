"""Files that keep what was measured, and on what."""
import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..editing.noise_maps import NoiseMaps, require_consistent
from ..guidance.linear_ag import CHOICES, LinearAG
from ..samplers.dpm_solver_v3 import EMS
from ..samplers.learned import LearnedPlan, require_sound
from ..samplers.table import Table

EMS_FOLDER = Path(__file__).parent.parent / "models" / "ems"  # of the shipped networks
VERSION = "0.1.0"  # of Odeon, as in pyproject.toml
SCHEDULE_FOLDER = Path(__file__).parent.parent / "models" / "schedules"


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """A safetensors file that is either whole or not there, with what it was measured on.

    Raises ValueError where it can't be written; what stood there before stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, part,
                  metadata={"odeon": json.dumps(about)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ValueError(f"{path} can't be written ({error}); make room on the disk or set ODEON_FOLDER to another "
                         "place, and queue again: nothing of what was found is lost") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What write_tensors wrote. Raises ValueError for a file that is missing, damaged or of another kind."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"there is no file {path}; save one first, or choose another")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("odeon", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} can't be read ({error}); measure again") from error
    if about is None:
        raise ValueError(f"{path} was not saved by Odeon: it doesn't say what it was measured on; choose another")
    return tensors, about


def save_ems(path: Path, ems: EMS) -> None:
    """Writes model statistics with what they were measured on."""
    write_tensors(path, {"l": ems.l, "s": ems.s, "b": ems.b},
                  {**ems.about, "lam_first": ems.lam_first, "lam_last": ems.lam_last})


def load_ems(path: Path) -> EMS:
    """What save_ems wrote. Raises ValueError for a file that is missing, damaged or of another kind."""
    tensors, about = read_tensors(path)
    if set(tensors) != {"l", "s", "b"}:
        raise ValueError(f"{path} holds no model statistics but {about.get('what', 'something else')}; choose another")
    return EMS(tensors["l"], tensors["s"], tensors["b"], about["lam_first"], about["lam_last"], about)


def save_sigmas(path: Path, sigmas: Tensor, about: dict) -> None:
    """Writes learned steps with what they were made for."""
    if not _is_schedule(sigmas):
        raise ValueError("these sigmas are no schedule that can be kept: they must be at least two, finite, strictly "
                         f"decreasing and not below 0, got {sigmas.tolist()[:8]}")
    write_tensors(path, {"sigmas": sigmas.double()}, {**about, "holds": "sigmas"})


def _is_schedule(sigmas: Tensor) -> bool:
    return sigmas.ndim == 1 and len(sigmas) > 1 and bool(
        sigmas.isfinite().all() and (sigmas.diff() < 0.0).all() and sigmas[-1] >= 0.0)


def load_sigmas(path: Path) -> tuple[Tensor, dict]:
    """What save_sigmas wrote: (levels (N + 1,) float64, about). Raises ValueError for a file that is missing, cut
    short, changed by hand or of another kind."""
    tensors, about = read_tensors(path)
    if "sigmas" not in tensors:
        raise ValueError(f"{path} holds no steps but {about.get('what', 'something else')}; choose another")
    sigmas = tensors["sigmas"]
    if not _is_schedule(sigmas):
        raise ValueError(f"the levels in {path} are no schedule: they must be at least two, finite, strictly "
                         f"decreasing and not below 0; the file was changed, load another")
    return sigmas.double(), about


def save_plan(path: Path, learned: LearnedPlan) -> None:
    """Writes a learned plan with what it was made for."""
    levels, x, d, _ = learned.table
    write_tensors(path, {"sigmas": torch.tensor(learned.sigmas, dtype=torch.float64), "levels": levels, "x": x, "d": d},
                  {**learned.about, "holds": "plan"})


def load_plan(path: Path) -> LearnedPlan:
    """What save_plan wrote. Raises ValueError for a file that is missing, cut short, changed by hand or of another
    kind."""
    tensors, about = read_tensors(path)
    if set(tensors) != {"sigmas", "levels", "x", "d"}:
        raise ValueError(f"{path} holds no learned plan but {about.get('what', 'something else')}; choose another")
    levels, x, d = (tensors[name].double() for name in ("levels", "x", "d"))
    learned = LearnedPlan(Table(levels, x, d, torch.zeros(len(x), 0, dtype=torch.float64)),
                          tuple(tensors["sigmas"].tolist()), about)
    require_sound(learned)
    return learned


def save_linear_ag(path: Path, coefs: LinearAG) -> None:
    """Writes LinearAG's weights with what they were fitted on."""
    width = len(coefs.sigmas)
    rows = [[[*row, *[0.0] * (width - len(row))] for row in rows] for rows in (coefs.cond, coefs.uncond)]
    cond, uncond = torch.tensor(rows, dtype=torch.float64)
    write_tensors(path, {"sigmas": torch.tensor(coefs.sigmas, dtype=torch.float64), "cond": cond, "uncond": uncond,
                         "policy": torch.tensor([CHOICES.index(choice) for choice in coefs.policy])}, coefs.about)


def load_linear_ag(path: Path) -> LinearAG:
    """What save_linear_ag wrote. Raises ValueError for a file that is missing, damaged or of another kind."""
    tensors, about = read_tensors(path)
    if set(tensors) != {"sigmas", "cond", "uncond", "policy"}:
        raise ValueError(f"{path} holds no LinearAG weights but {about.get('what', 'something else')}; choose another")
    rows = [tuple(tuple(row[:i + more]) for i, row in enumerate(tensors[name].tolist()))
            for name, more in (("cond", 1), ("uncond", 0))]
    return LinearAG(tuple(tensors["sigmas"].tolist()), *rows, tuple(CHOICES[i] for i in tensors["policy"].tolist()),
                    about)


def save_noise_maps(path: Path, maps: NoiseMaps) -> None:
    """Writes what an inversion left, with what it belongs to."""
    sigmas = torch.tensor(maps.sigmas, dtype=torch.float64)
    write_tensors(path, {"sigmas": sigmas, "x": maps.x, "z": maps.z}, {**maps.about, "kind": maps.kind})


def load_noise_maps(path: Path) -> NoiseMaps:
    """What save_noise_maps wrote. Raises ValueError for a file that is missing, cut short, changed by hand or of
    another kind."""
    tensors, about = read_tensors(path)
    if set(tensors) != {"sigmas", "x", "z"} or not isinstance(about, dict) or "kind" not in about:
        what = about.get("what", "something else") if isinstance(about, dict) else "something else"
        raise ValueError(f"{path} holds no noise maps but {what}; choose another")
    kind = about.pop("kind")
    maps = NoiseMaps(kind, tuple(tensors["sigmas"].flatten().tolist()), tensors["x"], tensors["z"], about)
    try:
        require_consistent(maps)
    except ValueError as error:
        raise ValueError(f"{path} can't be used: {error}; invert the picture again") from error
    return maps
