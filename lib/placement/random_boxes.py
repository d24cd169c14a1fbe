"""Random placements: boxes on good pictures, each drawn from the box of a real defect, at a similar place."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lib import language
from lib.core.defects import whole_defects
from lib.core.errors import UserError
from lib.core.geometry import BORDERS, Box, Polygon
from lib.core.records import DefectBox, Placement, Sample
from lib.core.runtime import progress, seed_for
from lib.placement.parts import part_at, poses, turning
from lib.placement.scenes import MIN_SHARE, Boxes, Place, Scene, View, scene_of
from lib.placement.surroundings import Points, features_at, unlikeness

# Standard deviation of a placement's centre about the real one, in sizes of the part. A handful of real defects shows
# only roughly where on a part a type occurs (at the rim, in the middle).
CENTRE_SPREAD = 0.15
# Largest difference between the share of a box that lies on the object and that of the real box: defects of an edge lie
# partly on the background, and must stay there.
SHARE_TOLERANCE = 0.1
CANDIDATES = 96  # boxes drawn for each placement
KEPT = 4  # candidates with the most similar surroundings, one of which is taken at random


def place_boxes(
    samples: Sequence[Sample],
    boxes: Sequence[DefectBox],
    per_type: int,
    jitter: float,
    seed: int,
    scene: Scene | None = None,
    on_part: bool = True,
) -> list[Placement]:
    """`per_type` placements for each defect type of one category, drawn from its real boxes in the train part.

    Size, aspect and place are taken from one random real box. Width and height (px) are multiplied by log-normal
    factors of spread `jitter`. On an object, the centre keeps its place in the coordinate frame of the part, with a
    normal spread of CENTRE_SPREAD. If the part fills the picture and all pictures show the same thing in the same
    place, the centre keeps its place in the picture, with that spread; on a texture it is uniform. A defect that
    reaches borders of such a picture reaches the same ones again: a box between opposite borders is as long as the
    new picture. CANDIDATES such boxes are drawn. Of those that lie on the object to the same share as the real box,
    one of the KEPT with the most similar surroundings is taken. The good pictures of the train part are used in
    turn, in an order that is shuffled for each type.

    Boxes of fragments (`whole_defects`) are not drawn from.

    Every placement has its own random generator: a larger `per_type` does not change the others. scene: the result of
    `scene_of` for the samples and boxes, if available. on_part: where pictures show parts, defects change nothing else,
    even if their boxes reach beyond. Raises UserError like `scene_of`, and if a good picture has no room for a box
    where defects may be placed (`lib.core.regions`).
    """
    scene = scene or scene_of(samples, boxes)
    goods, reals = scene.goods, _by_type(whole_defects(scene.reals))
    orders = {
        defect_type: np.random.default_rng(seed_for(seed, goods[0].category, defect_type)).permutation(len(goods))
        for defect_type in reals
    }
    jobs = []
    for defect_type in reals:
        for index in range(per_type):
            good = goods[orders[defect_type][index % len(goods)]]
            rng = np.random.default_rng(seed_for(seed, good.category, defect_type, index))
            jobs.append((good, rng, reals[defect_type][rng.integers(len(reals[defect_type]))], index))
    pictures = {good.id: good for good, _, _, _ in jobs} | {
        real.sample: scene.sample(real.sample) for _, _, real, _ in jobs
    }
    scene.views(list(pictures.values()))  # all at once, as far as the memory of views goes
    placements = []
    for good, rng, real, index in progress(jobs, "place boxes"):
        box = _box_at(rng, scene, scene.place(real), scene.view(good), jitter)
        if box is None:
            width, height = real.box[2] - real.box[0], real.box[3] - real.box[1]
            raise UserError(
                f"dataset.regions: {good.image} has no room where a defect may be placed for one of about {width} x "
                f"{height} px, such as defect {real.component} of {real.sample}: leave more of its regions white"
            )
        name = f"{good.category}-{real.defect_type}-{index:05d}"
        placement = placement_of(name, good, real, box, seed)
        placements.append(replace(placement, on_part=on_part and scene.kind == "parts"))
    return placements


def _by_type(boxes: Sequence[DefectBox]) -> dict[str, list[DefectBox]]:
    """The boxes of each defect type; types and boxes are sorted."""
    reals: dict[str, list[DefectBox]] = {defect_type: [] for defect_type in sorted({box.defect_type for box in boxes})}
    for real in sorted(boxes, key=lambda real: (real.sample, real.component)):
        reals[real.defect_type].append(real)
    return reals


def placement_of(
    name: str, good: Sample, real: DefectBox, box: Box, seed: int, shape: Polygon | None = None
) -> Placement:
    """The record of a placement, with its location in words and its own seed."""
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
        shape=shape,
    )


def _box_at(rng: np.random.Generator, scene: Scene, real: Place, good: View, jitter: float) -> Box | None:
    """One box on a good picture at a place similar to the real one, entirely where defects may be placed.

    If no candidate is, the nearest such place to the first candidate; None if there is none.
    """
    sides = np.subtract(real.box[2:], real.box[:2]) * np.exp(rng.normal(0, jitter, (CANDIDATES, 2)))
    sides = np.clip(np.rint(sides), 1, good.size).astype(np.int64)
    first, last = (np.array([border in real.borders for border in half]) for half in (BORDERS[:2], BORDERS[2:]))
    sides = np.where(first & last, good.size, sides)
    if scene.kind == "texture":
        starts, turns = _anywhere(rng, real, good, sides), np.zeros(CANDIDATES)
    else:
        centres, turns = _centres(rng, scene, real, good)
        starts = np.clip(np.rint(centres - sides / 2), 0, good.size - sides).astype(np.int64)
    starts = np.where(first, 0, np.where(last, good.size - sides, starts))
    boxes = np.concatenate([starts, starts + sides], axis=1)
    is_open = good.open(boxes)
    if not is_open.any():
        return _nearest_open(boxes[0], good)
    boxes, turns = boxes[is_open], turns[is_open]

    misses = np.abs(good.shares(boxes) - max(real.share, MIN_SHARE))
    fitting = np.flatnonzero(misses <= max(SHARE_TOLERANCE, misses.min()))
    boxes, turns = boxes[fitting], turns[fitting]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    around, _ = features_at(good.features, middles[:, None, None] + real.offsets @ turning(turns)[:, None])
    order = np.argsort(unlikeness(*real.surroundings, around, scene.scale), kind="stable")
    x0, y0, x1, y1 = boxes[order[rng.integers(min(KEPT, len(order)))]].tolist()
    return x0, y0, x1, y1


def _nearest_open(box: NDArray[np.int64], good: View) -> Box | None:
    """The box (4,), moved to the nearest place where defects may be placed on all of it; None if there is none."""
    width, height = (box[2:] - box[:2]).tolist()
    starts = good.open_starts(width, height)
    if not len(starts):
        return None
    x, y = starts[((starts - box[:2]) ** 2).sum(axis=1).argmin()].tolist()
    return x, y, x + width, y + height


def _anywhere(rng: np.random.Generator, real: Place, good: View, sides: Boxes) -> Boxes:
    """Upper left corners (CANDIDATES, 2) of boxes on a texture. If the real box is near a border, half of the boxes are
    as near to it, which uniform boxes would hardly ever be."""
    starts, beside = rng.integers(good.size - sides + 1), rng.random(sides.shape) < 0.5
    apart = rng.uniform(0.5, 1.5, sides.shape)
    before, behind = np.array(real.box[:2]), real.view.size - np.array(real.box[2:])
    distance = np.rint(apart * np.minimum(before, behind)).astype(np.int64)
    near = np.clip(np.where(before <= behind, distance, good.size - sides - distance), 0, good.size - sides)
    return np.where(beside & (np.minimum(before, behind) < real.reach), near, starts)


def _centres(rng: np.random.Generator, scene: Scene, real: Place, good: View) -> tuple[Points, NDArray[np.float64]]:
    """Centres (CANDIDATES, 2) in a good picture near the place of a real box on its part, and the part's rotations."""
    noise, along = rng.normal(0, CENTRE_SPREAD, (CANDIDATES, 2)), rng.uniform(-0.5, 0.5, CANDIDATES)
    if not (real.view.parts and good.parts):  # the picture stands for the part
        return (real.centre / real.view.size + noise) * good.size, np.zeros(CANDIDATES)
    numbers, pose = poses(part_at(real.view.parts, real.box, real.view.features), good.parts, scene.scale[:3])
    chosen = rng.integers(len(numbers), size=CANDIDATES)
    parts = [good.parts[number] for number in numbers[chosen]]
    centres = pose(real.centre)[chosen] + noise * np.array([part.size for part in parts])[:, None]
    for number, part in enumerate(parts):
        if part.axis is not None:  # its ends are outside the picture: the place along it has no meaning
            axis = np.array([math.cos(part.axis), math.sin(part.axis)])
            centres[number] += axis * (along[number] * part.length - (centres[number] - part.centre) @ axis)
    return centres, pose.turn[chosen]
