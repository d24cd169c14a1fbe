"""A real defect in another place: whole, exactly labelled, of that place's brightness, its surroundings going on."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from lib.core.errors import UserError
from lib.core.geometry import Border, Box, borders_of, box_mask
from lib.core.images import read_image, write_png
from lib.core.params import Params
from lib.core.records import DefectBox, RegionMap
from lib.generators import Failed, Made, RealData, read_real
from lib.generators.cutpaste import (
    DARK,
    MOST_GAIN,
    Defect,
    Layer,
    Pose,
    Settings,
    canvas_around,
    cut_out,
    faded,
    fitting_poses,
    lay,
    paste,
    relit,
    stretched_poses,
    synthesize,
)
from tests.category import CATEGORY, placement, tiny_params, write_category
from tests.mixed import DENT, mixed_sample

STILL = Settings(blending="feather", rotation=0, scale=0, flips=False)
MOVING = Settings(blending="feather", rotation=20, scale=0.1, flips=True)
POISSON = Settings(blending="poisson", rotation=20, scale=0.1, flips=True)


def ground(width: int, height: int, level: float = 120, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(level, 3, (height, width, 1))
    return np.repeat(np.clip(noise, 0, 255), 3, axis=2).astype(np.uint8)


def streak(image: np.ndarray, own: Box, box: Box, change: int = 80) -> Defect:
    """A bright streak, `own`, cut out of a picture with its box."""
    mask = box_mask(own, *image.shape[1::-1])
    image = image.copy()
    image[mask] = np.clip(image[mask].astype(int) + change, 0, 255)
    borders = borders_of(own, image.shape[1::-1])
    return cut_out(image, mask, mask, DefectBox("s", 0, "scratch", box, int(mask.sum()), borders), 16)


def pasted(normal: np.ndarray, defect: Defect, box: Box, settings: Settings, seed: int = 0, feather: int = 3) -> Made:
    answer = paste(normal, defect, box, settings, feather, np.random.default_rng(seed))
    assert isinstance(answer, Made) and answer.mask is not None
    return answer


STREAK = streak(ground(80, 60), (20, 20, 44, 26), (16, 16, 48, 30))


@st.composite
def boxes_in(draw: st.DrawFn, width: int, height: int) -> Box:
    """Any box, often at one or several borders."""
    (x0, x1), (y0, y1) = (
        draw(st.sampled_from([(low, high), (0, high), (low, extent), (0, extent)]))
        for extent in (width, height)
        for low in [draw(st.integers(0, extent - 1))]
        for high in [draw(st.integers(low + 1, extent))]
    )
    return x0, y0, x1, y1


@budget(max_examples=80)
@given(
    boxes_in(50, 40),
    boxes_in(30, 30),
    st.integers(0, 2**32),
    st.integers(0, 5),
    st.sampled_from(["feather", "poisson"]),
)
def test_any_defect_in_any_box_changes_nothing_outside_and_is_labelled_inside(
    box: Box, own: Box, seed: int, feather: int, blending: str
):
    normal, defect = ground(50, 40), streak(ground(30, 30, seed=1), own, own)
    settings = MOVING.model_copy(update={"blending": blending})
    answer = paste(normal, defect, box, settings, feather, np.random.default_rng(seed))
    if isinstance(answer, Failed):
        assert "less than a pixel" in answer.reason and min(box[2] - box[0], box[3] - box[1]) < 4
        return
    inside = box_mask(box, 50, 40)
    assert np.array_equal(answer.image[~inside], normal[~inside])
    assert not answer.mask[~inside].any() and (answer.image != normal).any(axis=2)[answer.mask].all()


@pytest.mark.parametrize("settings", [MOVING, POISSON], ids=["feather", "poisson"])
def test_the_mask_is_the_defect_and_the_defect_is_whole(settings: Settings):
    normal = ground(80, 60, seed=2)
    for seed in range(10):
        answer = pasted(normal, STREAK, (30, 12, 70, 42), settings, seed)
        change = answer.image.astype(int)[..., 0] - normal[..., 0]
        assert np.median(change[answer.mask]) == pytest.approx(80, abs=12), "as strong as it was"
        bright = change > 40
        assert (bright & answer.mask).sum() / (bright | answer.mask).sum() > 0.85
        assert 0.7 < answer.mask.sum() / STREAK.own.sum() * (32 * 14) / (40 * 30) < 1.4, "its size follows the box"


@pytest.mark.parametrize("seed", range(6))
def test_a_line_of_one_pixel_stays_in_one_piece(seed: int):
    image, mask = ground(200, 200), np.zeros((200, 200), np.uint8)
    cv2.line(mask, (60, 80), (138, 101), 1, 1)
    image[mask > 0] = 30
    item = DefectBox("s", 0, "scratch", (50, 70, 150, 112), int(mask.sum()), ())
    defect = cut_out(image, mask > 0, mask > 0, item, 16)
    made = pasted(ground(200, 200, seed=9), defect, (40, 60, 160, 130), MOVING, seed)
    assert cv2.connectedComponents(made.mask.astype(np.uint8), connectivity=8)[0] == 2  # type: ignore[union-attr]


def test_in_its_own_place_a_defect_is_itself():
    whole = ground(80, 60)
    whole[20:26, 20:44] += 80
    canvas = canvas_around(whole, (16, 16, 48, 30))
    layer = lay(STREAK, Pose(0, (1, 1), (False, False), (32, 23)), canvas)
    assert layer.mask.sum() == 24 * 6 and layer.usable.sum() == 32 * 14
    assert np.array_equal(layer.colours[layer.usable], canvas.pixels[layer.usable])


@pytest.mark.parametrize(("across", "down"), [(True, False), (False, True), (True, True)])
def test_flips_are_those_of_the_picture(across: bool, down: bool):
    canvas = canvas_around(ground(80, 60), (16, 16, 48, 30))
    plain, flipped = (
        lay(STREAK, Pose(0, (1, 1), flips, (32, 23)), canvas) for flips in ((False, False), (across, down))
    )
    axes = [axis for axis, flip in ((1, across), (0, down)) if flip]
    near = plain.mask & flipped.mask
    assert np.array_equal(plain.mask, flipped.mask), "the streak is symmetric"
    values = plain.colours[near].reshape(6, 24, 3)
    assert np.array_equal(np.flip(values, axes), flipped.colours[near].reshape(6, 24, 3))


def test_a_quarter_turn_turns_a_streak_upright():
    layer = lay(STREAK, Pose(90, (1, 1), (False, False), (40, 30)), canvas_around(ground(80, 60), (20, 10, 60, 50)))
    rows, columns = np.nonzero(layer.mask)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (24, 6)


@budget(max_examples=60)
@given(boxes_in(80, 60), st.integers(0, 2**32), st.integers(0, 4))
def test_every_pose_lies_within_the_box(box: Box, seed: int, feather: int):
    normal = ground(80, 60)
    canvas = canvas_around(normal, (0, 0, 80, 60))
    for pose in fitting_poses(STREAK, box, normal.shape, MOVING, feather, np.random.default_rng(seed)):
        rows, columns = np.nonzero(lay(STREAK, pose, canvas).mask)
        if len(rows):
            assert box[0] <= columns.min() and columns.max() < box[2]
            assert box[1] <= rows.min() and rows.max() < box[3]


def test_poses_fill_the_room_of_the_box_and_leave_a_rim_to_fade_out():
    box = (20, 10, 68, 38)
    poses = fitting_poses(STREAK, box, (60, 80), STILL, 3, np.random.default_rng(0))
    canvas = canvas_around(ground(80, 60), (0, 0, 80, 60))
    reach = np.zeros((60, 80), bool)
    for pose in poses:
        reach |= lay(STREAK, pose, canvas).mask
    rows, columns = np.nonzero(reach)
    assert columns.min() >= 23 and columns.max() < 65 and rows.min() >= 13 and rows.max() < 35
    assert np.ptp(columns) > 38 and np.ptp(rows) > 16, "places differ"


def test_a_defect_that_is_turned_too_far_for_its_box_is_left_out_rather_than_shrunk():
    line = streak(ground(80, 60), (10, 28, 60, 31), (8, 24, 62, 36))
    poses = fitting_poses(line, (8, 24, 62, 36), (60, 80), MOVING, 0, np.random.default_rng(0))
    assert poses and all(min(pose.scale) > 0.75 and abs(pose.angle) < 20 for pose in poses)


def test_a_mask_larger_than_the_box_is_shrunk_to_it():
    answer = pasted(ground(80, 60, seed=3), STREAK, (30, 20, 36, 50), STILL, feather=0)
    assert answer.notes["scale"] == pytest.approx([6 / 24] * 2, abs=0.01) and 4 <= answer.mask.sum() <= 14


@pytest.mark.parametrize("level", [60, 120, 170])
def test_exposure_follows_the_place(level: int):
    answer = pasted(ground(80, 60, level, seed=4), STREAK, (30, 12, 70, 42), MOVING)
    expected = min((200 + DARK) / (120 + DARK) * (level + DARK) - DARK, 255)
    assert np.median(answer.image[answer.mask]) == pytest.approx(expected, abs=12)


def test_light_is_told_by_pixels_compared_one_by_one_where_part_and_background_meet():
    """Half of the ring is part, half is background, in the source and in the place, which has a fifth more light."""
    half = np.where(np.arange(40)[None, :, None] < 19, 180, 20).repeat(40, axis=0).repeat(3, axis=2).astype(np.float32)
    mask = box_mask((15, 15, 25, 25), 40, 40)
    place = 1.2 * (half + DARK) - DARK
    canvas = replace(canvas_around(half.astype(np.uint8), (0, 0, 40, 40)), pixels=place)
    shifted = np.roll(half, 2, axis=1)  # the edge lies a little elsewhere: medians of the rings would differ by far
    colours = relit(Layer(shifted, mask, np.ones_like(mask)), canvas)
    np.testing.assert_allclose(colours, 1.2 * (shifted + DARK) - DARK, atol=1e-3)


@given(st.integers(5, 250), st.integers(5, 250), st.integers(0, 250))
def test_surroundings_match_in_any_light_and_what_is_darker_stays_darker(source: int, place: int, level: int):
    mask = box_mask((15, 15, 25, 25), 40, 40)
    colours = np.where(mask[..., None], level, source).repeat(3, axis=2).astype(np.float32)
    canvas = canvas_around(np.full((40, 40, 3), place, np.uint8), (0, 0, 40, 40))
    lit = relit(Layer(colours, mask, np.ones_like(mask)), canvas)
    np.testing.assert_allclose(lit[~mask], place, atol=1e-3)
    factor = (place + DARK) / (source + DARK)
    change = (lit[mask] - place) / (level - source) if level != source else np.array(1.0)
    np.testing.assert_allclose(change, np.clip(factor, 1 / MOST_GAIN, MOST_GAIN) if level != source else 1, rtol=1e-4)


def test_coloured_light_is_a_factor_of_each_colour():
    mask, ground_colour = box_mask((15, 15, 25, 25), 40, 40), np.array([60, 90, 120], np.float32)
    colours = np.where(mask[..., None], ground_colour / 2, ground_colour).astype(np.float32)
    light = np.array([1.5, 1.0, 0.6], np.float32)
    canvas = canvas_around(np.zeros((40, 40, 3), np.uint8), (0, 0, 40, 40))
    canvas = replace(canvas, pixels=np.broadcast_to(light * (ground_colour + DARK) - DARK, (40, 40, 3)))
    lit = relit(Layer(colours, mask, np.ones_like(mask)), canvas)
    np.testing.assert_allclose(lit, light * (colours + DARK) - DARK, atol=1e-3)


def test_a_defect_without_surroundings_keeps_its_colours():
    mask = np.ones((40, 40), dtype=bool)
    colours = ground(40, 40).astype(np.float32)
    canvas = canvas_around(ground(40, 40, 200), (0, 0, 40, 40))
    np.testing.assert_array_equal(relit(Layer(colours, mask, mask), canvas), colours)


def test_a_black_defect_is_nearly_black_on_a_bright_place_too():
    black = streak(ground(80, 60, 70), (20, 20, 44, 26), (16, 16, 48, 30), change=-70)
    answer = pasted(ground(80, 60, 200, seed=4), black, (30, 12, 70, 42), STILL)
    assert np.median(answer.image[answer.mask]) < 30, "and not 130, as 70 grey levels below its surroundings"


def test_a_chip_of_an_edge_is_pasted_on_the_edge():
    """A notch of the right edge of a part: of all places in the box, that where the edges meet."""
    part = np.where(np.arange(80)[None, :, None] < 40, 180, 30).repeat(60, axis=0).repeat(3, axis=2).astype(np.uint8)
    notch = box_mask((32, 24, 42, 34), 80, 60)
    broken = part.copy()
    broken[notch] = 30
    defect = cut_out(broken, notch, notch, DefectBox("s", 0, "chip", (26, 18, 48, 40), 100), 16)
    place = np.roll(part, 5, axis=1)  # the edge lies at 45
    columns = []
    for seed in range(20):
        answer = pasted(place, defect, (28, 10, 62, 44), STILL.model_copy(update={"flips": True}), seed)
        assert answer.notes["flipped_across"] is False
        # The notch's centre is 3 px inwards.
        columns.append(answer.notes["centre"][0] - 45 + 3 * answer.notes["scale"][0])
    assert np.abs(np.median(columns)) < 1.5


@pytest.mark.parametrize("settings", [MOVING, POISSON], ids=["feather", "poisson"])
def test_the_border_fades_out_and_leaves_no_step(settings: Settings):
    bright = streak(ground(80, 60, 150), (20, 20, 44, 26), (16, 16, 48, 30))
    normal = cv2.GaussianBlur(ground(80, 60, 120, seed=5), (0, 0), 2)
    answer = pasted(normal, bright, (20, 8, 76, 50), settings)
    around = cv2.dilate(answer.mask.astype(np.uint8), np.ones((9, 9))) > 0
    steps = np.abs(np.diff(answer.image[..., 0].astype(int), axis=1))[:, 1:][(around & ~cv2.dilate(
        answer.mask.astype(np.uint8), np.ones((5, 5))).astype(bool))[:, 2:]]  # fmt: skip
    assert np.quantile(steps, 0.95) < 15


def test_poisson_cloning_keeps_a_defect_that_fills_its_box():
    box = (30, 20, 42, 28)
    small = streak(ground(80, 60), (21, 21, 31, 27), (20, 20, 32, 28))
    answer = pasted(ground(80, 60, seed=6), small, box, POISSON)
    assert np.median(answer.image[answer.mask]) > 170


def test_poisson_cloning_of_a_place_onto_itself_is_that_place():
    normal = ground(80, 60)
    own = box_mask((20, 20, 44, 26), 80, 60)
    same = cut_out(normal, own, own, DefectBox("s", 0, "scratch", (16, 16, 48, 30), 1), 16)
    still = STILL.model_copy(update={"blending": "poisson"})
    poses = [Pose(0, (1, 1), (False, False), (32, 23))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.generators.cutpaste.fitting_poses", lambda *_: poses)
        answer = paste(normal, same, (16, 16, 48, 30), still, 3, np.random.default_rng(0))
    assert np.abs(answer.image.astype(int) - normal).max() <= 1


def test_another_defect_beside_is_not_pasted_along():
    image, others = ground(80, 60), box_mask((20, 28, 44, 33), 80, 60)
    image[others] = 255
    mask = others | box_mask((20, 20, 44, 26), 80, 60)
    defect = cut_out(image, mask, mask, DefectBox("s", 0, "scratch", (18, 18, 46, 28), 144), 16)
    assert defect.own.sum() == 24 * 6 and defect.others.sum() == 24 * 5
    answer = pasted(ground(80, 60, seed=7), defect, (10, 10, 70, 50), MOVING, feather=6)
    assert answer.image.max() < 150, "neither of the two is brighter than the ground"


@pytest.mark.parametrize("hidden", [False, True])
def test_neither_a_defect_of_another_type_nor_what_never_counts_is_pasted_along(
    tmp_path: Path, raw_params: dict, hidden: bool
):
    mixed = mixed_sample(tmp_path)  # a dark dent within the box of bright scratches
    if hidden:
        red = np.where(DENT[..., None], (255, 0, 0), 255).astype(np.uint8)
        regions = RegionMap(str(tmp_path / "red.png"), write_png(tmp_path / "red.png", red))
        mixed = replace(mixed, regions=regions, type_map=None, defect_type="scratch")
    write_png(tmp_path / "good.png", ground(96, 64))
    good = replace(mixed, id="good-0", defect_type="good", image=str(tmp_path / "good.png"), mask=None)
    real = RealData(
        "slab", {one.id: one for one in (mixed, good)}, (DefectBox(mixed.id, 1, "scratch", (20, 10, 70, 50), 1),), {}
    )
    params = tiny_params(raw_params, synth={"feather": 24})
    wanted = placement(0, box=(10, 4, 90, 60), like=mixed.id, component=1)
    [[answer]] = synthesize(params, STILL, real, Path("model"), [[wanted]])
    assert answer.image.max() > 200 and answer.image.min() > 90, "the scratch alone"


def test_a_defect_at_the_border_of_its_picture_is_pasted_without_what_lies_beyond():
    defect = streak(ground(80, 60), (0, 20, 24, 26), (0, 16, 28, 30))
    answer = pasted(ground(80, 60, seed=8), defect, (20, 10, 60, 40), STILL)
    assert np.ptp(np.nonzero((answer.image[..., 0] > 170).any(axis=0))[0]) + 1 == pytest.approx(
        24 * answer.notes["scale"][0], abs=2
    )


def test_all_of_a_defect_at_the_border_of_its_picture_can_be_pasted():
    defect = streak(ground(80, 60), (0, 20, 24, 26), (0, 16, 28, 30))
    layer = lay(
        defect, Pose(7, (1.1, 1.1), (False, False), (40.3, 30.2)), canvas_around(ground(80, 60), (0, 0, 80, 60))
    )
    assert layer.mask.sum() > 100 and layer.usable[layer.mask].all() and not layer.usable.all()


def ramp(box: Box, own: Box, borders: tuple[Border, ...]) -> Defect:
    """A defect in a picture of 80 x 60 px that is brighter the further to the right and below."""
    image = ground(80, 60, 60)
    mask = box_mask(own, 80, 60)
    image[mask] += (np.add.outer(np.arange(60), np.arange(80))[mask] // 2 + 60).astype(np.uint8)[:, None]
    return cut_out(image, mask, mask, DefectBox("s", 0, "fray", box, int(mask.sum()), borders), 16)


FRAY = ramp((16, 44, 48, 60), (20, 48, 44, 60), ("bottom",))
BAND = ramp((0, 40, 80, 60), (0, 44, 80, 60), ("left", "right", "bottom"))


@pytest.mark.parametrize("settings", [MOVING, POISSON], ids=["feather", "poisson"])
@pytest.mark.parametrize("box", [(10, 40, 50, 60), (10, 30, 70, 60)])
def test_a_defect_of_the_border_is_pasted_at_the_border(box: Box, settings: Settings):
    for seed in range(5):
        answer = pasted(ground(80, 60, 60, seed=30 + seed), FRAY, box, settings)
        assert answer.notes["angle"] == 0 and not answer.notes["flipped_down"]
        rows, columns = np.nonzero(answer.mask)
        assert rows.max() == 59 and answer.mask[59].sum() >= 0.9 * (np.ptp(columns) + 1)
        wide, high = (box[2] - box[0]) * 24 / 32, (box[3] - box[1]) * 12 / 16
        assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == pytest.approx((wide, high), abs=2)
        assert abs(columns.mean() + 0.5 - (box[0] + box[2]) / 2) < 1


def test_a_band_across_one_picture_lies_across_another():
    wider, narrower = ground(120, 60, 60, seed=40), ground(50, 60, 60, seed=41)
    for normal in (wider, narrower):
        width = normal.shape[1]
        answer = pasted(normal, BAND, (0, 38, width, 60), MOVING)
        columns = answer.mask.any(axis=0)
        assert columns.mean() > 0.98 and answer.mask[-1].mean() > 0.98 and not answer.mask[:40].any()
        assert answer.notes["scale"] == pytest.approx([width / 80, 22 / 20])


def test_a_defect_of_the_border_is_flipped_along_it_only_if_that_is_allowed():
    still = stretched_poses(FRAY, (10, 40, 50, 60), STILL)
    assert [pose.flips for pose in still] == [(False, False)]
    assert [pose.flips for pose in stretched_poses(FRAY, (10, 40, 50, 60), MOVING)] == [(False, False), (True, False)]
    assert len(stretched_poses(BAND, (0, 40, 80, 60), MOVING)) == 2, "a band between two borders has no side"


def test_a_defect_of_the_border_comes_back_to_its_own_place_as_it_was():
    plain = np.full((60, 80, 3), 60, np.uint8)
    for defect, box, own in ((FRAY, (16, 44, 48, 60), (20, 48, 44, 60)), (BAND, (0, 40, 80, 60), (0, 44, 80, 60))):
        answer = pasted(plain, defect, box, STILL, feather=0)
        assert np.array_equal(answer.mask, box_mask(own, 80, 60))


def test_away_from_the_border_it_is_pasted_like_any_other():
    angles = {pasted(ground(80, 60, 60), FRAY, (10, 10, 50, 40), MOVING, seed).notes["angle"] for seed in range(5)}
    assert len(angles) == 5


@pytest.mark.parametrize("feather", [0, 1, 4])
def test_a_defect_is_whole_within_its_mask_and_fades_out_evenly_around_it(feather: int):
    canvas, mask = canvas_around(ground(40, 40, seed=9), (0, 0, 40, 40)), box_mask((0, 15, 20, 25), 40, 40)
    colours = np.where(mask[..., None], canvas.pixels + 100, canvas.pixels)
    colours[12:28, 20:30] += 40  # its surroundings, there, are brighter; the median of all is not
    layer = Layer(colours, mask, np.ones_like(mask))
    change = faded(layer, canvas, feather).astype(int)[..., 0] - canvas.pixels[..., 0]
    assert (change[mask] == 100).all()
    expected = [round(40 * max(0, 1 - step / (feather + 1))) for step in range(1, 8)]
    assert change[20, 20:27].tolist() == expected


def test_there_is_nothing_to_paste_without_a_box_or_a_defect():
    rng, nothing = np.random.default_rng(0), replace(STREAK, own=STREAK.own & False)
    assert isinstance(paste(ground(80, 60), STREAK, (20, 20, 20, 30), STILL, 3, rng), Failed)
    assert isinstance(paste(ground(80, 60), nothing, (20, 20, 30, 30), STILL, 3, rng), Failed)


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    write_category()
    return tiny_params(raw_params)


def test_the_defect_is_the_one_that_the_placement_was_drawn_from(params: Params):
    real = read_real(CATEGORY)
    batch = [placement(0, box=(4, 4, 44, 44), like="dent-0"), placement(1, box=(4, 4, 44, 44), like="scratch-1")]
    [[dent, scratch]] = synthesize(params, STILL, real, Path("model"), [batch])
    sizes = [cv2.boundingRect(answer.mask.astype(np.uint8))[2:] for answer in (dent, scratch)]
    assert sizes[0][0] == pytest.approx(sizes[0][1], abs=1), "as wide as high, as the real one"
    assert sizes[1][1] > 3 * sizes[1][0]
    assert dent.notes.keys() == {"angle", "scale", "flipped_across", "flipped_down", "centre", "feather"}
    assert dent.image.mean() > read_image(Path(real.samples["good-0"].image)).mean()


def test_a_placement_after_a_defect_that_is_not_there_is_refused(params: Params):
    with pytest.raises(UserError, match="defect 3 of dent-0 is not in the train part"):
        list(
            synthesize(params, STILL, read_real(CATEGORY), Path("model"), [[placement(0, like="dent-0", component=3)]])
        )
