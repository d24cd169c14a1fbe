"""How far a run of the chain is: counted by DVC's own words, timed by what stages took the last time."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core.command import ESTIMATE, duration_file
from lib.core.errors import UserError
from lib.core.runtime import write_json
from lib.repro import Progress, durations, main, minutes, progress_of, repro
from tests.conftest import ROOT

STAGES = ["prepare", "detect@a", "detect@b", "report"]
SECONDS = {"prepare": 30.0, "detect@a": 300.0, "detect@b": 600.0, "report": 60.0}


@pytest.mark.parametrize(
    ("due", "seconds", "seen", "elapsed", "told"),
    [
        (STAGES, SECONDS, STAGES[:1], 0, "stage 1 of 4, about 16 minutes left"),
        (STAGES, SECONDS, STAGES[:3], 330, "stage 3 of 4, about 11 minutes left"),
        (STAGES, SECONDS, STAGES[:3], 660, "stage 3 of 4, about 22 minutes left"),  # a machine half as fast
        (STAGES, SECONDS, STAGES[:2], 3000, "stage 2 of 4, about 16 minutes left"),  # too early to tell a pace
        (STAGES, SECONDS, STAGES, 9e9, "stage 4 of 4, about 4 minutes left"),  # a night's sleep is no pace
        (STAGES[1:2] + STAGES[3:], SECONDS, STAGES[:2], 0, "stage 2 of 4, about 6 minutes left"),  # b need not run
        (STAGES, {"detect@c": 120.0, **dict.fromkeys(("prepare", "report"), 30.0)}, STAGES[:1], 0,
         "stage 1 of 4, about 5 minutes left"),  # like the others of its name
        (STAGES, {"detect@a": 300.0}, STAGES[:1], 0, "stage 1 of 4, more than 10 minutes left"),
        (STAGES, {}, STAGES[:1], 0, "stage 1 of 4"),
        (STAGES, {"report": 10.0}, STAGES, 0, "stage 4 of 4, less than a minute left"),
    ],
)  # fmt: skip
def test_the_time_left_is_that_of_stages_which_may_still_run(due, seconds, seen, elapsed, told):
    progress = Progress(STAGES, frozenset(due), seconds)
    for name in seen:
        progress.reached(name)
    assert progress.sentence(elapsed) == told


@pytest.mark.parametrize(
    ("seconds", "elapsed", "told"),
    [
        ({}, 30, "stage 2 of 4, about 10 minutes left by the estimate of lib.start"),
        ({"prepare": 30.0, "report": 60.0}, 30, "stage 2 of 4, about 10 minutes left by the estimate of lib.start"),
        ({}, 700, "stage 2 of 4"),  # it was wrong
        ({"report": 700.0}, 30, "stage 2 of 4, more than 12 minutes left"),
        (SECONDS, 30, "stage 2 of 4, about 16 minutes left"),  # what stages took is better
    ],
)
def test_a_first_run_goes_by_the_estimate_that_the_settings_were_proposed_with(seconds, elapsed, told):
    progress = Progress(STAGES, frozenset(STAGES), seconds, estimate=630)
    for name in STAGES[:2]:
        progress.reached(name)
    assert progress.sentence(elapsed) == told


def test_a_stage_counts_once_and_strangers_do_not():
    progress = Progress(STAGES, frozenset(), {})
    for name in ("prepare", "prepare", "data/mydata.dvc", "report"):
        progress.reached(name)
    assert progress.visits == ["prepare", "report"]


@pytest.mark.parametrize(("seconds", "told"), [(0, "1 minute"), (46, "1 minute"), (89, "1 minute"), (91, "2 minutes")])
def test_minutes(seconds: float, told: str):
    assert minutes(seconds) == told


PIPELINE = """stages:
  one:
    cmd: cp a.txt one.txt && echo first
    deps: [a.txt]
    outs: [one.txt]
  two:
    matrix:
      item: ${items}
    cmd: cat one.txt > two-${item.item}.txt
    deps: [one.txt]
    outs:
    - two-${item.item}.txt
  other:
    cmd: echo x > other.txt
    outs: [other.txt]
"""


@pytest.fixture
def pipeline(inside: Path) -> Path:
    (inside / "dvc.yaml").write_text(PIPELINE)
    (inside / "params.yaml").write_text("items: [x, y]\n")
    (inside / "a.txt").write_text("a")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, check=True)
    return inside


@pytest.mark.parametrize("text", ["", "[1]", '"soon"', "null", "NaN", "-3", "{", "\xff", "1" * 400, "[" * 100_000])
def test_a_note_that_is_no_number_tells_nothing(inside: Path, text: str):
    for name, noted in (("one", "3.5"), ("two", text)):
        file = inside / duration_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noted.encode("latin-1"))
    assert durations(inside) == {"one": 3.5}


def test_what_lies_ahead_has_the_matrix_filled_in_and_knows_what_is_due(pipeline: Path):
    noted = pipeline / duration_file("one")
    noted.parent.mkdir(parents=True)
    noted.write_text(json.dumps(3.5))
    ahead = progress_of([], pipeline)
    assert set(ahead.stages) == ahead.due == {"one", "two@x", "two@y", "other"} and ahead.seconds == {"one": 3.5}
    ahead = progress_of(["two@x"], pipeline)
    assert set(ahead.stages) == ahead.due == {"one", "two@x"}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], check=True)
    assert not progress_of([], pipeline).due
    (pipeline / "two-y.txt").unlink()
    assert progress_of([], pipeline).due == {"two@y"}
    (pipeline / "a.txt").write_text("b")
    assert progress_of([], pipeline).due == {"one", "two@x", "two@y"}


def test_the_estimate_is_for_a_whole_run_alone_and_gone_after_one(pipeline: Path):
    write_json(ESTIMATE, 600)
    assert progress_of([], pipeline).estimate == 0, "there is no report at its end"
    report = "stages:\n  report:\n    cmd: cp one.txt r.txt\n    deps: [one.txt]\n    outs: [r.txt]\n"
    (pipeline / "dvc.yaml").write_text((pipeline / "dvc.yaml").read_text().replace("stages:\n", report, 1))
    assert progress_of(["report"], pipeline).estimate == 600 and progress_of(["one"], pipeline).estimate == 0
    assert repro(["report"]) == 0 and not ESTIMATE.exists()
    write_json(ESTIMATE, 600)
    assert progress_of(["report"], pipeline).estimate == 0, "nothing is due"


def test_the_output_and_the_exit_code_are_those_of_dvc(pipeline: Path):
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r}); from lib import repro as own; "
        "own.end_with(lambda: own.repro(sys.argv[1:]))",
    ]
    done = subprocess.run([*command, "two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"Running stage '(.*)'", done.stdout) == ["one", "two@x", "two@y"] and "\nfirst\n" in done.stdout
    assert re.findall(r"stage \d of \d", done.stderr) == ["stage 1 of 3", "stage 2 of 3", "stage 3 of 3"]
    assert "stage 1 of" not in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert "Stage 'one' didn't change, skipping" in again.stdout and "stage 4 of 4" in again.stderr
    (pipeline / "a.txt").unlink()
    assert subprocess.run(command, capture_output=True, text=True).returncode == 255
    unknown = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert unknown.returncode == 2 and "nothing" in unknown.stderr and "Traceback" not in unknown.stderr


def test_what_would_stop_a_later_stage_is_told_before_the_first_one(inside: Path, monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("detectors:\n- unet\n", "detectors:\n"))
    monkeypatch.setattr(sys, "argv", ["lib.repro"])
    monkeypatch.setattr("lib.repro.repro", lambda targets: 0)
    with pytest.raises(UserError, match=r"detect\.on_synthetic\.0: expected a name from detectors .*\[\] for none"):
        main()
    Path("params.yaml").write_text(text)
    assert main() == 0
    Path("dvc.lock").touch()
    with pytest.raises(UserError, match=r"dvc\.lock: empty, .*`git checkout dvc\.lock`, or delete it"):
        main()
