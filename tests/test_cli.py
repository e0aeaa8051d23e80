"""The command line: what it makes, and one clear message for whatever goes wrong."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from found_comfyui import each_comfyui
from PIL import Image
from typer.testing import CliRunner

from odeon.cli import app
from odeon.host.workflow import load
from odeon.models.shapes import draw_shapes

QUICKSTART = ROOT / "workflows" / "quickstart.json"


def odeon(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments, out):
    return odeon("run", *arguments, "--host", "embedded", "--out", out)


def test_run_makes_pictures_and_names_them(tmp_path):
    result = run(QUICKSTART, out=tmp_path)
    assert result.exit_code == 0, result.output
    files = [tmp_path / "odeon" / f"quickstart_0000{i}_.png" for i in (1, 2, 3, 4)]
    assert result.stdout.split() == [str(file) for file in files]
    assert all(Image.open(file).size == (128, 128) for file in files)
    assert run(QUICKSTART, out=tmp_path).stdout.split()[0].endswith("quickstart_00005_.png")


def test_a_picture_runs_again_as_its_own_workflow(tmp_path):
    first = run(QUICKSTART, "--seed", 12, "--set", "EmptyLatentImage.batch_size=1", "--set", "Prompt.text=ring",
                out=tmp_path)
    picture = first.stdout.split()[0]
    again = run(picture, out=tmp_path / "again").stdout.split()[0]
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(again)))
    assert "ring" in json.dumps(load(ROOT / picture).ui)
    other = run(picture, "--seed", 13, out=tmp_path / "other").stdout.split()[0]
    assert not np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(other)))


def test_check_and_nodes(tmp_path):
    assert "12 nodes, no problem" in odeon("check", QUICKSTART).output
    listed = odeon("nodes").output
    assert "Odeon/guidance" in listed
    shown = odeon("nodes", "OdeonAPG").output
    assert "norm_threshold" in shown and "2410.02416" in shown


def edited(tmp_path, **changes):
    """The quickstart in API form with inputs changed: {"id.input": value}; value None drops the input."""
    from odeon.cli import _definitions

    prompt = load(QUICKSTART).to_prompt(_definitions())
    for target, value in changes.items():
        node_id, name = target[1:].split("_", 1)
        prompt[node_id]["inputs"].pop(name)
        if value is not None:
            prompt[node_id]["inputs"][name] = value
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(prompt))
    return path


@pytest.mark.parametrize(("changes", "message"), [
    ({"_8_steps": 0}, "node 8 (OdeonSigmasAlignYourSteps): input 'steps' must lie in 1 to 10000, got 0"),
    ({"_8_denoise": 0.0}, "node 9 (SamplerCustomAdvanced): SIGMAS needs at least 2 values (1 step), got 0"),
    ({"_4_width": 64, "_4_height": 64}, "made from 128 x 128 px pictures, got a latent of 64 x 64 px"),
    ({"_9_sigmas": None}, "input 'sigmas' is missing; connect a SIGMAS"),
    ({"_12_filename_prefix": "../../away"}, "leads out of the output folder"),
])
def test_bad_values_end_with_one_message(tmp_path, changes, message):
    fails_with(run(edited(tmp_path, **changes), out=tmp_path / "out"), message)
    assert not list((tmp_path / "out").rglob("*.p*"))


def fails_with(result, message):
    assert result.exit_code == 1, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(("nodes", "message"), [
    ({"20": ("FlipSigmas", {"sigmas": ["8", 0]}), "9": ("sigmas", ["20", 0])}, "must strictly decrease"),
    ({"20": ("SplitSigmas", {"sigmas": ["8", 0], "step": 0}), "9": ("sigmas", ["20", 0])},
     "at least 2 values (1 step), got 1"),
    ({"20": ("LoadImage", {"image": "gone.png"}), "10": None, "1": ("images", ["20", 0])},
     "image file 'gone.png' was not found in"),
    ({"20": ("CheckpointLoaderSimple", {"ckpt_name": "x"}), "6": ("model", ["20", 0])},
     "unknown node class 'CheckpointLoaderSimple'"),
])
def test_bad_graphs_end_with_one_message(tmp_path, nodes, message):
    path = edited(tmp_path)
    prompt = json.loads(path.read_text())
    for node_id, change in nodes.items():
        if change is None:
            prompt["1"]["inputs"]["captions"] = ""
        elif node_id == "20":
            prompt[node_id] = {"class_type": change[0], "inputs": change[1]}
        else:
            prompt[node_id]["inputs"][change[0]] = change[1]
    path.write_text(json.dumps(prompt))
    fails_with(run(path, out=tmp_path / "out"), message)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--set", "steps"], "--set needs NODE.INPUT=VALUE, got 'steps'"),
    (["--set", "Nobody.steps=3"], "'Nobody' names no node of the workflow"),
    (["--set", "CLIPTextEncode.text=x"], "names 2 nodes (2, 3) of the workflow"),
    (["--set", "9.cfg=3"], "has no value 'cfg' to set"),
    (["--set", "6.cfg=lots"], "input 'cfg' needs a number (FLOAT), got 'lots'"),
])
def test_bad_settings_end_with_one_message(tmp_path, arguments, message):
    fails_with(run(QUICKSTART, *arguments, out=tmp_path), message)


def test_bad_files_folders_and_hosts_end_with_one_message(tmp_path):
    (tmp_path / "no.json").write_text('{"hello": 1}')
    fails_with(run(tmp_path / "no.json", out=tmp_path), "is JSON but no workflow")
    fails_with(odeon("check", tmp_path / "none.json"), "can't be read (No such file or directory)")
    (tmp_path / "file").touch()
    fails_with(run(QUICKSTART, out=tmp_path / "file" / "below"), "can't be written")
    fails_with(odeon("run", QUICKSTART, "--out", tmp_path, "--host", "mars"),
               "--host must be auto, embedded, comfyui or")
    fails_with(odeon("run", QUICKSTART, "--out", tmp_path, "--host", "http://127.0.0.1:9"), "no ComfyUI answers at")
    fails_with(odeon("nodes", "OdeonNothing"), "Odeon has no node 'OdeonNothing'")


CHECKPOINT = ROOT / "workflows" / "shapes_checkpoint.json"


@pytest.mark.parametrize(("setting", "message"), [
    ("EmptyLatentImage.width=100", "node 4 (EmptyLatentImage): input 'width' must be 16 plus a multiple of 8, got 100"),
    ("EmptyLatentImage.batch_size=0", "input 'batch_size' must lie in 1 to 4096, got 0"),
    ("OdeonShapesCheckpoint.model=sdxl", "input 'model' must be one of shapes-unet"),
])
def test_what_a_shapes_checkpoint_can_t_do_is_named(tmp_path, setting, message):
    fails_with(run(CHECKPOINT, "--set", setting, out=tmp_path), message)


def test_unknown_words_are_named_and_the_rest_is_drawn(tmp_path, caplog):
    result = run(CHECKPOINT, "--set", "2.text=a red dragon star on sand", "--set", "KSampler.steps=2",
                 "--set", "EmptyLatentImage.batch_size=1", out=tmp_path)
    assert result.exit_code == 0 and len(result.stdout.split()) == 1
    assert "know no word like dragon" in caplog.text


def test_judge_reads_folders_and_workflows(tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    images, captions = draw_shapes(40, 128, 5, 2)
    for i, image in enumerate(images):
        Image.fromarray((image.numpy() * 255.0).round().astype(np.uint8)).save(drawn / f"{i:02}.png")
    fails_with(odeon("judge", drawn), "carries no prompt with a shape; write")
    (drawn / "captions.txt").write_text("\n".join(captions))
    result = odeon("judge", drawn, "--reference", drawn)
    assert result.exit_code == 0, result.output
    figures = {line.split()[0]: float(line.split()[1]) for line in result.stdout.splitlines()[1:]}
    assert figures["object"] > 97.0 and figures["to_reference"] == 0.0 and figures["sharpness"] > 90.0
    (drawn / "captions.txt").write_text("\n".join(captions[:3]))
    fails_with(odeon("judge", drawn), "needs a line for each of the 40 pictures, has 3")

    made = odeon("judge", CHECKPOINT, "--out", tmp_path / "made")
    assert made.exit_code == 0 and made.stdout.startswith("4 pictures")
    again = odeon("judge", tmp_path / "made" / "odeon")
    assert again.stdout == made.stdout, "the prompt inside the pictures was not found"


def test_what_judge_can_t_read_is_named(tmp_path):
    fails_with(odeon("judge", tmp_path / "gone"), "does not exist; give a folder of pictures or a workflow")
    fails_with(odeon("judge", tmp_path), "has no pictures")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    fails_with(odeon("judge", tmp_path), "broken.png is no picture that Pillow can read")


def test_check_lists_every_problem_at_once(tmp_path):
    result = odeon("check", edited(tmp_path, _8_steps=0, _7_order=9, _6_model=None))
    fails_with(result, "node 8")
    for part in ("node 7 (OdeonSamplerExponentialAdams): input 'order' must lie in 1 to 4, got 9",
                 "input 'model' is missing"):
        assert part in " ".join(result.output.split())


def test_no_comfyui_found_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    fails_with(odeon("run", QUICKSTART, "--out", tmp_path, "--host", "comfyui"), "no ComfyUI was found on this machine")
    assert odeon("run", QUICKSTART, "--out", tmp_path, "--host", "auto").exit_code == 0


def as_process(*arguments, **options):
    starter = "import sys; sys.path.insert(0, sys.argv.pop(1)); import conftest; from odeon.cli import app; app()"
    return subprocess.Popen([sys.executable, "-c", starter, str(ROOT / "tests"), *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_ctrl_c_leaves_nothing_half_done(tmp_path):
    out_folder = tmp_path / "out"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it otherwise
    process = as_process("run", QUICKSTART, "--host", "embedded", "--out", out_folder, "--set", "8.steps=9999",
                         "--set", "4.batch_size=32", env={**os.environ, "COLUMNS": "200"})
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60.0
    while not out_folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)  # made once everything is imported
    time.sleep(2.0)  # the run takes more than ten seconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert not out and not list(tmp_path.rglob("*.p*"))


@each_comfyui()
def test_run_on_a_server_is_run_embedded(root, comfyui_url, tmp_path):
    arguments = (QUICKSTART, "--seed", 21, "--set", "EmptyLatentImage.batch_size=1")
    result = odeon("run", *arguments, "--host", comfyui_url, "--out", tmp_path / "there")
    assert result.exit_code == 0, result.output
    there, here = (np.asarray(Image.open(r.stdout.split()[-1])).astype(int)
                   for r in (result, run(*arguments, out=tmp_path / "here")))
    assert np.abs(there - here).max() <= 1


@each_comfyui()
def test_auto_starts_the_comfyui_it_finds(root, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    result = odeon("run", QUICKSTART, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"Starting ComfyUI in {root}" in " ".join(result.output.split()).replace("- ", "-")
    assert len(list(tmp_path.rglob("*.png"))) == 4
