"""What a category's pictures show: parts on a ground, a part that fills them, or a texture."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.images import write_png
from lib.placement.scenes import scene_of
from tests.nuts import GROUNDS, KINDS, category, scene
from tests.toy import toy_category


def spindle(seed, pit_at=None):
    """A part that fills its picture (120, 200, 3), always the same: bands of brightness that slope; and its pit."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((120, 200), dtype=np.float32)
    across = y + 0.2 * x
    image = 120 + 60 * np.sin(across / 9) + 25 * np.sin(x / 40) + rng.normal(0, 4, y.shape)
    mask = np.zeros((120, 200), np.uint8)
    if pit_at is not None:
        cv2.circle(mask, pit_at, 5, 1, -1)
        image[mask > 0] = 20
    return np.clip(image, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2), mask > 0


def filled(folder, pits=((150, 40), (154, 41))):
    good = [spindle(seed)[0] for seed in range(8)]
    return category(folder, good, [spindle(20 + number, at) for number, at in enumerate(pits)], "pit")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_parts_on_a_plain_ground_are_seen(tmp_path, kind, ground):
    pictures = [scene(kind, GROUNDS[ground], seed)[0] for seed in range(3)]
    found = scene_of(*category(tmp_path, pictures, [scene(kind, GROUNDS[ground], 9, pit=True)[:2]], "pit"))
    number = {"one part": 1, "two parts": 2, "six parts": 6}.get(kind, 1)
    assert found.kind == "parts" and {len(found.view(good).parts) for good in found.goods} == {number}


def test_a_part_that_fills_its_pictures_is_no_texture(tmp_path):
    assert scene_of(*filled(tmp_path)).kind == "filled"


def test_a_texture_is_one(tmp_path):
    assert scene_of(*toy_category(tmp_path, texture=True)).kind == "texture"


def test_one_good_picture_does_not_tell_a_filled_one_from_a_texture(tmp_path):
    samples, boxes = filled(tmp_path)
    few = [sample for sample in samples if sample.defect_type != "good" or sample.id == "good-00"]
    assert scene_of(few, boxes).kind == "texture"


def test_objects_beside_which_real_defects_lie_are_none(tmp_path):
    pictures = [scene("one part", (30, 170), seed)[0] for seed in range(3)]
    stained = scene("one part", (30, 170), 9)[0]
    mask = np.zeros(stained.shape[:2], bool)
    mask[4:14, 4:18] = True
    stained[mask] = 0
    found = scene_of(*category(tmp_path, pictures, [(stained, mask)], "stain"))
    assert found.kind != "parts" and all(found.view(good).is_whole for good in found.goods)


def test_a_drawn_mask_of_the_object_counts_more_than_the_guess(tmp_path):
    samples, boxes = filled(tmp_path)
    where = np.zeros((120, 200), bool)
    where[20:70, 100:190] = True
    write_png(tmp_path / "drawn.png", where)
    samples = [replace(sample, foreground=(tmp_path / "drawn.png").as_posix()) for sample in samples]
    found = scene_of(samples, boxes)
    assert found.kind == "parts"
    view = found.view(samples[0])
    assert view.shares(np.array([[0, 0, 200, 120]]))[0] == pytest.approx(where.mean(), rel=0.02)
    assert len(view.parts) == 1


def test_a_place_knows_its_share_and_its_surroundings(tmp_path):
    samples, boxes = toy_category(tmp_path)
    found = scene_of(samples, boxes)
    chip = found.place(next(box for box in boxes if box.defect_type == "chip" and box.sample != "chip-val"))
    assert 0.25 < chip.share < 0.85
    values, known = chip.surroundings
    assert values.shape[:2] == known.shape and np.isfinite(values).all()


def test_only_the_train_part_is_seen(tmp_path):
    samples, boxes = toy_category(tmp_path)
    for sample in samples:
        if sample.split != "train":
            Path(sample.image).unlink()
    assert scene_of(samples, boxes).kind == "parts"


def test_a_train_part_without_pictures_is_refused(tmp_path):
    samples, boxes = toy_category(tmp_path)
    with pytest.raises(UserError, match="a good picture in the train part"):
        scene_of([sample for sample in samples if sample.defect_type != "good"], boxes)


def test_shares_of_boxes_are_those_of_the_mask(tmp_path):
    samples, boxes = toy_category(tmp_path)
    view = scene_of(samples, boxes).view(samples[0])
    disc = np.zeros((120, 160), np.uint8)
    cv2.circle(disc, (80, 60), 45, 1, -1)
    rng = np.random.default_rng(0)
    corner = np.stack([rng.integers(0, 130, 50), rng.integers(0, 95, 50)], axis=1)
    some = np.concatenate([corner, corner + rng.integers(8, 25, (50, 2))], axis=1)
    true = np.array([disc[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in some])
    assert np.abs(view.shares(some) - true).max() < 0.15
