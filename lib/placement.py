"""Where new defects go: boxes on good pictures, each drawn from the box of a real defect, at a place like the real one's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from lib.parts import Part, Pose, part_at, parts_of, poses, turning
from lib.surroundings import CHANNELS, Features, Points, features, ring_offsets, scales, seen, unlikeness

Sums = NDArray[np.int32]  # (H + 1, W + 1), of a foreground: the share of any box is read from it in four values
Boxes = NDArray[np.int64]  # (K, 4)

# Spread of a placement's centre about the real one's, in sizes of the part. A handful of real defects says roughly where
# on a part a type occurs (at the rim, in the middle), no more.
CENTRE_SPREAD = 0.15
# A placement may lie on the object to this much more or less than the real box that it is drawn from. The real share
# is the measure because defects of an edge lie half on the background: on the object alone they would be no such.
SHARE_TOLERANCE = 0.1
MIN_SHARE = 0.25  # of a box on the object: a real box with less than that tells of a bad foreground
CANDIDATES = 192  # boxes drawn for each placement
KEPT = 12  # of them, the most alike to the real place; one of these is taken
VERDICT_PICTURES = 9  # good pictures that decide whether the category is an object or a texture, and its scales


@dataclass(frozen=True)
class View:
    """What a picture shows: the sums of its foreground, its features and its parts."""

    sums: Sums
    features: Features
    parts: list[Part]

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + self.features.nbytes

    @property
    def is_whole(self) -> bool:
        """Whether all of the picture is foreground."""
        return bool(self.sums[-1, -1] == (self.sums.shape[0] - 1) * (self.sums.shape[1] - 1))


@dataclass(frozen=True)
class Place:
    """A real defect's box, and its surroundings."""

    box: Box
    view: View
    offsets: Points  # (RINGS, ANGLES, 2) px from the centre of the box
    known: NDArray[np.bool_]  # (RINGS, ANGLES)
    values: NDArray[np.float64]  # (RINGS, ANGLES, 6)

    @property
    def centre(self) -> Points:
        return np.array([self.box[0] + self.box[2], self.box[1] + self.box[3]]) / 2


def place_boxes(
    samples: Sequence[Sample], boxes: Sequence[DefectBox], per_type: int, jitter: float, seed: int
) -> list[Placement]:
    """`per_type` placements for each defect type of one category, drawn from its real boxes in the train part.

    Size, aspect and place come together from one real box, drawn at random. Width and height (px) are multiplied by
    log-normal factors of spread `jitter`. On an object the centre keeps its place in the frame of the part, however
    that is turned, but for a normal spread of CENTRE_SPREAD; on a texture, or a part that fills its pictures, it can be
    anywhere. Of CANDIDATES such boxes, those that lie on the object as much as the real box does on its own compete in
    the likeness of their surroundings to the real one's, and of the KEPT best one is drawn. The good pictures of the
    train part take turns in an order shuffled for each type.

    Every placement has a random generator of its own: a larger `per_type` changes none of the others. Raises UserError
    when the train part has no good picture or no box.
    """
    sample_of = by_id(of_split(samples, "train"))
    goods = sorted((sample for sample in sample_of.values() if sample.defect_type == GOOD), key=lambda good: good.id)
    reals = _by_type([real for real in boxes if real.sample in sample_of])
    if not goods or not reals:
        what = "a box of a real defect" if goods else "a good picture"
        raise UserError(f"placements need {what} in the train part, there is none: check the split of the data set")

    hidden = {sample: [real.box for real in boxes if real.sample == sample] for sample in sample_of}
    sample_at = {Path(sample.image): sample for sample in sample_of.values()}
    read_view = recent(lambda path: view_of(sample_at[path], hidden[sample_at[path].id]))  # type: ignore[arg-type]
    known_places: dict[tuple[str, int], Place] = {}

    def view(sample: Sample) -> View:
        return read_view(Path(sample.image))  # type: ignore[return-value]

    verdict = [view(good) for good in goods[:VERDICT_PICTURES]]
    scale = scales([one.features for one in verdict])
    texture = 2 * sum(one.is_whole for one in verdict) > len(verdict)
    if texture:
        scale[CHANNELS.index("depth")] = np.inf

    def place(real: DefectBox) -> Place:
        key = real.sample, real.component
        if key not in known_places:
            known_places[key] = place_of(real.box, view(sample_of[real.sample]))
        return known_places[key]

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
        box = _box_at(rng, place(real), view(good), jitter, scale, texture)
        placements.append(_placement(good, real, box, index, seed))
    return placements


def _by_type(boxes: Sequence[DefectBox]) -> dict[str, list[DefectBox]]:
    """Boxes of each defect type, both in an order that does not depend on that of the boxes."""
    reals: dict[str, list[DefectBox]] = {defect_type: [] for defect_type in sorted({box.defect_type for box in boxes})}
    for real in sorted(boxes, key=lambda real: (real.sample, real.component)):
        reals[real.defect_type].append(real)
    return reals


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


def view_of(sample: Sample, hidden: Sequence[Box]) -> View:
    """The view of a picture whose defects' boxes hide what is there."""
    image = read_image(Path(sample.image))
    foreground = foreground_mask(image)
    look = features(image, foreground, hidden)
    sums = np.asarray(cv2.integral(foreground.astype(np.uint8)), dtype=np.int32)
    return View(sums, look, parts_of(foreground, look))


def place_of(box: Box, view: View) -> Place:
    """A real box in its picture."""
    offsets = ring_offsets(box, view.features.size)
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    values, known = seen(view.features, centre + offsets)
    return Place(box, view, offsets, known, values)


def _box_at(
    rng: np.random.Generator, real: Place, good: View, jitter: float, scale: NDArray[np.float64], texture: bool
) -> Box:
    """One box on a good picture at a place like the real one's."""
    size = np.array(good.features.size)
    sides = np.subtract(real.box[2:], real.box[:2]) * np.exp(rng.normal(0, jitter, (CANDIDATES, 2)))
    sides = np.clip(np.rint(sides), 1, size).astype(np.int64)
    turns = np.zeros(CANDIDATES)
    if texture:
        starts = rng.integers(size - sides + 1)
    else:
        centres, turns = _centres(rng, real, good, scale)
        starts = np.clip(np.rint(centres - sides / 2), 0, size - sides).astype(np.int64)
    candidates = np.concatenate([starts, starts + sides], axis=1)

    share = max(float(_shares(real.view.sums, np.array([real.box]))[0]), MIN_SHARE)
    misses = np.zeros(CANDIDATES) if texture else np.abs(_shares(good.sums, candidates) - share)
    fitting = np.flatnonzero(misses <= max(SHARE_TOLERANCE, misses.min()))
    centres = (candidates[fitting, :2] + candidates[fitting, 2:]) / 2
    around = real.offsets @ turning(turns[fitting])[:, None]
    values, _ = seen(good.features, centres[:, None, None] + around)
    order = np.argsort(unlikeness(real.values, real.known, values, scale), kind="stable")
    best = candidates[fitting[order[rng.integers(min(KEPT, len(order)))]]]
    return tuple(int(value) for value in best)  # type: ignore[return-value]


def _centres(
    rng: np.random.Generator, real: Place, good: View, scale: NDArray[np.float64]
) -> tuple[Points, NDArray[np.float64]]:
    """Centres (CANDIDATES, 2) in a good picture about where a real box lies on its part, and the turns of the part."""
    noise = rng.normal(0, CENTRE_SPREAD, (CANDIDATES, 2))
    along = rng.uniform(-0.5, 0.5, CANDIDATES)
    if not (real.view.parts and good.parts):  # the picture stands for the part
        size = np.array(good.features.size)
        return (real.centre / real.view.features.size + noise) * size, np.zeros(CANDIDATES)
    fitting = poses(part_at(real.view.parts, real.box, real.view.features), good.parts, scale[:3])
    chosen = [fitting[number] for number in rng.integers(len(fitting), size=CANDIDATES)]
    centres = np.array([pose(real.centre) for _, pose in chosen])
    centres += noise * np.array([part.size for part, _ in chosen])[:, None]
    for number, (part, _) in enumerate(chosen):
        if part.axis is not None:  # no end of it is seen: a place along it says nothing
            axis = np.array([math.cos(part.axis), math.sin(part.axis)])
            centres[number] += axis * (along[number] * part.length - (centres[number] - part.centre) @ axis)
    return centres, np.array([pose.turn for _, pose in chosen])


def _shares(sums: Sums, boxes: Boxes) -> NDArray[np.float64]:
    """Share of each box (K, 4) that is foreground, from the foreground's sums."""
    x0, y0, x1, y1 = np.asarray(boxes).T
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return np.asarray(inside / ((x1 - x0) * (y1 - y0)))
