"""Cut a real defect out and paste it elsewhere (Dwibedi, Misra & Hebert 2017: "Cut, Paste and Learn").

The defect is the one that the placement was drawn from. It is flipped, rotated and scaled a little, adapted to the
brightness of the new place, and its border is blended. Unlike in the paper, the background is a good picture of the
same category, in which a defect of an edge must lie on an edge. So of several random poses the method takes the one
whose surroundings match those of the new place best. A defect that reaches the border of its picture is stretched into
a box at that border and not rotated. The mask is the real one, moved with its defect: known, not measured.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.defects import defect_mask, unsound_pixels
from lib.core.errors import UserError
from lib.core.geometry import RGB, Border, Box, Mask, borders_of, box_mask, can_flip
from lib.core.images import read_image, read_mask, recent
from lib.core.params import Params, Section
from lib.core.records import DefectBox, Placement
from lib.core.runtime import seed_for
from lib.generators import Answer, Failed, Made, RealData

SHARED = ("synth.feather",)
POSES = 32  # random poses, of which the one whose surroundings match best is taken
RING = 5  # px; width of the ring around the defect in which surroundings are compared, as wide as the gate's
TIGHT = 0.9  # poses that must shrink to less than this share of the best fitting pose's scale are dropped
MARGIN = 2  # times (feather + ring) px are cut out around a real defect: enough if it shrinks to half its size
RIM_SHARE = 6  # the free rim takes at most 1 / RIM_SHARE of the box on each side, so that small boxes hold the defect
DARK = 16  # grey levels added before ratios of brightness are taken, since those of black pixels are noise
MOST_GAIN = 3  # the most by which a defect is brightened or darkened by a factor, which amplifies its noise, too
ERODED = 3  # px by which OpenCV's seamless cloning erodes the given region


class Settings(Section):
    """blending: feather fades the border over `synth.feather` px, poisson pastes gradients (Perez et al. 2003).

    rotation: largest angle in degrees. scale: largest relative change of size, beside the ratio of the placement's box
    to the real one. flips: mirror left to right and upside down, each with probability 0.5.
    """

    blending: Literal["feather", "poisson"]
    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    flips: bool


@dataclass(frozen=True)
class Defect:
    """A real defect, cut out of its picture with some surroundings.

    image: (h, w, 3) uint8. own: (h, w), its pixels. others: (h, w), pixels of other defects, which are never pasted.
    box: the real box in px of `image`. borders: those of its picture that the defect reaches.
    """

    image: RGB
    own: Mask
    others: Mask
    box: Box
    borders: tuple[Border, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the real box in px."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


@dataclass(frozen=True)
class Pose:
    """How a defect is placed: scale factors along x and y, flips, then a rotation in degrees, and its centre in px of
    the picture."""

    angle: float
    scale: tuple[float, float]
    flips: tuple[bool, bool]  # across, down
    centre: tuple[float, float]  # x, y


@dataclass(frozen=True)
class Canvas:
    """The part of a good picture that is pasted into: the box with a ring around it, clipped to the picture."""

    x0: int  # origin in the picture
    y0: int
    pixels: NDArray[np.float32]  # (h, w, 3)
    inside: Mask  # (h, w), the box


@dataclass(frozen=True)
class Layer:
    """A defect, transformed onto the canvas: its colours (h, w, 3), its mask, and where pixels may be pasted."""

    colours: NDArray[np.float32]
    mask: Mask
    usable: Mask  # the source has a pixel there, which does not belong to another defect


def synthesize(
    params: Params, settings: Settings, real: RealData, model: Path, batches: Iterable[list[Placement]]
) -> Iterator[list[Answer]]:
    """Paste a real defect into the box of every placement; outside the box nothing changes, bit for bit.

    Raises UserError if a placement names a defect that is not in the train part.
    """
    images, masks = recent(read_image), recent(read_mask)
    boxes = {(item.sample, item.component): item for item in real.boxes}

    def answer(placement: Placement) -> Answer:
        item = boxes.get((placement.like, placement.component))
        if item is None:
            raise UserError(
                f"placement {placement.id}: defect {placement.component} of {placement.like} is not in the train part; "
                f"`dvc repro` draws the placements anew"
            )
        sample = real.samples[item.sample]
        margin = MARGIN * (params.synth.feather + RING)
        image, mask = images(Path(sample.image)), defect_mask(sample, item.defect_type, masks)
        defect = cut_out(image, mask, unsound_pixels(sample, masks), item, margin)
        rng = np.random.default_rng(seed_for(placement.seed, "cutpaste"))
        normal = images(Path(real.samples[placement.normal].image))
        return paste(normal, defect, placement.box, settings, params.synth.feather, rng)

    for batch in batches:
        yield [answer(placement) for placement in batch]


def cut_out(image: RGB, mask: Mask, unsound: Mask, item: DefectBox, margin: int) -> Defect:
    """One defect of a picture (H, W, 3), with `margin` px of its surroundings.

    mask: (H, W) bool, the defects of its type. unsound: (H, W) bool, all pixels that show a defect or never count.
    Boxes of defects of one type are disjoint: the mask inside the box is this defect, all other unsound pixels are not.
    """
    x0, y0, x1, y1 = item.box
    left, top = max(x0 - margin, 0), max(y0 - margin, 0)
    near = slice(top, y1 + margin), slice(left, x1 + margin)
    own = mask & box_mask(item.box, *mask.shape[::-1])
    box = x0 - left, y0 - top, x1 - left, y1 - top
    return Defect(image[near], own[near], (unsound & ~own)[near], box, item.borders)


def paste(normal: RGB, defect: Defect, box: Box, settings: Settings, feather: int, rng: np.random.Generator) -> Answer:
    """Paste the defect into a box of the good picture (H, W, 3) uint8, in the best of POSES random poses.

    The mask is that of the defect, without pixels that did not change; the border is blended around it, inside the box.
    Failed if the box is empty, or the defect is smaller than a pixel in it.
    """
    if box[0] >= box[2] or box[1] >= box[3] or not defect.own.any():
        return Failed("there is nothing to paste, or no place for it")
    canvas = canvas_around(normal, box)
    if defect.borders and set(defect.borders) <= set(borders_of(box, normal.shape[1::-1])):
        poses = stretched_poses(defect, box, settings)
    else:
        poses = fitting_poses(defect, box, normal.shape, settings, feather, rng)
    layers = [lay(defect, pose, canvas) for pose in poses]
    best = int(np.argmin([mismatch(layer, canvas) for layer in layers]))
    pose, layer = poses[best], layers[best]
    if not layer.mask.any():
        return Failed("the defect is less than a pixel in this box")
    image, mask = normal.copy(), np.zeros(normal.shape[:2], dtype=bool)
    height, width = layer.mask.shape
    place = slice(canvas.y0, canvas.y0 + height), slice(canvas.x0, canvas.x0 + width)
    image[place] = BLENDINGS[settings.blending](layer, canvas, feather)
    mask[place] = layer.mask & (image[place] != normal[place]).any(axis=2)
    notes = {
        "angle": round(pose.angle, 3),
        "scale": [round(value, 4) for value in pose.scale],
        "flipped_across": pose.flips[0],
        "flipped_down": pose.flips[1],
        "centre": [round(value, 2) for value in pose.centre],
        "feather": feather,
    }
    return Made(image, mask, notes=notes)


def canvas_around(normal: RGB, box: Box) -> Canvas:
    """The canvas of a box in a picture (H, W, 3)."""
    height, width = normal.shape[:2]
    x0, y0 = max(box[0] - RING, 0), max(box[1] - RING, 0)
    x1, y1 = min(box[2] + RING, width), min(box[3] + RING, height)
    inside = box_mask((box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0), x1 - x0, y1 - y0)
    return Canvas(x0, y0, normal[y0:y1, x0:x1].astype(np.float32), inside)


def fitting_poses(
    defect: Defect, box: Box, shape: tuple[int, ...], settings: Settings, feather: int, rng: np.random.Generator
) -> list[Pose]:
    """Random poses in which the defect lies inside the box of a picture of shape (H, W, ...).

    The scale follows the ratio of the box to the real box. A pose in which the defect does not fit is shrunk; poses
    that shrink much more than the best one are dropped (TIGHT). If there is room, a rim of `feather` px stays free,
    except at the picture's border.
    """
    low, high = _room(box, shape, feather)
    ratio = math.sqrt((box[2] - box[0]) * (box[3] - box[1]) / math.prod(defect.size))
    outline, poses = _outline(defect.own), list[tuple[float, Pose]]()
    for _ in range(POSES):
        angle = rng.uniform(-settings.rotation, settings.rotation)
        scale = ratio * (1 + rng.uniform(-settings.scale, settings.scale))
        across, down = (bool(flip) and settings.flips for flip in rng.random(2) < 0.5)
        spread = outline @ _linear(angle, (scale, scale), (across, down)).T
        fit = float(min(1.0, ((high - low) / np.ptp(spread, axis=0)).min()))
        first, last = low - fit * spread.min(axis=0), high - fit * spread.max(axis=0)
        x, y = first + rng.random(2) * (last - first)
        poses.append((fit, Pose(angle, (scale * fit, scale * fit), (across, down), (float(x), float(y)))))
    most = max(fit for fit, _ in poses)
    return [pose for fit, pose in poses if fit >= TIGHT * most]


def stretched_poses(defect: Defect, box: Box, settings: Settings) -> list[Pose]:
    """The poses that map the real box onto this one, so that the borders that the defect reaches stay borders.

    It is not rotated, nor flipped away from such a border.
    """
    size, first = np.subtract(box[2:], box[:2]), np.array(box[:2])
    scale = size / defect.size
    inset = (_centre(defect.own) - defect.box[:2]) * scale
    is_free = [settings.flips and can_flip(defect.borders, axis) for axis in (0, 1)]
    poses = []
    for across, down in itertools.product(*((False, True) if free else (False,) for free in is_free)):
        x, y = (first + np.where([across, down], size - inset, inset)).tolist()
        poses.append(Pose(0.0, (float(scale[0]), float(scale[1])), (across, down), (x, y)))
    return poses


def lay(defect: Defect, pose: Pose, canvas: Canvas) -> Layer:
    """The defect on the canvas, its mask clipped to the box; nothing is pasted from beyond the source's border."""
    linear = _linear(pose.angle, pose.scale, pose.flips)
    half = np.full(2, 0.5)  # OpenCV counts from the middle of the first pixel
    shift = np.array(pose.centre) - (canvas.x0, canvas.y0) - half + linear @ (half - _centre(defect.own))
    matrix, size = np.column_stack([linear, shift]), canvas.inside.shape[::-1]

    def warped(mask: Mask) -> NDArray[np.uint8]:
        return np.asarray(cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, size), dtype=np.uint8)

    colours = cv2.warpAffine(defect.image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    shares = warped(defect.own)
    own = shares >= 128
    if _pieces(own) > _pieces(defect.own):  # of a line of one pixel hardly any pixel keeps half
        own = shares >= 64
    own &= canvas.inside
    there = warped(np.ones_like(defect.own)) >= 128
    usable = (there | own) & (warped(defect.others) == 0) & canvas.inside
    return Layer(colours.astype(np.float32), own, usable)


def _pieces(mask: Mask) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]


def mismatch(layer: Layer, canvas: Canvas) -> float:
    """How badly the defect's surroundings match those of the place: mean absolute difference in the ring around it, in
    grey levels; infinite if no defect is left."""
    ring = _ring(layer)
    if not ring.any():
        return 0.0 if layer.mask.any() else math.inf
    return float(np.abs(canvas.pixels[ring] - layer.colours[ring]).mean())


def relit(layer: Layer, canvas: Canvas) -> NDArray[np.float32]:
    """The defect's colours (h, w, 3) in the light of the place, so that its surroundings match those there.

    Light is a factor up to MOST_GAIN: what is half as bright as its surroundings stays so, and black stays nearly
    black. What such a factor leaves over is added. Both are medians over the ring of pixels compared one by one, not
    of medians: if the ring shows both part and background, those would lie between the two.
    """
    ring = _ring(layer)
    if not ring.any():
        return layer.colours
    there, here = canvas.pixels[ring] + DARK, layer.colours[ring] + DARK
    gain = np.clip(np.median(there / here, axis=0), 1 / MOST_GAIN, MOST_GAIN)
    rest = np.median(there - gain * here, axis=0)
    return np.asarray(gain * (layer.colours + DARK) + rest - DARK, dtype=np.float32)


def faded(layer: Layer, canvas: Canvas, feather: int) -> RGB:
    """The canvas with the defect, opaque inside its mask and fading out over `feather` px around it."""
    distance = cv2.distanceTransform((~layer.mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    opacity = np.clip(1 - distance / (feather + 1), 0, 1) * layer.usable
    return _rounded(canvas.pixels + opacity[..., None] * (relit(layer, canvas) - canvas.pixels))


def cloned(layer: Layer, canvas: Canvas, feather: int) -> RGB:
    """The canvas with the defect cloned seamlessly into the region up to `feather` px around its mask."""
    edge = ERODED + 1  # the region must not touch the border of what OpenCV is given
    source, target = (
        cv2.copyMakeBorder(_rounded(colours), edge, edge, edge, edge, cv2.BORDER_REFLECT_101)
        for colours in (layer.colours, canvas.pixels)
    )
    mask, usable = (np.pad(part.astype(np.uint8), edge) for part in (layer.mask, layer.usable))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * (feather + ERODED) + 1,) * 2)
    region = (cv2.dilate(mask, disc) > 0) & (cv2.dilate(usable, np.ones((2 * ERODED + 1,) * 2)) > 0)
    solid = region.astype(np.uint8) * 255
    left, top, width, height = cv2.boundingRect(solid)
    centre = (left + width // 2, top + height // 2)  # so that OpenCV moves nothing
    mixed = cv2.seamlessClone(source, target, solid, centre, cv2.NORMAL_CLONE)[edge:-edge, edge:-edge]
    return np.where(layer.usable[..., None], mixed, _rounded(canvas.pixels))


BLENDINGS = {"feather": faded, "poisson": cloned}


def _rounded(colours: NDArray[np.float32]) -> RGB:
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def _ring(layer: Layer) -> Mask:
    """The ring around the defect, without the pixels next to it, which show its soft border."""
    solid = layer.mask.astype(np.uint8)
    grown, far = (cv2.dilate(solid, np.ones((2 * r + 1, 2 * r + 1))) > 0 for r in (1, 1 + RING))
    return far & ~grown & layer.usable


def _room(box: Box, shape: tuple[int, ...], feather: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest (x, y) that a defect may reach in a box; shape: (H, W, ...) of the picture."""
    low, high = np.array(box[:2], float), np.array(box[2:], float)
    rim = np.minimum(feather, (high - low) // RIM_SHARE)
    return low + rim * (low > 0), high - rim * (high < shape[1::-1])


def _linear(angle: float, scale: tuple[float, float], flips: tuple[bool, bool]) -> NDArray[np.float64]:
    """The matrix (2, 2) that scales and flips, then rotates points (x, y) by an angle in degrees."""
    turn = math.radians(angle)
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return turned * np.where(flips, -1.0, 1.0) * scale


def _centre(mask: Mask) -> NDArray[np.float64]:
    """(x, y) of the middle of a mask's bounding box, in px from the left and top border."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([left + width / 2, top + height / 2])


def _outline(mask: Mask) -> NDArray[np.float64]:
    """(N, 2) corners of the convex hull of a mask's pixels, (x, y) from its centre."""
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.column_stack([columns + dx, rows + dy]) for dx in (0, 1) for dy in (0, 1)])
    return cv2.convexHull(corners.astype(np.int32))[:, 0] - _centre(mask)
