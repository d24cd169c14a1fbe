"""Patches hold what masks of the whole picture would hold, in far less memory."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.dataset.annotations import Annotation, Difference, Polygon, Rectangle, Region, draw, polygon_patch
from lib.dataset.mask_patches import Patch, RunLengths, cut_out, decoded, encoded, united
from tests.dataset.test_annotations import HEIGHT, PICTURE, SOURCE, WIDTH, boxes_of, ring, whole


def filled_at_once(polygon: Polygon, width: int, height: int) -> np.ndarray:
    """The reference: each ring is filled by COCO's tools, or drawn as a line, on the whole picture."""
    mask = np.zeros((height, width), bool)
    for numbers in polygon.rings:
        points = np.asarray(numbers, float).reshape(-1, 2)
        filled = coco.decode(coco.frPyObjects([points.ravel().tolist()], height, width))[..., 0] > 0
        if not filled.any():
            line = np.zeros((height, width), np.uint8)
            cv2.polylines(line, [np.floor(points).astype(np.int32)], True, 1)
            filled = line > 0
        mask |= filled
    return mask


@st.composite
def polygons(draw, width: int, height: int) -> Polygon:
    """Large and small ones, slivers too; inside, across the border and up to a picture's size beyond it.

    Many coordinates lie between two fifths of a pixel, where COCO's tools may round either way.
    """

    def coordinate(extent: int):
        low, high = draw(st.sampled_from([(-extent, 2 * extent), (0, extent), (-3, 3), (extent - 3, extent + 3)]))
        low, high = max(low, -extent), min(high, 2 * extent)
        step = draw(st.sampled_from([1, 2, 5, 10]))
        return st.integers(low * step, high * step).map(lambda n: n / step) | st.floats(low, high)

    def one_ring() -> tuple[float, ...]:
        places = st.tuples(coordinate(width), coordinate(height))
        if draw(st.booleans()):
            return tuple(value for point in draw(st.lists(places, min_size=3, max_size=9)) for value in point)
        (x0, y0), (x1, y1) = draw(places), draw(places)
        aside = draw(st.sampled_from([0, 0.1, 0.3, 1]))
        third = np.clip([x1 + aside, y1 - aside], [-width, -height], [2 * width, 2 * height])
        return (x0, y0, x1, y1, *third.tolist())

    return Polygon(tuple(one_ring() for _ in range(draw(st.integers(1, 3)))))


@st.composite
def polygons_on_pictures(draw) -> tuple[Polygon, int, int]:
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    return draw(polygons(width, height)), width, height


@settings(max_examples=300)
@given(polygons_on_pictures())
@example((Polygon(((-3.0, -3.0, 20.0, 9.0, -3.0, -2.9),)), 16, 16))  # a line across two borders
@example((Polygon(((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.0, -1.0, 1.0, -1.0, 1.0, -1.0))), 4, 4))  # and one beside it
def test_a_polygon_has_the_pixels_that_it_has_on_the_whole_picture(drawn):
    polygon, width, height = drawn
    patch = polygon_patch(polygon, width, height)
    assert np.array_equal(whole(patch, width, height), filled_at_once(polygon, width, height))


def test_cocos_tools_round_a_polygon_otherwise_where_it_is_moved_by_whole_pixels():
    """So patches are no polygons that were moved into a crop. If this fails, they can be."""
    points = np.array([(108.3, 100.4), (109.7, 108.7), (102.1, 107.3)])
    there = filled_at_once(Polygon((tuple(points.ravel()),)), 114, 114)[100:, 100:]
    here = filled_at_once(Polygon((tuple((points - 100).ravel()),)), 14, 14)
    assert (there ^ here).sum() == 5


@settings(max_examples=60)
@given(st.data())
def test_regions_are_painted_as_masks_of_the_whole_picture_would_be(data):
    """Small ones over large ones; of equal ones the later over the earlier."""
    regions, masks = [], []
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from([Polygon, Rectangle, RunLengths]))
        box = data.draw(boxes_of(12, 12))
        mask, shape = box_mask(box, WIDTH, HEIGHT), Rectangle(tuple(map(float, box)))
        if kind is RunLengths:
            shape = encoded(mask)
        elif kind is Polygon:
            shape = data.draw(polygons(WIDTH, HEIGHT))
            mask = filled_at_once(shape, WIDTH, HEIGHT)
        if mask.any():
            regions.append(Region(data.draw(st.sampled_from(["dent", "hole", "scratch"])), shape))
            masks.append(mask)
    if not regions:
        return
    types = sorted({region.defect_type for region in regions})
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    values = [1 + types.index(region.defect_type) for region in regions]
    for n in sorted(range(len(masks)), key=lambda n: -masks[n].sum()):
        expected[masks[n]] = values[n]
    drawing = draw(Annotation(SOURCE, tuple(regions)), PICTURE, "whole")
    assert np.array_equal(drawing.labels, expected)
    covered = [n for n, mask in enumerate(masks) if values[n] not in expected[mask]]
    assert [one.split(" under ")[0] for one in drawing.hidden] == [regions[n].defect_type for n in covered]


def test_hundreds_of_small_regions_take_no_more_memory_than_a_few_masks_of_the_picture():
    width, height = 1500, 1000
    picture = np.zeros((height, width, 3), np.uint8)
    corners = [(20.0 * (n % 70), 20.0 * (n // 70), 20.0 * (n % 70) + 9, 20.0 * (n // 70) + 9) for n in range(300)]
    small = [Polygon((ring(box),)) if n % 2 else Rectangle(box) for n, box in enumerate(corners)]
    large = [Rectangle((0, 0, width, height))] * 40
    annotation = Annotation(SOURCE, tuple(Region("dent", shape) for shape in [*small, *large]))
    tracemalloc.start()
    draw(annotation, picture, "whole")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * width * height


@settings(max_examples=100)
@given(st.lists(boxes_of(), max_size=5))
def test_patches_unite_wherever_they_lie(boxes):
    masks = [box_mask(box, WIDTH, HEIGHT) for box in boxes]
    union = united(map(cut_out, masks))
    assert np.array_equal(whole(union), np.any(masks, axis=0) if masks else np.zeros((HEIGHT, WIDTH), bool))


def test_run_lengths_without_a_pixel_are_an_empty_patch():
    assert decoded(encoded(np.zeros((5, 4), bool))).mask.size == 0
    assert united([Patch(0, 0, np.zeros((0, 0), bool))]).mask.size == 0


@pytest.mark.parametrize("corners", [(-30, 5, -10, 20), (60, 5, 70, 20), (5, -30, 20, -10), (5, 60, 20, 70)])
def test_a_difference_beside_the_picture_is_refused_whatever_the_picture_shows(tmp_path, corners):
    cv2.imwrite(str(tmp_path / "template.png"), 255 - PICTURE * 2)
    region = Region("crack", Difference(tmp_path / "template.png", corners))
    with pytest.raises(UserError, match="not a pixel of it lies in the picture of 48 x 40 px"):
        draw(Annotation(SOURCE, (region,)), PICTURE)
