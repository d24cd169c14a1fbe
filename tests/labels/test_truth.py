"""Masks of rendered pairs after the embedded autoencoder's round trip, against the exact truth."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.images import read_mask, write_png
from lib.core.params import Base, Params
from lib.core.records import Sample
from lib.dataset.workpieces import write_category
from lib.diffusion.components import load
from lib.labels.truth import grey_difference, iou, score_masks
from tests.conftest import ROOT


def defects(root: Path) -> list[Sample]:
    samples = []
    for file in sorted(root.glob("*/test/*/*.png")):
        category, _, defect_type = file.parts[-4:-1]
        mask = root / category / "ground_truth" / defect_type / f"{file.stem}_mask.png"
        if mask.exists():
            name = f"{category}-{defect_type}-{file.stem}"
            twin = str(root / category / "twins" / defect_type / file.name)
            samples.append(
                Sample(name, category, defect_type, str(file), str(mask), name, "test", (0, 0), "", twin=twin)
            )
    return samples


@pytest.mark.slow
def test_measured_masks_reach_the_bar_and_beat_the_published_formula(tmp_path: Path, raw_params: dict):
    for category in ("brushed_metal", "woven_fabric", "hex_nut"):
        write_category(tmp_path / category, category, 7, 1, 1, 4)
    params = Params.model_validate(raw_params)
    parts = load(Base(model=str(ROOT / "models/base"), revision=None, allow_download=False), torch.device("cpu"))
    table, sheet = score_masks(params, defects(tmp_path), parts)
    assert len(table) == 10 and table["all"]["defects"] >= 36 and sheet is not None
    assert table["all"]["measured"] >= 0.75
    assert table["all"]["measured"] >= table["all"]["cosine_rgb_otsu"] + 0.2


def test_a_type_whose_masks_are_empty_is_left_out(tmp_path: Path, raw_params: dict):
    write_category(tmp_path / "hex_nut", "hex_nut", 7, 1, 1, 1)
    empty, *_, full = defects(tmp_path)
    write_png(Path(empty.mask), np.zeros_like(read_mask(Path(empty.mask)), dtype=np.uint8))
    parts = load(Base(model=str(ROOT / "models/base"), revision=None, allow_download=False), torch.device("cpu"))
    table, _ = score_masks(Params.model_validate(raw_params), [empty, full], parts)
    assert set(table) == {f"hex_nut {full.defect_type}", "all"} and table["all"]["defects"] >= 1


def test_iou_of_masks_and_of_two_empty_ones():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(1 / 3)


def test_grey_difference_finds_a_plain_change_inside_of_its_box():
    reference = np.full((20, 20, 3), 100.0)
    generated = reference.copy()
    generated[5:9, 5:9] += 50
    generated[15:, 15:] += 50
    found = grey_difference(generated, reference, (2, 2, 14, 14))
    assert found[5:9, 5:9].all() and found.sum() == 16
