"""How well defect types are told apart: IoU of each type's pixels, and the type of whole pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.defects import Labels
from lib.core.geometry import Scores

Overlaps = NDArray[np.int64]  # (2, K): pixels of each type that found and true labels share, and that either has


def overlaps(labels: Labels, truth: Labels, types: int) -> Overlaps:
    """Intersection and union of each of `types` types in one picture; labels (H, W), 0 for no defect, else 1 to K.

    >>> overlaps(np.array([[1, 2, 0]]), np.array([[1, 1, 0]]), 2).tolist()
    [[1, 0], [2, 1]]
    """
    pairs = np.bincount((truth.astype(np.int64) * (types + 1) + labels).ravel(), minlength=(types + 1) ** 2)
    table = pairs.reshape(types + 1, types + 1)
    both = np.diagonal(table)[1:]
    return np.stack([both, table.sum(axis=0)[1:] + table.sum(axis=1)[1:] - both])


def type_ious(of_pictures: Sequence[Overlaps]) -> NDArray[np.float64]:
    """(K,) IoU of each type over all pixels of all pictures, NaN where it neither is nor was found.

    Their mean is the mIoU by which Defect Spectrum (Yang et al. 2023) compares, without its class for the background.
    """
    both, either = np.sum(of_pictures, axis=0)
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)


def picture_type(scores: Scores, labels: Labels, share: int) -> int:
    """The type of a picture: that with the largest sum of scores among its highest 1 / share of pixels, at least one.

    These are the pixels that score the picture, too. Of equal sums the first type.
    """
    count = max(1, scores.size // share)
    highest = np.argpartition(scores, scores.size - count, axis=None)[-count:]
    sums = np.bincount(labels.ravel()[highest], weights=scores.ravel()[highest].astype(np.float64), minlength=2)
    return int(sums[1:].argmax()) + 1  # no pixel has the label 0
