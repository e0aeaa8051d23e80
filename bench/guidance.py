"""What guidance nodes do to pictures of the Shapes models, by the judge."""
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import NODE_CLASS_MAPPINGS
from ..host.embedded.core_sampling import model_sigmas, named_sampler
from ..host.embedded.sampling import Guider, Noise
from ..models.quality import judge_pictures, true_features
from ..models.shapes import draw
from ..models.train.scenes import scenes_of
from ..models.weights import shapes_judge
from .shapes import COUNTS, SEED, captions_of, encoded, load, node

MODELS = {"shapes-unet": "", "shapes-dit": "shapes-dit-small"}  # name -> the worse model beside it
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
STEPS, PART, SEEDS = 12, 32, 4
FIGURES = ("object", "frechet_distance", "saturation", "diversity", "variety", "evaluations")
ADAPTIVE = "Adaptive Guidance"


@dataclass(frozen=True, eq=False)
class Setting:
    """A row: nodes (class name, inputs that differ from the node's defaults) on a model at a CFG.

    words: 'captions', or 'none' for an empty prompt. seeds: pictures of each caption. part: pictures at once.
    """
    model: str
    group: str
    name: str
    cfg: float
    nodes: tuple[tuple[str, dict], ...] = ()
    words: str = "captions"
    seeds: int = 1
    part: int = PART

    def file(self, folder: Path, count: int) -> Path:
        """Where the row of this setting is kept."""
        key = json.dumps([asdict(self), count, STEPS], sort_keys=True)
        return folder / f"{self.model}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"


def plain_settings(model: str) -> list[Setting]:
    """Plain CFG, among which the best is found."""
    return [Setting(model, "Plain CFG", f"CFG {scale:g}", scale) for scale in SCALES]


def settings(model: str, best: float) -> list[Setting]:
    """All other rows of a model whose best CFG is known. Nodes that the checkout hasn't are left out."""
    rows = [*_high(model, 3.0 * best), *_without_prompt(model), *_varied(model, best), *_adaptive(model, best),
            *_worse(model, best), *_others(model, best)]
    return [row for row in rows if all(name in NODE_CLASS_MAPPINGS for name, _ in row.nodes)]


def _high(model: str, high: float) -> list[Setting]:
    group = "Three times the best CFG"
    flat = "velocity" if model == "shapes-dit" else "v"
    made = {
        "plain": (),
        "APG": (("OdeonAPG", {"norm_threshold": 2.5}),),
        "APG, threshold 1, momentum 0": (("OdeonAPG", {"norm_threshold": 1.0, "momentum": 0.0}),),
        f"CFG rescale 0.7 ({flat})": (("OdeonCFGRescale", {}),),
        "CFG rescale 1": (("OdeonCFGRescale", {"phi": 1.0}),),
        "mimic scale, that of the best": (("OdeonMimicScale", {"mimic_scale": high / 3.0}),),
        "mimic scale, percentile 0.95": (("OdeonMimicScale", {"mimic_scale": high / 3.0, "percentile": 0.95}),),
        "interval 0.28 to 5.42": (("OdeonGuidanceInterval", {}),),
        "interval 0.28 to 2.9": (("OdeonGuidanceInterval", {"sigma_hi": 2.9}),),
        "FDG, coarse the best": (("OdeonFDG", {"w_high": high, "w_low": high / 3.0}),),
        "FDG, fine the best": (("OdeonFDG", {"w_high": high / 3.0, "w_low": high}),),
        "CFG-Zero*": (("OdeonCFGZeroStar", {}),),
    }
    return [Setting(model, group, name, high, nodes) for name, nodes in made.items()]


def _without_prompt(model: str) -> list[Setting]:
    every = "double, single" if model == "shapes-dit" else "input, middle, output"
    made = {"unguided": ()}
    for name in ("PAG", "SEG"):
        made |= {f"{name} {scale:g}{where and ', every layer'}": ((f"Odeon{name}", {"scale": scale, "layers": where}),)
                 for scale, where in ((3.0, ""), (1.0, every), (3.0, every))}
    return [Setting(model, "Without a prompt", name, 1.0, nodes, words="none") for name, nodes in made.items()]


def _varied(model: str, best: float) -> list[Setting]:
    group = f"Variety, {SEEDS} pictures of each caption"
    made = [("plain", scale, ()) for scale in SCALES if scale >= 1.5]
    made += [(f"CADS {s:g}", scale, (("OdeonCADS", {"s": s}),)) for scale in (best, 5.0) for s in (0.1, 0.25)]
    return [Setting(model, group, f"{name}, CFG {scale:g}", scale, nodes, seeds=SEEDS) for name, scale, nodes in made]


def _adaptive(model: str, best: float) -> list[Setting]:
    return [Setting(model, ADAPTIVE, f"gamma {gamma:g}", best, (("OdeonAdaptiveGuidance", {"gamma": gamma}),), part=1)
            for gamma in (0.95, 0.98, 0.991)]


def _worse(model: str, best: float) -> list[Setting]:
    made = [(weight, scale) for scale in dict.fromkeys((1.0, best)) for weight in (1.5, 2.0, 3.0)]
    return [Setting(model, "Autoguidance", f"weight {weight:g}, CFG {scale:g}", scale,
                    (("OdeonAutoGuidance", {"weight": weight}),)) for weight, scale in made if MODELS[model]]


def _others(model: str, best: float) -> list[Setting]:
    made = {"momentum guidance": (("OdeonMomentumGuidance", {}),),
            "interval 0.28 to 5.42": (("OdeonGuidanceInterval", {}),),
            "CFG-Zero*": (("OdeonCFGZeroStar", {}),)}
    if model == "shapes-unet":
        made["skip tuning"] = (("OdeonSkipTuning", {}),)
    return [Setting(model, "At the best CFG", name, best, nodes) for name, nodes in made.items()]


def best_of(rows: dict[Setting, dict]) -> float:
    """The lowest CFG of plain rows whose objects are within half a point of the most."""
    plain = {setting.cfg: row["object"] for setting, row in rows.items() if setting.group == "Plain CFG"}
    return min(scale for scale, right in plain.items() if right >= max(plain.values()) - 0.005)


def measure(models: list[str], *, count: int, folder: Path, only: str = "", kept: bool = False) -> dict[Setting, dict]:
    """All rows, those kept in the folder as they are, the others made and kept. only: groups with that in their name,
    beside plain CFG, which all need. kept: only what is there, of models whose plain rows all are."""
    def there(setting: Setting) -> bool:
        return not kept or setting.file(folder, count).with_suffix(".json").is_file()

    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Setting, dict] = {}
    for model in (model for model in models if all(there(setting) for setting in plain_settings(model))):
        plain = {setting: _kept(setting, count, folder) for setting in plain_settings(model)}
        best = best_of(plain)
        full = next(setting for setting in plain if setting.cfg == best)
        chosen = [setting for setting in settings(model, best)
                  if only.lower() in setting.group.lower() and there(setting)]
        found |= plain | {setting: _kept(setting, count, folder, full=full if setting.group == ADAPTIVE else None)
                          for setting in chosen}
    return found


def _kept(setting: Setting, count: int, folder: Path, full: Setting | None = None) -> dict:
    """The figures of a row. full: the row whose pictures these are to be near to."""
    file = setting.file(folder, count)
    if file.with_suffix(".json").is_file():
        return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    captions = captions_of(COUNTS, count // setting.seeds)
    asked = [caption for caption in captions for _ in range(setting.seeds)]
    pictures, evaluations = made(setting, asked)
    reference = None
    if full is not None:
        reference = torch.load(full.file(folder, count).with_suffix(".pt"), weights_only=True).float() / 127.5 - 1.0
    row = figures(pictures, asked, seeds=setting.seeds, reference=reference) | {"evaluations": evaluations}
    if setting.group == "Plain CFG":
        torch.save(((pictures + 1.0) * 127.5).round().byte(), file.with_suffix(".pt"))
    file.with_suffix(".json").write_text(json.dumps(row), encoding="utf-8")
    return row


@torch.inference_mode()
def made(setting: Setting, captions: list[str]) -> tuple[Tensor, float]:
    """Pictures (B, 3, 128, 128) in [-1, 1], and evaluations for each; picture i has the same noise in every row."""
    model, clip, vae = load(setting.model)
    worse = load(MODELS[setting.model]) if MODELS[setting.model] else None
    sigmas = model_sigmas(model, "normal", STEPS)
    latents = torch.zeros(len(captions), 4, 16, 16)
    noise, evaluated, pictures = Noise(SEED).generate_noise({"samples": latents}), [0], []
    for network in (model.network, *([worse[0].network] if worse else [])):
        network.register_forward_pre_hook(lambda module, inputs: evaluated.append(len(inputs[0])))
    words = [caption if setting.words == "captions" else "" for caption in captions]
    for i in tqdm(range(0, len(captions), setting.part), desc=f"{setting.model}, {setting.group}, {setting.name}"):
        part = slice(i, i + setting.part)
        patched = model
        for name, changes in setting.nodes:
            beside = {"bad_model": worse[0], "bad_positive": encoded(worse[1], words[part])} \
                if name == "OdeonAutoGuidance" else {}
            patched = node(name, model=patched, **changes, **beside)[0]
        guider = Guider(patched, encoded(clip, words[part]), encoded(clip, [""]), setting.cfg)
        out = guider.sample(noise[part], latents[part], named_sampler("euler"), sigmas, seed=SEED)
        pictures.append(vae.decode(out).movedim(-1, 1) * 2.0 - 1.0)
    return torch.cat(pictures), sum(evaluated) / len(captions)


def figures(pictures: Tensor, captions: list[str], *, seeds: int = 1, reference: Tensor | None = None) -> dict:
    """What the judge says of a row's pictures, with saturation, the mean spread of a pixel's three colours as a share
    of true scenes', and with several seeds variety, the mean distance of features of pictures of one caption as a
    share of that of true scenes of any."""
    judge = shapes_judge()
    together = judge_pictures(judge, pictures, captions, reference=reference).together
    row = {key: together[key] for key in ("object", "frechet_distance", "diversity", "drawing_error", "to_reference")
           if key in together}
    row["saturation"] = (_chroma(pictures) / _true_chroma()).item()
    if seeds > 1:
        with torch.no_grad():
            features = torch.cat([judge(part)[2] for part in pictures.split(64)]).double()
        near = torch.stack([torch.pdist(group).mean() for group in features.split(seeds)]).mean()
        row["variety"] = (near / torch.pdist(true_features(judge)).mean()).item()
    return row


def _chroma(pictures: Tensor) -> Tensor:
    return (pictures.amax(1) - pictures.amin(1)).mean()


def _true_chroma() -> Tensor:
    scenes = [draw(scene).movedim(-1, 0) * 2.0 - 1.0 for scene in scenes_of(256, 23, held_out=True)]
    return _chroma(torch.stack(scenes))
