"""The weight files that ship with the pack, and the small models made of them."""
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from .autoencoder import ShapesAutoencoder
from .dit import CONFIGS
from .judge import ShapesJudge
from .levels import DiscreteLevels, FlowLevels
from .text import ShapesTextEncoder
from .unet import CONFIG

FOLDER = Path(__file__).parent / "weights"
VERSION = "0.1.0"
# name -> configuration, prediction, levels
NETWORKS = {"shapes-unet": (CONFIG, "eps", partial(DiscreteLevels, rounded=True)),
            **dict.fromkeys(("shapes-unet-v", "shapes-unet-few"),
                            (CONFIG, "v", partial(DiscreteLevels, rounded=True, zero_terminal=True)))}
NETWORKS |= {name: (CONFIGS[name], "flow", partial(FlowLevels, count=10000, top=1.0)) for name in CONFIGS}


def load_weights(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """float32 weights of one file. Raises ValueError where it is missing, cut short or of another version."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"the weights {path} are missing; install Odeon again, or make them with "
                         f"python -m odeon.models.train {name}")
    try:
        with safe_open(path, "pt") as file:
            made_for = (file.metadata() or {}).get("model"), (file.metadata() or {}).get("odeon")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the weights {path} can't be read ({error}); the file is damaged, "
                         "install Odeon again") from error
    if made_for != (name, VERSION):
        raise ValueError(f"{path} holds {made_for[0]} of version {made_for[1]}, need {name} of version {VERSION}; "
                         "install Odeon again")
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def card(name: str, folder: Path = FOLDER) -> dict:
    """The model card of a weight file: steps, time, machine, losses, measured quality."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _filled(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def shapes_autoencoder(folder: Path = FOLDER) -> ShapesAutoencoder:
    """The trained autoencoder."""
    return _filled(ShapesAutoencoder(), load_weights("shapes-vae", folder))


@lru_cache(maxsize=1)
def shapes_judge(folder: Path = FOLDER) -> ShapesJudge:
    """The trained judge, one for all who ask."""
    return _filled(ShapesJudge(), load_weights("shapes-judge", folder))


class Trained(NamedTuple):
    """A network of the family: what ComfyUI's class takes, its weights, its own text encoder, what it predicts."""
    config: dict
    weights: dict[str, Tensor]
    text: ShapesTextEncoder
    prediction: str
    levels: DiscreteLevels | FlowLevels


def shapes_network(name: str, folder: Path = FOLDER) -> Trained:
    """One of NETWORKS with its weights."""
    if name not in NETWORKS:
        raise ValueError(f"model must be one of {', '.join(NETWORKS)}, got {name!r}")
    weights = load_weights(name, folder)
    network, text = ({key.removeprefix(f"{part}."): value for key, value in weights.items()
                      if key.startswith(f"{part}.")} for part in ("network", "text"))
    config, prediction, levels = NETWORKS[name]
    return Trained(config, network, _filled(ShapesTextEncoder(), text), prediction, levels())
