"""Regions given as polygons, run lengths, boxes or files, and the mask that is drawn from them."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from lib.core.errors import UserError, shortlist
from lib.core.geometry import RGB, Box, Mask
from lib.core.images import read_mask, read_pixels
from lib.core.records import MASK_SOURCES, MaskSource
from lib.dataset.mask_patches import Patch, RunLengths, cut_out, decoded, united

MAX_REGIONS = 10_000  # of a picture
MAX_POINTS = 100_000  # of a polygon
MAX_OUTLINE = 5_000_000  # px of a polygon's outline, each of which needs some 50 bytes to fill it
MAX_TYPES = 255  # of a picture: the limit of an 8-bit map
FAULTS_IN_MESSAGE = 5  # of a picture, alike ones counted once; of the others a message gives only the number
GRABCUT_SIDE = 400  # px; larger surroundings are shrunk, which is exact enough
# Measured on the boxes of 163 real defects with masks (tiles, ball screws, bottle, leather), mean IoU over seven types:
# whole boxes 0.55; five rounds 0.57, one round 0.58, and 0.60 if results of less than a fifth of the box are rejected.
# Then 65 of the boxes have a result, with an IoU of 0.74, where the whole box has 0.64.
GRABCUT_ROUNDS = 1
GRABCUT_LEAST = 0.2  # of the box; smaller results are rejected
SPECK = 0.1  # of the largest piece of a difference; smaller ones are dropped
CORE = 0.3  # least share of a difference that is thick, or away from the box's border, for the rest to be dropped

BoxMasks = Literal["grabcut", "whole"]


@dataclass(frozen=True)
class Polygon:
    """Rings x0, y0, x1, y1, ... of three or more points; the region is the union of their areas."""

    rings: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Rectangle:
    """x0, y0, x1, y1; x1 and y1 are exclusive."""

    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class MaskFile:
    """A picture that is not black where the region is."""

    path: Path


@dataclass(frozen=True)
class Difference:
    """The pixels in a rectangle that differ from an aligned picture without the defect."""

    template: Path
    corners: tuple[float, float, float, float]


Shape = Polygon | Rectangle | RunLengths | MaskFile | Difference


@dataclass(frozen=True)
class Region:
    """One defect of a picture."""

    defect_type: str
    shape: Shape


@dataclass(frozen=True)
class Annotation:
    """All defects of a picture, from the file `source`.

    size: (width, height) of the annotated picture, if the file gives it. Coordinates are pixels from the left and top
    border, or, with `shares`, fractions of the picture's width and height.
    """

    source: Path
    regions: tuple[Region, ...]
    size: tuple[int, int] | None = None
    shares: bool = False


@dataclass(frozen=True)
class Drawing:
    """The drawn regions: `labels` (H, W) uint8 is k where the picture shows a defect of `types[k - 1]`, else 0.

    guessed: number of boxes that were marked whole, since GrabCut found nothing. hidden: regions that others cover
    completely, such as `dent under scratch`.
    """

    labels: NDArray[np.uint8]
    types: tuple[str, ...]
    source: MaskSource
    guessed: int = 0
    hidden: tuple[str, ...] = ()


def draw(annotation: Annotation, image: NDArray, boxes: BoxMasks = "grabcut") -> Drawing:
    """Draw the regions of a picture (H, W, 3), the largest first, so that small ones remain visible.

    boxes: "grabcut" segments the defect in a box, "whole" marks the whole box. The source is that of the least exact
    region. Raises UserError, which names the annotation's file and all regions that cannot be drawn or lie outside.
    """
    height, width = image.shape[:2]
    types = tuple(sorted({region.defect_type for region in annotation.regions}))
    if not 0 < len(annotation.regions) <= MAX_REGIONS or len(types) > MAX_TYPES:
        raise UserError(
            f"{annotation.source}: {len(annotation.regions)} regions of {len(types)} types in one picture; from 1 to "
            f"{MAX_REGIONS} of at most {MAX_TYPES} are read"
        )
    scale = (float(width), float(height)) if annotation.shares else (1.0, 1.0)
    rectangles: list[Box] = []
    for region in annotation.regions:
        with suppress(UserError):  # told below, with its number
            if isinstance(region.shape, Rectangle):
                rectangles.append(_pixels(region.shape.corners, width, height, scale))
    drawn: list[tuple[int, int, Patch]] = []
    faults: list[tuple[int, str]] = []
    sources: set[MaskSource] = set()
    guessed = 0
    for number, region in enumerate(annotation.regions, start=1):
        try:
            patch, source = _patch(region.shape, image, scale, boxes, rectangles)
            if not (area := int(patch.mask.sum())):
                raise UserError(f"not a pixel of it lies in the picture of {width} x {height} px")
        except UserError as error:
            faults.append((number, str(error)))
            continue
        guessed += boxes == "grabcut" and isinstance(region.shape, Rectangle) and source == "box"
        sources.add(source)
        drawn.append((area, types.index(region.defect_type) + 1, patch))
    if faults:
        raise UserError(_message(annotation, faults))
    labels = np.zeros((height, width), np.uint8)
    for _, value, patch in sorted(drawn, key=lambda one: -one[0]):
        patch.of(labels)[patch.mask] = value
    hidden = tuple(
        f"{types[value - 1]} under {' and '.join(types[one - 1] for one in np.unique(patch.of(labels)[patch.mask]))}"
        for _, value, patch in drawn
        if not (patch.of(labels)[patch.mask] == value).any()
    )
    return Drawing(labels, types, max(sources, key=MASK_SOURCES.index), guessed, hidden)


def _message(annotation: Annotation, faults: Sequence[tuple[int, str]]) -> str:
    """A message about regions, given by their numbers, that cannot be drawn.

    Of faults that differ in their figures alone the first is told in full, the others by their regions.
    """
    alike: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, error in faults:
        alike[re.sub(r"(?<!\S)-?\d\S*", "", error)].append((number, error))
    phrases = []
    for (number, error), *others in list(alike.values())[:FAULTS_IN_MESSAGE]:
        names = [f"{one} ({annotation.regions[one - 1].defect_type})" for one, _ in others]
        more = f"; alike in {len(names)} more: {shortlist(names)}" if names else ""
        phrases.append(f"region {number}, {annotation.regions[number - 1].defect_type}: {error}{more}")
    if rest := sum(map(len, list(alike.values())[FAULTS_IN_MESSAGE:])):
        phrases.append(f"and {rest} more")
    return f"{annotation.source}: {'; '.join(phrases)}; correct or remove {'it' if len(faults) == 1 else 'them'}"


def _patch(
    shape: Shape, image: NDArray, scale: tuple[float, float], boxes: BoxMasks, rectangles: Sequence[Box]
) -> tuple[Patch, MaskSource]:
    """The part of the mask in which one region lies, and its source."""
    height, width = image.shape[:2]
    if isinstance(shape, Polygon):
        return polygon_patch(shape, width, height, scale), "polygon"
    if isinstance(shape, RunLengths):
        if shape.size != (width, height):
            raise UserError(f"run lengths of {shape.size[0]} x {shape.size[1]} px, the picture has {width} x {height}")
        return decoded(shape), "drawn"
    if isinstance(shape, MaskFile):
        mask = read_mask(shape.path)
        if mask.shape != (height, width):
            raise UserError(
                f"{shape.path}: the mask is {mask.shape[1]} x {mask.shape[0]} px, the picture {width} x {height} px"
            )
        return cut_out(mask), "drawn"
    box = _pixels(shape.corners, width, height, scale)
    if isinstance(shape, Difference):
        return Patch(box[0], box[1], _difference(image, shape.template, box)), "difference"
    whole = np.broadcast_to(np.True_, (box[3] - box[1], box[2] - box[0]))  # of any size, it takes no memory
    segment = grabcut(image, box, rectangles) if boxes == "grabcut" and whole.size else None
    return Patch(box[0], box[1], whole if segment is None else segment), "box" if segment is None else "grabcut"


def polygon_patch(polygon: Polygon, width: int, height: int, scale: tuple[float, float] = (1, 1)) -> Patch:
    """The polygon filled as by COCO's tools: pixels whose centre is inside, except for some at the edges.

    A ring too thin to contain a pixel is drawn as a line, so that thin scratches are not lost.
    Raises UserError for less than three points, and for points farther outside than a picture's size.
    """
    return united(_ring(ring, width, height, scale) for ring in polygon.rings)


def _ring(ring: Sequence[float], width: int, height: int, scale: tuple[float, float]) -> Patch:
    """One ring of a polygon.

    COCO's tools round to a fifth of a pixel, and towards 0. That changes with the place, so the points must not be
    moved to a crop. It need not be: the run lengths of a ring are as long as its outline, however large the picture is.
    """
    points = np.asarray(ring, float)
    if points.size % 2 or not 6 <= points.size <= 2 * MAX_POINTS:
        raise UserError(f"a polygon of {points.size} numbers; expected two for each of 3 to {MAX_POINTS} points")
    points = points.reshape(-1, 2) * scale
    limits = np.array([width, height])
    if not (np.isfinite(points).all() and (points >= -limits).all() and (points <= 2 * limits).all()):
        raise UserError(f"a polygon with points far outside of the picture of {width} x {height} px")
    if (outline := np.abs(points - np.roll(points, 1, axis=0)).sum()) > MAX_OUTLINE:
        raise UserError(f"a polygon whose outline has {outline:,.0f} px; at most {MAX_OUTLINE:,} are drawn")
    filled = coco.frPyObjects([points.ravel().tolist()], height, width)[0]
    if coco.area(filled):
        return decoded(RunLengths(filled["counts"], (width, height)))
    # Lines are cut at the crop's borders as at the picture's: the points lie beyond a border of the one only where it
    # is one of the other, too.
    pixels = np.floor(points).astype(np.int32)
    start, end = np.clip([pixels.min(axis=0), pixels.max(axis=0) + 1], 0, limits)
    line = np.zeros((end - start)[::-1], np.uint8)
    if line.size:
        cv2.polylines(line, [pixels - start.astype(np.int32)], True, 1)
    return Patch(int(start[0]), int(start[1]), line > 0)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0) -> Polygon:
    """An ellipse, rotated clockwise by `angle` degrees about its centre, as a polygon of 72 points."""
    turns = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return _turned(np.stack([radius_x * np.cos(turns), radius_y * np.sin(turns)], axis=1), angle, (x, y))


def turned_box(
    corners: tuple[float, float, float, float], angle: float, about: tuple[float, float] | None = None
) -> Polygon:
    """A box, rotated clockwise by `angle` degrees about a point, by default its centre."""
    x0, y0, x1, y1 = corners
    centre = about or ((x0 + x1) / 2, (y0 + y1) / 2)
    return _turned(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float) - centre, angle, centre)


def _turned(points: NDArray, angle: float, centre: tuple[float, float]) -> Polygon:
    """Points (N, 2) about the origin, rotated clockwise (y points down) and moved to the centre."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = points @ np.array([[cosine, sine], [-sine, cosine]]) + centre
    return Polygon((tuple(corners.ravel().tolist()),))


def _pixels(corners: Sequence[float], width: int, height: int, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Corners as integers, clipped to the picture, at least one pixel wide and high; an empty box if outside."""
    if not all(math.isfinite(value) for value in corners):
        raise UserError("a box with corners that are no numbers")
    x0, y0, x1, y1 = (math.floor(value * scale[axis % 2] + 0.5) for axis, value in enumerate(corners))
    if x1 < x0 or y1 < y0:
        raise UserError(f"a box from {x0:.9g}, {y0:.9g} to {x1:.9g}, {y1:.9g}, which is turned inside out")
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    return min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)


def _difference(image: NDArray, template: Path, box: Box) -> Mask:
    """Where the picture differs from its template by more than half of the value range: (h, w) bool of the box.

    The two pictures are misaligned by a pixel or two at edges. So thin pieces are dropped, and then pieces that touch
    the box's border, unless that would drop nearly all; last, pieces much smaller than the largest one.
    """
    normal = read_pixels(template)
    if normal.shape != image.shape:
        (height, width), (rows, columns) = image.shape[:2], normal.shape[:2]
        raise UserError(f"{template}: has {columns} x {rows} px, the picture {width} x {height}; they must be aligned")
    part = slice(box[1], box[3]), slice(box[0], box[2])
    half = (255 if image.dtype == np.uint8 else max(float(image.max()), float(normal.max()))) / 2
    if not image[part].size:
        return np.zeros((0, 0), bool)
    differs: NDArray = np.abs(image[part].mean(axis=2) - normal[part].mean(axis=2)) > half
    square = np.ones((3, 3), np.uint8)
    thick = cv2.dilate(cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_OPEN, square), square) > 0
    if (differs & thick).sum() >= CORE * differs.sum():
        differs = differs & thick
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(differs.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA].copy()
    outer = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    free = ~np.isin(np.arange(1, len(areas) + 1), outer)
    if areas[free].sum() >= CORE * areas.sum():
        areas[~free] = 0
    return np.isin(pieces, 1 + np.flatnonzero((areas > 0) & (areas >= SPECK * areas.max(initial=0))))


def grabcut(image: NDArray, box: Box, others: Sequence[Box] = ()) -> Mask | None:
    """The foreground of a box (h, w) bool by GrabCut (Rother et al. 2004); None without foreground or background.

    image: (H, W, 3) of any depth; box: within it; others: other boxes of the picture, which are not background.
    Deterministic.
    """
    around = max(8, (max(box[2] - box[0], box[3] - box[1]) + 1) // 2)
    left, top = max(box[0] - around, 0), max(box[1] - around, 0)
    crop: NDArray = _eight_bits(image[top : box[3] + around, left : box[2] + around])
    state: NDArray = np.full(crop.shape[:2], cv2.GC_BGD, np.uint8)
    full = crop.shape[1], crop.shape[0]
    for x0, y0, x1, y1 in (box, *others):
        state[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] = cv2.GC_PR_FGD
    shrink = min(1.0, GRABCUT_SIDE / max(crop.shape[:2]))
    if shrink < 1:
        size = max(1, round(crop.shape[1] * shrink)), max(1, round(crop.shape[0] * shrink))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        state = cv2.resize(state, size, interpolation=cv2.INTER_NEAREST)
    inside = state == cv2.GC_PR_FGD
    if inside.all() or not inside.any():
        return None
    cv2.setRNGSeed(0)  # of this thread
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(crop, state, (0, 0, 0, 0), *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    foreground = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if shrink < 1:
        foreground = cv2.resize(foreground.astype(np.uint8), full, interpolation=cv2.INTER_NEAREST) > 0
    mask = foreground[box[1] - top : box[3] - top, box[0] - left : box[2] - left].copy()
    return mask if mask.sum() >= GRABCUT_LEAST * mask.size else None


def _eight_bits(crop: NDArray) -> RGB:
    """A crop as uint8, stretched to the range of its values, which keeps its contrast."""
    if crop.dtype == np.uint8:
        return np.ascontiguousarray(crop)
    values = crop.astype(np.float64)
    low, high = values.min(), values.max()
    return np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
