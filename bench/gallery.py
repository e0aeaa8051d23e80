"""The pictures of workflows and help pages, made by running them; docs/gallery.md and the README's part of it.

One source for each: a workflow's note says what it is, its nodes which help pages it belongs to."""
import io
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

from PIL import Image

from .. import NODE_CLASS_MAPPINGS
from ..cli import CLASSES
from ..host.embedded import graph
from ..host.embedded.context import Context, Events
from ..host.live import answer
from ..host.workflow import Workflow, describe, inputs_of, load
from .gallery_pictures import Named, curve, sheet

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS, HELP, PAGE = ROOT / "workflows", ROOT / "web" / "docs", ROOT / "docs" / "gallery.md"
PICTURES = HELP / "pictures"  # a page can only reach what lies below web/
GROUPS = {
    "Start here": ("quickstart", "shapes_checkpoint", "ksampler", "compare_grid"),
    "Tasks": ("restyle", "replace_one_word", "edit_by_words", "edit_by_words_flow", "edit_keep_layout", "remove_this",
              "restore_this", "colorize", "edit_drag", "edit_blend", "edit_larger", "edit_little_by_little",
              "edit_boundary"),
    "Samplers": ("solvers_log_snr", "solvers_sigma", "solvers_stochastic", "solvers_adaptive", "dpm_solver_pp",
                 "exponential_adams_sde", "dpm_solver_v3", "model_statistics", "dc_solver", "iia", "dual_fast",
                 "pfgmpp_noise"),
    "Schedules": ("power_schedule", "schedule_families", "schedule_flows", "schedules_of_a_model", "fit_beta",
                  "oss_table", "step_anneal", "zero_snr", "one_more_step", "conditioning_sigmas"),
    "Learned on your model": ("optimize_steps", "optimize_plan", "learned_steps", "align_your_steps_optimizer", "boss",
                              "gits", "oss", "autodiffusion", "usf", "ld3_time_tuner"),
    "Guidance": ("apg", "guidance_high_cfg", "dynamic_threshold", "guidance_when", "guidance_cfg_pp", "guidance_flow",
                 "guidance_attention_unet", "guidance_attention_dit", "guidance_diversity", "guidance_steps",
                 "guidance_loss", "guidance_classifier", "guidance_minority", "guidance_minority_classifier",
                 "guidance_linear_ag", "guidance_agd"),
    "Editing": ("delta_denoising", "exact_round_trip", "plateau_and_refine", "latent_slerp"),
    "Analysis": ("plot_sigmas", "plot_error", "trajectory", "shapes_judge"),
}
PARTS = {"Start here": ("models", "analysis"), "Tasks": ("editing",), "Samplers": ("samplers",),
         "Schedules": ("schedules",), "Learned on your model": ("schedules",), "Guidance": ("guidance",),
         "Editing": ("editing",), "Analysis": ("analysis",)}  # of the menu
FRONT = ("quickstart", "compare_grid", "restyle", "replace_one_word", "remove_this", "restore_this", "colorize",
         "edit_larger", "apg", "guidance_diversity", "plot_error", "trajectory")  # in the README
# What searches are given that ship with another budget: less where it would take long, more minutes where a busy
# machine would not get as far in the given ones as an idle one does.
BUDGETS = {"OdeonOptimizeAlignYourSteps": {"steps": 5, "steps_init": 5, "refine": 0, "mc_samples": 2, "candidates": 3,
                                           "max_iters": 4, "samples": 3},
           "OdeonOptimizeAutoDiffusion": {"epochs": 1, "samples": 3, "teacher_steps": 8},
           "OdeonOptimizeSteps": {"minutes": 3.0}, "OdeonOptimizePlan": {"minutes": 10.0}}
BEFORE = {"before", "damaged", "grey", "plain", "small"}  # in the names of pictures that others are compared with
SHORT, WIDTH = 40, 780  # letters of a sentence; pixels of a table
MOST, QUALITIES = 25 * 1024, (82, 70, 58)  # bytes of a thumbnail
MODEL = "shapes-unet"  # whose levels are drawn where a schedule asks for a model


class _Saved(Events):
    """The files that a run saved."""

    def __init__(self):
        self.paths: list[Path] = []

    def saved(self, path: Path) -> None:
        self.paths.append(path)


def names() -> list[str]:
    """Every workflow of the folder."""
    return sorted(path.stem for path in WORKFLOWS.glob("*.json"))


@lru_cache(maxsize=128)
def _workflow(name: str) -> Workflow:
    return load(WORKFLOWS / f"{name}.json")


def thumbnail(name: str) -> bytes:
    """The JPEG of a workflow, by running it embedded."""
    definitions = {kind: describe(cls) for kind, cls in CLASSES.items()}
    kinds = _kinds(name)
    workflow = _workflow(name).set_values(definitions, {(kind, key): value for kind in BUDGETS if kind in kinds
                                                        for key, value in BUDGETS[kind].items()})
    prompt, saved = workflow.to_prompt(definitions), _Saved()
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, ODEON_FOLDER=folder):  # not what was kept
        graph.run(prompt, CLASSES, Context(Path(folder), [WORKFLOWS], prompt, workflow.ui, saved))
        made = sheet(_named(name, saved.paths))
    return jpeg(made)


def jpeg(picture: Image.Image) -> bytes:
    """As the files hold it: as good as fits."""
    made = b""
    for quality in QUALITIES:
        held = io.BytesIO()
        picture.save(held, "JPEG", quality=quality, optimize=True)
        made = held.getvalue()
        if len(made) <= MOST:
            break
    return made


def _named(name: str, paths: list[Path]) -> Named:
    """What was saved, by the words of each SaveImage's prefix, from the top of the graph down."""
    nodes = [node for node in _workflow(name).ui["nodes"] if node["type"] == "SaveImage"]
    made = {}
    for node in sorted(nodes, key=lambda node: (not _before(node), node["pos"][1], node["pos"][0])):
        prefix = _prefix(node)
        images = [Image.open(path).convert("RGB") for path in paths
                  if re.fullmatch(re.escape(prefix) + r"_\d+_\.png", path.name)]
        made[(prefix.removeprefix(f"{name}_") or prefix).replace("_", " ")] = images
    return list(made.items())


def _prefix(node: dict) -> str:
    return node["widgets_values"][0].rpartition("/")[2]


def _before(node: dict) -> bool:
    """Whether it saves what an edit began with."""
    return bool(BEFORE & set(_prefix(node).split("_")))


def _kinds(name: str) -> list[str]:
    """The classes of a workflow's nodes, each once."""
    return list(dict.fromkeys(node["type"] for node in _workflow(name).ui["nodes"]))


def said(name: str) -> tuple[str, str]:
    """Title and first sentence of a workflow's note, in Markdown; more of them where they are short."""
    note = next(node["widgets_values"][0] for node in _workflow(name).ui["nodes"] if node["type"] == "MarkdownNote")
    title, body = re.fullmatch(r"(?:## (.+?)\n|\*\*.+?\*\*)(.*)", note.strip(), re.DOTALL).group(1, 2)
    title = title or re.match(r"\*\*(.+?)\*\*", note.strip())[1].rstrip(".")
    sentences = re.split(r"(?<=[.!?])\s", " ".join(body.strip().split("\n\n")[0].split()))
    enough = next((i for i in range(1, len(sentences)) if len(" ".join(sentences[:i])) >= SHORT), len(sentences))
    return title, " ".join(sentences[:enough])


def workflow_of(node: str) -> str | None:
    """The workflow that shows a node best: it or a picture of it named like the node, then of the node's own part of
    the menu, then the first in the gallery."""
    words, part = set(_words(node)), NODE_CLASS_MAPPINGS[node].CATEGORY.split("/")[1]
    holding = [name for members in GROUPS.values() for name in members if node in _kinds(name)]

    def rank(name: str) -> tuple:
        named = set(name.split("_"))
        drawn = {word for other in _workflow(name).ui["nodes"] if other["type"] == "SaveImage"
                 for word in _prefix(other).split("_")}
        group = next(title for title, members in GROUPS.items() if name in members)
        return -len(words & (named | drawn)), len(named - words) if named & words else 0, part not in PARTS[group]

    return min(holding, default=None, key=rank)


def _words(node: str) -> list[str]:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", node.removeprefix("Odeon")).lower().split("_")


@lru_cache(maxsize=256)
def levels_of(node: str) -> tuple[list[float], bool] | None:
    """The levels that a schedule node gives as it comes, and whether it took a model's; None where it gives none."""
    if not node.startswith("OdeonSigmas"):
        return None
    for with_model in (False, True):
        levels = answer(_as_it_comes(node, with_model), NODE_CLASS_MAPPINGS).get("levels")
        if levels:
            return levels, with_model
    return None


def _as_it_comes(node: str, with_model: bool = False) -> dict:
    """A node at its defaults as the live curve takes it, with the power schedule and the Shapes model connected."""
    sources = {"SAMPLER": {"class": "KSamplerSelect", "inputs": {}}}
    if node != "OdeonSigmasPower":
        sources["SIGMAS"] = _as_it_comes("OdeonSigmasPower")
    if with_model:
        sources["MODEL"] = {"class": "OdeonShapesCheckpoint", "inputs": {"model": MODEL}}
    inputs = {}
    for name, (kind, options, _) in inputs_of(describe(NODE_CLASS_MAPPINGS[node])).items():
        if isinstance(kind, str) and kind in sources:
            inputs[name] = sources[kind]
        elif "default" in options:
            inputs[name] = options["default"]
    return {"id": "1", "class": node, "inputs": inputs}


def files() -> dict[Path, bytes]:
    """What the gallery consists of beside the thumbnails themselves, made of these: {path: content}."""
    made = {PAGE: _page().encode(), ROOT / "README.md": _readme().encode()}
    for node, cls in NODE_CLASS_MAPPINGS.items():
        found, name = levels_of(node), workflow_of(node)
        if found:
            levels, of_model = found
            held = io.BytesIO()
            curve(levels, f"{cls.TITLE} at its defaults" + f", {MODEL}" * of_model).save(held, "PNG", optimize=True)
            made[PICTURES / f"{node}.png"] = held.getvalue()
            line = f"![Its levels at the defaults{f', for {MODEL}' if of_model else ''}](pictures/{node}.png)"
        elif name:
            made[PICTURES / f"{name}.jpg"] = (WORKFLOWS / f"{name}.jpg").read_bytes()
            line = f"![{_plain(said(name)[0])}: workflows/{name}.json](pictures/{name}.jpg)"
        else:
            line = None
        made[HELP / f"{node}.md"] = _with_picture((HELP / f"{node}.md").read_text(encoding="utf-8"), line).encode()
    return made


def _plain(text: str) -> str:
    return re.sub(r"[*`\\\[\]]", "", text)


def _with_picture(text: str, line: str | None) -> str:
    """A help page with its picture after the first paragraph."""
    blocks = [block for block in text.split("\n\n") if not block.startswith("![")]
    return "\n\n".join([*blocks[:2], *([line] if line else []), *blocks[2:]])


def _page() -> str:
    parts = ["# Gallery", "Every graph of `workflows/`, each with what it drew. All run on a bare install, without a "
             "checkpoint; ComfyUI lists them under Templates. Those of `workflows/checkpoints/` need yours.",
             "Made by `python -m odeon.bench gallery --write`."]
    for group, members in GROUPS.items():
        parts += [f"## {group}", _table(members, lambda name: f"../workflows/{name}", across=3, sentences=True)]
    return "\n\n".join(parts) + "\n"


def _readme() -> str:
    """The README with its gallery made anew."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = "## Gallery\n\n" + _table(FRONT, lambda name: f"workflows/{name}", across=4) + (
        "\n\nAll of them, with a sentence each, are in [docs/gallery.md](docs/gallery.md).\n\n")
    return re.sub(r"## Gallery\n.*?(?=^## )", lambda _: part, text, count=1, flags=re.DOTALL | re.MULTILINE)


def _table(members: tuple[str, ...], place, *, across: int, sentences: bool = False) -> str:
    """Pictures over titles that link to the graphs, so many in a row."""
    cells = []
    for name in members:
        title, sentence = said(name)
        words = _plain(title)
        picture = f'<img src="{place(name)}.jpg" width="{WIDTH // across}" alt="{words}">'
        cells.append(f'<a href="{place(name)}.json">{picture}</a><br>[{words}]({place(name)}.json)'
                     + f"<br>{sentence}" * sentences)
    rows = [cells[i:i + across] for i in range(0, len(cells), across)]
    rows[-1] += [""] * (across - len(rows[-1]))
    return "\n".join(["|" + " |" * across, "|" + "---|" * across, *(f"| {' | '.join(row)} |" for row in rows)])


def refresh() -> list[Path]:
    """Writes the pages and their pictures where they changed, and drops pictures that no page shows any more."""
    made = files()
    PICTURES.mkdir(exist_ok=True)
    changed = [path for path, content in made.items() if not path.exists() or path.read_bytes() != content]
    for path in changed:
        path.write_bytes(made[path])
    for path in PICTURES.iterdir():
        if path not in made:
            path.unlink()
    return changed


def sizes() -> dict[str, int]:
    """Bytes of every picture in the checkout."""
    return {path.relative_to(ROOT).as_posix(): path.stat().st_size for folder in (WORKFLOWS, PICTURES, ROOT / "docs")
            for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")}
