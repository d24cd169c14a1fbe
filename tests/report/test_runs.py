"""Runs of other revisions: what cannot be read is told in one line, or is as what was lost."""

from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.core.runtime import write_json
from lib.report.before_after import read_answers
from lib.report.compare import read_scores, stale
from lib.report.runs import Run, _listing, find_run


def test_a_file_that_is_no_json_is_told_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_bytes(b'{"cut": \xff')
    for lines in (False, True):
        with pytest.raises(UserError, match=r"a\.json of workspace: no valid JSON"):
            Run("workspace", None).values("a.json", lines)


def test_a_file_that_goes_while_it_is_looked_for_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Run, "file", lambda self, path: Path("gone.json"))
    assert Run("workspace", None).values("gone.json") is None


def test_a_list_that_the_cache_cut_off_is_as_one_that_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "list").write_text('[{"relpath": "a"')
    monkeypatch.setattr("lib.report.runs._cached", lambda digest: tmp_path / "list")
    assert _listing("0" * 32 + ".dir") == {}


@pytest.fixture
def workspace(inside: Path) -> Run:
    """A working folder with a pipeline of one stage, and metrics, but no dvc.lock."""
    Path("dvc.yaml").write_text("stages:\n  one:\n    matrix: {d: '${detectors}'}\n")
    Path("params.yaml").write_text("detectors: [unet]\ngenerators: [perlin]\ndataset: {categories: [nut]}\n")
    write_json(Path("metrics/detection/unet.json"), {"nut": {"none": {"seeds": {"0": {"pixel_ap": 0.5}}}}})
    return Run("workspace", None)


def test_a_run_without_a_lock_has_no_stages_and_what_lies_there(workspace: Run):
    assert workspace.lock == {} and workspace.file("data/gone.json") is None and stale(workspace) == ""
    assert read_scores(workspace)["unet", "none", "pixel_ap"] == {"nut": [0.5]}
    Path("dvc.yaml").unlink()
    Path("params.yaml").unlink()
    bare = Run("workspace", None)
    assert bare.params == bare.lock == read_scores(bare) == {} and bare.text("metrics") is None


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("params.yaml", "detectors: 5", r"^params\.yaml of workspace: detectors: expected a list of names \(found 5\)"),
        ("params.yaml", "detectors: [[1]]", r"^params\.yaml of workspace: detectors: expected a list of names"),
        ("params.yaml", "dataset: {categories: nut}\ngenerators: [a]", r"dataset\.categories: expected a list"),
        ("dvc.yaml", "stages: 5", r"^dvc\.yaml of workspace: not of the form"),
        ("dvc.yaml", "stages: {one: 5}", r"^dvc\.yaml of workspace: not of the form"),
        ("dvc.lock", "stages: [one]", r"^dvc\.lock of workspace: not of the form"),
        ("dvc.lock", "stages: {one@unet: {deps: 5}}", r"^dvc\.lock of workspace: not of the form"),
        ("dvc.lock", "stages: {one@unet: {outs: [{md5: 1}]}}", r"^dvc\.lock of workspace: not of the form"),
        ("metrics/detection/unet.json", "5", r"^metrics/detection/unet\.json of workspace: not of the form"),
        ("metrics/detection/unet.json", '{"nut": {"none": {}}}', r"^metrics/detection/unet\.json of workspace: not of"),
        ("metrics/detection/unet.json", '{"nut": {"none": {"seeds": {"a": {}}}}}', r"^metrics/detection/unet\.json of"),
    ],
)
def test_a_file_of_another_form_is_told_in_one_line_with_its_run(workspace: Run, file: str, text: str, message: str):
    Path(file).write_text(text)
    with pytest.raises(UserError, match=message):
        _ = stale(workspace), read_scores(workspace), read_answers(workspace)


def test_without_git_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="install Git"):
        find_run("HEAD")
