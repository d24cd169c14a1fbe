"""Regions become masks: polygons, run lengths, boxes and files, alone and together."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.dataset.annotations import (
    Annotation,
    Difference,
    MaskFile,
    Polygon,
    Rectangle,
    Region,
    draw,
    ellipse,
    grabcut,
    polygon_patch,
    turned_box,
)
from lib.dataset.mask_patches import Patch, RunLengths, cut_out, decoded, encoded

WIDTH, HEIGHT = 48, 40
SOURCE = Path("annotations.json")
PICTURE = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)


def boxes_of(largest_x: int = WIDTH, largest_y: int = HEIGHT):
    def box(values):
        (x0, x1), (y0, y1) = sorted(values[:2]), sorted(values[2:])
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    return st.tuples(*[st.integers(0, largest_x - 1)] * 2, *[st.integers(0, largest_y - 1)] * 2).map(box)


def ring(box) -> tuple[float, ...]:
    x0, y0, x1, y1 = box
    return tuple(map(float, (x0, y0, x1, y0, x1, y1, x0, y1)))


def star(seed: int) -> np.ndarray:
    """The corners (N, 2) of a polygon around the middle, in px."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(3, 12))
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, number)), rng.uniform(4, 18, number)
    return np.stack([WIDTH / 2 + radii * np.cos(angles), HEIGHT / 2 + radii * np.sin(angles)], axis=1)


def whole(patch: Patch, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The mask (height, width) bool of which a patch is the part."""
    mask = np.zeros((height, width), bool)
    patch.of(mask)[...] = patch.mask
    return mask


def filled(polygon: Polygon, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return whole(polygon_patch(polygon, width, height), width, height)


def found_in(picture: np.ndarray, box, others=()) -> np.ndarray | None:
    """What GrabCut finds in a box, as a mask (H, W) bool of the picture."""
    found = grabcut(picture, box, others)
    return None if found is None else whole(Patch(box[0], box[1], found), picture.shape[1], picture.shape[0])


def draw_one(shape, picture=PICTURE, **knobs):
    return draw(Annotation(SOURCE, (Region("crack", shape),)), picture, **knobs)


@settings(max_examples=100)
@given(boxes_of())
def test_an_upright_polygon_a_box_and_run_lengths_give_the_same_pixels(box):
    truth = box_mask(box, WIDTH, HEIGHT)
    assert np.array_equal(filled(Polygon((ring(box),))), truth)
    for shape in (Polygon((ring(box),)), Rectangle(tuple(map(float, box))), encoded(truth)):
        assert np.array_equal(draw_one(shape, boxes="whole").labels, truth)


@settings(max_examples=100)
@given(st.integers(0, 3000))  # of which the worst parts by 0.89 px, in a spike
def test_a_polygon_is_filled_to_within_a_pixel_of_its_edges(seed):
    points = star(seed)
    mask = filled(Polygon((tuple(points.ravel()),)))
    outline = np.float32(points - 0.5)  # of pixel centres
    for y in range(HEIGHT):
        for x in range(WIDTH):
            distance = cv2.pointPolygonTest(outline, (x, y), True)
            assert abs(distance) < 1 or mask[y, x] == (distance > 0)


@settings(max_examples=100)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_run_lengths_hold_any_mask(mask):
    patch = decoded(encoded(mask))
    assert np.array_equal(whole(patch, *mask.shape[::-1]), mask)
    cut = cut_out(mask)
    assert (cut.x, cut.y) == (patch.x, patch.y) and np.array_equal(cut.mask, patch.mask)


@settings(max_examples=500)
@given(st.binary(max_size=60) | st.text("".join(map(chr, range(48, 112))), max_size=60).map(str.encode))
def test_run_lengths_of_any_bytes_are_read_or_refused(counts):
    try:
        assert whole(decoded(RunLengths(counts, (WIDTH, HEIGHT)))).shape == (HEIGHT, WIDTH)
    except UserError as error:
        assert "do not fill" in str(error)


@pytest.mark.parametrize("cut", [b"o", b"oooooooo", b"o" * 100])
def test_run_lengths_that_break_off_are_refused(cut):
    """pycocotools reads and writes beyond its memory for them."""
    whole = encoded(box_mask((3, 4, 9, 9), WIDTH, HEIGHT))
    with pytest.raises(UserError, match="run lengths that do not fill"):
        decoded(RunLengths(whole.counts + cut, whole.size))


def test_an_outline_without_end_is_refused():
    zigzag = tuple(value for n in range(20_000) for value in (n % 2 * 400.0, n % 3 * 300.0))
    with pytest.raises(UserError, match="a polygon whose outline has"):
        filled(Polygon((zigzag,)), 400, 300)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_a_polygon_survives_the_way_through_run_lengths(seed):
    mask = filled(Polygon((tuple(star(seed).ravel()),)))
    assert np.array_equal(draw_one(encoded(mask)).labels > 0, mask)


@settings(max_examples=50)
@given(boxes_of(), boxes_of())
def test_of_two_types_the_smaller_defect_stays_in_view(one, other):
    first, second = (box_mask(box, WIDTH, HEIGHT) for box in (one, other))
    regions = Region("scratch", Rectangle(tuple(map(float, one)))), Region("dent", Rectangle(tuple(map(float, other))))
    drawing = draw(Annotation(SOURCE, regions), PICTURE, "whole")
    assert drawing.types == ("dent", "scratch") and drawing.source == "box"
    assert np.array_equal(drawing.labels > 0, first | second)
    if first.sum() != second.sum():
        smaller, value = (first, 2) if first.sum() < second.sum() else (second, 1)
        assert (drawing.labels[smaller] == value).all()


def test_a_region_that_lies_wholly_under_other_types_is_named_and_one_of_its_own_type_is_not():
    def hidden(*regions: tuple[str, tuple[float, float, float, float]]) -> tuple[str, ...]:
        boxes = tuple(Region(name, Rectangle(corners)) for name, corners in regions)
        return draw(Annotation(SOURCE, boxes), PICTURE, "whole").hidden

    place, left, right = (4, 4, 12, 8), (4, 4, 8, 8), (8, 4, 12, 8)
    assert hidden(("scratch", place), ("dent", place)) == ("scratch under dent",)
    assert hidden(("scratch", place), ("hole", left), ("dent", right)) == ("scratch under dent and hole",)
    assert hidden(("scratch", place), ("dent", left)) == hidden(("dent", place), ("dent", place)) == ()


def test_rings_unite_and_a_hair_is_a_line():
    pieces = Polygon((ring((2, 2, 5, 6)), ring((10, 10, 12, 20))))
    assert filled(pieces).sum() == 12 + 20
    hair = filled(Polygon(((3.2, 5.2, 30.2, 5.2, 30.3, 5.3),)))
    assert hair.sum() == 28 and hair[5].sum() == 28


def test_shares_of_the_picture_are_pixels_of_any_size():
    annotation = Annotation(SOURCE, (Region("crack", Rectangle((0.25, 0.5, 0.5, 0.75))),), shares=True)
    for width, height in ((8, 8), (40, 20)):
        labels = draw(annotation, np.zeros((height, width, 3), np.uint8), "whole").labels
        expected = box_mask((width // 4, height // 2, width // 2, 3 * height // 4), width, height)
        assert np.array_equal(labels, expected)


def test_ellipses_and_turned_boxes_have_their_area_and_place():
    round_mask = filled(ellipse(24, 20, 12, 6, 90))
    assert round_mask.sum() == pytest.approx(np.pi * 72, rel=0.03)
    assert round_mask[9:31, 24].all() and not round_mask[20, :17].any()
    turned = filled(turned_box((20, 10, 30, 14), 90))
    assert np.array_equal(turned, box_mask((23, 7, 27, 17), WIDTH, HEIGHT))
    about_corner = filled(turned_box((20, 10, 30, 14), 90, (20, 10)))
    assert np.array_equal(about_corner, box_mask((16, 10, 20, 20), WIDTH, HEIGHT))


def blob() -> tuple[np.ndarray, np.ndarray]:
    """A dark disc on bright noise, and its mask."""
    rng = np.random.default_rng(0)
    mask = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (22, 20), 7, 1, -1) > 0
    picture = np.clip(rng.normal(170, 6, (HEIGHT, WIDTH, 3)) - 110 * mask[..., None], 0, 255).astype(np.uint8)
    return picture, mask


def test_grabcut_finds_what_stands_out_in_a_box_and_nothing_outside_of_it():
    picture, truth = blob()
    found = found_in(picture, (12, 10, 33, 31))
    assert found is not None and (found & truth).sum() / (found | truth).sum() > 0.9
    assert not found[~box_mask((12, 10, 33, 31), WIDTH, HEIGHT)].any()


def test_a_defect_beside_another_one_is_no_ground():
    picture, truth = blob()
    halves = (12, 10, 22, 31), (22, 10, 33, 31)
    assert found_in(picture, halves[0]) is None, "the other half of the disc passes for ground"
    found = found_in(picture, halves[0], halves)
    assert found is not None and not found[:, 22:].any()
    assert (found & truth[:, :]).sum() / truth[:, :22].sum() > 0.9


def test_grabcut_answers_alike_on_every_thread_and_at_every_depth():
    picture, _ = blob()
    first = found_in(picture, (12, 10, 33, 31))
    cv2.setRNGSeed(99)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: found_in(picture, (12, 10, 33, 31)), range(16)):
            assert np.array_equal(found, first)
    deep = found_in(picture.astype(np.uint16) * 16, (12, 10, 33, 31))
    assert deep is not None and (deep ^ first).mean() < 0.01


def test_where_nothing_stands_out_or_nothing_is_around_the_box_is_marked_and_counted():
    whole = draw_one(Rectangle((0, 0, WIDTH, HEIGHT)))
    assert whole.source == "box" and whole.guessed == 1 and whole.labels.all()
    asked = draw_one(Rectangle((4, 4, 8, 8)), boxes="whole")
    assert asked.source == "box" and asked.guessed == 0
    picture, _ = blob()
    assert draw_one(Rectangle((12, 10, 33, 31)), picture).source == "grabcut"


def test_large_boxes_are_found_at_a_smaller_scale_and_come_back_at_theirs():
    picture, truth = blob()
    large = cv2.resize(picture, (WIDTH * 20, HEIGHT * 20), interpolation=cv2.INTER_CUBIC)
    found = found_in(large, (240, 200, 660, 620))
    expected = cv2.resize(truth.astype(np.uint8), (WIDTH * 20, HEIGHT * 20), interpolation=cv2.INTER_NEAREST) > 0
    assert found is not None and (found & expected).sum() / (found | expected).sum() > 0.8


def test_a_difference_lies_within_its_box(tmp_path):
    changed = PICTURE.copy()
    changed[10:20, 10:20] = 255
    changed[30:38, 30:38] = 255
    template = tmp_path / "template.png"
    Image.fromarray(np.zeros_like(PICTURE)).save(template)
    changed[PICTURE[..., 0] == changed[..., 0]] = 0
    drawing = draw_one(Difference(template, (5, 5, 25, 25)), changed)
    assert np.array_equal(drawing.labels, box_mask((10, 10, 20, 20), WIDTH, HEIGHT))


def test_an_edge_that_is_a_pixel_off_is_no_part_of_the_defect_that_it_touches(tmp_path):
    normal = np.zeros_like(PICTURE)
    normal[:, 20:] = 255
    Image.fromarray(normal).save(tmp_path / "template.png")
    tested = np.roll(normal, -1, axis=1)
    tested[:, -1] = 255
    square = box_mask((10, 15, 20, 25), WIDTH, HEIGHT)
    tested[square] = 255
    found = draw_one(Difference(tmp_path / "template.png", (5, 2, 40, 38)), tested).labels > 0
    assert found[square].all() and found.sum() <= square.sum() + 2


def test_the_source_of_a_picture_is_that_of_its_least_exact_region(tmp_path):
    Image.fromarray(box_mask((1, 1, 4, 4), WIDTH, HEIGHT)).save(tmp_path / "mask.png")
    file, polygon = MaskFile(tmp_path / "mask.png"), Polygon((ring((10, 10, 20, 20)),))
    box = Rectangle((30, 30, 35, 35))
    for shapes, source in (((file,), "drawn"), ((file, polygon), "polygon"), ((box, polygon, file), "box")):
        regions = tuple(Region("crack", shape) for shape in shapes)
        assert draw(Annotation(SOURCE, regions), PICTURE, "whole").source == source


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Polygon(((1.0, 2.0, 3.0, 4.0),)), "a polygon of 4 numbers"),
        (Polygon(((1.0, 2.0, 3.0, 4.0, 5.0),)), "a polygon of 5 numbers"),
        (Polygon(((0.0, 0.0, 1e9, 0.0, 1e9, 1e9),)), "far outside"),
        (Polygon(((0.0, 0.0, float("nan"), 0.0, 1.0, 1.0),)), "far outside"),
        (Polygon((ring((-20, -20, -5, -5)),)), "not a pixel of it lies in the picture"),
        (Rectangle((60, 5, 70, 9)), "not a pixel of it lies in the picture"),
        (Rectangle((20, 5, 10, 9)), "turned inside out"),
        (Rectangle((float("inf"), 5, 10, 9)), "no numbers"),
        (RunLengths(b"garbage", (WIDTH, HEIGHT)), "do not fill"),
        (encoded(np.ones((4, 4), bool)), "run lengths of 4 x 4 px"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_file_and_region(shape, said):
    with pytest.raises(UserError, match=rf"annotations\.json: region 1, crack: .*{said}"):
        draw_one(shape)


GOOD = Polygon((ring((2, 2, 9, 9)),))


@pytest.mark.parametrize("boxes", ["grabcut", "whole"])
def test_all_regions_that_cannot_be_drawn_are_told_at_once_alike_ones_together(boxes):
    wrong = [
        ("scratch", Polygon(((1.0, 2.0, 3.0, 4.0),))),
        ("dent", GOOD),
        ("dent", Rectangle((30, 5, 20, 9))),
        ("dent", Rectangle((20, 5, 30, 9))),
        ("crack", Polygon(((1.0, 2.0, 3.0, 4.0, 5.0),))),
        ("crack", Rectangle((30, -1e9, 2, 9))),
    ]
    regions = tuple(Region(name, shape) for name, shape in wrong)
    with pytest.raises(UserError) as caught:
        draw(Annotation(SOURCE, regions), PICTURE, boxes)
    assert str(caught.value) == (
        "annotations.json: region 1, scratch: a polygon of 4 numbers; expected two for each of 3 to 100000 points; "
        "alike in 1 more: 5 (crack); region 3, dent: a box from 30, 5 to 20, 9, which is turned inside out; alike in 1 "
        "more: 6 (crack); correct or remove them"
    )


def test_of_many_different_faults_five_are_told_and_the_others_counted(tmp_path):
    for n in range(7):
        Image.fromarray(np.ones((8, 9 + n), bool)).save(tmp_path / f"{n}.png")
    shapes = [*(MaskFile(tmp_path / f"{n}.png") for n in range(7)), GOOD, *[Rectangle((60, 5, 70, 9))] * 20]
    with pytest.raises(UserError) as caught:
        draw(Annotation(SOURCE, tuple(Region("crack", shape) for shape in shapes)), PICTURE, "whole")
    said = str(caught.value)
    assert all(f"{n}.png: the mask is {9 + n} x 8 px" in said for n in range(5)) and "5.png" not in said
    assert said.endswith("; and 22 more; correct or remove them") and said.count("region ") == 5
