"""Ranking metrics: by hand, against scikit-learn, and against a brute-force AUPRO."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from lib.metrics.ranking import Ranking, average_precision, defect_pixels, rank, rank_pixels


def auroc(scores, labels):
    return rank(scores, labels).auroc()


def f1_max(scores, labels):
    return rank(scores, labels).f1_max()


def streamed(maps, masks):
    """The ranking of all pixels, whose pictures come one by one, twice."""
    ranking = rank_pixels([defect_pixels(scores, mask) for scores, mask in zip(maps, masks, strict=True)])
    for scores, mask in zip(maps, masks, strict=True):
        ranking.count(scores[~mask.astype(bool)])
    return ranking


def aupro(maps, masks, fpr_limit=0.3):
    return streamed(maps, masks).aupro(fpr_limit)


def all_metrics(ranking):
    return [ranking.auroc(), ranking.average_precision(), *ranking.f1_max(), ranking.aupro()]


def brute_aupro(maps, masks, limit):
    """Evaluate every distinct threshold, join the points by straight lines, cut at the limit."""
    eight = np.ones((3, 3))
    regions = []  # (picture, (H, W) bool)
    for i, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=eight)
        regions += [(i, labels == k) for k in range(1, count + 1)]
    negatives = sum(int((~mask).sum()) for mask in masks)
    x, y = [0.0], [0.0]
    for t in sorted({v for m in maps for v in m.ravel().tolist()}, reverse=True):
        x.append(sum(int(((m >= t) & ~mask).sum()) for m, mask in zip(maps, masks, strict=True)) / negatives)
        y.append(float(np.mean([(maps[i][region] >= t).mean() for i, region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        if x1 > limit:
            if x0 < limit:
                at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + at_limit) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def sklearn_f1_max(scores, labels):
    precision, recall, _ = precision_recall_curve(labels, scores)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))


def random_pictures(rng, sizes, levels, dtype=np.float32):
    """Maps that correlate with blocky masks; `levels` distinct scores (0 for no ties); one good picture."""
    maps, masks = [], []
    for i, (height, width) in enumerate(sizes):
        mask = rng.random((height, width)) < (0.0 if i == 1 else 0.2)
        scores = rng.normal(size=(height, width)) + mask
        maps.append((np.round(scores * levels) / levels if levels else scores).astype(dtype))
        masks.append(mask)
    masks[0][0, 0], masks[0][-1, -1] = True, False
    return maps, masks


@st.composite
def scored_labels(draw):
    """Scores and labels with both classes; few distinct values, so that ties are common, or many."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    value = draw(st.sampled_from([st.integers(-3, 3), st.floats(-1e6, 1e6, width=32)]))
    scores = draw(st.lists(value, min_size=2, max_size=60))
    labels = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    labels[0], labels[-1] = True, False
    return np.array(scores, dtype), np.array(labels)


# By hand, one 2 x 2 picture: the defect is the left column.
SCORES = np.array([[0.9, 0.8], [0.4, 0.1]], np.float32)
MASK = np.array([[True, False], [True, False]])


def test_golden_values_of_one_picture():
    # Of the 4 (defect, normal) pairs only (0.4, 0.8) is in the wrong order.
    assert auroc(SCORES.ravel(), MASK.ravel()) == 0.75
    # Precision 1 at 0.9 and 2/3 at 0.4, each for half of the recall.
    assert average_precision(SCORES.ravel(), MASK.ravel()) == pytest.approx(5 / 6, abs=1e-15)
    # At 0.4: two hits, one false alarm.
    best, threshold = f1_max(SCORES.ravel(), MASK.ravel())
    assert best == pytest.approx(0.8, abs=1e-15) and threshold == np.float32(0.4)


def test_of_equal_f1_the_highest_threshold_wins():
    # 2/3 both with the first alone and with all four.
    assert f1_max([4.0, 3.0, 2.0, 1.0], [1, 0, 0, 1]) == (pytest.approx(2 / 3, abs=1e-15), 4.0)


def test_golden_aupro_of_one_picture():
    # Curve (0, 0) (0, .5) (.5, .5) (.5, 1) (1, 1).
    assert aupro([SCORES], [MASK], fpr_limit=0.3) == pytest.approx(0.5, abs=1e-15)
    assert aupro([SCORES], [MASK], fpr_limit=1.0) == pytest.approx(0.75, abs=1e-15)


def test_golden_aupro_interpolates_inside_a_tie():
    # One step (0, 0) -> (1/2, 1): the defect and one of two normals share a score. At 0.3 the curve is 0.6.
    maps, masks = [np.array([[1.0, 1.0, 0.0]])], [np.array([[True, False, False]])]
    assert aupro(maps, masks, fpr_limit=0.3) == pytest.approx(0.3, abs=1e-15)
    assert aupro(maps, masks, fpr_limit=1.0) == pytest.approx(0.75, abs=1e-15)


def test_every_region_weighs_the_same_whatever_its_size():
    # A 1-pixel region found at once, a 4-pixel region never found before the normals.
    scores = np.array([[9.0, 5.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0]])
    mask = np.array([[1, 0, 1, 1], [0, 0, 1, 1]], bool)
    assert aupro([scores], [mask], fpr_limit=0.5) == pytest.approx(0.5, abs=1e-15)


def test_pixels_touching_at_a_corner_are_one_region():
    # One diagonal pair and one single pixel: two regions (8-connected), not three.
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1]], bool)
    scores = np.where(mask, 0.0, 1.0)
    scores[1, 3] = 2.0
    assert aupro([scores], [mask]) == pytest.approx(1 / 2, abs=1e-15)


@settings(max_examples=150)
@given(scored_labels())
def test_equal_to_sklearn_with_and_without_ties(case):
    scores, labels = case
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best, threshold = f1_max(scores, labels)
    assert best == pytest.approx(sklearn_f1_max(scores, labels), abs=1e-12)
    assert f1_score(labels, scores >= threshold) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("levels", [0, 4])
def test_equal_to_sklearn_on_many_scores(levels):
    rng = np.random.default_rng(0)
    labels = rng.random(100_000) < 0.02
    scores = (rng.normal(size=labels.size) + labels).astype(np.float32)
    if levels:
        scores = np.round(scores * levels)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert f1_max(scores, labels)[0] == pytest.approx(sklearn_f1_max(scores, labels), abs=1e-12)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(2, 7), st.integers(2, 7)), min_size=1, max_size=4),
    levels=st.sampled_from([0, 1, 3]),
    limit=st.sampled_from([0.01, 0.05, 0.3, 0.5, 1.0]),
)
def test_aupro_equals_brute_force(seed, sizes, levels, limit):
    maps, masks = random_pictures(np.random.default_rng(seed), sizes, levels)
    assert aupro(maps, masks, limit) == pytest.approx(brute_aupro(maps, masks, limit), abs=1e-12)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
    levels=st.sampled_from([0, 1, 3, 50]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_pictures_one_by_one_give_to_the_last_bit_what_all_pixels_at_once_give(seed, sizes, share, levels, dtype):
    rng = np.random.default_rng(seed)
    masks = [rng.random(size) < share for size in sizes]
    maps = [rng.normal(size=mask.shape) + mask for mask in masks]
    maps = [(np.round(scores * levels) / levels if levels else scores).astype(dtype) for scores in maps]
    scores, labels = (np.concatenate([array.ravel() for array in arrays]) for arrays in (maps, masks))
    one_by_one, at_once = streamed(maps, masks), rank(scores, labels)
    for metric in ("auroc", "average_precision", "f1_max"):
        np.testing.assert_array_equal(getattr(one_by_one, metric)(), getattr(at_once, metric)(), strict=True)
    if labels.any():
        recalls = np.arange(1, 201) / 200
        np.testing.assert_array_equal(one_by_one.precision_at(recalls), at_once.precision_at(recalls))


def test_negatives_may_be_counted_from_several_threads_in_any_order():
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(1, 1, 5000), np.round(rng.normal(size=(200, 2000)), 2)
    expected = Ranking(positives, np.full(5000, 1 / 5000))
    expected.count(negatives.ravel())
    for calls in (50, 200):  # of more and of fewer negatives than positives, which decides what is searched in what
        ranking = Ranking(positives, np.full(5000, 1 / 5000))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ranking.count, rng.permutation(negatives.reshape(calls, -1))))
        assert all_metrics(ranking) == all_metrics(expected)


@pytest.mark.parametrize("positives", [1, 7, 100, 200, 1400, 50_000])
def test_a_recall_is_reached_by_the_fewest_positives_that_reach_it_in_exact_numbers(positives: int):
    recalls = np.arange(1, 201)
    ranking = rank(np.r_[np.arange(positives, 0.0, -1), 0.0], np.r_[np.ones(positives, bool), False])
    ranking.count(np.arange(positives, 0.0, -1) - 0.5)  # a negative below every positive
    needed = -(-recalls * positives // 200)
    np.testing.assert_allclose(ranking.precision_at(recalls / 200), needed / (needed + needed - 1))


def test_precision_falls_from_the_surest_positive_to_all_of_them():
    ranking = rank([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
    np.testing.assert_allclose(ranking.precision_at([0.005, 0.5, 0.505, 1]), [1, 1, 2 / 3, 2 / 3])


@pytest.mark.parametrize("rescale", [lambda s: 3 * s - 1e3, np.exp, lambda s: s**3, np.arctan])
def test_a_strictly_monotone_rescaling_changes_nothing(rescale):
    maps, masks = random_pictures(np.random.default_rng(2), [(20, 20), (16, 24)], levels=8, dtype=np.float64)
    before, after = (streamed(scores, masks) for scores in (maps, [rescale(m) for m in maps]))
    assert after.aupro() == before.aupro() and after.auroc() == before.auroc()
    assert after.average_precision() == before.average_precision()
    assert after.f1_max() == (before.f1_max()[0], rescale(np.float64(before.f1_max()[1])))


def test_crowded_scores_are_told_apart():
    # Neighbouring float32 numbers near 1: any binning of [0, 1] would merge them.
    steps = np.arange(16, dtype=np.uint32) + np.float32(1).view(np.uint32)
    scores = steps.view(np.float32)
    assert auroc(scores, np.arange(16) >= 8) == 1.0
    assert auroc(np.where(np.arange(16) == 15, 1e30, scores), np.arange(16) >= 8) == 1.0


def test_a_constant_map_is_chance():
    maps, masks = [np.full((2, 5), 0.7, np.float32)], [np.arange(10).reshape(2, 5) < 1]
    ranking = streamed(maps, masks)
    assert ranking.auroc() == 0.5
    assert ranking.average_precision() == pytest.approx(0.1, abs=1e-15)  # the share of defect pixels
    assert ranking.f1_max()[0] == pytest.approx(2 / 11, abs=1e-15)
    assert ranking.aupro() == pytest.approx(0.15, abs=1e-15)  # the diagonal, up to 0.3


def test_one_class_sets_give_nan():
    maps = [np.arange(6.0).reshape(2, 3), np.zeros((4, 4))]
    good = [np.zeros(m.shape, bool) for m in maps]
    bad = [np.ones(m.shape, bool) for m in maps]
    for masks in (good, bad):
        assert all(math.isnan(value) for value in all_metrics(streamed(maps, masks)))
    for labels in (np.zeros(3, bool), np.ones(3, bool)):
        assert math.isnan(auroc(np.arange(3.0), labels))
        assert math.isnan(average_precision(np.arange(3.0), labels))
        assert all(math.isnan(value) for value in f1_max(np.arange(3.0), labels))
    assert all(math.isnan(value) for value in all_metrics(rank_pixels([]))) and math.isnan(auroc([], []))


def test_a_million_normals_and_one_defect_pixel():
    mask = np.zeros((1000, 1000), bool)
    mask[500, 500] = True
    scores = np.random.default_rng(3).permutation(mask.size).reshape(mask.shape).astype(np.float32)
    scores[mask] = 900_000.5
    above = np.count_nonzero(scores > 900_000.5)
    normals = mask.size - 1
    assert auroc(scores.ravel(), mask.ravel()) == pytest.approx(1 - above / normals, abs=1e-15)
    assert average_precision(scores.ravel(), mask.ravel()) == pytest.approx(1 / (above + 1), abs=1e-15)
    assert aupro([scores], [mask], 0.3) == pytest.approx((0.3 - above / normals) / 0.3, abs=1e-12)


def test_good_pictures_supply_negatives():
    alarm = np.full((2, 2), 5.0, np.float32)
    assert aupro([SCORES, alarm], [MASK, np.zeros((2, 2), bool)]) < aupro([SCORES], [MASK])


def test_hundreds_of_pictures_at_once():
    maps, masks = random_pictures(np.random.default_rng(5), [(3, 4)] * 300, levels=2)
    assert aupro(maps, masks) == pytest.approx(brute_aupro(maps, masks, 0.3), abs=1e-12)


def test_infinite_scores_have_a_rank():
    assert auroc([np.inf, -np.inf, 0.0], [True, False, False]) == 1.0


def test_inputs_stay_as_they_were():
    scores, mask = SCORES.copy(), MASK.copy()
    good = np.array([[3.0, 1.0], [2.0, 0.0]], np.float32)
    streamed([scores, good], [mask, np.zeros((2, 2), bool)])
    auroc(scores.ravel(), mask.ravel())
    ranking = Ranking(scores[mask], [0.5, 0.5])
    ranking.count(good.ravel())
    assert (scores == SCORES).all() and (mask == MASK).all() and good.tolist() == [[3.0, 1.0], [2.0, 0.0]]


def test_masks_may_be_zero_and_one_in_any_memory_order():
    maps, masks = random_pictures(np.random.default_rng(4), [(30, 20), (10, 10)], levels=0)
    expected = aupro(maps, masks)
    assert aupro([np.asfortranarray(m) for m in maps], [m.astype(np.uint8).T.copy().T for m in masks]) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([0.1, np.nan, 0.2], [0, 1, 0]), r"scores: 1 of 3 values are NaN, first at 1"),
        (lambda: defect_pixels(SCORES * np.nan, MASK), r"scores: 4 of 4 values are NaN"),
        (lambda: Ranking([np.nan]), r"positives: 1 of 1"),
        (lambda: Ranking([1.0]).count([1.0, np.nan]), r"negatives: 1 of 2"),
        (lambda: Ranking([[1.0]]), r"positives have shape \(1, 1\), expected one dimension"),
        (lambda: auroc([0.1, 0.2], [0, 255]), r"labels: expected bool or 0/1, found 255"),
        (lambda: defect_pixels(SCORES, MASK * np.uint8(255)), r"labels: expected bool or 0/1, found 255"),
        (lambda: auroc([0.1, 0.2], [0, 1, 1]), r"scores have shape \(2,\), labels \(3,\)"),
        (lambda: auroc(SCORES, MASK), r"scores have shape \(2, 2\), expected 1 dimension"),
        (lambda: defect_pixels(SCORES[None], MASK[None]), r"scores have shape \(1, 2, 2\), expected 2 dim"),
        (lambda: defect_pixels(SCORES, MASK[:1]), r"scores have shape \(2, 2\), labels \(1, 2\)"),
        (lambda: aupro([SCORES], [MASK], fpr_limit=0.0), "fpr_limit is 0.0"),
        (lambda: aupro([SCORES], [MASK], fpr_limit=30), "fpr_limit is 30"),
        (lambda: Ranking([0.1]).aupro(), "without weights"),
        (lambda: Ranking([]).precision_at([1.0]), "no recall"),
    ],
)
def test_errors_name_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_importing_the_metrics_does_not_import_torch():
    code = "import sys, lib.metrics.ranking, lib.metrics.intervals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
