"""How synthetic defects compare with real ones, seen through a fixed image descriptor.

The descriptor is classic and needs no downloaded network: histograms of oriented gradients (Dalal & Triggs 2005),
uniform local binary patterns (Ojala et al. 2002) and CIELAB colour statistics of a defect's window. Its distances rank
generators on one data set; they are not comparable with values on Inception features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from skimage.color import rgb2lab
from skimage.feature import hog, local_binary_pattern

from lib.core.geometry import RGB, Box, crop, resize, window_around
from lib.core.images import contact_sheet, read_image
from lib.core.params import WindowParams
from lib.core.records import DefectBox, Sample, Synthetic
from lib.core.runtime import progress

SIDE = 64  # pixels to which every window is resized before it is described

Features = NDArray[np.float64]  # (N, D)


def describe(window: RGB) -> NDArray[np.float64]:
    """The descriptor (D,) of one window (S, S, 3) uint8; each of its three blocks has about unit length."""
    small = resize(window, SIDE, SIDE)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    shape = hog(grey, orientations=8, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
    pattern = local_binary_pattern(grey, P=8, R=1, method="uniform")
    texture = np.bincount(pattern.astype(int).ravel(), minlength=10) / pattern.size
    lab = rgb2lab(small).reshape(-1, 3) / 100
    colour = np.concatenate([lab.mean(axis=0), lab.std(axis=0), np.quantile(lab[:, 0], [0.02, 0.98])])
    return np.concatenate([shape / max(np.linalg.norm(shape), 1e-9), texture, colour])


def kid(real: Features, synthetic: Features) -> float:
    """Kernel distance: unbiased squared MMD with the cubic polynomial kernel (Binkowski et al. 2018), times 1000.

    real: (N, D), synthetic: (M, D). Near 0 for equal distributions (it may fall below), nan with fewer than two.
    """
    if len(real) < 2 or len(synthetic) < 2:
        return float("nan")

    def kernel(a: Features, b: Features) -> Features:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Features) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return 1000 * (within(real) + within(synthetic) - 2 * float(kernel(real, synthetic).mean()))


def diversity(features: Features) -> float:
    """Mean distance between two different samples; nan with fewer than two."""
    count = len(features)
    return float(cdist(features, features).sum() / (count * (count - 1))) if count > 1 else float("nan")


def nearest(features: Features, references: Features) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of (N, D) features the index of, and the distance to, the nearest of (M, D) references."""
    distances = cdist(features, references)
    index = distances.argmin(axis=1)
    return index, distances[np.arange(len(features)), index]


def memorised_share(synthetic: Features, train: Features) -> float:
    """Share of synthetic samples at most as far from a training defect as its two nearest ones are from each other.

    nan where there is nothing to compare.
    """
    if len(synthetic) == 0 or len(train) < 2:
        return float("nan")
    between = cdist(train, train)
    np.fill_diagonal(between, np.inf)
    return float((nearest(synthetic, train)[1] <= between.min()).mean())


def compare(
    samples: Mapping[str, Sample],
    boxes: Sequence[DefectBox],
    synthetic: Sequence[Synthetic],
    window: WindowParams,
    neighbours: int,
) -> tuple[dict[str, float | None], RGB]:
    """Compare the accepted synthetic defects with the real ones, whose boxes these are, in samples known by their ids.

    Returns scores (None where there is too little to compare) and a sheet: synthetic samples, spread over all types,
    each followed by the real defect of its type that is nearest to it, so that a copy would be seen.
    """
    reals = [(box.defect_type, _window(samples[box.sample].image, box.box, window)) for box in boxes]
    fakes = [(item.defect_type, _window(item.image, item.box, window)) for item in synthetic]
    described = [describe(image) for _, image in progress([*reals, *fakes], "describe windows")]
    train, made = np.stack(described[: len(reals)]), np.array(described[len(reals) :])
    made = made.reshape(len(fakes), train.shape[1])
    scores = {
        "accepted": float(len(fakes)),
        "kid": kid(train, made),
        "diversity": diversity(made),
        "diversity_real": diversity(train),
        "memorised_share": memorised_share(made, train),
        "mask_share_of_box": _mean([item.scores["fill"] for item in synthetic]),
        "mask_share_of_box_real": _mean(
            [box.area / ((box.box[2] - box.box[0]) * (box.box[3] - box.box[1])) for box in boxes]
        ),
    }
    tiles: list[RGB] = []
    for index in np.unique(np.linspace(0, len(fakes) - 1, neighbours).round().astype(int)) if fakes else []:
        same = [row for row, (defect_type, _) in enumerate(reals) if defect_type == fakes[index][0]]
        closest, _ = nearest(made[index : index + 1], train[same])
        tiles += [fakes[index][1], reals[same[closest[0]]][1]]
    rows = [tiles[start : start + 8] for start in range(0, len(tiles), 8)]
    return {name: None if np.isnan(value) else round(value, 6) for name, value in scores.items()}, contact_sheet(rows)


def _window(image: str, box: Box, window: WindowParams) -> RGB:
    picture = read_image(Path(image))
    return crop(picture, window_around(box, picture.shape, window.context, window.min_side))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
