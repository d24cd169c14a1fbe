"""Boxes: those of score maps and of masks, and COCO's average precision of found boxes."""

import contextlib
import io
from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np

from lib.boxes import mask_boxes
from lib.core.defects import Labels
from lib.core.geometry import Box, Mask, Scores

SPECK = 4  # pixels; smaller pieces of a mask or of a map get no box, unless there is no larger one
MOST = 100  # boxes of a picture that count, the highest ones, as in COCO


class ScoredBox(NamedTuple):
    """x0, y0, x1, y1 in pixels, x1 and y1 exclusive, fractions allowed; how surely there is a defect in it; and k for
    the k-th of the detector's types, 0 if it does not tell types apart."""

    box: tuple[float, float, float, float]
    score: float
    label: int = 0


def truth_boxes(mask: Mask) -> list[Box]:
    """The boxes of the defects of a mask (H, W) bool: its pieces without a margin; those whose boxes meet are one."""
    return [component.box for component in mask_boxes(mask, 0, SPECK)]


def component_boxes(scores: Scores, threshold: float, labels: Labels | None = None) -> list[ScoredBox]:
    """The boxes of what a score map (H, W) marks, scores >= threshold, cut by the rule of `truth_boxes`, so that a map
    that equals the mask finds every box exactly.

    A box is ranked by its excess, the sum of score - threshold over what is marked in it: false alarms are small as
    well as faint, and where scores saturate many a maximum is the same 1. Places below the threshold give no box, since
    in a map they have no border of their own, and boxes of several thresholds at once are worse than those of one
    (docs/results/choices.md). So this is the precision of a detector as it is used, at the threshold of its masks.

    labels: (H, W), the type of each pixel. The marked pixels of each type then have boxes of their own.
    """
    is_marked = scores >= threshold
    if labels is not None:
        of_types = [(label, is_marked & (labels == label)) for label in np.unique(labels[is_marked]).tolist()]
    else:
        of_types = [(0, is_marked)]
    boxes = []
    for label, mask in of_types:
        for box in truth_boxes(mask):
            rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
            excess = scores[rows, columns].astype(np.float64) - threshold
            boxes.append(ScoredBox(box, float(excess[mask[rows, columns]].sum()), label))
    return boxes


def box_precision(predictions: Sequence[Sequence[ScoredBox]], truth: Sequence[Sequence[Box]]) -> tuple[float, float]:
    """COCO's average precision at IoU 0.5, and its mean over IoU 0.5, 0.55 ... 0.95 (Lin et al. 2014).

    predictions, truth: the boxes of each picture, good ones included, where every prediction is a false alarm.
    Precision at 101 recalls, each the highest at that recall or above. In [0, 1]; NaN without any box in `truth`.

    >>> box_precision([[ScoredBox((0, 0, 4, 4), 0.9)], []], [[(0, 0, 4, 4)], []])
    (1.0, 1.0)
    """
    from pycocotools.cocoeval import COCOeval

    if not any(truth):
        return nan, nan
    boxes = [(n, box, 1.0) for n, of_picture in enumerate(truth) for box in of_picture]
    answers = [(n, one.box, one.score) for n, of_picture in enumerate(predictions) for one in of_picture]
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_dataset(len(truth), boxes), _dataset(len(truth), answers), "bbox")
        judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, np.inf]], ["all"], [MOST]
        judge.evaluate()
        judge.accumulate()
    by_iou = judge.eval["precision"].mean(axis=(1, 2, 3, 4))
    return float(np.round(by_iou[0], 12)), float(np.round(by_iou.mean(), 12))


def typed_precision(
    predictions: Sequence[Sequence[ScoredBox]], truth: Sequence[Sequence[Sequence[Box]]]
) -> tuple[float, float]:
    """The `box_precision` of each type's boxes alone, averaged over the types that `truth` has: COCO's mAP.

    predictions: the boxes of each picture. truth: for each type, in the order of labels, the boxes of each picture.

    >>> typed_precision([[ScoredBox((0, 0, 4, 4), 0.9, 2)]], [[[]], [[(0, 0, 4, 4)]]])
    (1.0, 1.0)
    """
    of_types = [
        box_precision([[one for one in boxes if one.label == label] for boxes in predictions], of_type)
        for label, of_type in enumerate(truth, start=1)
        if any(of_type)
    ]
    ap50, ap = np.mean(of_types, axis=0) if of_types else (nan, nan)
    return float(ap50), float(ap)


def _dataset(pictures: int, boxes: Sequence[tuple[int, Sequence[float], float]]) -> Any:
    """Boxes (picture, box, score) in the form of pycocotools, all of one category."""
    from pycocotools.coco import COCO

    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": n} for n in range(pictures)],
        "categories": [{"id": 1}],
        "annotations": [
            {
                "id": number,
                "image_id": n,
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "score": score,
            }
            for number, (n, (x0, y0, x1, y1), score) in enumerate(boxes, start=1)
        ],
    }
    dataset.createIndex()
    return dataset


def painted(boxes: Sequence[ScoredBox], shape: Sequence[int]) -> Scores:
    """The score map (H, W) float32 of boxes in a picture of shape (H, W, ...): everywhere the highest score of the
    boxes that hold the pixel's centre, 0 outside of all."""
    scores = np.zeros(shape[:2], np.float32)
    for (x0, y0, x1, y1), score, _ in boxes:
        rows, columns = (slice(max(round(a), 0), max(round(b), 0)) for a, b in ((y0, y1), (x0, x1)))
        np.maximum(scores[rows, columns], np.float32(score), out=scores[rows, columns])
    return scores


def painted_labels(boxes: Sequence[ScoredBox], shape: Sequence[int]) -> Labels:
    """The label map (H, W) uint8 of boxes with types: everywhere that of the box whose score `painted` gives, of equal
    scores the first box's; 1, the first type, outside of all."""
    labels = np.ones(shape[:2], np.uint8)
    for (x0, y0, x1, y1), _, label in sorted(boxes, key=lambda one: -one.score)[::-1]:
        rows, columns = (slice(max(round(a), 0), max(round(b), 0)) for a, b in ((y0, y1), (x0, x1)))
        labels[rows, columns] = label
    return labels
