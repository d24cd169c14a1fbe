"""Runs of other revisions: what cannot be read is told in one line, or is as what was lost."""

from pathlib import Path

import pytest

from lib.core.errors import UserError
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


def test_without_git_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="install Git"):
        find_run("HEAD")
