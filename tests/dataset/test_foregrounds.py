"""Masks of the object that a person drew: found by the picture's path, and refused with one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lib.core.images import write_png
from lib.core.params import Dataset, Split
from lib.dataset.findings import DatasetProblems
from lib.dataset.survey import look_at
from tests.reading import split_category

SIZE = (24, 32)


@pytest.fixture
def root(tmp_path):
    """Nine good and nine cracked pictures in plain folders, and masks of the objects of two of them."""
    rng = np.random.default_rng(0)
    for number in range(9):
        for kind in ("good", "crack"):
            write_png(tmp_path / f"nut/{kind}/{number}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        mask = np.zeros(SIZE, bool)
        mask[8:12, 8:12] = True
        write_png(tmp_path / f"nut/masks/crack/{number}.png", mask)
    for name in ("good/0", "crack/3"):
        write_png(tmp_path / f"objects/nut/{name}.png", np.pad(np.ones((20, 20), bool), ((2, 2), (6, 6))))
    return tmp_path


def parts(root: Path, folder: str | None):
    dataset = Dataset(
        path=str(root),
        categories=("nut",),
        group_table=None,
        group_column=None,
        group_pattern=None,
        depth="auto",
        foreground=folder,
    )
    return split_category(dataset, Split(rule="first_third", shots=6, val_fraction=0.34), "nut")


def split(root: Path, folder: str | None):
    return parts(root, folder)[0]


def problems(root: Path, folder: str = "objects") -> str:
    with pytest.raises(DatasetProblems) as raised:
        split(root, folder)
    assert len(raised.value.problems) == 1
    return raised.value.problems[0]


def test_a_mask_is_found_by_the_path_of_its_picture_and_its_digest_recorded(root):
    drawn = {sample.id: sample for sample in split(root, "objects") if sample.foreground}
    assert set(drawn) == {"good-0", "crack-3"}
    assert drawn["crack-3"].foreground == (root / "objects/nut/crack/3.png").as_posix()
    assert len(drawn["crack-3"].foreground_sha256) == 64


def test_without_the_key_there_are_none(root):
    assert not any(sample.foreground for sample in split(root, None))


def test_a_missing_folder_is_told(root):
    said = problems(root, "nothing")
    assert said.startswith("dataset.foreground: ") and "no such folder" in said and "null" in said


def test_a_mask_without_a_picture_is_told(root):
    write_png(root / "objects/nut/good/77.png", np.ones(SIZE, bool))
    assert "77.png" in problems(root) and "without a picture" in problems(root)


def test_a_mask_of_another_size_is_told(root):
    write_png(root / "objects/nut/good/0.png", np.ones((10, 12), bool))
    assert "12 x 10 px" in problems(root) and "32 x 24 px" in problems(root)


def test_an_empty_mask_is_told(root):
    write_png(root / "objects/nut/good/0.png", np.zeros(SIZE, bool))
    assert "the mask is empty" in problems(root)


def test_an_unreadable_mask_is_told(root):
    (root / "objects/nut/good/0.png").write_bytes(b"no picture")
    assert "0.png" in problems(root) and "cannot be read" in problems(root)


def test_two_masks_of_one_picture_are_told(root):
    write_png(root / "objects/nut/good/0.bmp", np.ones(SIZE, bool))
    assert "a second picture" in problems(root)


def test_a_folder_without_a_mask_for_the_category_is_told(root):
    (root / "objects/nut").rename(root / "objects/Nuts")
    samples, summary = parts(root, "objects")
    assert not any(sample.foreground for sample in samples)
    assert (
        f"dataset.foreground: {root}/objects/nut holds no mask: the objects of nut are guessed" in summary["warnings"]
    )


@pytest.mark.parametrize("key", ["foreground", "regions"])
@pytest.mark.parametrize("folder", ["nut", "nut/good", "nut/crack"])
def test_a_folder_that_holds_the_pictures_themselves_is_told(root, key, folder):
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate({"path": str(root), "categories": ["nut"], key: folder, **nothing})
    [problem] = look_at(dataset, "nut").findings.problems
    assert problem.startswith(f"dataset.{key}: {root / folder} holds the pictures themselves, ")


@pytest.mark.parametrize("folder", ["/objects", "../objects", "", ".", "x" * 5000])
def test_the_folder_lies_in_the_data_set(root, folder):
    with pytest.raises(ValidationError, match=r"folder in dataset\.path"):
        Dataset.model_validate(
            {
                "path": str(root),
                "categories": ["nut"],
                "group_table": None,
                "group_column": None,
                "group_pattern": None,
                "depth": "auto",
                "foreground": folder,
            }
        )


def test_in_a_data_set_that_is_one_category_masks_of_the_object_lie_below_their_folder_and_are_no_pictures(tmp_path):
    names = [f"images/{kind}/{number}" for kind in ("good", "parts") for number in range(6)]
    rng = np.random.default_rng(0)
    for name in names:
        for path in (tmp_path / f"{name}.png", tmp_path / "objects" / f"{name}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)).save(tmp_path / f"{name}.png")
        mask = np.zeros((24, 32), np.uint8)
        mask[4:20, 4:28] = 255
        Image.fromarray(mask).save(tmp_path / f"objects/{name}.png")
    box = {"category_id": 1, "bbox": [6, 6, 8, 8]}
    content = {
        "images": [{"id": number, "file_name": f"images/parts/{number}.png"} for number in range(6)],
        "annotations": [{"image_id": number, **box} for number in range(6)],
        "categories": [{"id": 1, "name": "crack"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate(
        {"path": str(tmp_path), "categories": ["nut"], "foreground": "objects", "boxes": "whole", **nothing}
    )
    samples, _ = split_category(dataset, Split(rule="first_third", shots=6, val_fraction=0.34), "nut")
    assert len(samples) == 12 and all(sample.foreground for sample in samples)
