"""The bootstrap over test pictures: whole groups are drawn, and each resample's metrics are those of its pictures."""

import numpy as np
import pytest

from lib.metrics.bootstrap import (
    LEVELS,
    aurocs,
    average_precisions,
    counts_of,
    levels_of,
    resamples,
)
from lib.metrics.ranking import rank

GROUPS = ["a", "a", "b", "c", "c", "d", "e"]
DEFECTS = [True, True, True, True, False, False, False]


def test_groups_are_drawn_whole_and_kinds_in_their_number():
    weights = resamples("nut", GROUPS, DEFECTS)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all(), "a, b and c hold a defect"
    assert (weights[:, [5, 6]].sum(axis=1) == 2).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.15)


def test_the_draw_is_of_the_groups_names_whatever_the_order_of_pictures():
    order = [3, 6, 0, 2, 1, 5, 4]
    again = resamples("nut", [GROUPS[n] for n in order], [DEFECTS[n] for n in order])
    np.testing.assert_array_equal(again, resamples("nut", GROUPS, DEFECTS)[:, order])
    assert (resamples("nut", [*GROUPS[:-1], "f"], DEFECTS) != resamples("nut", GROUPS, DEFECTS)).any()


def test_categories_whose_groups_have_the_same_names_are_drawn_apart():
    nut, slab = (resamples(category, GROUPS, DEFECTS) for category in ("nut", "slab"))
    single = [n for n, group in enumerate(GROUPS) if GROUPS.count(group) == 1 and DEFECTS[n]]
    assert (nut != slab).any()
    assert all(abs(np.corrcoef(nut[:, n], slab[:, n])[0, 1]) < 0.15 for n in single)


@pytest.mark.parametrize("defects", [[True] * 5 + [False, False], [False] * 3 + [True, True, False, False]])
def test_a_kind_with_one_group_has_no_interval(defects):
    """Drawn alone it is the same every time, and the interval had no width."""
    groups = ["a", "b", "c", "d", "e", "f", "f"] if all(defects[:5]) else GROUPS
    weights = resamples("nut", groups, defects)
    assert np.isnan(weights).all()
    assert np.isnan(aurocs(weights, range(7), defects)).all()
    counts = [counts_of(np.array([0.5]), np.array([0.1, 0.7]), np.array([0.5])) for _ in groups]
    assert np.isnan(average_precisions(weights, counts)).all()


def maps() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(1)
    masks = [np.zeros((20, 20), bool) for _ in GROUPS]
    for mask, defect in zip(masks, DEFECTS, strict=True):
        mask[5:11, 5:12] = defect
    return [(rng.random((20, 20)) + 0.4 * mask).astype(np.float32).round(2) for mask in masks], masks


def test_metrics_of_a_resample_are_those_of_its_pictures_repeated():
    scores, masks = maps()
    weights = resamples("nut", GROUPS, DEFECTS, 8)
    levels = levels_of(np.sort(np.concatenate([one[mask] for one, mask in zip(scores, masks, strict=True)])))
    assert levels.size < LEVELS, "so few values that every one is a level, and the step function is exact"
    found = average_precisions(
        weights, [counts_of(one[mask], one[~mask], levels) for one, mask in zip(scores, masks, strict=True)]
    )
    tops = [float(one.max()) for one in scores]
    of_pictures = aurocs(weights, tops, DEFECTS)
    for row, precision, auroc in zip(weights.astype(int), found, of_pictures, strict=True):
        drawn = np.repeat(np.arange(len(GROUPS)), row)
        pixels = np.concatenate([scores[n].ravel() for n in drawn]), np.concatenate([masks[n].ravel() for n in drawn])
        assert precision == pytest.approx(rank(*pixels).average_precision(), abs=1e-12)
        assert auroc == pytest.approx(rank([tops[n] for n in drawn], [DEFECTS[n] for n in drawn]).auroc(), abs=1e-12)


def test_scores_of_pictures_that_tie_count_half_in_a_resample_too():
    weights, scores = resamples("nut", GROUPS, DEFECTS, 8), [0.2, 0.5, 0.5, 0.1, 0.5, 0.1, 0.2]
    for row, auroc in zip(weights.astype(int), aurocs(weights, scores, DEFECTS), strict=True):
        drawn = np.repeat(np.arange(len(GROUPS)), row)
        of_pictures = rank([scores[n] for n in drawn], [DEFECTS[n] for n in drawn])
        assert auroc == pytest.approx(of_pictures.auroc(), abs=1e-12)


def test_with_more_values_than_levels_the_error_is_below_a_step_of_recall():
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 200), bool)
    mask[20:150, 30:120] = True
    scores = (rng.random(mask.shape) + 0.5 * mask).astype(np.float32)
    levels = levels_of(np.sort(scores[mask]))
    (found,) = average_precisions(np.ones((1, 1)), [counts_of(scores[mask], scores[~mask], levels)])
    assert levels.size == LEVELS and abs(found - rank(scores.ravel(), mask.ravel()).average_precision()) < 1 / LEVELS


def test_one_class_has_no_metric():
    scores, _ = maps()
    good = [counts_of(scores[0][:0].ravel(), scores[-1].ravel(), np.array([0.5], np.float32))]
    assert np.isnan(average_precisions(np.ones((1, 1)), good)) and np.isnan(aurocs(np.ones((1, 1)), [0.5], [False]))


def test_without_a_defect_pixel_there_is_no_average_precision():
    nothing = np.zeros(0)
    counts = counts_of(nothing, np.ones(3), levels_of(nothing))
    assert np.isnan(average_precisions(np.ones((4, 1)), [counts])).all()
