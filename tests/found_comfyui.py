"""The ComfyUIs that tests run in: the one the command line would find, and ComfyUI-* folders beside it."""
import contextlib
import re
import zlib
from functools import lru_cache
from pathlib import Path

import pytest

from odeon.host import server

WHY_SKIPPED = ("no ComfyUI was found ($COMFYUI_PATH, the enclosing custom_nodes, ~/comfy/ComfyUI, ~/ComfyUI): "
               "what needs the real one was NOT tested")


@lru_cache
def roots():
    """Folders of ComfyUI installations, the main one first."""
    main = server.find_comfyui()
    if main is None:
        return ()
    others = [place for place in main.parent.glob("ComfyUI-*") if (place / "main.py").is_file() and place != main]
    return (main, *sorted(others))


def each_comfyui():
    """Parametrizes a test by `root`, or skips it saying why."""
    if not roots():
        return pytest.mark.parametrize("root", [pytest.param(None, marks=pytest.mark.skip(reason=WHY_SKIPPED))],
                                       ids=["none"])
    return pytest.mark.parametrize("root", roots(), ids=lambda root: root.name, scope="session")


def is_long(script):
    """Whether a script of checks, or a test of one, is of those that learn or draw gradients, which take long."""
    return re.search("in_comfyui_(learned|gradient)", script) is not None


def process_of(nodeid):
    """What a test shares a process with: all tests of its ComfyUI, whose server they use, else those of its file.
    Checks without a server are apart, and where there is one ComfyUI half of the workflows has a server of its own and
    takes the long checks, so that two processes share its tests."""
    file, _, test = nodeid.partition("::")
    mine = [root.name for root in roots() if root.name in test.partition("[")[2]]
    if not mine:
        return file
    what = "checks" if test.startswith("test_in_comfyui[") else "pages"
    halved = test.startswith("test_same_pictures_in_comfyui[") and zlib.crc32(test.encode()) % 2
    if len(roots()) == 1 and (halved or what == "checks" and is_long(test)):
        what = "workflows"
    return f"{what} in {max(mine, key=len)}"


@contextlib.contextmanager
def isolated_server(root, folder):
    """A server of its own files, nothing of the installation but its code, with a stranger's pack in every run."""
    for name in ("custom_nodes", "input", "output", "temp", "models", "user"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    stray = (Path(__file__).parent / "stray_pack.py").read_text()
    (folder / "custom_nodes" / "stray_pack.py").write_text(f"{stray}\n\npatch_every_run()\n")
    with server.started(root, "--cpu", "--base-directory", str(folder), "--disable-api-nodes",
                        "--preview-method", "latent2rgb") as url:
        yield url
