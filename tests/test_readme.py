"""The commands of README and docs exist and do what they say; heavy ones run in test_chain.py and files like it."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
PROGRAMS = "make|dvc|cat|source|git|python|pip|accelerate|pytest|mkdocs|pre-commit|sh|cd|sbatch|sky"

# Commands that test_chain.py and test_methods.py run, word for word.
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

# Commands that test_machines.py, test_workflows.py and test_site.py run, with paths and names of their own.
RUN_ELSEWHERE = {
    "dvc remote add --default storage /mnt/shared/blemish",
    "git add .dvc/config",
    'git commit -m "Remote"',
    "dvc push",
    "git clone REPOSITORY blemish",
    "cd blemish",
    "dvc pull",
    "dvc pull --allow-missing",
    "dvc add data/mydata",
    "git add data/mydata.dvc",
    "dvc --wait-for-lock repro --single-item baseline@unet-hex_nut & "
    "dvc --wait-for-lock repro --single-item finetune@mvp_diff-hex_nut & wait",
    "dvc repro describe random_boxes",
    "git add dvc.lock",
    'git commit -m "Placements"',
    "sh docs/examples/task.sh REPOSITORY finetune@mvp_diff-hex_nut",
    "dvc fetch --run-cache",
    "dvc repro --pull",
    "ACCELERATE_CONFIG_FILE=node-0.yaml dvc repro --single-item finetune@mvp_diff-hex_nut",
    "ACCELERATE_CONFIG_FILE=node-1.yaml python -m lib.launch stages.finetune --generator mvp_diff --category hex_nut",
    "dvc exp run --run-all",
    "dvc queue start --jobs 2",
    "dvc queue status",
    ".ci/micro main before",
    ".ci/micro HEAD@{1} after",
    ".ci/comment before after",
    "mkdocs build --strict",
    'python -m pytest -m "not slow"',
}

# Shown, but no line to type: an option or a program by its name.
NAMED = {
    "dvc add",
    "python -m lib.start",
    "dvc exp run -S",
    "dvc exp apply NAME",
    "accelerate config",
    "dvc --wait-for-lock repro",
    ".ci/micro COMMIT TAG",
    ".ci/comment BEFORE AFTER URL",
    ".ci/pictures BRANCH NUMBER REMOTE",
}

# What cannot run here, and why.
NOT_RUN_HERE = {
    "source .venv/bin/activate": "changes the shell that types it",
    "accelerate config --config_file accelerate.yaml": "asks questions",
    "python -m http.server --directory site": "never ends",
    "pip install dvc-s3": "another package; and there is no S3 here",
    "pre-commit install": "changes the hooks of the clone; test_workflows.py runs what the hooks run",
    "python -m venv .venv": "the Makefile does it, and test runs would replace their own environment",
    "pip install -r requirements.txt": "likewise",
    "dvc params diff main": "names a branch; test_chain.py compares with HEAD",
    "dvc metrics diff main": "likewise",
}


def commands(document: Path) -> set[str]:
    """Every command in an indented or fenced block, or in backticks, that starts with a program we name."""
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    starts = rf"(?:(?:[A-Z_]+=\S+ )?(?:{PROGRAMS}) |\.ci/)"
    lines = re.findall(rf"^ {{4,}}({starts}.*?)(?:\s{{2,}}#.*)?$", prose, re.M)
    for block in re.findall(r"^```(?!python|yaml)\w*\n(.*?)^```", text, re.M | re.S):
        lines += re.findall(rf"^ *({starts}.*?)(?:\s{{2,}}#.*)?$", block, re.M)
    return {command.strip() for command in [*lines, *re.findall(rf"`({starts}[^`]+)`", prose)]}


@cache
def done(program: str, *words: str) -> subprocess.CompletedProcess:
    """What a command says in the root; once, however many documents show it."""
    return subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda place: place.relative_to(ROOT).as_posix())
def test_every_command_is_run_by_a_test_or_checked_here(document: Path):
    left = commands(document) - RUN_IN_CHAIN - RUN_ELSEWHERE - NAMED - NOT_RUN_HERE.keys()
    made = {command for command in left if command.startswith("make ")}
    for command in made:
        assert done(*command.split(), "--dry-run").returncode == 0, command
    left -= made
    tried = {command: [*command.split(), "--dry"] for command in left if command.startswith("dvc repro ")}
    tried |= {command: command.split() for command in left if command.endswith(" --help")}
    tried |= {command: shlex.split(command) for command in left if re.match(r"dvc (exp show|stage list)\b", command)}
    for command, words in tried.items():
        tried_here = done(str(Path(sys.executable).with_name(words[0])), *words[1:])
        assert tried_here.returncode == 0, f"{command}: {tried_here.stderr}"
    left -= set(tried)
    keys = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for command in left:  # full-size models and real data, which are not here: their knobs must exist
        knobs = re.findall(r"-S '?([\w.]+)=", command)
        assert knobs, f"{command} is run by no test"
        for knob in knobs:
            section, _, name = knob.partition(".")  # `generators` and `detectors` are lists, not sections
            assert section in keys and (not name or name in keys[section]), (
                f"{knob} of {document.name} is no key of params.yaml"
            )


def test_the_lists_hold_no_command_that_no_document_shows():
    shown = set().union(*map(commands, DOCUMENTS))
    listed = RUN_IN_CHAIN | RUN_ELSEWHERE | NAMED | NOT_RUN_HERE.keys()
    assert not listed - shown


def test_the_first_screen_shows_the_two_commands_and_a_picture():
    screen = README.splitlines()[:20]
    assert any("make repro" in line for line in screen) and any("make test" in line for line in screen)
    assert any(line.startswith("![") for line in screen)


def test_the_readme_is_a_screen_and_a_half():
    assert len(README.splitlines()) <= 90


def test_every_file_that_the_readme_names_is_there():
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target.split("#")[0]).is_file(), target


def test_every_stage_is_explained():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    page = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    picture = (ROOT / "docs/pipeline.svg").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page and f">{name}<" in picture for name in stages)


def test_the_headline_table_is_that_of_the_committed_metrics():
    summary = json.loads((ROOT / "metrics/summary.json").read_text(encoding="utf-8"))
    columns = ["image_auroc", "pixel_ap", "pixel_iou_max", "aupro", "box_ap50"]
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if re.match(r"\| (unet|patchcore) ", line)]
    assert {(detector, arm) for detector, arm, *_ in rows} == {
        (detector, arm) for detector in ("unet", "patchcore") for arm in summary[detector]
    }
    for detector, arm, *cells in rows:
        for column, cell in zip(columns, cells, strict=True):
            assert float(cell.split()[0]) == pytest.approx(summary[detector][arm][column], abs=0.00056)
