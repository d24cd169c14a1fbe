"""Conversion: one depth for a data set, equal pictures whatever their depth, masks that lie as their pictures do."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.core.images import read_image, read_mask
from lib.core.params import Dataset, Split
from lib.core.records import Sample
from lib.dataset.conversion import converted
from lib.dataset.findings import DatasetProblems
from lib.dataset.splitting import split_categories

SPLIT = Split(rule="first_third", shots=6, val_fraction=0.34)


def grey(seed: int) -> np.ndarray:
    """(24, 32) uint8, in steps of 8 and up to 240, so that every depth holds it exactly enough."""
    return np.random.default_rng(seed).integers(0, 31, (24, 32)).astype(np.uint8) * 8


def write_category(base: Path, save) -> None:
    """Six good pictures and six with a crack, each written by `save(path without suffix, grey)`."""
    for number in range(6):
        for kind, seed in (("good", number), ("crack", 100 + number)):
            (base / kind).mkdir(parents=True, exist_ok=True)
            save(base / kind / str(number), grey(seed))
        (base / "masks/crack").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.pad(np.full((6, 6), 255, np.uint8), ((9, 9), (4, 22)))).save(
            base / f"masks/crack/{number}.png"
        )


def dataset(root: Path, depth: object = "auto") -> Dataset:
    nothing = {"group_table": None, "group_column": None, "group_pattern": None}
    return Dataset.model_validate({"path": str(root), "categories": ["nut"], "depth": depth, **nothing})


def samples_of(root: Path, folder: Path, depth: object = "auto") -> tuple[list[Sample], object]:
    splits, found, _ = split_categories(dataset(root, depth), SPLIT)
    return converted(splits["nut"][0], found, folder, folder), found


def integers(bits: int):
    def save(path: Path, values: np.ndarray) -> None:
        scaled = np.rint(values / 255 * (2**bits - 1)).astype(np.uint16)
        scaled[0, 0] = 2**bits - 1  # a glint, as some picture has
        Image.fromarray(scaled).save(path.with_suffix(".png"))

    return save


def floats(highest: float):
    def save(path: Path, values: np.ndarray) -> None:
        scaled = (values / 255 * highest).astype(np.float32)
        scaled[0, 0] = highest
        Image.fromarray(scaled).save(path.with_suffix(".tif"))

    return save


@pytest.mark.parametrize(
    ("save", "depth"),
    [*((integers(bits), bits) for bits in (10, 12, 14, 16)), (floats(1.0), "unit"), (floats(255.0), 8)],
    ids=["10 bits", "12 bits", "14 bits", "16 bits", "floats to 1", "floats to 255"],
)
def test_the_same_pictures_of_any_depth_become_the_same_pictures(tmp_path: Path, save, depth):
    write_category(tmp_path / "in/nut", save)
    samples, found = samples_of(tmp_path / "in", tmp_path / "out")
    assert found == depth and all(sample.depth == depth for sample in samples)
    for sample in samples:
        kind, number = sample.id.split("-")
        expected = grey(int(number) + 100 * (kind == "crack"))
        expected[0, 0] = 255
        assert np.array_equal(read_image(Path(sample.image))[..., 0], expected)


def test_pictures_of_eight_bits_stay_where_they_are(tmp_path: Path):
    write_category(tmp_path / "in/nut", lambda path, values: Image.fromarray(values).save(path.with_suffix(".png")))
    samples, found = samples_of(tmp_path / "in", tmp_path / "out")
    assert found == 8 and not (tmp_path / "out").exists()
    assert all(Path(sample.image).parent.parent == tmp_path / "in/nut" for sample in samples)


def test_a_dark_picture_is_no_reason_for_a_scale_of_its_own(tmp_path: Path):
    write_category(tmp_path / "in/nut", integers(12))
    Image.fromarray(grey(7).astype(np.uint16)).save(tmp_path / "in/nut/good/9.png")
    samples, found = samples_of(tmp_path / "in", tmp_path / "out")
    dark = next(sample for sample in samples if sample.id == "good-9")
    assert found == 12 and read_image(Path(dark.image)).max() == 15


def test_pictures_that_disagree_are_refused_unless_the_user_decides(tmp_path: Path):
    write_category(tmp_path / "in/nut", integers(12))
    Image.fromarray(grey(7)).save(tmp_path / "in/nut/good/9.png")
    with pytest.raises(DatasetProblems, match=r"different depth, such as .*good/9\.png.*dataset\.depth"):
        split_categories(dataset(tmp_path / "in"), SPLIT)
    assert split_categories(dataset(tmp_path / "in", 12), SPLIT)[1] == 12
    with pytest.raises(DatasetProblems, match=r"dataset\.depth is 10, but 12 picture\(s\) hold values above 1023"):
        split_categories(dataset(tmp_path / "in", 10), SPLIT)


def test_floats_beyond_any_scale_are_refused(tmp_path: Path):
    write_category(tmp_path / "in/nut", floats(1000.0))
    with pytest.raises(DatasetProblems, match="values up to 1000"):
        split_categories(dataset(tmp_path / "in"), SPLIT)


def test_a_mask_of_the_stored_size_is_turned_with_its_picture(tmp_path: Path):
    def save(path: Path, values: np.ndarray) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        marked = values.copy()
        marked[9:15, 4:10] = 255 if path.parent.name == "crack" else marked[9:15, 4:10]
        Image.fromarray(marked).save(path.with_suffix(".png"), exif=exif)

    write_category(tmp_path / "in/nut", save)
    samples, _ = samples_of(tmp_path / "in", tmp_path / "out")
    cracks = [sample for sample in samples if sample.mask]
    for sample in cracks:
        image, mask = read_image(Path(sample.image)), read_mask(Path(str(sample.mask)))
        assert mask.sum() == 36 and (image[mask] == 255).all()
    digests = {sample.mask_sha256 for sample in cracks}
    assert len(digests) == 1 and all(Path(str(sample.mask)).is_relative_to(tmp_path / "out") for sample in cracks)


def test_a_twin_is_scaled_as_its_picture(tmp_path: Path):
    values = np.full((24, 32), 2000, np.uint16)
    for name in ("a", "twin"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
    sample = Sample("a", "nut", "good", str(tmp_path / "a.png"), None, "a", "test", (32, 24), "")
    (one,) = converted([replace(sample, twin=str(tmp_path / "twin.png"))], 12, tmp_path / "out", tmp_path / "out")
    assert np.array_equal(read_image(Path(one.image)), read_image(Path(str(one.twin))))
    assert read_image(Path(one.image)).max() == round(2000 / 4095 * 255)
