"""The command `odeon`: run and check workflows, judge pictures, look up nodes."""
import functools
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import NODE_CLASS_MAPPINGS
from .host import server
from .host.embedded import graph
from .host.embedded.context import Context, Events, running
from .host.embedded.core_nodes import CORE_NODES
from .host.embedded.files import make_folder, open_picture, pixels_of
from .host.newer import require_known
from .host.workflow import Workflow, WorkflowError, describe, inputs_of, load
from .models.judge import is_caption

app = typer.Typer(help="Run Odeon's workflows and look up its nodes.", no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False)
console = Console(stderr=True)
CLASSES = {**CORE_NODES, **NODE_CLASS_MAPPINGS}
DOCS = Path(__file__).parent / "web" / "docs"


def reported(command):
    """Ends a command with one clear message for what a user can mend and exit code 1; 130 for Ctrl-C."""
    @functools.wraps(command)
    def inner(*args, **kwargs):
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            console.print("interrupted; pictures saved so far are complete")
            raise typer.Exit(130) from None
        except (ValueError, ImportError) as error:
            console.print(Text("error: ", "bold red") + Text(str(error), ""), soft_wrap=True)
            raise typer.Exit(1) from None

    return inner


File = Annotated[Path, typer.Argument(help="A workflow: JSON from the browser (saved or exported for the API), or a "
                                           "PNG that carries one.")]


def _input_folders(file: Path) -> list[Path]:
    """Where pictures that a workflow file loads are looked for."""
    return [file.resolve().parent, Path("input").resolve()]


def _definitions() -> dict:
    return {name: describe(cls) for name, cls in CLASSES.items()}


@app.command()
@reported
def run(
    file: File,
    values: Annotated[list[str], typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Set an input; NODE is an id, "
                                              "a title, or the class of a single node. May be repeated.")] = [],
    seed: Annotated[int | None, typer.Option(help="Set every seed of the workflow.", min=0)] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("output"),
    host: Annotated[str, typer.Option(help="auto (a ComfyUI found on this machine, else embedded), embedded, comfyui, "
                                           "or the URL of a running ComfyUI.")] = "auto",
) -> None:
    """Make the pictures of a workflow."""
    workflow = load(file)
    make_folder(out)
    job = _Job(workflow, values, seed, out, _input_folders(file))
    if host.startswith(("http://", "https://")):
        saved = _run_on_server(host, job)
    elif host in ("auto", "comfyui"):
        saved = _run_on_this_machine(job, must=host == "comfyui")
    elif host == "embedded":
        saved = _run_embedded(job)
    else:
        raise WorkflowError(f"--host must be auto, embedded, comfyui or a http:// URL, got {host!r}")
    for path in saved:
        print(path)


class _Job(NamedTuple):
    """What to run and where its files are."""
    workflow: Workflow
    values: list[str]
    seed: int | None
    out: Path
    inputs: list[Path]

    def changed(self, definitions: dict) -> Workflow:
        """The workflow with --seed and --set applied; the workflow inside saved pictures has them too."""
        require_known(self.workflow, definitions)
        workflow = self.workflow if self.seed is None else self.workflow.set_seed(definitions, self.seed)
        return workflow.set_values(definitions, dict(_assignment(text) for text in self.values))


def _run_on_this_machine(job: _Job, *, must: bool) -> list[Path]:
    """In the ComfyUI found here; unless it must be that, embedded where there is none or it does not start."""
    root = server.find_comfyui()
    if root is None:
        if must:
            raise WorkflowError("no ComfyUI was found on this machine; set COMFYUI_PATH to its folder, give a URL to "
                                "--host, or use --host embedded")
        return _run_embedded(job)
    console.print(f"Starting ComfyUI in {root}", highlight=False)
    with ExitStack() as stack:
        try:
            url = stack.enter_context(server.started(root))
        except server.ServerError as error:
            if must:
                raise
            console.print(f"{error}\nUsing the embedded runner instead.", highlight=False, markup=False)
            return _run_embedded(job)
        return _run_on_server(url, job)


def _assignment(text: str) -> tuple[tuple[str, str], object]:
    target, equals, value = text.partition("=")
    node, dot, name = target.rpartition(".")
    if not (equals and dot and node and name):
        raise WorkflowError(f"--set needs NODE.INPUT=VALUE, got {text!r}; for example --set KSampler.steps=12")
    try:
        return (node, name), json.loads(value)
    except json.JSONDecodeError:
        return (node, name), value


def _run_embedded(job: _Job) -> list[Path]:
    definitions = _definitions()
    workflow = job.changed(definitions)
    prompt = workflow.to_prompt(definitions)
    with _Display() as display:
        context = Context(job.out, job.inputs, prompt, workflow.ui, display)
        _require_sound(prompt, context)
        graph.run(prompt, CLASSES, context)
    return display.paths


def _require_sound(prompt: dict, context: Context) -> None:
    """Raises WorkflowError with every problem of the graph, a line each."""
    with running(context):
        problems = graph.check(prompt, CLASSES)
    if problems:
        raise WorkflowError("\n".join(map(str, problems)))


def _run_on_server(url: str, job: _Job) -> list[Path]:
    client = server.Client(url)
    definitions = client.definitions()
    workflow = job.changed(definitions)
    prompt = workflow.to_prompt(definitions)
    client.upload_inputs(prompt, job.inputs)
    with _Display() as display:
        return client.fetch_images(client.run(prompt, workflow.ui, display), job.out, display)


class _Display(Events):
    """Shows a run on the terminal: the node at work, its steps and the time left."""

    def __init__(self):
        self.paths: list[Path] = []
        self.bars = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                             TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
                             disable=not console.is_terminal)
        self.task = self.bars.add_task("", total=None)

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, *_error):
        self.bars.stop()

    def node_started(self, node_id: str, title: str) -> None:
        self.bars.remove_task(self.task)
        self.task = self.bars.add_task(title, total=None)

    def progress(self, value: int, total: int) -> None:
        self.bars.update(self.task, completed=value, total=total)

    def saved(self, path: Path) -> None:
        self.paths.append(path)


@app.command()
@reported
def check(file: File) -> None:
    """List every problem of a workflow, without running it."""
    workflow, definitions = load(file), _definitions()
    require_known(workflow, definitions)
    prompt = workflow.to_prompt(definitions)
    _require_sound(prompt, Context(Path("output"), _input_folders(file)))
    print(f"{file}: {len(prompt)} nodes, no problem")


@app.command()
@reported
def judge(
    source: Annotated[Path, typer.Argument(help="A folder of 128 px pictures, or a workflow to run first.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of the same pictures after very many steps.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for a workflow's pictures.")] = Path("output"),
) -> None:
    """Say what is right in pictures of the Shapes world, and how well they are drawn.

    What they should show is read from captions.txt in the folder, a line for each picture by name; without one, from
    the prompts that saved pictures carry.
    """
    from .models.quality import as_table, judge_pictures
    from .models.weights import shapes_judge

    if not source.exists():
        raise WorkflowError(f"{source} does not exist; give a folder of pictures or a workflow")
    if source.is_dir():
        paths = _pictures_in(source)
    else:
        make_folder(out)
        paths = _run_embedded(_Job(load(source), [], None, out, _input_folders(source)))
    other = None if reference is None else _read_pictures(_pictures_in(reference))
    together = judge_pictures(shapes_judge(), _read_pictures(paths), _captions_of(paths), reference=other).together
    print(f"{len(paths)} pictures\n{as_table(together)}")


def _pictures_in(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not paths:
        raise WorkflowError(f"{folder} has no pictures (.png, .jpg, .webp)")
    return paths


def _read_pictures(paths: list[Path]) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1]. Raises ValueError naming a file that is none or has another size."""
    pictures = [pixels_of(open_picture(path)) for path in paths]
    for path, picture in zip(paths, pictures):
        if picture.shape != pictures[0].shape:
            raise WorkflowError(f"pictures need one size; {path} has {picture.shape[1]} x {picture.shape[0]} px, "
                                f"{paths[0].name} {pictures[0].shape[1]} x {pictures[0].shape[0]}")
    return torch.stack(pictures).movedim(-1, 1) * 2.0 - 1.0


def _captions_of(paths: list[Path]) -> list[str]:
    """A caption for each picture, from captions.txt beside them or from their own prompts."""
    listed = paths[0].parent / "captions.txt"
    if not listed.is_file():
        return [_prompt_in(path) for path in paths]
    lines = listed.read_text(encoding="utf-8").strip().splitlines()
    if len(lines) != len(paths):
        raise WorkflowError(f"{listed} needs a line for each of the {len(paths)} pictures, has {len(lines)}")
    return lines


def _prompt_in(path: Path) -> str:
    """The one text in the picture's workflow that is a caption of the Shapes world."""
    try:
        prompt = load(path).to_prompt(_definitions())
    except WorkflowError:  # a picture made elsewhere
        prompt = {}
    texts = {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
    found = sorted(text for text in texts if is_caption(text))
    if len(found) != 1:
        what = f"{len(found)} prompts that could be meant ({'; '.join(found)})" if found else "no prompt with a shape"
        raise WorkflowError(f"{path} carries {what}; write {path.parent / 'captions.txt'} with a line for each picture")
    return found[0]


@app.command()
@reported
def nodes(name: Annotated[str | None, typer.Argument(help="A node id, to see its inputs and help.")] = None) -> None:
    """List Odeon's nodes, or show one with its inputs and help."""
    shown = Console()
    if name is None:
        table = Table("node", "menu", "what it does")
        for node_id, cls in NODE_CLASS_MAPPINGS.items():
            table.add_row(node_id, cls.CATEGORY, cls.DESCRIPTION)
        shown.print(table)
        return
    cls = NODE_CLASS_MAPPINGS.get(name)
    if cls is None:
        raise WorkflowError(f"Odeon has no node {name!r}; `odeon nodes` lists them")
    table = Table("input", "type", "default", "range", "what it does", title=f"{cls.TITLE} ({name})")
    for input_name, (kind, options, required) in inputs_of(describe(cls)).items():
        table.add_row(input_name + ("" if required else " (optional)"), *_input_cells(kind, options))
    shown.print(table)
    shown.print(f"gives {', '.join(cls.RETURN_TYPES)}\n")
    shown.print(Markdown((DOCS / f"{name}.md").read_text(encoding="utf-8")))


def _input_cells(kind, options: dict) -> tuple[str, str, str, str]:
    limits = f"{options['min']} to {options['max']}" if "min" in options else ""
    choices = ", ".join(map(str, kind)) if isinstance(kind, list) else limits
    name = "COMBO" if isinstance(kind, list) else kind
    return (name, str(options.get("default", "")), choices, options.get("tooltip", ""))
