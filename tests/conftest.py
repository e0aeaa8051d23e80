"""Loads this checkout, whatever its folder is called, as the package `odeon`; finds ComfyUI for the tests in it."""
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def _load_checkout() -> None:
    found = sys.modules.get("odeon")
    if found is not None and Path(found.__file__).resolve().parent == ROOT:
        return
    spec = importlib.util.spec_from_file_location("odeon", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["odeon"] = module
    spec.loader.exec_module(module)


_load_checkout()
sys.path.insert(0, str(ROOT / "tests"))  # for the helpers beside the tests: gmm.py, golden.py, comfy.py


if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: threads of their own would only wait for each other
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the ComfyUIs that tests start


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """--dist loadfile, but tests of a ComfyUI share a process across files: see process_of."""
    from found_comfyui import process_of
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return process_of(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Two processes with a ComfyUI each take the workflows from both ends, so that neither waits for the other."""
    from found_comfyui import roots

    places = [i for i, item in enumerate(items) if getattr(item, "originalname", "") == "test_same_pictures_in_comfyui"
              and item.callspec.params["root"] in roots()[1::2]]
    for place, item in zip(places, [items[place] for place in reversed(places)]):
        items[place] = item


@pytest.fixture(scope="session")
def comfyui_url(root, tmp_path_factory):
    """The URL of a ComfyUI server at `root` with this pack loaded, and a stranger's beside it."""
    from found_comfyui import isolated_server

    with isolated_server(root, tmp_path_factory.mktemp("comfyui")) as url:
        yield url


@pytest.fixture(scope="session")
def page(root, comfyui_url):
    """The page of the server in Chromium, one for all tests of a ComfyUI."""
    from pages import opened

    with opened(comfyui_url) as page:
        yield page
