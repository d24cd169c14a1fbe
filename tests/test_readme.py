"""The README's commands exist and do what it says; the heavy ones run in test_chain.py."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

# Commands that test_chain.py runs, word for word.
RUN_IN_CHAIN = {
    "dvc repro",
    "dvc repro report",
    "dvc exp run -S synth.guidance_scale=5",
    "dvc metrics diff",
    "dvc plots show",
    "git checkout . && dvc checkout",
    "dvc exp run -S dataset.path=data/mydata -S 'dataset.categories=[bracket]' prepare",
    "cat metrics/report/report.md",
    "git checkout params.yaml",
    "python -m lib.predict models/detectors/unet/bracket/none/seed-0 data/new --out data/found",
    "python -m lib.exchange models/detectors/unet/bracket/none/seed-0",
}


def commands() -> set[str]:
    """Every command in an indented block or in backticks that starts with a program we name."""
    lines = re.findall(r"^ {4,}((?:make|dvc|cat|source|git|python|accelerate) .*?)(?:\s{2,}#.*)?$", README, re.M)
    quoted = re.findall(r"`((?:make|dvc|git|python|accelerate) [^`]+)`", README)
    return {command.strip() for command in [*lines, *quoted]}


def test_every_command_is_run_by_a_test_or_checked_here():
    left = commands() - RUN_IN_CHAIN
    made = {command for command in left if command.startswith("make ")}
    for command in made:
        assert subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True).returncode == 0, command
    left -= made | {"source .venv/bin/activate", "dvc exp run -S", "accelerate config --config_file accelerate.yaml"}
    tried = {command: [*command.split(), "--dry"] for command in left if command.startswith("dvc repro ")}
    tried |= {command: command.split() for command in left if command.endswith(" --help")}
    for command, words in tried.items():
        program = str(Path(sys.executable).with_name(words[0]))
        done = subprocess.run([program, *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    left -= set(tried)
    keys = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for command in left:  # full-size models and real data, which are not here: their knobs must exist
        knobs = re.findall(r"-S '?([\w.]+)=", command)
        assert knobs, f"{command} is run by no test"
        for knob in knobs:
            section, name = knob.split(".")
            assert name in keys[section], f"{knob} of the README is no key of params.yaml"


def test_the_first_screen_shows_the_two_commands_and_a_picture():
    screen = README.splitlines()[:20]
    assert any("make repro" in line for line in screen) and any("make test" in line for line in screen)
    assert any(line.startswith("![") for line in screen)


def test_every_file_that_the_readme_names_is_there():
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_stage_is_explained():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert all(f"`{name}`" in README for name in stages)
