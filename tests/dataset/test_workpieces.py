"""The embedded dataset: complete layout, the same bytes from the same seed, exact twins."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.core.errors import UserError
from lib.dataset.surfaces import HALO
from lib.dataset.workpieces import STATIONS, workpiece, write_category


def files_in(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workpieces")
    for category in STATIONS:
        write_category(root / category, category, 7, train_good=2, test_good=1, per_defect=1)
    return root


def test_the_layout_is_that_of_mvtec_ad_and_complete(written: Path):
    expected = set()
    for category, (_, _, _, sizes) in STATIONS.items():
        expected |= {f"{category}/train/good/000.png", f"{category}/train/good/001.png"}
        expected |= {f"{category}/test/good/000.png"}
        for name in sizes:
            expected |= {f"{category}/test/{name}/000.png", f"{category}/twins/{name}/000.png"}
            expected |= {f"{category}/ground_truth/{name}/000_mask.png"}
    assert set(files_in(written)) == expected


def test_the_same_seed_writes_the_same_bytes_whatever_the_counts_and_order(written: Path, tmp_path: Path):
    for category in ("hex_nut", "brushed_metal"):
        write_category(tmp_path / category, category, 7, train_good=1, test_good=1, per_defect=1)
    before, again = files_in(written), files_in(tmp_path)
    assert again and all(before[name] == content for name, content in again.items())


def test_no_two_pictures_are_the_same(written: Path):
    pictures = [content for name, content in files_in(written).items() if "ground_truth" not in name]
    assert len(set(pictures)) == len(pictures)


def test_another_seed_writes_other_pictures():
    assert not np.array_equal(
        workpiece("brushed_metal", "dent", 0, 0).defect, workpiece("brushed_metal", "dent", 1, 0).defect
    )


def test_masks_are_0_and_255_and_twins_differ_only_around_them(written: Path):
    for path in written.glob("*/ground_truth/*/*_mask.png"):
        category, name = path.parts[-4], path.parts[-2]
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.ndim == 2 and set(np.unique(mask)) == {0, 255}
        defect, twin = (cv2.imread(str(written / category / part / name / "000.png")) for part in ("test", "twins"))
        assert defect.shape == twin.shape == (256, 288 if category == "hex_nut" else 256, 3)
        near = cv2.dilate(mask, np.ones((2 * HALO + 1, 2 * HALO + 1))) > 0
        assert np.array_equal(defect[~near], twin[~near])
        assert not np.array_equal(defect, twin)


@pytest.mark.parametrize("defect_type", STATIONS["hex_nut"][3])
def test_defects_of_the_nut_lie_on_the_nut(defect_type: str):
    for index in range(4):
        pair = workpiece("hex_nut", defect_type, 0, index)
        on_nut = cv2.dilate(pair.foreground.astype(np.uint8), np.ones((5, 5))) > 0
        assert pair.mask.any() and not (pair.mask & ~on_nut).any()


def test_unknown_names_are_told_with_the_known_ones(tmp_path: Path):
    with pytest.raises(UserError, match=r"dataset\.categories: bolts cannot be rendered, only brushed_metal"):
        write_category(tmp_path, "bolts", 0)
    with pytest.raises(ValueError, match="chipped_edge"):
        workpiece("hex_nut", "dent", 0, 0)
