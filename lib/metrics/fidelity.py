"""How synthetic defects compare with real ones, seen through features that photographs taught.

A defect's window is described by EfficientNet-Lite0's features at three strides, whatever `detect.encoder` says, so
that figures of two runs compare. Distances rank generators on one data set; they are not comparable with values on
Inception features.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from lib.core.geometry import RGB, Box, crop, resize, window_around
from lib.core.images import contact_sheet, outlined, read_image, read_mask, recent
from lib.core.params import WindowParams
from lib.core.records import DefectBox, Sample, Synthetic
from lib.core.runtime import device, progress
from lib.vision.backbones import DEFAULT, Backbone, image_tensor, load_backbone

SIDE = 128  # pixels to which every window is resized before it is described
LEVELS = (1, 2, 3)  # the maps that describe a window, at strides 4, 8 and 16: texture, pattern, form
BATCH = 16  # windows
BLOCK = 1024  # samples; pairs of so many are in memory at once
YARDSTICK = 1024  # real ones, at most, whose median distance is the kernel's scale
# Of the distance that a real defect usually has from its nearest: what is nearer to one is a copy of it. Windows that
# were moved by 3 px lay at up to 0.45 of it in the rendered categories, and no held-out defect below 0.77 (2026-11-30).
COPY = 0.6
SHEET_WIDTH = 8  # windows side by side
ACCEPTED, REJECTED = (60, 200, 60), (255, 40, 40)  # outlines

Features = NDArray[np.float64]  # (N, D)


def load_describer() -> Backbone:
    """The network that `describe` takes, on the device."""
    return load_backbone(DEFAULT).requires_grad_(False).to(device())


@torch.inference_mode()
def describe(windows: Sequence[RGB], backbone: Backbone) -> Features:
    """(N, D) descriptions of N windows (S, S, 3) uint8 of any sizes.

    At each level features have unit length at each place, as in LPIPS (Zhang et al. 2018, eq. 1); their mean and
    standard deviation over the window are what describes it. So each level counts alike.
    """
    small = np.stack([resize(window, SIDE, SIDE) for window in windows])
    maps = backbone(image_tensor(small, backbone.mean.device))
    return torch.cat([_pooled(maps[level]) for level in LEVELS], dim=1).double().cpu().numpy()


def _pooled(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 2 C): mean and standard deviation over all places, of features of unit length."""
    unit = torch.nn.functional.normalize(features, dim=1).flatten(2)
    return torch.cat([unit.mean(dim=2), unit.std(dim=2, correction=0)], dim=1)


def kernel_distance(real: Features, synthetic: Features) -> float:
    """Squared maximum mean discrepancy, by the unbiased estimator of KID (Binkowski et al. 2018, eq. 4).

    real: (N, D), synthetic: (M, D). Near 0 for equal distributions (it may fall below), at most 2; nan with fewer than
    two of either, or where most real ones are equal.

    The kernel is exp(-|a - b| / d), where d is the median distance of two real ones (Gretton et al. 2012, section 8):
    it falls within the distances that there are, so that lost spread and lost modes count. KID's own, (a b / D + 1)^3,
    is for features that differ more. Descriptions of one data set have cosines above 0.9, over which it is a straight
    line: it would compare means alone, and copies of one average defect would pass for the real ones.
    """
    if len(real) < 2 or len(synthetic) < 2:
        return float("nan")
    some = np.linspace(0, len(real) - 1, min(len(real), YARDSTICK)).round().astype(int)
    scale = float(np.median(pdist(real[some])))
    if scale == 0:
        return float("nan")

    def total(a: Features, b: Features) -> float:
        return sum(float(np.exp(-cdist(rows, columns) / scale).sum()) for rows in _blocks(a) for columns in _blocks(b))

    def within(a: Features) -> float:
        return (total(a, a) - len(a)) / (len(a) * (len(a) - 1))  # less those with themselves, 1 each

    return within(real) + within(synthetic) - 2 * total(real, synthetic) / (len(real) * len(synthetic))


def _blocks(features: Features) -> Iterator[Features]:
    return (features[start : start + BLOCK] for start in range(0, len(features), BLOCK))


def diversity(features: Features) -> float:
    """Mean distance between two different samples; nan with fewer than two."""
    count = len(features)
    if count < 2:
        return float("nan")
    total = sum(float(cdist(rows, columns).sum()) for rows in _blocks(features) for columns in _blocks(features))
    return total / (count * (count - 1))


def nearest(features: Features, references: Features) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of (N, D) features the index of, and the distance to, the nearest of (M, D) references."""
    indices, distances = [np.zeros(0, np.int64)], [np.zeros(0)]
    for rows in _blocks(features):
        between = cdist(rows, references)
        indices.append(between.argmin(axis=1))
        distances.append(between.min(axis=1))
    return np.concatenate(indices), np.concatenate(distances)


def memorised_share(synthetic: Features, train: Features, groups: Sequence[str], types: Sequence[str]) -> float:
    """Share of synthetic samples (N, D) that lie within COPY times the `usual_gap` of a training defect (M, D).

    groups, types: of the training defects. nan where there is nothing to compare.
    """
    gap = usual_gap(train, groups, types)
    if len(synthetic) == 0 or np.isnan(gap):
        return float("nan")
    return float((nearest(synthetic, train)[1] <= COPY * gap).mean())


def usual_gap(train: Features, groups: Sequence[str], types: Sequence[str]) -> float:
    """Median distance of a defect (M, D) from the nearest one of its type in another capture group; nan where none has
    such.

    Defects of one group may share much of their windows, or be one defect in several shots, and how far two types are
    apart does not tell how alike two defects of one are. The least distance would be that of two shots of one defect
    that no group tells; the median bears them where they are few.
    """
    group, kind = np.asarray(groups), np.asarray(types)
    distances = []
    for start in range(0, len(train), BLOCK):
        rows = slice(start, start + BLOCK)
        between = cdist(train[rows], train)
        between[(group[rows, None] == group) | (kind[rows, None] != kind)] = np.inf
        distances.append(between.min(axis=1))
    gaps = np.concatenate(distances) if distances else np.zeros(0)
    gaps = gaps[np.isfinite(gaps)]
    return float(np.median(gaps)) if gaps.size else float("nan")


class Comparison:
    """The accepted synthetic defects of any generator beside the real ones of a category, described once.

    samples: the real ones, by their ids; boxes: of their defects; backbone: of `load_describer`.
    """

    def __init__(
        self, samples: Mapping[str, Sample], boxes: Sequence[DefectBox], window: WindowParams, backbone: Backbone
    ):
        self.boxes, self.window, self.backbone = boxes, window, backbone
        self.groups = [samples[box.sample].group for box in boxes]
        self.read = recent(read_image)
        self.real_windows = [(samples[box.sample].image, box.box) for box in boxes]
        self.real = self._described(self.real_windows)

    def of(self, synthetic: Sequence[Synthetic], neighbours: int) -> tuple[dict[str, float | None], RGB]:
        """Scores of synthetic defects (None where there is too little to compare), and a sheet.

        The sheet shows `neighbours` samples, spread over all types, each followed by the real defect of its type that
        is nearest to it, so that a copy would be seen.
        """
        synthetic_windows = [(_picture(item), item.box) for item in synthetic]
        real, fake, boxes = self.real, self._described(synthetic_windows), self.boxes
        scores = {
            "accepted": float(len(synthetic)),
            "kernel_distance": kernel_distance(real, fake),
            "diversity": diversity(fake),
            "diversity_real": diversity(real),
            "memorised_share": memorised_share(fake, real, self.groups, [box.defect_type for box in boxes]),
            # Not the gate's `fill`, which is a share of the picture where the background is the generator's own.
            "mask_share_of_box": _mean([_share_of(item.box, item.scores["area"]) for item in synthetic]),
            "mask_share_of_box_real": _mean([_share_of(box.box, box.area) for box in boxes]),
        }
        pairs: list[RGB] = []
        for index in np.unique(np.linspace(0, len(fake) - 1, neighbours).round().astype(int)) if synthetic else []:
            same = [row for row, known in enumerate(boxes) if known.defect_type == synthetic[index].defect_type]
            closest, _ = nearest(fake[index : index + 1], real[same])
            for image, box in (synthetic_windows[index], self.real_windows[same[closest[0]]]):
                pairs.append(_window(self.read(Path(image)), box, self.window))
        rows = [pairs[start : start + SHEET_WIDTH] for start in range(0, len(pairs), SHEET_WIDTH)]
        values = {name: None if np.isnan(value) else round(value, 6) for name, value in scores.items()}
        return values, contact_sheet(rows)

    def _described(self, windows: Sequence[tuple[str, Box]]) -> Features:
        """(N, D) descriptions of windows, each a picture's file and a box in it."""
        dimensions = 2 * sum(self.backbone.channels[level] for level in LEVELS)
        parts = [np.zeros((0, dimensions))]
        for start in progress(range(0, len(windows), BATCH), "describe windows"):
            batch = [_window(self.read(Path(image)), box, self.window) for image, box in windows[start : start + BATCH]]
            parts.append(describe(batch, self.backbone))
        return np.concatenate(parts)


def same_placements(
    samples: Mapping[str, Sample], answers: Mapping[str, Sequence[Synthetic]], window: WindowParams, each: int
) -> tuple[list[str], list[tuple[str, list[RGB | None]]]]:
    """The first `each` placements of every type through every generator: heads and rows of a comparison sheet.

    samples: the real ones, by their ids; answers: of each generator, with the gate's verdict. First comes the good
    window, then what each generator painted there, its mask outlined: green where the gate accepted it, red where not.
    """
    read = recent(read_image)
    by_placement = {name: {record.placement: record for record in records} for name, records in answers.items()}
    requests = {record.placement: record for records in answers.values() for record in records}
    rows: list[tuple[str, list[RGB | None]]] = []
    for defect_type in sorted({record.defect_type for record in requests.values()}):
        names = sorted(name for name, record in requests.items() if record.defect_type == defect_type)
        for name in names[:each]:
            records = [by_placement[generator].get(name) for generator in answers]
            # A sample with its own background has its box in its own picture.
            placed = next(((record.normal, record.box) for record in records if record and record.normal), None)
            good = _window(read(Path(samples[placed[0]].image)), placed[1], window) if placed else None
            rows.append((name, [good, *(_outlined_window(record, window) if record else None for record in records)]))
    return ["good", *answers], rows


def _outlined_window(record: Synthetic, window: WindowParams) -> RGB | None:
    """The window of a synthetic sample with its mask outlined; None where it has no picture."""
    if record.image is None:
        return None
    picture = read_image(Path(record.image))
    place = window_around(record.box, picture.shape, window.context, window.min_side)
    view = crop(picture, place)
    if record.mask is None:
        return view
    return outlined(view, crop(read_mask(Path(record.mask)), place), ACCEPTED if record.accepted else REJECTED)


def _share_of(box: Box, area: float) -> float:
    return area / ((box[2] - box[0]) * (box[3] - box[1]))


def _picture(item: Synthetic) -> str:
    if item.image is None:
        raise ValueError(f"{item.placement}: has no picture, so it cannot have been accepted")
    return item.image


def _window(picture: RGB, box: Box, window: WindowParams) -> RGB:
    return crop(picture, window_around(box, picture.shape, window.context, window.min_side))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
