"""A sheet that shows the places of real and of new defects side by side."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import RGB, Box, rescale
from lib.core.images import contact_sheet, read_image
from lib.core.records import Placement, Sample
from lib.core.regions import COLOURS, FREE, recent_regions
from lib.placement.parts import part_at, poses
from lib.placement.scenes import Scene

REAL, SYNTHETIC = (255, 40, 40), (0, 150, 255)  # colours of boxes and points
SHOWN = 3  # pictures of each type, real and synthetic each
TILE, GAP, CAPTION = 160, 4, 20  # px
TINT = 0.35  # opacity of the regions' colours
FADED = 0.45  # opacity of the picture under the points of a summary
FRAMES = {
    "parts": "in the frame of the part",
    "filled": "in the picture, which the part fills",
    "texture": "in the picture, a texture",
}


def placement_sheet(scene: Scene, placements: Sequence[Placement]) -> RGB:
    """Two rows for each defect type, real above synthetic: all places on one good picture, then the first pictures.

    Places on parts are mapped to the largest part of the first good picture, by the best pose; others keep their place
    in the picture.
    """
    strips = []
    for defect_type in sorted({placement.defect_type for placement in placements}):
        reals = [(real.sample, real.box) for real in scene.reals if real.defect_type == defect_type]
        boxes = [(one.normal, one.box) for one in placements if one.defect_type == defect_type]
        for what, colour, places in (("real", REAL, reals), ("synthetic", SYNTHETIC, boxes)):
            caption = f"{defect_type}: {len(places)} {what}, {FRAMES[scene.kind]}"
            strips.append(_captioned(_row(scene, places, colour), caption))
    return np.concatenate(strips)


def _row(scene: Scene, places: Sequence[tuple[str, Box]], colour: tuple[int, int, int]) -> RGB:
    """A summary of all places (picture, box), then the boxes on the first pictures."""
    tiles = [_summary(scene, places, colour)]
    for name in list(dict.fromkeys(name for name, _ in places))[:SHOWN]:
        boxes = [box for other, box in places if other == name]
        tiles.append(_with_boxes(_tile(scene.sample(name)), scene.sample(name), boxes, colour))
    tiles += [np.full((1, TILE, 3), 255, np.uint8)] * (SHOWN + 1 - len(tiles))
    return contact_sheet([tiles], TILE, GAP)


def _tile(sample: Sample) -> RGB:
    """A picture with a longer side of TILE px, tinted in regions where no defect is placed or pixels never count."""
    image = read_image(Path(sample.image))
    if sample.regions is not None:
        kinds = recent_regions(sample.regions)
        tinted = (1 - TINT) * image + TINT * np.array(COLOURS, np.float32)[kinds]
        image = np.where((kinds == FREE)[..., None], image, np.rint(tinted)).astype(np.uint8)
    return rescale(image, TILE / max(image.shape[:2]))


def _with_boxes(tile: RGB, sample: Sample, boxes: Iterable[Box], colour: tuple[int, int, int]) -> RGB:
    """The tile with boxes drawn that are given in px of the full-size picture."""
    ratio = np.tile([tile.shape[1] / sample.size[0], tile.shape[0] / sample.size[1]], 2)
    drawn = tile.copy()
    for box in boxes:
        x0, y0, x1, y1 = np.rint(np.array(box) * ratio).astype(int).tolist()
        cv2.rectangle(drawn, (x0, y0), (max(x1 - 1, x0 + 2), max(y1 - 1, y0 + 2)), colour, 1)
    return drawn


def _summary(scene: Scene, places: Sequence[tuple[str, Box]], colour: tuple[int, int, int]) -> RGB:
    """The centres of all boxes on the first good picture."""
    sample = scene.goods[0]
    tile = _tile(sample)
    drawn = np.rint(FADED * tile + (1 - FADED) * 255).astype(np.uint8)
    ratio = np.array([tile.shape[1] / sample.size[0], tile.shape[0] / sample.size[1]])
    for name, box in places:
        x, y = np.rint(_carried(scene, scene.sample(name), box) * ratio).astype(int).tolist()
        cv2.circle(drawn, (x, y), 2, colour, -1, cv2.LINE_AA)
    return drawn


def _carried(scene: Scene, sample: Sample, box: Box) -> NDArray[np.float64]:
    """The centre (2,) of a box, mapped to the first good picture."""
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    view, target = scene.view(sample), scene.view(scene.goods[0])
    if not (view.parts and target.parts):
        return np.asarray(centre / view.size * target.size)
    _, pose = poses(part_at(view.parts, box, view.features), target.parts[:1], scene.scale[:3])
    return np.asarray(pose(centre)[0])


def _captioned(sheet: RGB, text: str) -> RGB:
    strip = np.full((CAPTION, sheet.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, sheet])
