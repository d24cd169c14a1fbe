"""Devices come from a file that this repository, or the user, names: never from what another project left at home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lib.launch
from tests.conftest import ROOT

# The launcher hands on what its configuration says, such as the precision, in variables.
PROBE = """import os, sys
print("precision", os.environ.get("ACCELERATE_MIXED_PRECISION", "unset"), "arguments", *sys.argv[1:])
"""

CONFIGURATION = """compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
num_machines: 1
num_processes: 1
machine_rank: 0
mixed_precision: {precision}
use_cpu: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to launch a small module in, beside a home in which another project left its configuration."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "home/.cache/huggingface/accelerate").mkdir(parents=True)
    (tmp_path / "home/.cache/huggingface/accelerate/default_config.yaml").write_text(
        CONFIGURATION.format(precision="fp16")
    )
    return tmp_path


def launch(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "HF_"))}
    environment = {**rest, "HOME": str(folder / "home"), "PYTHONPATH": f"{ROOT}:{folder}", **variables}
    command = [sys.executable, "-m", "lib.launch", "probe", "--seed", "7"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_default_file_in_the_home_folder_counts_for_nothing(folder: Path):
    done = launch(folder)
    assert (done.returncode, done.stdout) == (0, "precision unset arguments --seed 7\n")


def test_a_named_file_that_is_not_there_is_one_message_and_exit_code_two(folder: Path):
    done = launch(folder, ACCELERATE_CONFIG_FILE="gpus.yaml")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("ACCELERATE_CONFIG_FILE: there is no file gpus.yaml; write it with `accelerate")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_module_it_says_what_it_expects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["lib.launch"])
    with pytest.raises(SystemExit) as stopped:
        lib.launch.main()
    assert stopped.value.code == 2 and "expected the module to run" in capsys.readouterr().err


def test_an_empty_variable_names_no_file(folder: Path):
    assert launch(folder, ACCELERATE_CONFIG_FILE="").stdout == "precision unset arguments --seed 7\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accelerate.yaml", "gpus.yaml"])
def test_a_file_of_the_repository_or_of_the_variable_reaches_the_launcher(folder: Path, name: str):
    (folder / name).write_text(CONFIGURATION.format(precision="bf16"))
    done = launch(folder, **({} if name == "accelerate.yaml" else {"ACCELERATE_CONFIG_FILE": name}))
    assert (done.returncode, done.stdout) == (0, "precision bf16 arguments --seed 7\n"), done.stderr


def test_on_windows_the_launcher_is_waited_for_and_its_exit_code_handed_on(monkeypatch: pytest.MonkeyPatch):
    called = []
    monkeypatch.setattr(lib.launch, "config_file", lambda: "gpus.yaml")
    monkeypatch.setattr(lib.launch.subprocess, "call", lambda command: called.append(command) or 7)
    monkeypatch.setattr(lib.launch.os, "execv", lambda *_: pytest.fail("on Windows execv returns to DVC at once"))
    monkeypatch.setattr(sys, "argv", ["lib.launch", "stages.synth", "--generator", "perlin"])
    with monkeypatch.context() as windows, pytest.raises(SystemExit) as ended:
        windows.setattr(lib.launch.os, "name", "nt")
        lib.launch.main()
    assert ended.value.code == 7 and called[0][-3:] == ["stages.synth", "--generator", "perlin"]
