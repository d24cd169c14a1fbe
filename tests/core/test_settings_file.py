"""Files of settings: what DVC writes is read as DVC reads it, and whatever is wrong is one message with the file."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml

from lib.core.errors import UserError
from lib.core.params import load
from lib.core.pipeline import _entry
from lib.core.settings_file import read_settings
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "file", ["params.yaml", "dvc.yaml", *(f"presets/{path.name}" for path in ROOT.glob("presets/*"))]
)
def test_committed_files_mean_the_same_to_all_readers(file: str):
    values = read_settings(ROOT / file)
    assert repr(values) == repr(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["on", "off", "yes", "no", "y", "No", "ON"])
def test_names_that_are_truth_values_to_others_stay_names(inside: Path, name: str):
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    Path("dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    apply_overrides("params.yaml", [f"dataset.categories=['{name}']"])
    assert load().dataset.categories == (name,)
    _, params = _entry("prepare", {})
    assert params["dataset"]["categories"] == [name]


@pytest.mark.parametrize("number", ["0200", "1e-3", "0o17", "0x1F", "1_000", "4e-05", "true", "null", "12:30"])
def test_a_value_is_what_it_is_to_dvc(inside: Path, number: str):
    Path("some.yaml").write_text(f"a: {number}\n")
    assert repr(read_settings(Path("some.yaml"))) == repr(load_yaml("some.yaml"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "expected sections of keys and values (found nothing)"),
        (b"- a\n- b\n", "expected sections of keys and values (found ['a', 'b'])"),
        (b"a: [", "no valid YAML"),
        (b"a: 2021-99-99", "no valid YAML"),
        (b"a: \xff", "cannot be read as text in UTF-8"),
        ("a: 1".encode("utf-16"), "cannot be read as text in UTF-8"),
    ],
)
def test_a_file_that_holds_no_mapping_is_refused_by_its_name(inside: Path, content: bytes, told: str):
    Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_settings(Path("params.yaml"))
    assert str(error.value).startswith("params.yaml: ") and told in str(error.value)


def test_a_key_that_stands_twice_is_refused_with_its_line(inside: Path):
    Path("params.yaml").write_text("a:\n  steps: 1\n  rate: 2\n  steps: 3\n")
    with pytest.raises(UserError, match=r'^params\.yaml, line 4: .*duplicate key "steps".*; remove one of them$'):
        read_settings(Path("params.yaml"))


def test_what_cannot_be_opened_is_refused_with_the_remedy(inside: Path):
    with pytest.raises(UserError, match=r"^params\.yaml: not found; run this from the root of the repository$"):
        load()
    Path("params.yaml").mkdir()
    with pytest.raises(UserError, match=r"^params\.yaml: cannot be read"):
        load()


def test_a_stage_that_is_run_elsewhere_says_so_in_one_line(inside: Path):
    command = [sys.executable, "-m", "stages.prepare"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "params.yaml: not found; run this from the root of the repository\n"
