"""What a running node may ask of its run: where files go, what the graph is, whom to tell of progress."""
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


class Events:
    """Whom a run tells what happens; every call is optional to override."""

    def node_started(self, node_id: str, title: str) -> None:
        """A node begins."""

    def progress(self, value: int, total: int) -> None:
        """Step value of total of the running node is done."""

    def saved(self, path: Path) -> None:
        """A file is complete at path."""


@dataclass
class Context:
    """One run. input_folders: where LoadImage looks, in order. prompt, workflow: what a saved PNG carries."""
    output_folder: Path
    input_folders: list[Path] = field(default_factory=list)
    prompt: dict | None = None
    workflow: dict | None = None
    events: Events = field(default_factory=Events)

    def progress(self, value: int, total: int) -> None:
        self.events.progress(value, total)


_current: ContextVar[Context] = ContextVar("odeon_run")


def current() -> Context:
    """The run that the calling node belongs to; outside of one, a run that tells nobody and saves to ./output."""
    return _current.get(None) or Context(Path("output"))


@contextmanager
def running(context: Context):
    """Makes context the current run inside the block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
