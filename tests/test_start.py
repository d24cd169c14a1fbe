"""From a clone and a folder of pictures to a chain that runs: what is proposed, asked, written, and what never is."""

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from lib import start
from lib.core.command import end_with
from lib.core.params import load
from lib.detectors.unet import Settings
from tests.conftest import ROOT
from tests.test_chain import clone, run

COMMENTS = re.compile(r"# .*$", re.MULTILINE)


def draw(folder: Path, good: int = 8, defects: int = 4, side: int = 96) -> Path:
    """Pictures of noise with a stripe as defect, in folders of their own as people have them, and their masks."""
    rng = np.random.default_rng(0)
    for kind, number in (("good", good), ("scratch", defects)):
        for index in range(number):
            picture = rng.integers(90, 130, (side, side, 3), np.uint8)
            mask = np.zeros((side, side), np.uint8)
            if kind != "good":
                mask[30:42, 20 + index : 60] = 255
                picture[mask > 0] = 250
                (folder / "masks" / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / "masks" / kind / f"{index}.png"), mask)
            (folder / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / kind / f"{index}.png"), picture)
    return folder


@pytest.fixture
def here(inside: Path) -> Path:
    """A folder with the committed params.yaml, beside which pictures lie."""
    project = inside / "project"
    project.mkdir()
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    draw(inside / "bracket")
    return project


def call(monkeypatch: pytest.MonkeyPatch, project: Path, *arguments: str) -> int:
    """The exit code of the command."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["lib.start", *arguments])
    with pytest.raises(SystemExit) as ended:
        end_with(start.main)
    return int(ended.value.code or 0)


def test_params_yaml_gets_what_is_told_and_keeps_the_rest_with_every_comment(here: Path, monkeypatch, capsys):
    before = (here / "params.yaml").read_text()
    assert call(monkeypatch, here, "../bracket", "--yes") == 0
    told = capsys.readouterr().out
    after = (here / "params.yaml").read_text()
    assert COMMENTS.findall(after) == COMMENTS.findall(before)
    changed = set(after.splitlines()) ^ set(before.splitlines())
    keys = {line.strip().split(":")[0] for line in changed if ":" in line}
    params = load()
    assert params.dataset.path == "../bracket" and params.dataset.categories == ("bracket",)
    assert params.detect.window == 96 and params.detect.scale == 1
    for key in keys:
        assert re.search(rf"^  (\w+\.)?{key}: .* \(was .*\): \w", told, re.M), f"{key} was changed and not told"
    assert "scratch" in told and "0 problem(s)" in told and re.search(r"takes (about|less)", told)
    assert told.rstrip().endswith(start.COMMAND)
    assert call(monkeypatch, here, "../bracket", "--yes") == 0
    assert (here / "params.yaml").read_text() == after and "already" in capsys.readouterr().out


def test_categories_that_were_added_or_renamed_since_are_read_too(here: Path, monkeypatch):
    draw(here.parent / "all/bracket")
    assert call(monkeypatch, here, "../all", "--yes") == 0 and load().dataset.categories == ("bracket",)
    draw(here.parent / "all/flange")
    assert call(monkeypatch, here, "../all", "--yes") == 0 and load().dataset.categories == ("bracket", "flange")
    (here.parent / "all/bracket").rename(here.parent / "all/angle")
    assert call(monkeypatch, here, "../all", "--yes") == 0 and load().dataset.categories == ("angle", "flange")


def test_masks_of_the_object_beside_the_categories_are_no_category(here: Path, monkeypatch):
    draw(here.parent / "all/bracket")
    assert call(monkeypatch, here, "../all", "--yes") == 0
    text = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(text.replace("foreground: null", "foreground: drawn/objects"))
    (here.parent / "all/drawn/objects/bracket").mkdir(parents=True)
    assert call(monkeypatch, here, "../all", "--yes") == 0 and load().dataset.categories == ("bracket",)


def test_what_describes_another_data_set_is_set_back(here: Path, monkeypatch):
    text = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(
        text.replace("depth: auto", "depth: 12").replace("boxes: grabcut", "boxes: whole")
    )
    assert call(monkeypatch, here, "../bracket", "--yes") == 0
    assert (load().dataset.depth, load().dataset.boxes) == ("auto", "grabcut")


def test_a_type_called_mixed_is_no_picture_of_several_types(here: Path, monkeypatch):
    for folder in ("bracket", "bracket/masks"):
        (here.parent / folder / "scratch").rename(here.parent / folder / "mixed")
    assert call(monkeypatch, here, "../bracket", "--yes") == 0
    assert load().section("unet", Settings).classes == "defect"


def test_a_folder_with_problems_tells_all_of_them_and_nothing_is_written(here: Path, monkeypatch, capsys):
    before = (here / "params.yaml").read_bytes()
    (here.parent / "bracket/masks/scratch/1.png").unlink()
    (here.parent / "bracket/good/2.png").write_bytes(b"no picture")
    assert call(monkeypatch, here, "../bracket", "--yes") == 1
    told = capsys.readouterr().out
    assert "2 problem(s)" in told and "scratch/1" in told and "good/2.png" in told and "Proposed" not in told
    assert (here / "params.yaml").read_bytes() == before


def test_what_cannot_be_split_is_refused_too(here: Path, monkeypatch, capsys):
    before = (here / "params.yaml").read_bytes()
    draw(here.parent / "few", good=8, defects=2)
    assert call(monkeypatch, here, "../few", "--yes") == 1
    assert "three of a type are the least" in capsys.readouterr().out
    assert (here / "params.yaml").read_bytes() == before


def test_a_folder_in_which_the_pipeline_writes_is_refused_and_a_category_in_it_is_not(here: Path, monkeypatch, capsys):
    draw(here / "data/nut")
    before = (here / "params.yaml").read_bytes()
    assert call(monkeypatch, here, "data", "--category", "nut", "--yes") == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith("data: the pipeline writes to data/prepared, ") and "FOLDER=data/bracket" in told
    assert (here / "params.yaml").read_bytes() == before
    assert call(monkeypatch, here, "data/nut", "--yes") == 0
    draw(here / "models/nut")
    assert call(monkeypatch, here, "models/nut", "--yes") == 2 and load().dataset.path == "data/nut"


def test_a_category_that_is_not_there_is_a_problem_of_the_data_set(here: Path, monkeypatch, capsys):
    draw(here.parent / "all/bracket")
    assert call(monkeypatch, here, "../all", "--category", "nut", "--yes") == 1
    assert "this folder is missing" in (told := capsys.readouterr().out)
    assert "holds: bracket; name a category that is there" in told


@pytest.mark.parametrize(
    ("folder", "arguments", "told"),
    [
        ("../nowhere", ["--yes"], "no such folder"),
        (".", ["--yes"], "holds this project"),
        ("..", ["--yes"], "holds this project"),
        ("../bracket", [], "no terminal"),
        ("../bracket", ["--category", "a/b", "--yes"], "letters, digits"),
    ],
)
def test_refusals_are_one_sentence_and_nothing_is_written(here: Path, monkeypatch, capsys, folder, arguments, told):
    before = (here / "params.yaml").read_bytes()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert call(monkeypatch, here, folder, *arguments) == 2
    assert told in capsys.readouterr().err
    assert (here / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("Yes ", True), ("", False), ("n", False)])
def test_on_a_terminal_it_asks(here: Path, monkeypatch, answer: str, written: bool):
    before = (here / "params.yaml").read_bytes()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert call(monkeypatch, here, "../bracket") == 0
    assert ((here / "params.yaml").read_bytes() != before) == written


@pytest.mark.parametrize(("raised", "code"), [(EOFError, 0), (KeyboardInterrupt, 130)])
def test_to_end_the_question_is_to_say_no(here: Path, monkeypatch, raised: type[BaseException], code: int):
    def ended(_: str) -> str:
        raise raised

    before = (here / "params.yaml").read_bytes()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ended)
    assert call(monkeypatch, here, "../bracket") == code
    assert (here / "params.yaml").read_bytes() == before


def test_a_name_too_long_for_a_folder_is_refused(here: Path, monkeypatch, capsys):
    assert call(monkeypatch, here, "../" + "x" * 5000) == 2
    assert "name too long" in capsys.readouterr().err.lower()


def test_a_dry_run_writes_nothing(here: Path, monkeypatch):
    before = (here / "params.yaml").read_bytes()
    assert call(monkeypatch, here, "../bracket", "--dry-run", "--yes") == 0
    assert (here / "params.yaml").read_bytes() == before


def test_a_table_of_parts_becomes_the_capture_groups_and_a_later_data_set_does_not_inherit_them(
    here: Path, monkeypatch, capsys
):
    names = [path.relative_to(here.parent / "bracket") for path in (here.parent / "bracket").glob("[gs]*/*.png")]
    rows = [f"{name.as_posix()},{name.parent.name}{int(name.stem) // 2}" for name in names]
    draw(here.parent / "bracket", defects=8)
    (here.parent / "bracket/parts.csv").write_text("\n".join(["path,part", *rows]))
    draw(here.parent / "other")
    assert call(monkeypatch, here, "../bracket", "--yes") == 0
    assert (load().dataset.group_table, load().dataset.group_column) == ("parts.csv", "part")
    assert "capture groups: parts.csv, column 'part', taken for them by its name" in capsys.readouterr().out
    assert call(monkeypatch, here, "../bracket", "--yes") == 0, "once more, with what is known already"
    assert load().dataset.group_table == "parts.csv"
    assert call(monkeypatch, here, "../other", "--yes") == 0
    assert load().dataset.group_table is None and 'null (was "parts.csv")' in capsys.readouterr().out


def test_pictures_within_the_project_are_named_from_its_root_and_git_is_thought_of(here: Path, monkeypatch, capsys):
    draw(here / "data/nut")
    assert call(monkeypatch, here, str(here / "data/nut"), "--yes") == 0
    assert load().dataset.path == "data/nut" and "commit the pictures" not in capsys.readouterr().out
    draw(here / "pictures/nut")
    assert call(monkeypatch, here, "pictures/nut", "--dry-run") == 0
    assert "commit the pictures" in capsys.readouterr().out


def guide() -> list[str]:
    """The first commands of the page for own pictures."""
    page = (ROOT / "docs/own-pictures.md").read_text(encoding="utf-8")
    block = re.search(r"(?:^    .*\n)+", page, re.M)
    assert block
    return [line.strip() for line in block[0].splitlines()]


@pytest.mark.slow
def test_from_a_clone_and_a_folder_of_pictures_to_the_report_it_takes_at_most_five_commands_and_no_edits(
    tmp_path: Path, tiny_base: Path
):
    commands = guide()
    assert len(commands) <= 5
    assert commands == [
        "git clone REPOSITORY blemish",
        "cd blemish",
        "make start FOLDER=path/to/pictures",
        "make report",
    ]
    project = tmp_path / "project"
    project.mkdir()
    clone(project, tiny_base)
    draw(tmp_path / "my pictures")
    made = run(project, "make", "--dry-run", "start", "FOLDER=../my pictures", "ARGS=--yes").stdout
    assert 'python -m lib.start "../my pictures" --yes' in made
    run(project, "python", "-m", "lib.start", "../my pictures", "--yes")
    params = yaml.safe_load((project / "params.yaml").read_text())
    assert params["dataset"]["path"] == "../my pictures" and params["dataset"]["categories"] == ["my_pictures"]
    assert "python -m lib.repro report" in run(project, "make", "--dry-run", "report").stdout
    stages = run(project, "dvc", "stage", "list", "--name-only").stdout.split()
    assert {"prepare", "finetune@defectfill-my_pictures", "evaluate@unet", "report"} <= set(stages)
    done = run(project, "python", "-m", "lib.repro", "placements", check=False)
    assert done.returncode == 2, "an unknown stage is told before anything runs"
    run(project, "python", "-m", "lib.repro", "random_boxes")
    assert (project / "data/placements/my_pictures.jsonl").is_file(), "and so on: tests/test_chain.py runs whole chains"
