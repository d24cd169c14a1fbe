"""Placements: where new defects go, and which real defect each is drawn from."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.images import read_image, write_png
from lib.core.records import Sample, by_id
from lib.language import location_of
from lib.placement.foreground import foreground_mask
from lib.placement.random_boxes import place_boxes
from lib.placement.scenes import scene_of
from tests.nuts import GROUNDS, KINDS, category, nut, scene, screw
from tests.placement.test_scenes import filled
from tests.toy import toy_category


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_category(tmp_path_factory.mktemp("toy"))


def test_the_same_seed_gives_the_same_list_and_another_seed_another(toy):
    assert place_boxes(*toy, 6, 0.15, seed=3) == place_boxes(*toy, 6, 0.15, seed=3)
    assert place_boxes(*toy, 6, 0.15, seed=3) != place_boxes(*toy, 6, 0.15, seed=4)


def test_more_placements_extend_the_list_of_each_type_without_changing_it(toy):
    few, many = ({p.id: p for p in place_boxes(*toy, number, 0.15, seed=0)} for number in (4, 11))
    assert len(few) == 8 and len(many) == 22
    assert all(many[name] == placement for name, placement in few.items())


def test_the_order_of_the_records_does_not_matter(toy):
    samples, boxes = toy
    assert place_boxes(samples[::-1], boxes[::-1], 5, 0.15, 0) == place_boxes(samples, boxes, 5, 0.15, 0)


def test_good_pictures_of_the_train_part_are_used_equally(toy):
    placements = place_boxes(*toy, 10, 0.15, 0)
    for defect_type in ("chip", "scratch"):
        normals = [p.normal for p in placements if p.defect_type == defect_type]
        assert {name: normals.count(name) for name in normals} == {f"good-{k}": 2 for k in range(5)}


def test_every_placement_says_where_its_own_box_lies_and_has_its_own_seed(toy):
    placements = place_boxes(*toy, 12, 0.15, 0)
    for placement in placements:
        assert placement.location == location_of(placement.box, 160, 120)
        assert placement.location in placement.prompt
    assert len({p.seed for p in placements}) == len({p.id for p in placements}) == 24
    assert placements[0].id == "toy-chip-00000"


def shares(placements, samples):
    sample_of = by_id(samples)
    values = {}
    for placement in placements:
        x0, y0, x1, y1 = placement.box
        foreground = foreground_mask(read_image(Path(sample_of[placement.normal].image)))
        values.setdefault(placement.defect_type, []).append(foreground[y0:y1, x0:x1].mean())
    return values


def test_placements_lie_on_the_object_as_much_as_the_real_defects_do(toy):
    values = shares(place_boxes(*toy, 15, 0.15, 0), toy[0])
    assert min(values["scratch"]) >= 0.89
    assert min(values["chip"]) > 0.25 and max(values["chip"]) < 0.85  # at the edge: neither beside nor inside


def test_the_ground_beside_parts_stays_as_it_is_unless_defects_stick_out(toy, tmp_path):
    assert {p.on_part for p in place_boxes(*toy, 2, 0.15, 0)} == {True}
    assert {p.on_part for p in place_boxes(*toy, 2, 0.15, 0, on_part=False)} == {False}
    texture = toy_category(tmp_path, texture=True)
    assert {p.on_part for p in place_boxes(*texture, 2, 0.15, 0)} == {False}, "there is no ground"


def test_without_jitter_sizes_are_those_of_the_train_part(toy):
    sizes = {(p.box[2] - p.box[0], p.box[3] - p.box[1]) for p in place_boxes(*toy, 20, 0.0, 0)}
    train = {(b.box[2] - b.box[0], b.box[3] - b.box[1]) for b in toy[1] if not b.sample.endswith("val")}
    assert sizes == train


def test_on_a_texture_defects_can_be_anywhere(tmp_path):
    placements = place_boxes(*toy_category(tmp_path, texture=True), 60, 0.15, 0)
    assert len({p.location for p in placements if p.defect_type == "scratch"}) == 9


@pytest.mark.parametrize("texture", [True, False])
@pytest.mark.parametrize("size", [(20, 11), (3, 400), (1, 1)])
def test_boxes_fit_into_good_pictures_of_any_size(tmp_path, texture, size):
    samples, boxes = toy_category(tmp_path, texture)
    good = Path(samples[0].image).with_name("tiny.png")
    write_png(good, np.full((size[1], size[0], 3), 90, np.uint8))
    tiny = Sample("tiny", "toy", "good", good.as_posix(), None, "tiny", "train", size, "tiny")
    rest = [s for s in samples if s.defect_type != "good"]
    for placement in place_boxes([tiny, *rest], boxes, 20, 0.8, 0):
        x0, y0, x1, y1 = placement.box
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]


def test_a_train_part_without_good_pictures_or_boxes_is_refused(toy):
    samples, boxes = toy
    with pytest.raises(UserError, match="a good picture in the train part"):
        place_boxes([s for s in samples if s.defect_type != "good"], boxes, 2, 0.1, 0)
    with pytest.raises(UserError, match="a box of a real defect in the train part"):
        place_boxes(samples, [b for b in boxes if b.sample == "scratch-val"], 2, 0.1, 0)


def test_a_placement_names_the_real_defect_that_it_is_drawn_from(toy):
    samples, boxes = toy
    sides = {
        (box.sample, box.component): (box.defect_type, box.box[2] - box.box[0], box.box[3] - box.box[1])
        for box in boxes
    }
    placements = place_boxes(samples, boxes, 20, 0.0, 0)
    for placement in placements:
        x0, y0, x1, y1 = placement.box
        assert sides[placement.like, placement.component] == (placement.defect_type, x1 - x0, y1 - y0)
    assert {placement.like for placement in placements} == {"scratch-0", "scratch-1", "chip-0", "chip-1"}


def test_placements_stay_where_they_were(toy):
    boxes = [placement.box for placement in place_boxes(*toy, 3, 0.15, 0)]
    chips = [(29, 66, 50, 82), (80, 6, 106, 29), (113, 61, 135, 80)]
    scratches = [(57, 54, 73, 65), (57, 55, 66, 74), (64, 33, 76, 55)]
    assert boxes == chips + scratches, "other random numbers would move every synthetic defect"


def middle(box):
    return np.array([box[0] + box[2], box[1] + box[3]]) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_next_to_no_placement_lies_off_the_parts(tmp_path, kind, ground):
    good = [scene(kind, GROUNDS[ground], seed) for seed in range(6)]
    pits = [scene(kind, GROUNDS[ground], 100 + seed, pit=True)[:2] for seed in range(3)]
    placements = place_boxes(*category(tmp_path, [one[0] for one in good], pits, "pit"), 50, 0.15, 0)
    share = []
    for placement in placements:
        x0, y0, x1, y1 = placement.box
        share.append(good[int(placement.normal[-2:])][2][y0:y1, x0:x1].mean())
    assert np.mean(np.array(share) < 0.1) <= 0.02


def test_on_a_profile_from_border_to_border_the_place_along_it_is_free(tmp_path):
    kind = "profile from border to border"
    good = [scene(kind, (30, 170), seed)[0] for seed in range(4)]
    pits = [scene(kind, (30, 170), 100, pit=True)[:2]]
    rows = [middle(one.box)[1] for one in place_boxes(*category(tmp_path, good, pits, "pit"), 60, 0.15, 0)]
    assert min(rows) < 40 and max(rows) > 120


def corners(folder, marked, real=2):
    """At which of the six corners of turned nuts the placements of a chip lie, counted from the real one's."""
    angles = np.random.default_rng(1).uniform(0, 360, 12 + real)
    good = [nut(angle, 100 + number, marked=marked) for number, angle in enumerate(angles[:12])]
    chipped = [nut(angle, number, chip=True, marked=marked)[:2] for number, angle in enumerate(angles[12:])]
    found = []
    for placement in place_boxes(*category(folder, [one[0] for one in good], chipped, "chip"), 100, 0.15, 0):
        centre, turn = good[int(placement.normal[-2:])][2]
        x, y = middle(placement.box) - centre
        found.append(round((np.arctan2(y, x) - turn) / (np.pi / 3)) % 6)
    return np.bincount(found, minlength=6)


def test_on_turned_parts_a_defect_keeps_to_the_corner_that_a_mark_tells_from_the_others(tmp_path):
    assert corners(tmp_path, marked=True)[0] >= 95


def test_on_small_slender_parts_turned_any_way_a_defect_keeps_to_its_end(tmp_path):
    angles = np.random.default_rng(2).uniform(0, 360, 11)
    good = [screw(angle, 100 + number) for number, angle in enumerate(angles[:8])]
    chipped = [screw(angle, number, chip=True)[:2] for number, angle in enumerate(angles[8:])]
    off, along = [], []
    for placement in place_boxes(*category(tmp_path, [one[0] for one in good], chipped, "chip"), 80, 0.15, 0):
        _, _, (centre, turn), where = good[int(placement.normal[-2:])]
        x0, y0, x1, y1 = placement.box
        off.append(where[y0:y1, x0:x1].mean() < 0.1)
        along.append((middle(placement.box) - centre) @ [np.cos(turn), np.sin(turn)])
    assert np.mean(where) < 0.06 and np.mean(off) <= 0.02
    assert np.mean(np.array(along) > 20) >= 0.95


def test_where_nothing_tells_the_corners_of_turned_parts_apart_all_are_alike(tmp_path):
    assert corners(tmp_path, marked=False).min() >= 5


def test_on_a_part_that_fills_its_pictures_placements_lie_where_it_looks_as_around_the_real_ones(tmp_path):
    placements = place_boxes(*filled(tmp_path), 100, 0.15, 0)
    # The bands are 9 * 2 pi px apart along y + 0.2 x; the real pits lie at 70 to 72.
    across = np.array([middle(one.box) @ [0.2, 1] for one in placements])
    assert np.mean(np.abs(across - 71) < 9) >= 0.9
    assert np.std([middle(one.box)[0] for one in placements]) > 10, "they vary along the band"


def test_on_a_texture_defects_of_the_border_stay_there(tmp_path):
    rng = np.random.default_rng(0)

    def plate(broken):
        image = rng.normal(120, 20, (120, 160, 1))
        mask = np.zeros((120, 160), np.uint8)
        if broken:
            cv2.ellipse(mask, (int(rng.integers(30, 130)), 0), (12, 7), 0, 0, 360, 1, -1)
            image[mask > 0] = 10
        return np.clip(image, 0, 255).astype(np.uint8).repeat(3, axis=2), mask > 0

    good = [plate(False)[0] for _ in range(4)]
    samples, boxes = category(tmp_path, good, [plate(True) for _ in range(3)], "break")
    assert scene_of(samples, boxes).kind == "texture"
    assert {box.borders for box in boxes} == {("top",)}
    placements = place_boxes(samples, boxes, 40, 0.15, 0)
    assert {placement.box[1] for placement in placements} == {0}
    assert np.std([middle(placement.box)[0] for placement in placements]) > 20, "anywhere along it"
    inside = [replace(box, borders=()) for box in boxes]  # near the border, as far as anyone knows
    tops = np.array([placement.box[1] for placement in place_boxes(samples, inside, 40, 0.15, 0)])
    assert 0.7 < np.mean(tops < 4) < 1


def test_a_band_across_its_picture_lies_across_others_of_any_width(tmp_path):
    rng = np.random.default_rng(1)

    def plate(width, band):
        image, mask = rng.normal(120, 20, (120, width, 1)), np.zeros((120, width), bool)
        mask[90:] = band
        image[mask] += 60
        return np.clip(image, 0, 255).astype(np.uint8).repeat(3, axis=2), mask

    samples, boxes = category(tmp_path, [plate(w, False)[0] for w in (90, 160, 240)], [plate(150, True)], "uneven")
    widths = {sample.id: sample.size[0] for sample in samples}
    for placement in place_boxes(samples, boxes, 30, 0.3, 0):
        x0, y0, x1, y1 = placement.box
        assert (x0, x1, y1) == (0, widths[placement.normal], 120) and 30 < y0 < 110


def test_parts_have_borders_of_their_own(toy):
    """Where a part lies is told in its own frame, not by the picture's border."""
    samples, boxes = toy
    bordered = [replace(box, borders=("left",)) for box in boxes]
    assert place_boxes(samples, bordered, 6, 0.15, 0) == place_boxes(samples, boxes, 6, 0.15, 0)


def test_a_scene_at_hand_changes_nothing(toy):
    assert place_boxes(*toy, 4, 0.15, 0, scene_of(*toy)) == place_boxes(*toy, 4, 0.15, 0)
