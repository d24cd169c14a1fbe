"""Where new defects go: boxes on good pictures, each drawn from the box of a real defect."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib import language
from lib.core.errors import UserError
from lib.core.geometry import Box
from lib.core.images import read_image, recent
from lib.core.records import GOOD, DefectBox, Placement, Sample, by_id, of_split
from lib.core.runtime import progress, seed_for
from lib.foreground import foreground_mask

Sums = NDArray[np.int32]  # (H + 1, W + 1), of a foreground: the share of any box is read from it in four values

# Spread of a placement's centre about the real one's, in picture widths and heights. A handful of real defects says
# roughly where a type occurs (at the rim, in the middle), no more.
CENTRE_SPREAD = 0.15
# A placement may lie on the object to this much more or less than the real box that it is drawn from. The real share
# is the measure because defects of an edge lie half on the background: on the object alone they would be no such.
SHARE_TOLERANCE = 0.1
MIN_SHARE = 0.25  # of a box on the object: a real box with less than that tells of a bad foreground
TRIES = 60  # boxes drawn before the best one is taken as it is
VERDICT_PICTURES = 9  # good pictures that decide whether the category is an object or a texture


def place_boxes(
    samples: Sequence[Sample], boxes: Sequence[DefectBox], per_type: int, jitter: float, seed: int
) -> list[Placement]:
    """`per_type` placements for each defect type of one category, drawn from its real boxes in the train part.

    Size, aspect and place come together from one real box, drawn at random. Width and height (px) are multiplied by
    log-normal factors of spread `jitter`. On an object the centre keeps its relative place but for a normal spread of
    CENTRE_SPREAD, and of TRIES draws the first is taken that lies on the object as much as the real box does on its
    own; on a texture, where a defect can be anywhere, the box is put uniformly. The good pictures of the train part
    take turns in an order shuffled for each type.

    Every placement has a random generator of its own: a larger `per_type` changes none of the others. Raises UserError
    when the train part has no good picture or no box.
    """
    sample_of = by_id(of_split(samples, "train"))
    goods = sorted((sample for sample in sample_of.values() if sample.defect_type == GOOD), key=lambda good: good.id)
    reals = _by_type([real for real in boxes if real.sample in sample_of])
    if not goods or not reals:
        what = "a box of a real defect" if goods else "a good picture"
        raise UserError(f"placements need {what} in the train part, there is none: check the split of the data set")

    read_sums = recent(foreground_sums)

    def sums(sample: Sample) -> Sums:
        return read_sums(Path(sample.image))

    texture = _is_texture(goods, sums)
    orders = {
        defect_type: np.random.default_rng(seed_for(seed, goods[0].category, defect_type)).permutation(len(goods))
        for defect_type in reals
    }
    placements = []
    jobs = [(defect_type, index) for defect_type in reals for index in range(per_type)]
    for defect_type, index in progress(jobs, "place boxes"):
        good = goods[orders[defect_type][index % len(goods)]]
        rng = np.random.default_rng(seed_for(seed, good.category, defect_type, index))
        real = reals[defect_type][rng.integers(len(reals[defect_type]))]
        sample = sample_of[real.sample]
        if texture:
            box = _box_like(rng, real.box, sample.size, good.size, jitter, spread=None)
        else:
            share = max(_share(sums(sample), real.box), MIN_SHARE)
            box = _box_on_object(rng, real.box, sample.size, good.size, jitter, share, sums(good))
        placements.append(_placement(good, real, box, index, seed))
    return placements


def _by_type(boxes: Sequence[DefectBox]) -> dict[str, list[DefectBox]]:
    """Boxes of each defect type, both in an order that does not depend on that of the boxes."""
    reals: dict[str, list[DefectBox]] = {defect_type: [] for defect_type in sorted({box.defect_type for box in boxes})}
    for real in sorted(boxes, key=lambda real: (real.sample, real.component)):
        reals[real.defect_type].append(real)
    return reals


def _is_texture(goods: Sequence[Sample], sums: Callable[[Sample], Sums]) -> bool:
    """Whether most of the first good pictures are foreground all over.

    A verdict on the category, not on single pictures, and on the same ones however many placements there are.
    """
    votes = [
        bool(one[-1, -1] == (one.shape[0] - 1) * (one.shape[1] - 1)) for one in map(sums, goods[:VERDICT_PICTURES])
    ]
    return 2 * sum(votes) > len(votes)


def _placement(good: Sample, real: DefectBox, box: Box, index: int, seed: int) -> Placement:
    """The record of placement number `index` of a type: its box, where that is in words, and its own seed."""
    name = f"{good.category}-{real.defect_type}-{index:05d}"
    location = language.location_of(box, *good.size)
    return Placement(
        id=name,
        category=good.category,
        defect_type=real.defect_type,
        normal=good.id,
        box=box,
        location=location,
        prompt=language.prompt(real.defect_type, good.category, location),
        seed=seed_for(seed, name),
        like=real.sample,
        component=real.component,
    )


def foreground_sums(path: Path) -> Sums:
    """Sums of a picture's foreground, from the upper left corner on."""
    foreground = foreground_mask(read_image(path))
    return np.asarray(cv2.integral(foreground.astype(np.uint8)), dtype=np.int32)


def _box_on_object(
    rng: np.random.Generator,
    real: Box,
    real_size: tuple[int, int],
    size: tuple[int, int],
    jitter: float,
    share: float,
    sums: Sums,
) -> Box:
    """The first of TRIES boxes whose share on the object is `share`, within the tolerance, or else the closest."""
    best, least = real, math.inf
    for _ in range(TRIES):
        box = _box_like(rng, real, real_size, size, jitter, CENTRE_SPREAD)
        miss = abs(_share(sums, box) - share)
        if miss < least:
            best, least = box, miss
        if miss <= SHARE_TOLERANCE:
            break
    return best


def _box_like(
    rng: np.random.Generator,
    real: Box,
    real_size: tuple[int, int],
    size: tuple[int, int],
    jitter: float,
    spread: float | None,
) -> Box:
    """One box like the real one in a picture of `size` (width, height); put uniformly where `spread` is None."""
    sides = []
    for axis in (0, 1):
        extent = size[axis]
        length = (real[axis + 2] - real[axis]) * math.exp(rng.normal(0, jitter))
        length = min(max(round(length), 1), extent)
        if spread is None:
            start = int(rng.integers(extent - length + 1))
        else:
            centre = (real[axis] + real[axis + 2]) / 2 / real_size[axis] + rng.normal(0, spread)
            start = min(max(round(centre * extent - length / 2), 0), extent - length)
        sides.append((start, start + length))
    (x0, x1), (y0, y1) = sides
    return x0, y0, x1, y1


def _share(sums: Sums, box: Box) -> float:
    """Share of a box that is foreground, from the foreground's sums."""
    x0, y0, x1, y1 = box
    inside = int(sums[y1, x1]) - int(sums[y0, x1]) - int(sums[y1, x0]) + int(sums[y0, x0])
    return inside / ((x1 - x0) * (y1 - y0))
