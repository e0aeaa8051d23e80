"""What ships beside the code: registry metadata, CONTRIBUTING, the changelog, GitHub's workflow and forms."""
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
import yaml

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TESTS = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
JOBS = TESTS["jobs"]
README_COMMAND = re.search(r"^python -m pip install .*pytest.*$", (ROOT / "README.md").read_text(), re.MULTILINE)[0]


def test_every_file_that_contributing_names_exists():
    named = set(re.findall(r"`([\w/.]+(?:\.(?:py|md|json|toml|yml)|/))`", CONTRIBUTING))
    assert len(named) > 12
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_its_example_is_a_real_one():
    rows = re.findall(r"^\| ([a-z ]+) \| `([^`]+)` \|", CONTRIBUTING, re.MULTILINE)
    assert [what for what, _ in rows] == ["the method", "the node", "the test", "the help page", "a workflow"]
    for what, name in rows:
        word = "power_sigmas" if what in ("the method", "the test") else "OdeonSigmasPower"
        assert word in (ROOT / name).read_text() or "OdeonSigmasPower" in name, name
    assert README_COMMAND in CONTRIBUTING


def test_the_workflow_runs_the_readme_s_command_on_every_python():
    steps = [step["run"] for step in JOBS["tests"]["steps"] if "run" in step]
    shown = " && ".join(steps).replace("${{ matrix.older }} ", "").replace("${{ matrix.torch }}", "2.13.0")
    assert shown == README_COMMAND
    matrix = JOBS["tests"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert PROJECT["project"]["requires-python"] == ">=3.10"
    torches = {*matrix["torch"], *(row["torch"] for row in matrix["include"])}
    lowest = next(word for word in PROJECT["project"]["dependencies"] if word.startswith("torch")).split(">=")[1]
    assert any(version.startswith(lowest + ".") for version in torches) and "2.13.0" in torches
    assert any("ruff check" in step.get("run", "") for step in JOBS["style"]["steps"])


def test_only_a_tag_that_passed_is_published():
    publish = JOBS["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert set(publish["needs"]) == JOBS.keys() - {"publish"}
    assert "v*" in TESTS[True]["push"]["tags"]  # YAML reads `on` as true
    assert any(step.get("uses", "").startswith("Comfy-Org/publish-node-action@") for step in publish["steps"])


@pytest.mark.parametrize("form", ["bug", "method"])
def test_issue_forms_are_what_github_reads(form):
    parsed = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert {"name", "description", "body"} <= parsed.keys()
    assert all(part["type"] in ("textarea", "input", "checkboxes", "dropdown", "markdown") for part in parsed["body"])
    assert len({part["id"] for part in parsed["body"]}) == len(parsed["body"])


def test_changelog_is_kept():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n") and "keepachangelog.com" in text
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    first = text.split("## ")[1]
    assert first.startswith("[Unreleased]")
    for part in ("Samplers", "Schedules", "Guidance", "Editing", "Page"):
        assert f"### {part}\n" in text


def test_registry_metadata_follows_its_rules():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][\w.-]{0,98}", project["name"]) and "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"].keys() <= {"file", "text"} and (ROOT / project["license"]["file"]).is_file()
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"] and "web" not in comfy  # a second URL would run scripts twice
    assert "Operating System :: OS Independent" in project["classifiers"]
    assert not [line for line in (ROOT / "requirements.txt").read_text().splitlines()
                if line.strip() and not line.startswith("#")], "ComfyUI ships everything; Manager installs nothing"
    assert (ROOT / ".comfyignore").read_text().split() == ["/tests/", "/.github/"]


@pytest.mark.skipif(not (find_spec("comfy_cli") or shutil.which("comfy")),
                    reason="comfy-cli is not installed: `comfy node validate` was NOT run")
def test_comfy_node_validate_passes():
    command = ["comfy"] if shutil.which("comfy") else [sys.executable, "-m", "comfy_cli"]
    result = subprocess.run([*command, "--skip-prompt", "--no-enable-telemetry", "node", "validate"], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
