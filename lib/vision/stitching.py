"""Merge boxes found in overlapping tiles into boxes of the picture: each defect once, cut boxes joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import Window
from lib.metrics.boxes import ScoredBox

CONSIDERED = 1000  # boxes with the highest scores of a picture; the rest are duplicates or irrelevant
BORDER = 2.0  # pixels; a box this close to its tile's border counts as cut
NO_GROUP = CONSIDERED  # greater than the number of any group
AS_SURE = 0.5  # least score for a join, relative to that of the box: uncertain boxes must not enlarge it


@dataclass
class Group:
    """Boxes of one defect: their union, score and type of the first, their tiles, and whether the defect may continue
    in another tile."""

    box: NDArray[np.float64]
    score: float
    label: int
    tiles: set[int]
    is_cut: bool


def stitched(
    boxes_of_tiles: Sequence[Sequence[ScoredBox]], tiles: Sequence[Window], shape: Sequence[int], most_iou: float
) -> list[ScoredBox]:
    """The boxes of a picture of shape (H, W, ...) from those of its tiles, in pixels of the picture, by falling score.

    Two boxes belong to one defect if their IoU is above `most_iou`, computed in the area that both tiles see: a tile
    may see only a part of a defect that another sees whole. The box with the highest score is kept (greedy non-maximum
    suppression). If its tile cuts it, it is united with the best box of every other tile that sees the same defect and
    has at least AS_SURE of its score. Types are not looked at: one defect gets one box, of the type of its best box.
    """
    numbered = [(one, number) for number, of_tile in enumerate(boxes_of_tiles) for one in of_tile]
    numbered = sorted(numbered, key=lambda pair: -pair[0].score)[:CONSIDERED]
    if not numbered:
        return []
    boxes = np.array([one.box for one, _ in numbered], np.float64)
    of_tile = np.array([number for _, number in numbered])
    views = np.array([(tile.x0, tile.y0, tile.x0 + tile.side, tile.y0 + tile.side) for tile in tiles], np.float64)
    same = _iou_in_common(boxes, views[of_tile]) > most_iou
    is_cut = _is_cut(boxes, views[of_tile], shape)
    groups: list[Group] = []
    group_of = np.full(len(boxes), NO_GROUP)  # the group that a box is a member of
    for n, (one, number) in enumerate(numbered):
        first = group_of[same[n]].min(initial=NO_GROUP)
        if first == NO_GROUP:
            group_of[n] = len(groups)
            groups.append(Group(boxes[n], one.score, one.label, {number}, bool(is_cut[n])))
            continue
        group = groups[first]
        if group.is_cut and number not in group.tiles and one.score >= AS_SURE * group.score:
            low, high = np.minimum(group.box, boxes[n])[:2], np.maximum(group.box, boxes[n])[2:]
            group.box, group.is_cut = np.concatenate([low, high]), bool(is_cut[n])
            group.tiles.add(number)
            group_of[n] = first
    corners = [group.box.tolist() for group in groups]
    return [
        ScoredBox((x0, y0, x1, y1), group.score, group.label)
        for (x0, y0, x1, y1), group in zip(corners, groups, strict=True)
    ]


def _iou_in_common(boxes: NDArray[np.float64], views: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, N): the IoU of each two boxes (N, 4), both clipped to the area that both views (N, 4) show."""

    def areas(low: NDArray, high: NDArray) -> NDArray:
        return np.clip(high - low, 0, None).prod(axis=-1)

    low, high = np.maximum(views[:, None, :2], views[None, :, :2]), np.minimum(views[:, None, 2:], views[None, :, 2:])
    lows, highs = np.maximum(boxes[:, None, :2], low), np.minimum(boxes[:, None, 2:], high)
    other_lows, other_highs = lows.swapaxes(0, 1), highs.swapaxes(0, 1)
    shared = areas(np.maximum(lows, other_lows), np.minimum(highs, other_highs))
    union = areas(lows, highs) + areas(other_lows, other_highs) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _is_cut(boxes: NDArray[np.float64], views: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """(N,) whether a box reaches a border of its view that is not the picture's border."""
    low = (boxes[:, :2] <= views[:, :2] + BORDER) & (views[:, :2] > 0)
    high = (boxes[:, 2:] >= views[:, 2:] - BORDER) & (views[:, 2:] < np.array(shape[1::-1]))
    return np.asarray((low | high).any(axis=1))
