"""Marks: what one picture in use comes to, and the metrics of many."""

import math
from pathlib import Path

import numpy as np
import pytest

from lib.alarms import Decision, alarm_level
from lib.core.images import write_png
from lib.core.records import GOOD, RegionMap
from lib.detection import read_examples
from lib.marks import Marks, alarm_levels, ious_of_types, mark_metrics, marked, marks_of, overlap
from lib.metrics.boxes import ScoredBox
from lib.metrics.ranking import defect_pixels
from lib.scoring import Prediction
from lib.vision.examples import Example
from tests.mixed import DENT, SCRATCH, mixed_sample

BLACK = np.zeros((20, 20, 3), np.uint8)


def predicted(folder: Path, scores: np.ndarray, mask: np.ndarray, **more: object) -> Prediction:
    np.save(folder / "map.npy", scores)
    return Prediction(folder / "map.npy", defect_pixels(scores, mask), 0.0, 0.0, float(scores.max()), **more)


@pytest.mark.parametrize(
    ("threshold", "alarm_threshold", "min_area", "found"),
    [
        (9, 9, 1, [1, 1]),
        (9, 9, 5, [0, 1]),
        (10.5, 10.5, 1, [0, 1]),
        (9, 10.5, 1, [0, 1]),
        (10.5, 9, 1, [0, 1]),
        (95, 9, 1, [1, 1]),
        (99, 99, 1, [0, 0]),
    ],
)
def test_a_defect_is_found_by_a_mark_within_it_whose_region_gives_an_alarm(
    tmp_path: Path, threshold, alarm_threshold, min_area, found
):
    scores = np.zeros((20, 20), np.float32)
    scores[2:4, 2:4], scores[10:13, 10:13], scores[17, 17] = 10, 11, 90
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 3:6, 3:6], masks[1, 12:15, 12:15] = True, True
    examples = [Example(BLACK, mask, False, "dent") for mask in masks]
    good = Example(BLACK, None, False, GOOD)
    one, decision = predicted(tmp_path, scores, masks[0]), Decision(threshold, alarm_threshold, min_area)
    marks = [marks_of(example, one, decision, []) for example in [*examples, good]]
    assert [int(pixels > 0) for each in marks for pixels in each.hits.values()] == found
    assert marks[0].areas == {"dent": 9} and marks[2].areas == {} and marks[2].types == (GOOD,)
    assert alarm_levels(marks).tolist() == [alarm_level(scores, min_area)] * 3
    marked = decision.mask(scores)
    assert [each.false for each in marks] == [(marked & ~mask).sum() for mask in [*masks, np.zeros((20, 20), bool)]]
    metrics = mark_metrics(marks, decision, [])
    both = sum((marked & mask).sum() for mask in masks)
    either = sum((marked | mask).sum() for mask in masks) + marked.sum()
    assert metrics["pixel_iou_at_val_threshold"] == pytest.approx(both / either, abs=1e-12)
    assert metrics["pixel_f1_at_val_threshold"] == pytest.approx(2 * both / (both + either), abs=1e-12)
    assert metrics["defects_alarmed"] == metrics["good_alarmed"] == float(marked.any())
    assert "type_miou" not in metrics and "box_map" not in metrics


def test_of_a_type_its_pictures_and_good_ones_count():
    def marks(types: tuple[str, ...], areas: dict[str, int], found: dict[str, int], false: int) -> Marks:
        return Marks(0.0, types, areas, found, false, [], [], [], [], np.zeros((2, 0), np.int64), math.nan)

    several = [
        marks(("dent",), {"dent": 10}, {"dent": 4}, 1),
        marks(("dent", "scratch"), {"dent": 5, "scratch": 8}, {"dent": 5, "scratch": 2}, 2),
        marks(("scratch",), {"scratch": 7}, {"scratch": 0}, 100),
        marks((GOOD,), {}, {}, 3),
    ]
    assert overlap(several, "dent") == 9 / (15 + 1 + 2 + 3)
    assert overlap(several, "scratch") == 2 / (15 + 2 + 100 + 3)
    assert overlap(several) == 11 / (30 + 106)
    assert math.isnan(overlap(several, "stain")) and math.isnan(overlap(several[3:]))


def test_a_map_with_fewer_pixels_than_count_is_no_alarm(tmp_path: Path):
    scores = np.ones((20, 20), np.float32)
    one = predicted(tmp_path, scores, scores > 1)
    marks = marks_of(Example(BLACK, None, False, GOOD), one, Decision(0.5, 0.5, 401), [])
    assert marks.level == -math.inf and marks.false == 0


def test_pixels_that_never_count_are_neither_marked_nor_false(tmp_path: Path):
    regions, ignored = np.full((20, 20, 3), 255, np.uint8), np.zeros((20, 20), bool)
    ignored[:7] = True
    regions[ignored] = (255, 0, 0)
    place = RegionMap((tmp_path / "regions.png").as_posix(), write_png(tmp_path / "regions.png", regions))
    good = Example(BLACK, None, False, GOOD, regions=place)
    scores, types = np.ones(ignored.shape, np.float32), tmp_path / "types.npy"
    np.save(types, np.ones(ignored.shape, np.uint8))
    one, decision = predicted(tmp_path, scores, scores > 1, types=types), Decision(0.5, 0.5)
    np.testing.assert_array_equal(marked(good, scores, decision), ~ignored)
    marks = marks_of(good, one, decision, ["dent"])
    assert marks.false == (~ignored).sum() and marks.overlaps.tolist() == [[0], [(~ignored).sum()]]


def test_a_faint_alarm_has_a_box_with_a_rank(tmp_path: Path):
    scores = np.zeros((20, 20), np.float32)
    scores[4:8, 4:8] = 0.3
    one = predicted(tmp_path, scores, scores > 1)
    (box,) = marks_of(Example(BLACK, None, False, GOOD), one, Decision(0.7, 0.2), []).boxes
    assert box.box == (4, 4, 8, 8) and box.score == pytest.approx(16 * 0.1, abs=1e-6)


def test_boxes_of_a_detector_that_answers_them_are_its_own(tmp_path: Path):
    scores = np.ones((20, 20), np.float32)
    own = [ScoredBox((0, 0, 3, 3), 0.1), ScoredBox((5, 5, 9, 9), 0.9)]
    one = predicted(tmp_path, scores, scores > 1, boxes=own)
    assert marks_of(Example(BLACK, None, False, GOOD), one, Decision(0.5, 0.5), []).boxes == own


def test_a_picture_of_several_types_counts_for_their_ious_and_not_for_the_accuracy_of_pictures(tmp_path: Path):
    examples = read_examples([mixed_sample(tmp_path)])
    np.save(tmp_path / "scores.npy", (DENT | SCRATCH).astype(np.float32))
    np.save(tmp_path / "types.npy", examples[0].labels(["dent", "scratch"]))
    scores, types = tmp_path / "scores.npy", tmp_path / "types.npy"
    one = Prediction(scores, defect_pixels(np.load(scores), examples[0].mask), 1.0, 0.0, 1.0, types)
    decision, told = Decision(0.5, 0.5), ["dent", "scratch"]
    marks = [marks_of(examples[0], one, decision, told)]
    metrics, ious = mark_metrics(marks, decision, told), ious_of_types(marks, told)
    assert metrics["type_miou"] == 1 and ious == {"dent": 1, "scratch": 1}
    assert np.isnan(metrics["type_accuracy"]) and metrics["type_pictures"] == 0
