"""Folders that stages replace: what somebody else put there is named, and stays."""

from pathlib import Path

import pytest
import yaml

from lib.core.errors import UserError
from lib.core.ownership import OWN, WRITTEN, owned_folder, written_at
from tests.conftest import ROOT


def write(path: Path, *names: str) -> None:
    with owned_folder(path) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)


def names(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def test_a_stage_replaces_what_it_wrote_itself(tmp_path: Path):
    folder = tmp_path / "data" / "out"
    write(folder, "a.txt", "deep/b.txt")
    write(folder, "c.txt")
    assert names(folder) == [OWN, "c.txt"]
    assert (folder / OWN).read_text() == "c.txt\n"
    assert [place.name for place in folder.parent.iterdir()] == ["out"]


def test_a_name_with_what_unicode_counts_as_the_end_of_a_line_is_the_stages_own(tmp_path: Path):
    folder, name = tmp_path / "out", "a\x85b\u2028.txt"
    write(folder, name)
    write(folder, name)
    assert names(folder) == [OWN, name]


@pytest.mark.parametrize("foreign", ["note.txt", "part/train/good/1.png", "deep/note.txt", ".hidden"])
def test_a_foreign_file_is_named_and_nothing_is_touched(tmp_path: Path, foreign: str):
    folder = tmp_path / "out"
    write(folder, "a.txt", "deep/b.txt")
    (folder / foreign).parent.mkdir(parents=True, exist_ok=True)
    (folder / foreign).write_text("mine")
    before = names(folder)
    with pytest.raises(UserError, match=rf"out: holds what no stage made.*: {foreign}; move it elsewhere"):
        write(folder, "c.txt")
    assert names(folder) == before and (folder / foreign).read_text() == "mine"


def test_links_and_empty_folders_are_somebody_s_too(tmp_path: Path):
    folder, elsewhere = tmp_path / "out", tmp_path / "pictures"
    elsewhere.mkdir()
    (elsewhere / "1.png").write_text("mine")
    write(folder, "a.txt")
    (folder / "link").symlink_to(elsewhere)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty/, link"):
        write(folder, "a.txt")
    assert (elsewhere / "1.png").exists()


def test_what_appears_while_the_stage_works_is_not_lost_either(tmp_path: Path):
    folder = tmp_path / "out"
    write(folder, "a.txt")
    with pytest.raises(UserError, match=r"late\.txt"), owned_folder(folder) as made:
        (made / "b.txt").write_text("b")
        (folder / "late.txt").write_text("mine")
    assert names(folder) == [OWN, "a.txt", "late.txt"]
    assert [place.name for place in tmp_path.iterdir()] == ["out"]


def test_many_foreign_files_are_counted_and_a_folder_without_a_list_is_foreign(tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n:02}.png").write_text("mine")
    with pytest.raises(UserError, match=r"00\.png, .*09\.png and 2 more; .*without \.own-files"):
        write(folder, "a.txt")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        write(file, "a.txt")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, there: bool):
    target, link = tmp_path / "disk/masks", tmp_path / "masks"
    if there:
        target.mkdir(parents=True)
    link.symlink_to(target)
    for text in ("first", "second"):
        with owned_folder(link) as folder:
            (folder / "a").write_text(text)
        assert link.is_symlink() and (target / "a").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "masks"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["masks"]


def test_the_folders_that_stages_write_to_are_those_of_dvc_yaml(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outs = {
        next(iter(out)) if isinstance(out, dict) else out
        for name, stage in stages.items()
        if name != "workpieces"
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, ())
    }
    outs = {out.split("/${")[0] for out in outs}
    assert {written_at(out) for out in outs} == {*WRITTEN}


@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("data/workpieces", None),
        ("data/workpieces/hex_nut", None),
        ("data/mine", None),
        ("data/preparedness", None),
        ("../elsewhere", None),
        ("data/prepared", "data/prepared"),
        ("data/mine/../masks/nut", "data/masks"),
        ("data", "data/prepared"),
        (".", "data/prepared"),
        ("..", "data/prepared"),
        ("models/mine", "models"),
    ],
)
def test_a_place_is_told_from_those_that_stages_write_to(inside: Path, place: str, written: str | None):
    assert written_at(place) is None, "no repository"
    Path("params.yaml").touch()
    assert written_at(place) == written_at(inside / place) == written
