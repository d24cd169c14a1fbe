"""Boxes of real defects: what is one defect, and how its box lies."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lib import boxes as boxes_of_defects
from lib.boxes import box_around, mask_boxes
from tests.toy import toy_category


def blob(shape, *boxes):
    mask = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


@st.composite
def masks(draw):
    """A small mask of up to eight rectangles, from specks to stripes, which may overlap or leave the picture."""
    mask = np.zeros((draw(st.integers(1, 40)), draw(st.integers(1, 40))), dtype=bool)
    for x, y, w, h in draw(st.lists(st.tuples(*[st.integers(0, 39)] * 2, *[st.integers(1, 12)] * 2), max_size=8)):
        mask[y : y + h, x : x + w] = True
    return mask


@given(masks(), st.floats(0, 1))
def test_each_mask_pixel_lies_in_exactly_one_box_inside_the_picture(mask, margin):
    height, width = mask.shape
    covered = np.zeros(mask.shape, dtype=int)
    components = mask_boxes(mask, margin, 1)
    for item in components:
        x0, y0, x1, y1 = item.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        covered[y0:y1, x0:x1] += 1
    assert (covered[mask] == 1).all() and covered.max() <= 1
    assert sum(item.area for item in components) == mask.sum()


@given(masks(), st.floats(0, 1))
def test_a_defect_reaches_a_border_if_it_touches_it(mask, margin):
    """In pictures this small, no tolerance is a whole pixel."""
    for item in mask_boxes(mask, margin, 1):
        x0, y0, x1, y1 = item.box
        own = mask.copy()
        own[:y0], own[y1:], own[:, :x0], own[:, x1:] = False, False, False, False
        ends = {"left": own[:, 0], "top": own[0], "right": own[:, -1], "bottom": own[-1]}
        assert item.borders == tuple(border for border, end in ends.items() if end.any())


def test_masks_may_miss_the_last_rows_but_a_defect_that_ends_before_the_border_does_not_reach_it():
    def borders(gap, margin=0.15):
        return mask_boxes(blob((300, 400), (100, gap, 160, 30)), margin, 1)[0].borders

    assert borders(0) == borders(4) == ("top",)
    assert borders(5) == borders(9) == (), "its box has a margin of 9 px"
    assert borders(3, margin=0) == (), "its box does not reach the border"


def united_on_the_whole_picture(boxes, outer):
    """Unions of boxes by a drawing of the whole picture, which is easier to believe."""
    canvas = np.zeros((80, 80), np.uint8)
    for x0, y0, x1, y1 in outer:
        canvas[y0:y1, x0:x1] = 1
    _, labels = cv2.connectedComponents(canvas, connectivity=4)
    unions = {}
    for box in boxes:
        label = int(labels[box[1], box[0]])
        other = unions.get(label, box)
        unions[label] = (*np.minimum(box[:2], other[:2]).tolist(), *np.maximum(box[2:], other[2:]).tolist())
    return list(unions.values())


@st.composite
def boxes_with_margins(draw):
    """Up to twelve boxes in a picture of 80 px, and how far each is extended."""
    sides = st.tuples(*[st.integers(4, 60)] * 2, *[st.integers(1, 12)] * 2, *[st.integers(0, 4)] * 4)
    boxes, outer = [], []
    for x, y, w, h, *by in draw(st.lists(sides, max_size=12)):
        boxes.append((x, y, x + w, y + h))
        outer.append((x - by[0], y - by[1], x + w + by[2], y + h + by[3]))
    return boxes, outer


@given(boxes_with_margins())
def test_boxes_are_united_alike_whatever_of_the_picture_is_drawn(drawn):
    assert boxes_of_defects._unite(*drawn) == united_on_the_whole_picture(*drawn)


def test_one_small_defect_of_a_large_picture_is_not_drawn_and_several_on_no_more_than_they_cover(monkeypatch):
    drawn = []
    label = cv2.connectedComponents
    monkeypatch.setattr(
        cv2, "connectedComponents", lambda canvas, **how: drawn.append(canvas.shape) or label(canvas, **how)
    )
    mask_boxes(blob((900, 900), (500, 600, 510, 604)), 0.0, 1)
    assert drawn == []
    mask_boxes(blob((900, 900), (500, 600, 510, 604), (520, 600, 530, 604)), 0.0, 1)
    assert drawn == [(4, 30)]


@given(masks())
def test_without_margin_each_side_of_a_box_touches_the_mask(mask):
    for item in mask_boxes(mask, 0.0, 1):
        x0, y0, x1, y1 = item.box
        assert mask[y0, x0:x1].any() and mask[y1 - 1, x0:x1].any()
        assert mask[y0:y1, x0].any() and mask[y0:y1, x1 - 1].any()


@given(masks(), st.floats(0, 1))
def test_the_order_is_by_area_then_position_and_the_centroid_lies_in_the_box(mask, margin):
    components = mask_boxes(mask, margin, 1)
    assert components == sorted(components, key=lambda item: (-item.area, item.box[1], item.box[0]))
    for item in components:
        assert item.box[0] < item.centroid[0] < item.box[2] and item.box[1] < item.centroid[1] < item.box[3]


@given(masks(), st.floats(0, 1))
def test_the_box_around_one_defect_is_the_box_of_that_defect(mask, margin):
    components = mask_boxes(mask, margin, 1)
    if len(components) == 1:
        assert box_around(mask, margin) == components[0].box


def test_the_margin_is_a_share_of_the_longer_side_rounded_up_and_clipped_to_the_picture():
    (item,) = mask_boxes(blob((50, 60), (2, 20, 23, 26)), 0.1, 1)  # 21 x 6 px: 2.1 px become 3
    assert item.box == (0, 17, 26, 29)
    assert item.centroid == (12.5, 23.0) and item.area == 126


def test_a_crack_broken_into_islands_is_one_defect_and_a_distant_one_another():
    crack = [(10 + 12 * k, 20 + 3 * k, 20 + 12 * k, 22 + 3 * k) for k in range(15)]
    components = mask_boxes(blob((200, 300), *crack, (40, 150, 60, 170)), 0.15, 1)
    assert [item.area for item in components] == [400, 300]
    assert all(components[1].box[0] <= x0 and x1 <= components[1].box[2] for x0, _, x1, _ in crack)


def test_small_components_are_dropped_unless_none_would_be_left():
    mask = blob((60, 60), (5, 5, 15, 15), (40, 40, 41, 43), (50, 5, 51, 6))
    assert [item.area for item in mask_boxes(mask, 0.0, 1)] == [100, 3, 1]
    assert [item.area for item in mask_boxes(mask, 0.0, 4)] == [100]
    assert [item.area for item in mask_boxes(mask, 0.0, 500)] == [100]
    assert mask_boxes(np.zeros((9, 9), dtype=bool), 0.1, 4) == []


def test_the_test_part_has_no_boxes(tmp_path):
    names = {box.sample for box in toy_category(tmp_path)[1]}
    assert names == {"scratch-0", "scratch-1", "chip-0", "chip-1", "scratch-val"}
