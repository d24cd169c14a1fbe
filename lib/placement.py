"""Where new defects go: boxes on good pictures, drawn by the law of the real ones."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib import language
from lib.core.geometry import Box
from lib.core.images import read_image, recent
from lib.core.records import GOOD, DefectBox, Placement, Sample, of_split
from lib.core.runtime import progress, seed_for
from lib.foreground import foreground_mask

# Spread of a placement's centre about the real one's, in picture widths and heights. A handful of real defects says
# roughly where a type occurs (at the rim, in the middle), no more.
CENTRE_SPREAD = 0.15
# A placement may lie on the object to this much more or less than the real box that it is drawn from. The real share
# is the measure because defects of an edge lie half on the background: on the object alone they would be no such.
SHARE_TOLERANCE = 0.1
MIN_SHARE = 0.25  # asked at least: a real box that lies on less of the object tells of a bad foreground, not of a law
TRIES = 60  # boxes drawn before the best one is taken as it is
VERDICT_PICTURES = 9  # good pictures that are asked whether the category is an object or a texture


def place_boxes(
    samples: Sequence[Sample], boxes: Sequence[DefectBox], per_type: int, jitter: float, seed: int
) -> list[Placement]:
    """`per_type` placements for each defect type of one category, by the law of its boxes in the train part.

    Size, aspect and place come together from one real box, drawn at random. Width and height (px) are multiplied by
    log-normal factors of spread `jitter`. On an object the centre keeps its relative place but for a normal spread of
    CENTRE_SPREAD, and of TRIES draws the first is taken that lies on the object as much as the real box does on its
    own; on a texture, where a defect can be anywhere, the box is put uniformly. The good pictures of the train part
    take turns in an order shuffled for each type.

    Every placement has a random generator of its own: asking for more changes none of the others. Raises ValueError
    when the train part has no good picture or no box.
    """
    known = {sample.id: sample for sample in of_split(samples, "train")}
    goods = sorted((sample for sample in known.values() if sample.defect_type == GOOD), key=lambda good: good.id)
    law: dict[str, list[DefectBox]] = {}
    for real in sorted(boxes, key=lambda real: (real.sample, real.component)):
        if real.sample in known:
            law.setdefault(real.defect_type, []).append(real)
    if not goods or not law:
        what = "a box of a real defect" if goods else "a good picture"
        raise ValueError(f"placements need {what} in the train part, there is none: check the split of the data set")

    sums_of = recent(foreground_sums)

    def inside(sample_id: str) -> NDArray[np.int32]:
        return sums_of(Path(known[sample_id].image))

    def is_texture(sums: NDArray[np.int32]) -> bool:
        return bool(sums[-1, -1] == (sums.shape[0] - 1) * (sums.shape[1] - 1))

    # A verdict on the category, not on single pictures, and on the same ones however many placements are asked for.
    asked = goods[:VERDICT_PICTURES]
    texture = 2 * sum(is_texture(inside(good.id)) for good in asked) > len(asked)

    placements = []
    orders = {
        defect_type: np.random.default_rng(seed_for(seed, goods[0].category, defect_type)).permutation(len(goods))
        for defect_type in sorted(law)
    }
    wanted = [(defect_type, index) for defect_type in orders for index in range(per_type)]
    for defect_type, index in progress(wanted, "place boxes"):
        good = goods[orders[defect_type][index % len(goods)]]
        rng = np.random.default_rng(seed_for(seed, good.category, defect_type, index))
        real = law[defect_type][rng.integers(len(law[defect_type]))]
        real_size = known[real.sample].size
        if texture:
            box = _drawn(rng, real.box, real_size, good.size, jitter, spread=None)
        else:
            share = max(_share(inside(real.sample), real.box), MIN_SHARE)
            box = _on_object(rng, real.box, real_size, good.size, jitter, share, inside(good.id))
        name = f"{good.category}-{defect_type}-{index:05d}"
        location = language.location_of(box, *good.size)
        text = language.prompt(defect_type, good.category, location)
        placements.append(
            Placement(
                name,
                good.category,
                defect_type,
                good.id,
                box,
                location,
                text,
                seed_for(seed, name),
                real.sample,
                real.component,
            )
        )
    return placements


def foreground_sums(path: Path) -> NDArray[np.int32]:
    """Sums of a picture's foreground, (H + 1, W + 1), from which the share of any box is read in four values."""
    foreground = foreground_mask(read_image(path))
    return np.asarray(cv2.integral(foreground.astype(np.uint8)), dtype=np.int32)


def _on_object(
    rng: np.random.Generator,
    real: Box,
    real_size: tuple[int, int],
    size: tuple[int, int],
    jitter: float,
    share: float,
    inside: NDArray[np.int32],
) -> Box:
    """The first of TRIES boxes with the asked share on the object, within the tolerance, or else the closest."""
    best, least = real, math.inf
    for _ in range(TRIES):
        box = _drawn(rng, real, real_size, size, jitter, CENTRE_SPREAD)
        miss = abs(_share(inside, box) - share)
        if miss < least:
            best, least = box, miss
        if miss <= SHARE_TOLERANCE:
            break
    return best


def _drawn(
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


def _share(sums: NDArray[np.int32], box: Box) -> float:
    """Share of a box that is foreground, from the foreground's sums (H + 1, W + 1)."""
    x0, y0, x1, y1 = box
    inside = int(sums[y1, x1]) - int(sums[y0, x1]) - int(sums[y1, x0]) + int(sums[y0, x0])
    return inside / ((x1 - x0) * (y1 - y0))
