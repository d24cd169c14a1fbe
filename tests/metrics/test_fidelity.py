"""Likeness of synthetic and real defects: near where they are alike, far where not, and copies are found out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.images import png_bytes, read_image
from lib.core.records import Synthetic, write_records
from lib.generators import read_real
from lib.metrics import fidelity
from lib.metrics.fidelity import (
    ACCEPTED,
    REJECTED,
    Comparison,
    describe,
    diversity,
    kernel_distance,
    memorised_share,
    nearest,
    same_placements,
    usual_gap,
)
from lib.vision.backbones import DEFAULT, load_backbone
from stages import fidelity as stage
from tests.category import CATEGORY, tiny_params, write_category

RNG_SHAPE = (60, 24)


def cloud(seed: int, centre: float = 0.0, spread: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, spread, RNG_SHAPE)


def test_two_halves_of_one_distribution_are_near_and_a_shifted_one_is_far():
    same = [kernel_distance(cloud(2 * seed), cloud(2 * seed + 1)) for seed in range(10)]
    shifted = [kernel_distance(cloud(2 * seed), cloud(2 * seed + 1, 0.2)) for seed in range(10)]
    assert abs(np.mean(same)) < 0.002 and min(shifted) > 10 * max(np.abs(same))


def test_the_kernel_distance_grows_with_the_shift():
    values = [kernel_distance(cloud(0), cloud(1, shift)) for shift in (0, 0.05, 0.1, 0.2)]
    assert values == sorted(values)


def test_the_kernel_distance_grows_as_samples_lose_their_spread():
    middle = cloud(1).mean(axis=0)
    values = [kernel_distance(cloud(0), middle + keeps * (cloud(1) - middle)) for keeps in (1, 0.7, 0.4, 0)]
    assert values == sorted(values) and values[-1] > 0.3


def test_the_kernel_distance_is_the_formula_written_out():
    real, made = cloud(0)[:3], cloud(1)[:4]
    scale = sorted(float(np.linalg.norm(real[i] - real[j])) for i, j in ((0, 1), (0, 2), (1, 2)))[1]

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-np.linalg.norm(a - b) / scale))

    expected = (
        sum(k(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j) / 6
        + sum(k(a, b) for i, a in enumerate(made) for j, b in enumerate(made) if i != j) / 12
        - 2 * sum(k(a, b) for a in real for b in made) / 12
    )
    assert kernel_distance(real, made) == pytest.approx(expected)


def test_where_real_ones_are_all_equal_there_is_no_kernel_distance():
    assert np.isnan(kernel_distance(np.ones((5, 3)), cloud(0)[:, :3]))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_have_no_score(count: int):
    few = cloud(0)[:count]
    assert np.isnan([kernel_distance(cloud(1), few), kernel_distance(few, cloud(1)), diversity(few)]).all()
    assert np.isnan(share_of_copies(cloud(1), few))
    assert np.isnan(share_of_copies(few[:0], cloud(1)))


def test_diversity_is_the_mean_distance_of_two_different_samples():
    assert diversity(np.array([[0.0, 0], [3, 4], [0, 0]])) == pytest.approx((5 + 5 + 0) / 3)
    assert diversity(np.ones((4, 3))) == 0


def test_the_nearest_reference_is_found_with_its_distance():
    index, distance = nearest(np.array([[0.0], [9.0]]), np.array([[10.0], [1.0], [4.0]]))
    assert index.tolist() == [1, 0] and distance.tolist() == [1, 1]


def share_of_copies(made: np.ndarray, train: np.ndarray, pictures: list[str] | None = None) -> float:
    """`memorised_share` of defects of one type, each in a picture of its own where no others are given."""
    return memorised_share(made, train, pictures or [str(n) for n in range(len(train))], ["dent"] * len(train))


def test_copies_are_memorised_and_far_samples_are_not():
    train = cloud(0)
    assert share_of_copies(train + 1e-6, train) == 1
    assert share_of_copies(train + 5, train) == 0
    assert share_of_copies(np.concatenate([train[:30], train[:30] + 5]), train) == 0.5


def test_a_near_copy_is_memorised_and_a_held_out_defect_is_not():
    train = cloud(0)
    nearly = train + np.random.default_rng(2).normal(0, 0.03, RNG_SHAPE)  # a third of the spread of real ones
    assert share_of_copies(nearly, train) == 1
    assert [share_of_copies(cloud(seed), train) for seed in range(1, 6)] == [0] * 5


def test_two_boxes_with_nearly_one_window_do_not_hide_copies():
    train = np.concatenate([cloud(0), cloud(0)[:1] + 1e-9])
    nearly = cloud(0) + 0.01
    for of_last in ("0", "60"):  # in the picture of the first one, and in another that shows the same
        pictures = [*(str(number) for number in range(60)), of_last]
        assert share_of_copies(nearly, train, pictures) == 1
        assert share_of_copies(cloud(1), train, pictures) == 0


def test_the_usual_gap_is_that_of_one_type_in_two_pictures():
    places = np.array([[0.0], [1.0], [3.0], [100.0], [106.0], [900.0]])
    pictures, types = ["a", "a", "b", "c", "d", "e"], ["dent"] * 3 + ["crack"] * 2 + ["hole"]
    assert usual_gap(places, pictures, types) == np.median([3, 2, 2, 6, 6]), "the only hole has no gap"
    assert np.isnan(usual_gap(places[:2], pictures[:2], types[:2])), "one picture"
    assert np.isnan(usual_gap(places[2:4], pictures[2:4], types[2:4])), "no two of one type"


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(DEFAULT)


def test_a_description_knows_colour_texture_and_shape_apart(backbone):
    rng = np.random.default_rng(0)
    plain = np.full((40, 40, 3), 120, np.uint8)
    red, edge = plain.copy(), plain.copy()
    red[..., 0], edge[:, 20:] = 200, 160
    grain = rng.integers(100, 140, (40, 40, 3)).astype(np.uint8)
    vectors = describe([plain, red, edge, grain], backbone)
    fainter = describe([plain + 2, red + 2, edge + 2, grain + 2], backbone)
    assert nearest(fainter, vectors)[0].tolist() == [0, 1, 2, 3]
    assert nearest(fainter, vectors)[1].max() < diversity(vectors) / 4


@pytest.mark.parametrize("side", [1, 5, 64, 130])
def test_windows_of_any_size_are_described_and_the_same_alone_as_among_others(backbone, side: int):
    rng = np.random.default_rng(0)
    window, other = (rng.integers(0, 256, (s, s, 3), dtype=np.uint8) for s in (side, 77))
    alone, both = describe([window], backbone), describe([window, other], backbone)
    assert alone.shape == (1, 2 * (24 + 40 + 112)) and np.isfinite(both).all()
    np.testing.assert_allclose(alone[0], both[0], atol=1e-5)


def test_each_level_counts_alike_whatever_the_size_of_its_features(backbone):
    vector = describe([np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)], backbone)[0]
    levels = np.split(vector, np.cumsum([2 * 24, 2 * 40]))
    np.testing.assert_allclose([np.square(level).sum() for level in levels], 1, rtol=1e-5)


def smudges(count: int, seed: int) -> list[np.ndarray]:
    """Windows with a dark bar or spot each, of any size and place, on a fine grain."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(count):
        window = rng.integers(120, 136, (48, 48, 3), dtype=np.uint8)
        x, y, wide, high = rng.integers((6, 6, 3, 3), (26, 26, 20, 20))
        window[y : y + high, x : x + wide] -= np.uint8(rng.integers(20, 100))
        windows.append(window)
    return windows


def test_copies_of_one_defect_or_of_the_average_one_are_farther_than_a_hold_out(backbone):
    train, held_out = (describe(smudges(24, seed), backbone) for seed in (0, 1))
    near = abs(kernel_distance(train, held_out))
    assert near < 0.05
    for one in (train.mean(axis=0), train[0]):
        assert kernel_distance(train, np.repeat(one[None], 48, axis=0)) > max(0.3, 5 * near)


@pytest.mark.parametrize("block", [1, 7, 60])
def test_blocks_of_any_size_give_the_same_scores(monkeypatch, block: int):
    whole = kernel_distance(cloud(0), cloud(1)[:41]), diversity(cloud(0)), nearest(cloud(0), cloud(1))
    monkeypatch.setattr(fidelity, "BLOCK", block)
    assert kernel_distance(cloud(0), cloud(1)[:41]) == pytest.approx(whole[0], abs=1e-9)
    assert diversity(cloud(0)) == pytest.approx(whole[1])
    assert share_of_copies(cloud(0)[:20], cloud(0)) == 1
    for got, expected in zip(nearest(cloud(0), cloud(1)), whole[2], strict=True):
        np.testing.assert_allclose(got, expected)


@pytest.fixture
def category(inside: Path, raw_params: dict):
    write_category()
    real = read_real(CATEGORY)
    copies = [
        Synthetic(
            placement=f"p{number}",
            category=CATEGORY,
            defect_type=box.defect_type,
            normal="good-0",
            box=box.box,
            like=box.sample,
            component=box.component,
            generator="perlin",
            model="perlin",
            prompt="",
            seed=number,
            knobs={},
            image=real.samples[box.sample].image,
            sha256="ab",
            scores={"fill": 0.1, "area": box.area / 2},
            accepted=True,
        )
        for number, box in enumerate(real.boxes)
    ]
    # Wide enough that a window without the defect is no near copy of one with it.
    return real, copies, tiny_params(raw_params).window.model_copy(update={"context": 2.0})


def test_a_category_is_compared_with_finite_scores_and_a_sheet(category, backbone):
    real, copies, window = category
    others = [replace(item, image=real.samples["good-0"].image) for item in copies]
    scores, sheet = Comparison(real.samples, real.boxes, window, backbone).of(others, 8)
    assert all(isinstance(value, float) and np.isfinite(value) for value in scores.values())
    assert scores["accepted"] == 3 and scores["mask_share_of_box"] == 0.5 and scores["mask_share_of_box_real"] == 1
    assert scores["memorised_share"] == 0
    again = Comparison(real.samples, real.boxes, window, backbone).of(others, 8)
    assert again[0] == scores and png_bytes(again[1]) == png_bytes(sheet)


def test_a_defect_fills_its_box_whatever_its_picture(category, backbone):
    real, copies, window = category
    own = [replace(item, normal=None) for item in copies]
    assert Comparison(real.samples, real.boxes, window, backbone).of(own, 1)[0]["mask_share_of_box"] == 0.5


def test_copies_in_a_category_are_found_out_and_shown_beside_their_originals(category, backbone):
    real, copies, window = category
    scores, sheet = Comparison(real.samples, real.boxes, window, backbone).of(copies, 3)
    assert scores["memorised_share"] == 1 and scores["diversity"] == scores["diversity_real"]
    left = [sheet[4:164, 4 + 328 * pair : 164 + 328 * pair] for pair in range(3)]
    right = [sheet[4:164, 168 + 328 * pair : 328 + 328 * pair] for pair in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_real_defects_are_described_once_however_many_generators_there_are(category, backbone, monkeypatch):
    real, copies, window = category
    read, described = [], []

    def reading(path: Path) -> np.ndarray:
        read.append(path)
        return read_image(path)

    def describing(windows, network):
        described.append(len(windows))
        return describe(windows, network)

    monkeypatch.setattr(fidelity, "read_image", reading)
    monkeypatch.setattr(fidelity, "describe", describing)
    comparison = Comparison(real.samples, real.boxes, window, backbone)
    others = [replace(item, image=real.samples["good-0"].image) for item in copies]
    results = [comparison.of(items, 8) for items in (others, copies, others)]
    assert described == [3] * 4, "the real ones, and those of each of three generators"
    assert len(read) == len(set(read)) == len({box.sample for box in real.boxes}) + 1, "each picture is decoded once"
    alone = Comparison(real.samples, real.boxes, window, backbone).of(others, 8)
    for scores, sheet in (results[0], results[2]):
        assert scores == alone[0] and np.array_equal(sheet, alone[1])


def test_the_stage_loads_the_network_once(category, raw_params: dict, monkeypatch):
    loads = []

    def load(name: str):
        loads.append(name)
        return load_backbone(name)

    monkeypatch.setattr(fidelity, "load_backbone", load)
    real, copies, _ = category
    raw = {**raw_params, "generators": ["perlin", "cutpaste"]}
    monkeypatch.setattr(stage, "load", lambda: tiny_params(raw))
    for generator in raw["generators"]:
        records = [replace(item, generator=generator, mask=real.samples[item.like].mask) for item in copies]
        write_records(Path(f"data/masks/{generator}/{CATEGORY}/manifest.jsonl"), records)
    stage.main()
    assert loads == [DEFAULT]
    scores = json.loads(Path("metrics/fidelity.json").read_text())
    assert scores["perlin"] == scores["cutpaste"] and scores["perlin"][CATEGORY]["accepted"] == 3


@pytest.mark.parametrize("count", [0, 1])
def test_little_to_compare_is_none_not_nan(category, backbone, count: int):
    real, copies, window = category
    scores, sheet = Comparison(real.samples, real.boxes, window, backbone).of(copies[:count], 8)
    assert scores["kernel_distance"] is None and scores["diversity"] is None and scores["accepted"] == count
    assert sheet.ndim == 3 and sheet.size


def test_only_pictures_of_the_train_part_are_read(category, backbone):
    real, copies, window = category
    assert not Path(f"data/prepared/{CATEGORY}/images/scratch-9.png").exists()
    assert read_image(Path(copies[0].image)).shape == (48, 48, 3)
    assert (
        len(real.boxes) == 3
        and Comparison(real.samples, real.boxes, window, backbone).of(copies, 1)[0]["accepted"] == 3
    )


def test_the_same_placements_stand_side_by_side_for_every_generator(category):
    real, copies, window = category
    masked = [
        replace(item, mask=real.samples[item.like].mask, accepted=number > 0) for number, item in enumerate(copies)
    ]
    failed = [replace(masked[0], image=None, mask=None), *(replace(item, normal=None) for item in masked[1:])]
    heads, rows = same_placements(real.samples, {"one": masked, "two": failed[:2]}, window, each=1)
    assert heads == ["good", "one", "two"]
    assert [name for name, _ in rows] == ["p2", "p0"], "one of each type, dent before scratch"
    (dent_good, dent, dent_two), (_, scratch, scratch_two) = (pictures for _, pictures in rows)
    assert dent_good.shape == dent.shape and not np.array_equal(dent_good, dent)
    assert dent_two is None and scratch_two is None, "never asked, and failed"
    accepted, rejected = ((view == colour).all(axis=2) for view, colour in ((dent, ACCEPTED), (scratch, REJECTED)))
    assert accepted.any() and rejected.any() and not (dent == REJECTED).all(axis=2).any()


def test_the_good_window_lies_where_the_placement_does_whoever_comes_first(category):
    """The box of a sample with its own background lies in its own picture."""
    real, copies, window = category
    elsewhere = [replace(item, normal=None, box=(0, 0, 9, 9)) for item in copies]
    sheets = [
        same_placements(real.samples, dict(answers), window, each=1)[1]
        for answers in ([("a", copies), ("b", elsewhere)], [("b", elsewhere), ("a", copies)])
    ]
    for (_, (good, *_)), (_, (other, *_)) in zip(*sheets, strict=True):
        assert good is not None and np.array_equal(good, other)


def test_shots_of_one_defect_do_not_tell_how_far_defects_are_apart(category, backbone):
    real, copies, window = category
    shots = {name: replace(sample, group="one part") for name, sample in real.samples.items()}
    assert Comparison(real.samples, real.boxes, window, backbone).of(copies, 2)[0]["memorised_share"] is not None
    assert Comparison(shots, real.boxes, window, backbone).of(copies, 2)[0]["memorised_share"] is None
