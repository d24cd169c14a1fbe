"""The sheet of places: for each defect type the real ones above the synthetic ones."""

import numpy as np
import pytest

from lib.placement.random_boxes import place_boxes
from lib.placement.scenes import scene_of
from lib.placement.sheet import CAPTION, REAL, SYNTHETIC, TILE, placement_sheet
from tests.toy import toy_category


@pytest.mark.parametrize("texture", [False, True])
def test_every_type_has_a_row_of_real_and_one_of_synthetic_places(tmp_path, texture):
    samples, boxes = toy_category(tmp_path, texture)
    scene = scene_of(samples, boxes)
    sheet = placement_sheet(scene, place_boxes(samples, boxes, 5, 0.15, 0, scene))
    row = len(sheet) // 4
    assert len(sheet) == 4 * row and row > TILE * 120 // 160 + CAPTION
    for number, colour in enumerate((REAL, SYNTHETIC, REAL, SYNTHETIC)):
        part = sheet[number * row : (number + 1) * row]
        other = SYNTHETIC if colour == REAL else REAL
        assert (part == colour).all(axis=2).sum() > 50 and not (part == other).all(axis=2).any()


def test_equal_places_give_equal_bytes(tmp_path):
    samples, boxes = toy_category(tmp_path)
    sheets = [placement_sheet(scene_of(samples, boxes), place_boxes(samples, boxes, 3, 0.15, 0)) for _ in range(2)]
    assert np.array_equal(*sheets)
