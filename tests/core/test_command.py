"""What a stage says when it fails: one line for the user's mistake, the whole trace for a bug."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.core.command import duration_file, run
from lib.core.errors import UserError
from lib.core.geometry import box_mask


@pytest.fixture(autouse=True)
def no_arguments(inside: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["stage"])


def test_what_a_user_can_mend_is_one_message_and_exit_code_two(capsys: pytest.CaptureFixture):
    def stage() -> None:
        raise UserError("synth.strength: 7 is above 1")

    with pytest.raises(SystemExit) as caught:
        run(stage, "a stage")
    assert caught.value.code == 2 and capsys.readouterr().err == "synth.strength: 7 is above 1\n"


def test_an_invariant_of_our_own_that_broke_keeps_its_trace():
    def stage() -> None:
        box_mask((0, 0, 1, 1), -1, 4)

    with pytest.raises(ValueError, match="negative"):
        run(stage, "a stage")


def test_a_missing_file_names_the_file_and_the_remedy(capsys: pytest.CaptureFixture):
    def stage() -> None:
        Path("data/no/such/file").read_text()

    with pytest.raises(SystemExit) as caught:
        run(stage, "a stage")
    assert caught.value.code == 2 and "data/no/such/file: not found; `dvc repro`" in capsys.readouterr().err


def test_an_error_out_of_a_library_keeps_its_trace():
    def stage() -> None:
        json.loads("{")

    with pytest.raises(json.JSONDecodeError):
        run(stage, "a stage")


def test_an_error_of_arrays_in_our_own_lines_keeps_its_trace():
    def stage() -> None:
        np.zeros(3) + np.zeros(4)

    with pytest.raises(ValueError, match="broadcast"):
        run(stage, "a stage")


def test_a_file_that_no_stage_makes_keeps_its_trace():
    with pytest.raises(FileNotFoundError):
        run(lambda: Path("no/such/file").read_text(), "a stage")


def test_arguments_reach_the_stage(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["stage", "--category", "nut"])
    run(lambda category: seen.append(category), "a stage", "category")
    assert seen == ["nut"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_seconds_of_a_whole_run_are_remembered_once_under_the_name_that_dvc_has(
    rank: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["/clone/stages/detect.py", "--detector", "unet", "--category", "nut"])
    monkeypatch.setenv("RANK", rank)
    run(lambda detector, category: None, "a stage", "detector", "category")
    noted = duration_file("detect@unet-nut")
    assert noted.is_file() == (rank == "0")
    assert rank == "1" or json.loads(noted.read_text()) > 0


def test_what_failed_has_no_duration_and_a_note_that_cannot_be_written_fails_nothing():
    def stage() -> None:
        raise UserError("no")

    with pytest.raises(SystemExit):
        run(stage, "a stage")
    assert not Path(".work").exists()
    Path(".work").write_text("a file, where a folder belongs")
    run(lambda: None, "a stage")
