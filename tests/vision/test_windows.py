"""Training windows: where they lie, what they show how often, and that labels follow pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import write_png
from lib.core.params import Detect
from lib.core.records import GOOD, RegionMap
from lib.detection import read_examples
from lib.vision import windows
from lib.vision.examples import Example
from lib.vision.windows import Pools, Source, batch_of, evenly_by_type, good_batch, good_window
from tests.blobs import BUDGET, blobs
from tests.mixed import mixed_sample


def budget(**changes) -> Detect:
    return BUDGET.model_copy(update=changes)


def shaded(examples, shade, synthetic=False, name="blob"):
    """The same masks on even pictures of one grey, which says in a window where it comes from."""
    return [Example(np.full_like(e.image, shade), e.mask, synthetic, name) for e in examples]


def test_every_arm_sees_as_many_defect_windows_and_synthetic_ones_in_their_share():
    real, good = shaded(blobs(4, 0, good=0), 40), blobs(2, 2)
    synthetic = shaded(blobs(9, 1, good=0), 220, synthetic=True)
    for examples, expected in ((real + good, 0), (real + synthetic + good, 4), (synthetic + good, 8)):
        batch = batch_of(Pools.of(examples), budget(batch_size=16), np.random.default_rng(0))
        images, masks = batch.images, batch.masks
        assert images.shape == (16, 32, 32, 3) and masks.shape == (16, 32, 32)
        assert masks[:8].any(axis=(1, 2)).all() and not masks[12:].any()
        assert (images[:8].mean(axis=(1, 2, 3)) > 140).sum() == expected


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_share_of_synthetic_windows_holds_on_average_in_batches_of_any_size(size, share):
    examples = [*shaded(blobs(3, 0, good=0), 0), *shaded(blobs(3, 1, good=0), 255, synthetic=True)]
    pools, params = Pools.of(examples), budget(batch_size=size, synthetic_share=share)
    batches = [batch_of(pools, params, np.random.default_rng(n))[0] for n in range(300)]
    assert np.mean([np.median(batch, axis=(1, 2, 3)) > 127 for batch in batches]) == pytest.approx(share, abs=0.07)


def test_a_type_with_few_synthetic_defects_gets_them_in_proportion_and_one_with_none_is_seen_on_real_ones():
    discs = blobs(4, 1, good=0)
    examples = [*shaded(discs, 50, name="crack"), *shaded(discs, 100, name="hole")]
    pools = Pools.of([*examples, *shaded(discs[:1], 250, synthetic=True, name="hole")])
    batches = [batch_of(pools, budget(), np.random.default_rng(n))[0] for n in range(400)]
    shades = np.median(np.concatenate(batches), axis=(1, 2, 3))
    assert np.mean(shades < 75) == pytest.approx(0.5, abs=0.05), "types take turns"
    assert np.mean(shades > 175) == pytest.approx(0.5 * 0.5 / 4, abs=0.02), "one of four real ones' number"


def test_a_window_around_a_defect_holds_a_pixel_of_it_in_its_central_half_where_the_picture_lets_it():
    mask = box_mask((100, 90, 101, 91), 200, 200)
    pools = Pools.of([Example(np.zeros((200, 200, 3), np.uint8), mask, False, "pit")])
    for n in range(50):
        masks = batch_of(pools, budget(batch_size=2), np.random.default_rng(n)).masks
        rows, columns = np.nonzero(masks[0])
        assert rows.size == 1 and 7 <= rows[0] <= 24 and 7 <= columns[0] <= 24


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_the_label_lies_over_the_defect_at_every_scale(scale):
    mask = box_mask((60, 70, 100, 90), 220, 200)
    image = np.where(mask[..., None], 230, 60).astype(np.uint8).repeat(3, axis=2)
    pools = Pools.of([Example(image, mask, False, "stain")])
    for n in range(10):
        batch = batch_of(pools, budget(scale=scale), np.random.default_rng(n))
        images, masks = batch.images, batch.masks
        bright = images.mean(axis=3) > 140
        assert (bright != masks).mean() < 0.02 and masks[:2].any(axis=(1, 2)).all()
        assert masks[:2].sum(axis=(1, 2)).max() <= 1.3 * mask.sum() * scale**2


def test_a_mask_keeps_lines_that_are_thinner_than_a_pixel_after_scaling():
    mask = np.zeros((64, 64), bool)
    mask[:, 31] = True
    pools = Pools.of([Example(np.zeros((64, 64, 3), np.uint8), mask, False, "scratch")])
    masks = batch_of(pools, budget(scale=0.5), np.random.default_rng(0)).masks
    along = masks.any(axis=1).all(axis=1) | masks.any(axis=2).all(axis=1)
    assert along.all()


def test_a_defect_of_any_size_is_remembered_by_few_pixels_evenly_taken(monkeypatch):
    monkeypatch.setattr(windows, "MOST_PIXELS", 100)
    mask = box_mask((10, 20, 90, 60), 100, 100)
    (source,) = Source.of(Example(np.zeros((100, 100, 3), np.uint8), mask, False, "stain"))
    pixels = source.pixels
    assert 50 < pixels.size <= 100 and mask.ravel()[pixels].all()
    assert np.unravel_index(pixels, mask.shape)[0].mean() == pytest.approx(39.5, abs=1)


def test_masks_are_searched_for_defects_once_and_not_for_every_window(monkeypatch):
    pools = Pools.of(blobs(4, 0))
    monkeypatch.setattr(np, "flatnonzero", None)
    batch_of(pools, budget(), np.random.default_rng(0))


def test_an_empty_mask_teaches_nothing_and_without_any_defect_it_says_so():
    empty = Example(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), bool), True, "blob")
    pools = Pools.of([*blobs(3, 0), empty])
    assert [len(pools.good), [len(p) for p in pools.real], [len(p) for p in pools.synthetic]] == [2, [1], [0]]
    with pytest.raises(UserError, match="no defect to learn from"):
        Pools.of([*blobs(2, 0, good=2), empty])


def test_a_validation_of_many_pictures_looks_at_a_few_of_each_type():
    good, blob, ring = blobs(30, 0, side=16, good=30), blobs(5, 1, side=16, good=0), blobs(2, 2, side=16, good=0)
    ring = [Example(e.image, e.mask, False, "ring") for e in ring]
    few = evenly_by_type([*good, *blob, *ring], 10)
    assert [sum(e.defect_type == name for e in few) for name in (GOOD, "blob", "ring")] == [4, 4, 2]


def test_windows_of_good_pictures_tell_whose_they_are_and_half_of_them_are_mirrored():
    slope = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (64, 64, 3))
    examples = [Example(slope + np.uint8(30 * n), None, False, GOOD) for n in range(5)]
    images, numbers = good_batch(examples, budget(batch_size=200), np.random.default_rng(0))
    assert images.shape == (200, 32, 32, 3) and sorted(set(numbers)) == [0, 1, 2, 3, 4]
    assert all(
        (image.min() >= 30 * n) and (image.max() < 64 + 30 * n) for image, n in zip(images, numbers, strict=True)
    )
    mirrored = images[:, 0, 0, 0] > images[:, 0, -1, 0]
    assert 0.4 < mirrored.mean() < 0.6
    again, _ = good_batch(examples, budget(batch_size=200), np.random.default_rng(0))
    assert np.array_equal(again, images)


def test_a_window_and_its_clean_twin_differ_inside_of_the_mask_alone():
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = box_mask((20, 20, 40, 40), 64, 64)
    picture = np.where(mask[..., None], 255 - clean, clean)
    known = Example(picture, mask, True, "blob", twin=clean)
    unknown = Example(picture, mask, False, "blob")
    good = Example(clean, None, False, GOOD)
    for scale in (1.0, 0.5):
        for examples, knows in (([known, good], True), ([unknown, good], False)):
            batch = batch_of(Pools.of(examples), budget(batch_size=8, scale=scale), rng, twins=True)
            differs = (batch.images != batch.clean).any(axis=3)
            is_good = ~batch.masks.any(axis=(1, 2))
            assert batch.known[is_good].all() or not knows
            assert (batch.known[:4] == knows).all(), "the first half lies around defects"
            if scale == 1:
                assert not differs[~batch.masks].any()
            assert differs.any() == knows
    plain = batch_of(Pools.of([known, good]), budget(), rng)
    assert np.array_equal(plain.clean, plain.images), "nobody asked for twins"


def test_twins_change_no_window():
    pools = Pools.of([*blobs(4, 0), *blobs(4, 1, synthetic=True)])
    plain, twins = (batch_of(pools, budget(), np.random.default_rng(5), twins) for twins in (False, True))
    np.testing.assert_array_equal(plain.images, twins.images)
    np.testing.assert_array_equal(plain.masks, twins.masks)


def test_a_good_window_carries_what_of_it_is_ground():
    picture = np.full((96, 96, 3), 20, np.uint8)
    ground = box_mask((30, 10, 80, 60), 96, 96)
    picture[ground] = 220
    example = Example(picture, None, False, GOOD)
    seen = [good_window(example, ground, budget(), np.random.default_rng(n)) for n in range(40)]
    for window, there, counting in seen:
        np.testing.assert_array_equal(there, window.mean(axis=2) > 120)
        assert counting.all()
    assert any(there.any() for _, there, _ in seen) and any(not there.all() for _, there, _ in seen)
    window, everywhere, _ = good_window(example, None, budget(), np.random.default_rng(0))
    assert window.shape == (32, 32, 3) and everywhere.all()
    empty = np.zeros((96, 96), bool)
    assert not good_window(example, empty, budget(), np.random.default_rng(0))[1].any()


def test_a_type_whose_defects_no_pixel_shows_is_none_of_a_windows(tmp_path):
    """Another type may lie over it, or all of it where pixels never count."""
    sample = mixed_sample(tmp_path)
    hidden = replace(sample.type_map, types=("dent", "scratch", "hidden"), sha256="another map")
    pools = Pools.of(read_examples([replace(sample, type_map=hidden)], {}))
    assert pools.types == ["dent", "scratch"]
    labels = batch_of(pools, BUDGET, np.random.default_rng(0), types=pools.types).labels
    assert set(np.unique(labels)) == {0, 1, 2}


class Product(np.ndarray):
    """A mask that only a window's share of may be worked on."""

    def __and__(self, other):
        assert self.shape == (BUDGET.window, BUDGET.window), "the whole picture, for every window"
        return np.asarray(self) & other


def test_what_counts_is_worked_out_for_the_window_alone(tmp_path: Path):
    colours = np.full((200, 300, 3), 255, np.uint8)
    colours[:, :100] = (255, 0, 0)
    regions = RegionMap((tmp_path / "regions.png").as_posix(), write_png(tmp_path / "regions.png", colours))
    example = Example(np.full((200, 300, 3), 200, np.uint8), None, False, GOOD, regions=regions)
    ground = np.ones((200, 300), bool).view(Product)
    seen = [good_window(example, ground, BUDGET, np.random.default_rng(n)) for n in range(30)]
    assert all((product == counts).all() for _, product, counts in seen)
    shares = [counts.mean() for _, _, counts in seen]
    assert 0 < min(shares) < 1 == max(shares)


def test_a_single_window_shows_a_defect():
    """Of a batch that is shared with pseudo anomalies, one window may be left for the arm's defects."""
    pools = Pools.of(blobs(4, 0))
    assert all(batch_of(pools, budget(batch_size=1), np.random.default_rng(n)).masks.any() for n in range(20))
