"""Files that keep what was measured, and on what."""
import json
from pathlib import Path

from torch import Tensor

from ..samplers.dpm_solver_v3 import EMS

EMS_FOLDER = Path(__file__).parent.parent / "models" / "ems"  # of the shipped networks


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """A safetensors file that is either whole or not there, with what it was measured on."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, part,
              metadata={"odeon": json.dumps(about)})
    part.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What write_tensors wrote. Raises ValueError for a file that is missing, damaged or of another kind."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"there is no file {path}; save one first, or choose another")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("odeon", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
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
