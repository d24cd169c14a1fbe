"""Single defects: every pixel of a mask is in one of them, and polygons give back the mask that they come from."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage.draw import polygon2mask

from lib.export.instances import instances_of, polygon, run_lengths

RING = np.pad(np.pad(np.zeros((1, 1), bool), 1, constant_values=True), 1)
CROSSED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)  # holes that meet at a corner
NESTED = np.pad(np.pad(np.pad(RING, 1, constant_values=True), 1), 1, constant_values=True)
masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda shape: arrays(bool, shape))


def cut_down(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A polygon filled as Ultralytics does it: coordinates cut down to whole pixels, its border drawn."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], color=1)
    return mask > 0


@example(np.ones((1, 1), bool))
@example(RING)
@example(CROSSED)
@example(NESTED)
@example(np.eye(5, dtype=bool))
@given(masks)
def test_every_pixel_is_in_one_instance_whose_box_is_tight(mask: np.ndarray):
    found = instances_of([("dent", mask)])
    assert len(found) == ndimage.label(mask, np.ones((3, 3)))[1]
    count = np.zeros(mask.shape, int)
    for instance in found:
        x0, y0, x1, y1 = instance.box
        count[y0:y1, x0:x1] += instance.mask
        assert instance.mask.any(axis=0)[[0, -1]].all() and instance.mask.any(axis=1)[[0, -1]].all()
        assert instance.area == instance.mask.sum()
    np.testing.assert_array_equal(count, mask)


@example(np.ones((1, 1), bool))
@example(RING)
@example(CROSSED)
@example(NESTED)
@example(np.eye(5, dtype=bool))
@given(masks)
def test_a_polygon_holds_the_pixels_of_its_mask_and_no_others(mask: np.ndarray):
    for instance in instances_of([("dent", mask)]):
        x0, y0, x1, y1 = instance.box
        whole = np.zeros(mask.shape, bool)
        whole[y0:y1, x0:x1] = instance.mask
        points = polygon(instance)
        assert len(points) >= 4
        np.testing.assert_array_equal(cut_down(points, mask.shape), whole)  # by whole pixels
        centres = points[:, ::-1] - 0.5
        np.testing.assert_array_equal(polygon2mask(mask.shape, centres), whole)  # by the centres of pixels
        np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], instance.box, atol=0.0501)


@given(masks)
def test_run_lengths_give_back_every_pixel(mask: np.ndarray):
    whole = np.zeros(mask.shape, bool)
    for instance in instances_of([("dent", mask)]):
        whole |= coco_mask.decode(run_lengths(instance, mask.shape[::-1])) > 0
    np.testing.assert_array_equal(whole, mask)


def test_a_large_blob_with_many_holes_stays_itself():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(300, 400)), 2)
    for instance in instances_of([("dent", noise > -0.05)]):
        x0, y0, x1, y1 = instance.box
        points = polygon(instance) - (x0, y0)
        np.testing.assert_array_equal(cut_down(points, (y1 - y0, x1 - x0)), instance.mask)


def test_a_straight_edge_has_no_corners_within():
    box = instances_of([("dent", np.ones((30, 40), bool))])[0]
    np.testing.assert_allclose(
        sorted(polygon(box).tolist()), [[0.05, 0.05], [0.05, 29.95], [39.95, 0.05], [39.95, 29.95]]
    )


@pytest.mark.parametrize("names", [("b", "a"), ("a", "b")])
def test_instances_are_in_the_order_of_type_and_place(names: tuple[str, str]):
    mask = np.array([[0, 1], [0, 0], [1, 0]], bool)
    found = instances_of([(name, mask) for name in names])
    assert [(one.defect_type, one.box[:2]) for one in found] == [
        ("a", (1, 0)),
        ("a", (0, 2)),
        ("b", (1, 0)),
        ("b", (0, 2)),
    ]
