"""What a stage says when it fails: one line for the user's mistake, the whole trace for a bug."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from safetensors import SafetensorError

from lib.core import command
from lib.core.command import duration_file, end_with, run
from lib.core.errors import UserError
from lib.core.geometry import box_mask

ROOT = Path(__file__).parents[2]


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


def test_a_missing_file_is_known_by_its_name_on_windows_too(monkeypatch, capsys: pytest.CaptureFixture):
    def stage() -> None:
        raise FileNotFoundError(2, "No such file", r"data\no\file")

    monkeypatch.setattr(command, "Path", PureWindowsPath)
    with pytest.raises(SystemExit):
        run(stage, "a stage")
    assert "data/no/file: not found; `dvc repro`" in capsys.readouterr().err


def test_a_missing_file_without_a_name_keeps_its_trace():
    def stage() -> None:
        raise FileNotFoundError("no file of weights")

    with pytest.raises(FileNotFoundError, match="weights"):
        run(stage, "a stage")


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


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        (None, 0, ""),
        (1, 1, ""),
        (UserError("seed: -1"), 2, "seed: -1\n"),
        (OSError(28, "No space left on device", "out.csv"), 2, "[Errno 28] No space left on device: 'out.csv'\n"),
        (UserError("x" * 5000), 2, "x" * 5000 + "\n"),
        (OSError("x" * 5000), 2, "x" * 1000 + "\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_command_ends_with_the_code_of_its_main_or_with_one_message(capsys, ending, code: int, told: str):
    def main() -> int | None:
        if isinstance(ending, BaseException):
            raise ending
        return ending

    with pytest.raises(SystemExit) as caught:
        end_with(main)
    assert (caught.value.code or 0) == code and capsys.readouterr().err == told


def test_a_fault_of_a_command_keeps_its_trace():
    with pytest.raises(ZeroDivisionError):
        end_with(lambda: 1 // 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no head")
@pytest.mark.parametrize("lines", [3, 100_000])
def test_a_reader_of_the_output_may_leave(lines: int):
    """The first fits into the buffer that is written at the end, the other does not."""
    program = f"from lib.core.command import end_with; end_with(lambda: print(*range({lines}), sep=chr(10)))"
    command = f'{sys.executable} -c "import time; time.sleep(0.3); {program}"; echo "code $?" >&2'
    done = subprocess.run(f"({command}) | true", shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "code 141\n"


DVC_YAML = "stages: {toy: {cmd: run, deps: ['data/${item.category}', lib], params: [seed, detect.steps], outs: [out]}}"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage `toy` in dvc.yaml, with a picture, code and parameters."""
    monkeypatch.setattr(sys, "argv", ["stages/toy.py", "--category", "nut"])
    for name, text in {
        "dvc.yaml": DVC_YAML,
        "params.yaml": "seed: 0\ndetect: {steps: 30}\nother: 1\n",
        ".dvcignore": "# not looked at\n__pycache__\n*.tmp-*\nmodel.onnx\n",
        "data/nut/good/000.png": "a",
        "lib/core.py": "",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("params.yaml", "seed: 0\ndetect: {steps: 9}\nother: 1\n", "detect.steps in params.yaml"),
        ("params.yaml", "seed: 0\nother: 1\n", "detect.steps in params.yaml"),
        ("data/nut/good/000.png", "b", "data/nut/good/000.png"),
        ("data/nut/good/001.png", "b", "data/nut/good/001.png"),
        ("lib/core.py", "changed", "lib/core.py"),
    ],
)
@pytest.mark.usefixtures("toy")
def test_an_input_that_changes_while_a_stage_runs_ends_it(file: str, text: str, name: str, capsys):
    """Otherwise DVC, which looks at inputs at the end, takes the result for that of what is there then."""
    with pytest.raises(SystemExit) as caught:
        run(lambda category: Path(file).write_text(text), "a stage", "category")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"changed while the stage ran: {name}. Nobody knows")
    assert not duration_file("toy-nut").exists() and not list(Path(".work").glob("durations/*"))


@pytest.mark.usefixtures("toy")
def test_what_a_stage_does_not_read_may_change_meanwhile(capsys):
    def stage(category: str) -> None:
        Path("params.yaml").write_text("seed: 0\ndetect: {steps: 30}\nother: 2\n")
        for name in (
            "out/result",
            "data/bolt/1.png",
            "data/nut/model.onnx",
            "data/nut/a.tmp-1",
            "lib/__pycache__/a.pyc",
        ):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("new")

    run(stage, "a stage", "category")
    assert capsys.readouterr().err == "" and duration_file("toy@nut").exists()


@pytest.mark.usefixtures("toy")
def test_many_changes_are_counted(capsys):
    def stage(category: str) -> None:
        for number in range(13):
            Path(f"data/nut/good/{number:02}.png").write_text("new")

    with pytest.raises(SystemExit):
        run(stage, "a stage", "category")
    names = ", ".join(f"data/nut/good/{number:02}.png" for number in range(10))
    assert f": {names} and 3 more. " in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "data/x.png"), "No space left on device: 'data/x.png'; once"),
        (PermissionError(errno.EACCES, "Permission denied", "models/a"), "Permission denied: 'models/a'; once that is"),
        (
            shutil.Error([("a", "b", "[Errno 28] No space left on device")] * 9),
            "[Errno 28] No space left on device; on",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space left on device (os error 28); once",
        ),
    ],
)
def test_a_disk_that_is_full_or_closed_is_told_in_one_line(error: Exception, told: str, capsys):
    def stage(category: str) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(stage, "a stage", "category")
    text = capsys.readouterr().err
    assert ended.value.code == 2 and told in text and text.count("\n") == 1


@pytest.mark.usefixtures("toy")
def test_another_fault_of_the_system_keeps_its_traceback():
    def stage(category: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        run(stage, "a stage", "category")
