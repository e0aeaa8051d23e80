"""Files that users save and load by name."""
from pathlib import Path

from .. import host


def file_of(kind: str, name: str, ending: str = ".safetensors") -> Path:
    """The user's file of that name in the folder of its kind. Raises ValueError for anything but a plain name."""
    if not name.strip() or {"/", "\\"} & set(name) or name.startswith("."):
        raise ValueError(f"name must be a plain file name, got {name!r}")
    return host.folder(kind) / f"{name}{ending}"


def names_of(kind: str, shipped: Path, ending: str = ".safetensors") -> list[str]:
    """The names there are, of the user's own and of the pack's."""
    return sorted({path.stem for folder in (shipped, host.folder(kind)) if folder.is_dir()
                   for path in folder.glob(f"*{ending}")})


def found_file(kind: str, shipped: Path, name: str, ending: str = ".safetensors") -> Path:
    """The user's file of that name, or else the pack's."""
    own = file_of(kind, name, ending)
    return own if own.is_file() else shipped / own.name
