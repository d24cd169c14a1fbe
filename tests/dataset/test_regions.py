"""Regions that a person painted: read by category and picture, and refused with one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lib.core.errors import UserError
from lib.core.images import write_png
from lib.core.params import Dataset, Split
from lib.core.records import RegionMap, Sample
from lib.core.regions import CLOSED, FREE, IGNORED, read_regions
from lib.dataset.findings import DatasetProblems
from lib.dataset.survey import look_at
from tests.reading import split_category

SIZE = (24, 32)
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def painted(*areas: tuple[tuple[int, int, int], slice, slice]) -> np.ndarray:
    picture = np.full((*SIZE, 3), 255, np.uint8)
    for colour, rows, columns in areas:
        picture[rows, columns] = colour
    return picture


ALL_OF_IT = slice(None)
NUT = painted((BLACK, slice(0, 6), ALL_OF_IT), (RED, slice(20, 24), ALL_OF_IT))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine good and nine cracked pictures in plain folders, regions of all of them, and other ones of one."""
    rng = np.random.default_rng(0)
    for number in range(9):
        for kind in ("good", "crack"):
            write_png(tmp_path / f"nut/{kind}/{number}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        mask = np.zeros(SIZE, bool)
        mask[8:12, 8:12] = True
        write_png(tmp_path / f"nut/masks/crack/{number}.png", mask)
    write_png(tmp_path / "regions/nut.png", NUT)
    write_png(tmp_path / "regions/nut/crack/3.png", painted((RED, slice(0, 4), ALL_OF_IT)))
    return tmp_path


def dataset_of(root: Path, category: str, **folders: str | None) -> Dataset:
    groups = dict.fromkeys(("group_table", "group_column", "group_pattern"))
    return Dataset(path=str(root), categories=(category,), depth="auto", **groups, **folders)


def split(root: Path, folder: str | None = "regions") -> dict[str, Sample]:
    dataset = dataset_of(root, "nut", regions=folder)
    samples, _ = split_category(dataset, Split(rule="first_third", shots=6, val_fraction=0.34), "nut")
    return {sample.id: sample for sample in samples}


def problem(root: Path, folder: str = "regions") -> str:
    with pytest.raises(DatasetProblems) as raised:
        split(root, folder)
    assert len(raised.value.problems) == 1
    return raised.value.problems[0]


def test_colours_mean_what_they_say(root: Path):
    kinds = read_regions(RegionMap(str(root / "regions/nut.png"), "digest"))
    assert (kinds[:6] == CLOSED).all() and (kinds[6:20] == FREE).all() and (kinds[20:] == IGNORED).all()


def test_a_category_has_one_picture_and_a_picture_its_own(root: Path):
    samples = split(root)
    places = {name: sample.regions and sample.regions.path for name, sample in samples.items()}
    assert places.pop("crack-3") == (root / "regions/nut/crack/3.png").as_posix()
    assert set(places.values()) == {(root / "regions/nut.png").as_posix()} and len(places) == 17
    assert not any(sample.regions for sample in split(root, None).values())


def test_single_pictures_may_have_regions_alone(root: Path):
    (root / "regions/nut.png").unlink()
    assert [name for name, sample in split(root).items() if sample.regions] == ["crack-3"]


def test_another_colour_is_told_with_its_place_once_and_not_for_every_picture(root: Path):
    write_png(root / "regions/nut.png", painted(((250, 250, 250), slice(2, 3), slice(4, 6))))
    assert "2 pixel(s) are neither white, black nor red, the first at x 4, y 2" in problem(root)
    with pytest.raises(UserError, match="x 4, y 2"):
        read_regions(RegionMap(str(root / "regions/nut.png"), "another digest"))


def test_a_transparent_picture_is_refused_since_what_is_below_it_is_black(root: Path):
    clear = np.dstack([NUT, np.full(SIZE, 255, np.uint8)])
    clear[6:8] = 0
    Image.fromarray(clear).save(root / "regions/nut.png")
    assert problem(root).endswith("nut.png: 64 pixel(s) are transparent; save it on a white ground")


def test_another_size_is_told(root: Path):
    write_png(root / "regions/nut/crack/3.png", np.full((8, 9, 3), 255, np.uint8))
    assert "9 x 8 px" in problem(root) and "32 x 24 px" in problem(root)


def test_a_picture_or_defect_of_which_nothing_counts_is_told(root: Path):
    write_png(root / "regions/nut/crack/3.png", painted((RED, ALL_OF_IT, ALL_OF_IT)))
    assert "no pixel counts" in problem(root)
    write_png(root / "regions/nut/crack/3.png", painted((RED, slice(6, 14), slice(6, 14))))
    assert "shows no defect" in problem(root)


def test_what_names_nothing_is_told(root: Path):
    write_png(root / "regions/nut/crack/30.png", NUT)
    assert "1 picture(s) of regions without a picture" in problem(root)
    assert "no such folder" in problem(root, "elsewhere")
    (root / "empty").mkdir()
    assert "holds no picture of regions for nut" in problem(root, "empty")


@pytest.mark.parametrize("folder", ["/regions", "../regions", "", ".", "x" * 5000])
def test_the_folder_lies_in_the_data_set(root: Path, folder: str):
    with pytest.raises(ValidationError, match=r"regions: expected a folder in dataset\.path"):
        split(root, folder)


def test_regions_lie_beside_the_pictures_of_a_data_set_that_is_one_category(root: Path):
    whole = root / "nut"
    write_png(whole / "regions/bracket.png", NUT)
    look = look_at(dataset_of(whole, "bracket", regions="regions"), "bracket")
    assert look.findings.problems == [] and len(look.pictures) == len(look.regions) == 18


def test_objects_lie_beside_the_pictures_that_annotations_name(tmp_path: Path):
    rng = np.random.default_rng(0)
    images, notes = [], []
    for number in range(4):
        write_png(tmp_path / f"images/{number}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        write_png(tmp_path / f"objects/images/{number}.png", np.ones(SIZE, bool))
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE[1], "height": SIZE[0]})
        if number % 2:
            notes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [4, 4, 6, 6], "area": 36})
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "dent"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    look = look_at(dataset_of(tmp_path, "bracket", foreground="objects"), "bracket")
    assert look.findings.problems == [] and len(look.pictures) == len(look.foregrounds) == 4


@pytest.mark.parametrize("folder", ["good", "crack"])
def test_a_folder_of_the_pictures_themselves_is_none_of_regions(root: Path, folder: str):
    look = look_at(dataset_of(root / "nut", "bracket", regions=folder), "bracket")
    assert "holds the pictures themselves, 9 of 18" in look.findings.problems[0]
