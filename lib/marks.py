"""What a detector does in use, by its thresholds from val: alarms, marks, boxes and types, and how right they are."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.alarms import Decision, alarm_level
from lib.core.geometry import Box, Mask, Scores
from lib.core.records import GOOD
from lib.metrics.boxes import ScoredBox, box_precision, truth_boxes, typed_precision
from lib.metrics.types import Overlaps, overlaps, picture_type, type_ious
from lib.scoring import SCORING_SHARE, Prediction, marked_boxes
from lib.vision.examples import Example

Metrics = dict[str, float]


class Marks(NamedTuple):
    """One picture in use.

    level: the highest alarm threshold at which it is an alarm; minus infinity if it is too small for one. types: those
    of its defects, or only GOOD. areas, hits: of each type that counts, the pixels of its defects, and those of them
    that are marked. false: marked pixels that show no defect. boxes, truth: detected boxes, and those of the defects.
    The rest is of detectors that tell types apart: boxes with types, the true ones of each type, the overlap of each
    type's pixels, and whether the picture has the right type, NaN if it does not show one type alone.
    """

    level: float
    types: tuple[str, ...]
    areas: dict[str, int]
    hits: dict[str, int]
    false: int
    boxes: list[ScoredBox]
    truth: list[Box]
    typed_boxes: list[ScoredBox]
    typed_truth: list[list[Box]]
    overlaps: Overlaps
    is_right: float


def marked(example: Example, scores: Scores, decision: Decision) -> Mask:
    """(H, W) bool: the marked pixels of those that count."""
    mask = decision.mask(scores)
    return mask if example.ignored is None else mask & ~example.ignored


def marks_of(example: Example, prediction: Prediction, decision: Decision, types: Sequence[str]) -> Marks:
    """What is marked in a picture, and what is there. types: those of a detector that tells them apart, else none."""
    scores = prediction.scores
    level = alarm_level(scores, decision.min_area) if scores.size >= decision.min_area else -math.inf
    mask = marked(example, scores, decision)
    masks = {name: example.mask_of([name]) for name in example.types if example.has_defect}
    masks = {name: shown for name, shown in masks.items() if shown.any()}
    labels = prediction.labels if types else None
    if prediction.boxes is not None:
        boxes = typed_boxes = [one for one in prediction.boxes if example.counts_within(one.box)]
    else:
        boxes = marked_boxes(decision, mask, scores)
        typed_boxes = boxes if labels is None else marked_boxes(decision, mask, scores, labels)
    table, is_right = np.zeros((2, 0), np.int64), math.nan
    if labels is not None:
        table = overlaps(np.where(mask, labels, np.uint8(0)), example.labels(types), len(types))
        if example.has_defect and len(example.types) == 1:
            is_right = float(types[picture_type(scores, labels, SCORING_SHARE) - 1] == example.types[0])
    return Marks(
        level,
        example.types,
        {name: int(shown.sum()) for name, shown in masks.items()},
        {name: int((mask & shown).sum()) for name, shown in masks.items()},
        int((mask & example.normal).sum()),
        boxes,
        truth_boxes(example.mask) if example.has_defect else [],
        typed_boxes,
        [truth_boxes(masks[name]) if name in masks else [] for name in types],
        table,
        is_right,
    )


def mark_metrics(marks: Sequence[Marks], decision: Decision, types: Sequence[str]) -> Metrics:
    """The metrics of a test part's marks: overlap with the true pixels, alarms, boxes, and, with types, how well these
    are told apart. NaN where there is nothing to measure."""
    iou = overlap(marks)
    metrics = {
        "pixel_f1_at_val_threshold": 2 * iou / (1 + iou),
        "pixel_iou_at_val_threshold": iou,
        **_alarm_metrics(marks, decision),
    }
    metrics["box_ap50"], metrics["box_ap"] = box_precision([one.boxes for one in marks], [one.truth for one in marks])
    if types:
        of_types = list(zip(*(one.typed_truth for one in marks), strict=True))
        typed = [one.typed_boxes for one in marks]
        metrics["box_map50"], metrics["box_map"] = typed_precision(typed, of_types)
        ious = type_ious([one.overlaps for one in marks])
        answers = [one.is_right for one in marks if not math.isnan(one.is_right)]
        metrics |= {
            "type_miou": _mean(ious[~np.isnan(ious)]),
            "type_accuracy": _mean(answers),
            "type_pictures": len(answers),
        }
    return metrics


def overlap(marks: Sequence[Marks], name: str | None = None) -> float:
    """Intersection over union of marked and true pixels; NaN without true ones. name: those of one type alone, in the
    pictures that show it and in good ones; defects of other types do not count there."""
    if name is not None:
        marks = [one for one in marks if name in one.types or GOOD in one.types]
    areas, hits = ([getattr(one, which) for one in marks] for which in ("areas", "hits"))
    true, hit = (sum(sum(one.values()) if name is None else one.get(name, 0) for one in of) for of in (areas, hits))
    return hit / (true + sum(one.false for one in marks)) if true else math.nan


def _alarm_metrics(marks: Sequence[Marks], decision: Decision) -> Metrics:
    """The shares of defect and of good pictures that are an alarm."""
    alarms = alarm_levels(marks) >= decision.alarm_threshold
    defects = np.array([GOOD not in one.types for one in marks], bool)
    return {"defects_alarmed": _mean(alarms[defects]), "good_alarmed": _mean(alarms[~defects])}


def alarm_levels(marks: Sequence[Marks]) -> NDArray[np.float32]:
    """(N,): the highest alarm threshold at which each picture is an alarm."""
    return np.array([one.level for one in marks], np.float32)


def ious_of_types(marks: Sequence[Marks], types: Sequence[str]) -> dict[str, float]:
    """The IoU of each type's pixels, found under its name; NaN for one that neither is nor was found."""
    return dict(zip(types, type_ious([one.overlaps for one in marks]).tolist(), strict=True)) if types else {}


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
