"""The gate accepts a visible defect of believable strength, and says why it refuses anything else."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.geometry import box_mask
from lib.core.params import Gate
from lib.labels.gate import (
    RELATIVE,
    Traits,
    absolute,
    beside,
    judge,
    likeness,
    measure,
    real_acceptance,
    thickness,
    too_small,
)

SIDE, BOX = 64, (16, 16, 48, 48)
GATE = Gate(min_contrast=4.0, min_area=8, max_fill=0.85, outlier=3.0, max_thickness=2.0)
BRIGHT = np.array([15.0, 0.0, 0.0])
REAL = (Traits(90, 90, 1, 9.0, BRIGHT, 2.0, 2.0), Traits(60, 60, 1, 4.0, BRIGHT / 3, 1.5, 1.0))
NORMAL = np.random.default_rng(0).integers(118, 138, (SIDE, SIDE, 3)).astype(np.uint8)


def disc(radius):
    y, x = np.indices((SIDE, SIDE))
    return (x - 32) ** 2 + (y - 32) ** 2 <= radius**2


def sample(mask, change):
    return np.where(mask[..., None], np.clip(NORMAL.astype(int) + change, 0, 255), NORMAL).astype(np.uint8)


def verdict(image, mask, normal=NORMAL):
    return judge(image, normal, mask, BOX, GATE, REAL)


def test_a_clear_defect_is_accepted():
    scores, accepted, reason = verdict(sample(disc(8), 40), disc(8))
    assert accepted and reason is None
    assert scores["area"] == disc(8).sum()
    assert scores["fill"] == pytest.approx(disc(8).sum() / 32**2)
    assert scores["outside"] == 0 and scores["clipped"] == 0
    assert scores["contrast"] == pytest.approx(np.linalg.norm(measure(sample(disc(8), 40), disc(8)).contrast), abs=2)


def test_a_shape_that_a_person_drew_may_fill_its_box():
    mask = box_mask((20, 20, 32, 32), SIDE, SIDE)
    image, real = sample(mask, 40), [measure(sample(mask, 40), mask)]
    assert judge(image, NORMAL, mask, (20, 20, 32, 32), GATE, real)[1:] == (False, "the whole box changed")
    scores, *verdict = judge(image, NORMAL, mask, (20, 20, 32, 32), GATE, real, is_drawn=True)
    assert verdict == [True, None] and scores["fill"] == 1


@pytest.mark.parametrize(
    ("radius", "change", "reason"),
    [(8, 3, "no visible change"), (None, 0, "no visible change"), (1, 60, "fewer pixels than gate.min_area")],
    ids=["too faint", "empty mask", "too small"],
)
def test_a_defect_that_nobody_sees_is_refused(radius, change, reason):
    mask = np.zeros((SIDE, SIDE), dtype=bool) if radius is None else disc(radius)
    assert verdict(sample(mask, change), mask)[1:] == (False, reason)


def test_the_smallest_area_counts_all_pieces_of_samples_and_of_real_defects_alike():
    apart = disc(1) | np.roll(disc(1), 9, axis=1)  # two pieces of fewer pixels than GATE.min_area
    traits = measure(sample(apart, 40), apart)
    assert traits.area < GATE.min_area <= traits.total == apart.sum()
    assert verdict(sample(apart, 40), apart)[2] != "fewer pixels than gate.min_area"
    assert real_acceptance([traits, traits], ["a", "b"], GATE) == [True, True]
    one = measure(sample(disc(1), 40), disc(1))
    assert real_acceptance([one, one], ["a", "b"], GATE) == [False, False] and too_small(one.total, GATE)


def test_a_box_that_changed_as_a_whole_is_refused():
    whole = box_mask(BOX, SIDE, SIDE)
    assert verdict(sample(whole, 40), whole)[1:] == (False, "the whole box changed")


@pytest.mark.parametrize("value", [0, 255], ids=["black", "burnt out"])
def test_a_blank_output_is_refused(value):
    whole = box_mask(BOX, SIDE, SIDE)
    image = np.where(whole[..., None], np.uint8(value), NORMAL)
    assert verdict(image, whole)[1:] == (False, "blank output")


def test_what_was_white_before_is_not_burnt_out():
    whole, white = box_mask(BOX, SIDE, SIDE), box_mask((16, 16, 48, 40), SIDE, SIDE)
    normal = np.where(white[..., None], np.uint8(255), NORMAL)
    image = np.where((whole & ~white)[..., None], np.uint8(255), normal)
    scores, *rest = verdict(image, whole, normal)
    assert scores["clipped"] == 0.25 and rest == [False, "the whole box changed"]


def test_a_single_pixel_changed_outside_of_the_box_is_refused():
    image = sample(disc(8), 40)
    image[2, 3, 1] += 1
    scores, *rest = verdict(image, disc(8))
    assert scores["outside"] == 1 and rest == [False, "changed outside of the box"]


def test_a_defect_far_stronger_than_all_real_ones_is_refused():
    image = np.where(disc(8)[..., None], np.uint8([255, 0, 255]), NORMAL)
    scores, *rest = verdict(image, disc(8))
    assert scores["strength"] > 3 and rest == [False, "stronger than real defects"]


def test_a_speck_far_smaller_than_all_real_defects_is_refused():
    scores, *rest = verdict(sample(disc(2), 40), disc(2))
    assert scores["size"] == pytest.approx(13 / 60) and rest == [False, "smaller than real defects"]


def test_a_smudge_in_place_of_a_line_is_refused():
    line = np.zeros((SIDE, SIDE), dtype=bool)
    line[30:34, 18:46] = True
    assert verdict(sample(line, 40), line)[1]
    scores, *rest = verdict(sample(disc(10), 40), disc(10))
    assert scores["thickness"] > 2 and rest == [False, "thicker than real defects"]


@pytest.mark.parametrize("radius", [1, 5, 9])
def test_thickness_is_that_of_the_widest_place(radius):
    bar = np.zeros((SIDE, SIDE), dtype=bool)
    bar[31:34, 2:62] = True
    assert thickness(bar) == pytest.approx(4, abs=0.5), "3 px and half of the pixel on either side"
    assert thickness(bar | disc(radius)) == pytest.approx(max(4, 2 * radius + 1), rel=0.15)
    assert thickness(np.ones((8, 8), dtype=bool)) == pytest.approx(8, abs=0.5), "at the picture's edge, too"
    assert thickness(np.zeros((8, 8), dtype=bool)) == 0


def test_a_dark_patch_where_all_real_defects_are_bright_is_refused():
    scores, *rest = verdict(sample(disc(8), -40), disc(8))
    assert scores["likeness"] < 0 and rest == [False, "fainter than real defects, or of another colour"]


def test_a_defect_of_another_colour_is_refused():
    scores, *rest = verdict(sample(disc(8), (-35, 10, -35)), disc(8))
    assert scores["strength"] < 3 and rest == [False, "fainter than real defects, or of another colour"]


def test_a_blurred_defect_where_all_real_ones_have_an_edge_is_refused():
    bump = cv2.GaussianBlur(disc(8).astype(np.float32), (0, 0), 5) * box_mask(BOX, SIDE, SIDE)
    image = np.clip(NORMAL + 45 * bump[..., None], 0, 255).astype(np.uint8)
    scores, *rest = verdict(image, disc(8))
    assert scores["sharpness"] < 1 / 3 and rest == [False, "softer than real defects"]
    soft = Traits(60, 60, 1, 17.0, BRIGHT, 0.0, 1.0)
    assert judge(image, NORMAL, disc(8), BOX, GATE, [soft])[1], "real defects may be soft, too"


def test_a_mask_that_falls_apart_is_refused():
    dots = np.zeros((SIDE, SIDE), dtype=bool)
    for n in range(4):
        dots[20:26, 18 + 7 * n : 23 + 7 * n] = True
    assert verdict(sample(dots, 40), dots)[1:] == (False, "in more pieces than real defects")
    dots[20:26, 38:] = False
    assert verdict(sample(dots, 40), dots)[1], "up to three times as many may be"


def test_specks_are_no_pieces():
    mask = disc(8)
    mask[20, 20] = True
    assert measure(sample(mask, 40), mask).pieces == 1


def test_an_edge_is_sharper_than_a_slope_and_flat_surroundings_have_none():
    edge, slope = (
        np.repeat(row[None, :, None], 3, axis=2).repeat(SIDE, axis=0).astype(np.uint8)
        for row in (np.where(np.arange(SIDE) < 32, 100, 180), np.linspace(100, 180, SIDE))
    )
    half = np.zeros((SIDE, SIDE), dtype=bool)
    half[20:44, 20:32] = True
    assert measure(edge, half).sharpness > 3
    assert measure(slope, half).sharpness == pytest.approx(0, abs=0.1), "the ring rises as much as the edge"


@given(st.floats(0.1, 5), st.integers(0, 3), st.lists(st.floats(-30, 30), min_size=12, max_size=12))
def test_likeness_is_a_share_of_the_way_to_the_nearest_real_contrast(share, index, values):
    real = list(np.array(values).reshape(4, 3))
    assert likeness(share * real[index], real) >= min(1, share) - 1e-6, "at least what it is to that one"
    assert likeness(np.array(values[:3]), [np.zeros(3)]) == 1, "everything resembles what has no contrast"
    turned = [np.array([contrast[1], -contrast[0], 0.0]) for contrast in real]
    for contrast, across in zip(real, turned, strict=True):
        if contrast[:2] @ contrast[:2] > 1e-3:
            assert likeness(across, [np.array([*contrast[:2], 0.0])]) == pytest.approx(0, abs=1e-6)


def test_scores_beside_real_defects_by_hand():
    real = [
        Traits(100, 100, 1, 4.0, np.array([10.0, 0.0, 0.0]), 2.0, 1.0),
        Traits(50, 80, 4, 8.0, np.array([0.0, 20.0, 0.0]), 4.0, 3.0),
    ]
    found = beside(Traits(200, 250, 2, 12.0, np.array([0.0, 10.0, 0.0]), 1.0, 2.0), real, GATE)
    assert found == {"strength": 0.5, "size": 4, "thickness": 1.5, "likeness": 0.5, "sharpness": 0.5, "pieces": 0.5}


def test_the_range_of_real_defects_is_set_by_the_outermost_and_lets_them_all_pass():
    masks = [disc(8), disc(5), disc(10)]
    images = [sample(mask, change) for mask, change in zip(masks, (20, 60, -30), strict=True)]
    known = [measure(image, mask) for image, mask in zip(images, masks, strict=True)]
    for image, mask in zip(images, masks, strict=True):
        scores, accepted, _ = judge(image, NORMAL, mask, BOX, GATE, known)
        assert accepted and scores["strength"] <= 1 and scores["thickness"] <= 1 and scores["pieces"] == 1
        assert scores["likeness"] == 1 and scores["sharpness"] >= 1 and scores["size"] >= 1


def test_each_real_defect_is_compared_with_the_others_alone():
    bright, brighter, dark = (measure(sample(disc(8), change), disc(8)) for change in (20, 30, -30))
    assert real_acceptance([bright, brighter], ["a", "b"], GATE) == [True, True]
    assert real_acceptance([bright, brighter, dark], ["a", "b", "c"], GATE) == [True, True, False]
    assert real_acceptance([dark], ["a"], GATE) == []


def test_another_shot_of_a_real_defect_does_not_vouch_for_it():
    bright, dark = (measure(sample(disc(8), change), disc(8)) for change in (20, -30))
    shots = [bright, bright, dark, dark]
    assert real_acceptance(shots, ["a", "a", "b", "b"], GATE) == [False] * 4
    assert real_acceptance(shots, ["a", "b", "c", "d"], GATE) == [True] * 4
    assert real_acceptance(shots, ["a"] * 4, GATE) == []


def test_real_defects_that_differ_by_texture_alone_do_not_close_the_gate():
    texture = Traits(60, 60, 1, 17.0, np.zeros(3), 0.0, 1.0)
    assert judge(sample(disc(8), 20), NORMAL, disc(8), BOX, GATE, [texture])[1]


def test_a_mask_without_surroundings_has_no_contrast():
    found = measure(NORMAL, np.ones((SIDE, SIDE), dtype=bool))
    assert not found.contrast.any() and found.sharpness == 0


def test_traits_are_those_of_the_surroundings_wherever_the_defect_lies():
    wide = np.pad(NORMAL, ((0, 200), (0, 200), (0, 0)), mode="edge")
    mask = np.pad(disc(8), ((0, 200), (0, 200)))
    there, here = measure(wide, mask), measure(NORMAL, disc(8))
    assert np.array_equal(there.contrast, here.contrast) and there.sharpness == pytest.approx(here.sharpness)
    assert (there.area, there.pieces, there.thickness) == (here.area, here.pieces, here.thickness)


def whole_picture_scores(image, normal, mask, box) -> dict[str, float]:
    """The definition of the scores, on whole pictures."""
    inside = box_mask(box, normal.shape[1], normal.shape[0])
    pure = (image == image[..., :1]).all(axis=2) & np.isin(image[..., 0], (0, 255)) & (image != normal).any(axis=2)
    lab, other = (cv2.cvtColor(one.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for one in (image, normal))
    return {
        "contrast": float(np.linalg.norm(lab - other, axis=2)[mask].mean()),
        "area": float(mask.sum()),
        "fill": int(mask.sum()) / max(int(inside.sum()), 1),
        "outside": float(((image != normal).any(axis=2) & ~inside).sum()),
        "clipped": float(pure[mask].mean()),
    }


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(8, 70), st.integers(8, 70)),
    box=st.tuples(*[st.integers(-6, 40)] * 2, *[st.integers(2, 60)] * 2),
    spread=st.integers(0, 3),
)
def test_scores_of_the_cut_out_are_those_of_the_whole_picture_to_the_last_bit(seed, size, box, spread):
    rng = np.random.default_rng(seed)
    normal = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    image, mask = normal.copy(), np.zeros(size, bool)
    for _ in range(spread + 1):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    image[mask] = rng.choice([0, 255, 90], (int(mask.sum()), 1))
    image[rng.integers(0, size[0]), rng.integers(0, size[1])] += 1
    box = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    assert absolute(image, normal, mask, box) == whole_picture_scores(image, normal, mask, box)


def test_without_a_normal_picture_the_contrast_is_that_to_the_ring_and_nothing_counts_as_outside():
    image, whole = sample(disc(8), 40), (0, 0, SIDE, SIDE)
    image[2, 3] = 255
    scores, accepted, reason = judge(image, None, disc(8), whole, GATE, REAL)
    assert accepted and reason is None and scores["outside"] == 0
    assert scores["contrast"] == pytest.approx(np.linalg.norm(measure(image, disc(8)).contrast))
    assert scores["fill"] == disc(8).sum() / SIDE**2
    assert set(scores) == {"contrast", "area", "fill", "outside", "clipped", *RELATIVE}


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        (NORMAL, disc(8), "no visible change"),
        (NORMAL, disc(0) & False, "no visible change"),
        (np.where(disc(8)[..., None], np.uint8([255, 0, 255]), NORMAL), disc(8), "stronger than real defects"),
        (sample(disc(40), 40), disc(42), "the whole box changed"),
        (np.where(disc(40)[..., None], np.uint8(0), NORMAL), disc(41), "blank output"),
    ],
)
def test_the_reasons_hold_without_a_normal_picture(image, mask, reason):
    assert judge(image, None, mask, (0, 0, SIDE, SIDE), GATE, REAL)[1:] == (False, reason)


def test_a_background_that_the_generator_painted_must_not_be_blurred():
    image, whole = sample(disc(8), 40), (0, 0, SIDE, SIDE)
    grained, accepted, _ = judge(image, None, disc(8), whole, GATE, REAL, own_background=True)
    assert accepted and grained["grain"] > 1 / GATE.outlier
    blurred = np.where(disc(8)[..., None], image, cv2.GaussianBlur(NORMAL, (0, 0), 4))
    scores, *rest = judge(blurred, None, disc(8), whole, GATE, REAL, own_background=True)
    assert scores["grain"] < 1 / GATE.outlier and rest == [False, "surroundings softer than those of real defects"]
    assert judge(blurred, None, disc(8), whole, GATE, REAL)[1], "somebody else's background is not judged"


def test_where_real_surroundings_have_no_grain_none_is_asked_for():
    smooth = [Traits(60, 60, 1, 17.0, BRIGHT, 0.0, 0.0)]
    image = np.where(disc(8)[..., None], np.uint8(168), np.full_like(NORMAL, 128))
    assert judge(image, None, disc(8), (0, 0, SIDE, SIDE), GATE, smooth, own_background=True)[1:] == (True, None)


def test_grain_is_told_in_multiples_of_what_real_surroundings_usually_have():
    image, whole = sample(disc(8), 40), (0, 0, SIDE, SIDE)
    real = [Traits(60, 60, 1, 17.0, BRIGHT, 2.0, grain) for grain in (0.1, 2.0, 30.0)]
    scores, *_ = judge(image, None, disc(8), whole, GATE, real, own_background=True)
    assert scores["grain"] == measure(image, disc(8)).grain / 2


def test_grain_is_that_of_the_surroundings_alone():
    noise = np.random.default_rng(1).integers(0, 255, NORMAL.shape).astype(np.uint8)
    inside = np.where(disc(8)[..., None], noise, np.uint8(128))
    assert measure(inside, disc(8)).grain < 0.1 < measure(NORMAL, disc(8)).grain
    assert measure(NORMAL, np.ones((SIDE, SIDE), bool)).grain == 0
