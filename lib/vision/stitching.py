"""Boxes that were found in overlapping tiles, as boxes of the picture: each defect once, cut ones rejoined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import Window
from lib.metrics.boxes import ScoredBox

CONSIDERED = 1000  # boxes of a picture, the surest: the rest would be duplicates of them or of no account
BORDER = 2.0  # pixels from its tile's border within which a box counts as cut by it
AS_SURE = 0.5  # of the score of what it is joined to: a mere guess must not stretch a box


@dataclass
class Group:
    """Boxes of one defect: what they make together, from which tiles they come, and whether it may go on elsewhere."""

    box: NDArray[np.float64]
    score: float
    members: list[int]
    tiles: set[int]
    is_cut: bool


def stitched(
    found: Sequence[Sequence[ScoredBox]], tiles: Sequence[Window], shape: Sequence[int], most_iou: float
) -> list[ScoredBox]:
    """The boxes of a picture of shape (H, W, ...) from those of its tiles, in pixels of the picture, the surest first.

    Two boxes are of one defect if their IoU is above `most_iou`, counted in what both tiles see: a defect that one tile
    sees whole and the other in part has a box in each. The surest box stays (greedy non-maximum suppression), unless
    its tile cuts it: then it grows by the best box of every other tile that sees the same defect, if that is AS_SURE.
    """
    numbered = [(one, number) for number, of_tile in enumerate(found) for one in of_tile]
    numbered = sorted(numbered, key=lambda pair: -pair[0].score)[:CONSIDERED]
    if not numbered:
        return []
    boxes = np.array([one.box for one, _ in numbered], np.float64)
    of_tile = np.array([number for _, number in numbered])
    views = np.array([(tile.x0, tile.y0, tile.x0 + tile.side, tile.y0 + tile.side) for tile in tiles], np.float64)
    same = _iou_in_common(boxes, views[of_tile]) > most_iou
    is_cut = _is_cut(boxes, views[of_tile], shape)
    groups: list[Group] = []
    for n, (one, number) in enumerate(numbered):
        group = next((group for group in groups if same[n, group.members].any()), None)
        if group is None:
            groups.append(Group(boxes[n], one.score, [n], {number}, bool(is_cut[n])))
        elif group.is_cut and number not in group.tiles and one.score >= AS_SURE * group.score:
            low, high = np.minimum(group.box, boxes[n])[:2], np.maximum(group.box, boxes[n])[2:]
            group.box, group.is_cut = np.concatenate([low, high]), bool(is_cut[n])
            group.members.append(n)
            group.tiles.add(number)
    corners = [group.box.tolist() for group in groups]
    return [ScoredBox((x0, y0, x1, y1), group.score) for (x0, y0, x1, y1), group in zip(corners, groups, strict=True)]


def _iou_in_common(boxes: NDArray[np.float64], views: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, N): the intersection over union of each two boxes (N, 4), both cut down to what both views (N, 4) show."""

    def areas(low: NDArray, high: NDArray) -> NDArray:
        return np.clip(high - low, 0, None).prod(axis=-1)

    low, high = np.maximum(views[:, None, :2], views[None, :, :2]), np.minimum(views[:, None, 2:], views[None, :, 2:])
    lows, highs = np.maximum(boxes[:, None, :2], low), np.minimum(boxes[:, None, 2:], high)
    other_lows, other_highs = lows.swapaxes(0, 1), highs.swapaxes(0, 1)
    shared = areas(np.maximum(lows, other_lows), np.minimum(highs, other_highs))
    union = areas(lows, highs) + areas(other_lows, other_highs) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _is_cut(boxes: NDArray[np.float64], views: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """(N,) whether a box reaches a border of its view that is none of the picture's."""
    low = (boxes[:, :2] <= views[:, :2] + BORDER) & (views[:, :2] > 0)
    high = (boxes[:, 2:] >= views[:, 2:] - BORDER) & (views[:, 2:] < np.array(shape[1::-1]))
    return np.asarray((low | high).any(axis=1))
