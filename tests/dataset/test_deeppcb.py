"""DeepPCB: pairs, boxes and lists become good and defect pictures, parts, capture groups and masks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.images import read_mask, read_pixels
from lib.core.params import Dataset, Split
from lib.core.records import MIXED, Sample
from lib.dataset.annotations import draw
from lib.dataset.conversion import converted
from lib.dataset.findings import Findings
from lib.dataset.layouts import locate
from lib.dataset.splitting import split_categories
from lib.dataset.survey import Look
from tests.reading import read_category

SPLIT = Split(rule="first_third", shots=6, val_fraction=0.34)
REAL = Path(__file__).resolve().parents[3] / "shared/data/deeppcb"  # beside the repository


def write_pair(root: Path, number: int, boxes: str, defects: list[tuple[int, int, int, int]]) -> None:
    """A board of vertical tracks, each its own, and the same one with squares of the other colour, moved by a pixel."""
    board = np.zeros((64, 96), np.uint8)
    board[:, 10 + number : 30 + number] = 255
    moved = np.roll(board, 1, axis=1)
    for x0, y0, x1, y1 in defects:
        moved[y0:y1, x0:x1] = 255 - moved[y0, x0]
    folder = root / "group1/00041"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "group1/00041_not").mkdir(exist_ok=True)
    Image.fromarray(board).save(folder / f"{number:03d}_temp.png")
    Image.fromarray(moved).save(folder / f"{number:03d}_test.png")
    (root / f"group1/00041_not/{number:03d}.txt").write_text(boxes)


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    root = tmp_path / "boards"
    for number in range(6):
        x = 50 + number
        boxes = f"40 5 60 25 5\n{x} 40 {x + 20} 60 2\n" if number < 3 else f"{x} 40 {x + 20} 60 2\n"
        defects = [(45, 10, 51, 16)] * (number < 3) + [(x + 4, 44, x + 10, 54)]
        write_pair(root, number, boxes, defects)
    (root / "trainval.txt").write_text(
        "".join(f"group1/00041/{n:03d}.jpg group1/00041_not/{n:03d}.txt\n" for n in (0, 3))
    )
    (root / "test.txt").write_text("group1/00041/001.jpg group1/00041_not/001.txt\n")
    return root


def prepared(root: Path, out: Path, **knobs: object) -> tuple[list[Sample], Look]:
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate({"path": str(root), "categories": ["board"], **nothing, **knobs})
    splits, depth, looks = split_categories(dataset, SPLIT)
    return converted(splits["board"][0], depth, out, out, looks["board"].drawn), looks["board"]


def test_a_pair_is_a_good_picture_and_one_with_defects_in_one_group_and_in_the_listed_part(boards: Path):
    assert locate(boards, "board").layout == "deeppcb"
    findings = Findings()
    pictures = read_category(boards, "board", findings)
    assert findings == Findings()
    assert Counter(picture.folder for picture in pictures) == {"train": 4, "test": 2, "": 6}
    assert [picture.id for picture in pictures[:4]] == [
        "good-train-000_temp",
        "mixed-train-000_test",
        "good-test-001_temp",
        "mixed-test-001_test",
    ]
    assert len({picture.group for picture in pictures}) == 6
    assert pictures[1].types == ("copper", "short") and pictures[-1].types == ("short",)


def test_the_mask_is_what_differs_in_the_boxes_and_no_edge_that_is_a_pixel_off(boards: Path, tmp_path: Path):
    samples, _ = prepared(boards, tmp_path / "out")
    sample = next(one for one in samples if one.id == "mixed-train-000_test")
    truth = np.zeros((64, 96), np.uint8)
    truth[10:16, 45:51], truth[44:54, 54:60] = 1, 2
    assert sample.type_map and sample.type_map.types == ("copper", "short") and sample.mask_source == "difference"
    assert np.array_equal(np.asarray(Image.open(sample.type_map.path)), truth)
    assert np.array_equal(read_mask(Path(str(sample.mask))), truth > 0)
    single = next(one for one in samples if one.id.startswith("short"))
    assert single.type_map is None and read_mask(Path(str(single.mask))).sum() == 60


def test_the_users_own_groups_win(boards: Path, tmp_path: Path):
    _, look = prepared(boards, tmp_path / "out")
    assert look.groups["good-train-000_temp"] == look.groups["mixed-train-000_test"] == "group1/00041/000"
    _, look = prepared(boards, tmp_path / "again", group_pattern=r"(\d+)_temp")
    assert look.groups["good-train-000_temp"] == "000" and look.groups["mixed-train-000_test"] == "mixed-train-000_test"


def test_everything_that_is_wrong_with_pairs_is_told_at_once(boards: Path):
    (boards / "group1/00041/002_test.png").unlink()
    (boards / "group1/00041_not/003.txt").write_text("1 2 3 4 9\n1 2 3 4 1\n1 2 3\n")
    (boards / "group1/00041_not/004.txt").write_text("1 2 x 4 1\n")
    (boards / "group1/00041_not/005.txt").unlink()
    (boards / "group1/00041_not/900.txt").write_text("1 2 30 40 1\n")
    (boards / "group1/00041_not/classes.txt").write_text("open\n")
    with (boards / "trainval.txt").open("a") as listed:
        listed.write("group1/00041/001.jpg group1/00041_not/001.txt\n")
    findings = Findings()
    read_category(boards, "board", findings)
    told = "\n".join(findings.problems)
    assert len(findings.problems) == 6 and "002_test.png; add them" in told and "005.txt; add them" in told
    expected = "expected x1 y1 x2 y2 and a class from 1 to 6; found line 1 ('1 2 3 4 9'), line 3 ('1 2 3')"
    assert f"003.txt: {expected}" in told and "004.txt: expected" in told
    assert "1 file(s) of boxes without a pair" in told and "900.txt; add or remove" in told
    assert "trainval.txt: 1 pair(s) are in the list of another part, too: 001" in told.replace(
        "test.txt", "trainval.txt"
    )


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the sample of DeepPCB is not on this machine")
def test_each_of_the_official_boxes_gets_pixels():
    findings = Findings()
    pictures = read_category(REAL, "board", findings)
    assert findings.problems == [] and Counter(picture.folder for picture in pictures) == {"train": 200, "test": 100}
    boxes = 0
    for picture in pictures:
        if picture.annotation:
            mask = draw(picture.annotation, read_pixels(picture.path)).labels
            for region in picture.annotation.regions:
                x0, y0, x1, y1 = map(int, region.shape.corners)
                boxes += mask[y0:y1, x0:x1].any()
    assert boxes == 1036
    assert {name for picture in pictures for name in picture.types} - {"good"} == {
        "open", "short", "mousebite", "spur", "copper", "pin-hole",
    }  # fmt: skip
    assert MIXED in {picture.defect_type for picture in pictures}
