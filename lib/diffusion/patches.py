"""Windows of good pictures and patches around real defects, at one scale, for methods that learn each separately.

A network sees windows of `side` px. A window contains a patch of `patch` px, in which the box of a defect fits with
some context. Both are at native scale if possible, else they are shrunk by the same factor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.core.geometry import RGB, Box, Mask, Window, box_mask, crop, resize, scaled
from lib.core.images import read_image, recent
from lib.core.params import WindowParams
from lib.core.records import DefectBox, Sample
from lib.core.runtime import seed_for
from lib.diffusion.components import to_tensor
from lib.diffusion.rectification import support
from lib.diffusion.views import CONTEXT_SPREAD, flipped, flips_of, random_window

WANDER = 0.25  # of the picture's side: largest distance of good windows from the places of real defects
LONG = 1.5  # aspect ratio above which a box is wide or tall


@dataclass(frozen=True)
class Frame:
    """The sizes of windows and patches, in px of the networks, and the context around a box (`window`)."""

    side: int
    patch: int
    window: WindowParams

    def around(self, box: Box) -> Window:
        """The window, in px of the picture, whose patch holds the box with its context.

        The box, and thus the patch, is in the window's centre; beyond the border the picture is mirrored. Near the rim
        of a window a network paints worst, since its convolutions see zero padding there.
        """
        longer = max(box[2] - box[0], box[3] - box[1])
        extent = max(self.window.context * longer, self.patch)
        side = max(math.ceil(extent * self.side / self.patch), self.window.min_side)
        return Window((box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2, side)

    def corner(self, box: Box) -> tuple[int, int]:
        """x and y of the patch centred on the box, clipped to the window; all in px of the networks' window."""
        most = self.side - self.patch
        x, y = ((low + high - self.patch) // 2 for low, high in zip(box[:2], box[2:], strict=True))
        return min(max(x, 0), most), min(max(y, 0), most)


def kind_of(item: DefectBox) -> str:
    """The class of a defect for the local network: its type, and whether its box is wide, tall or neither."""
    width, height = item.box[2] - item.box[0], item.box[3] - item.box[1]
    shape = "wide" if width > LONG * height else "tall" if height > LONG * width else "square"
    return f"{item.defect_type} {shape}"


def good_windows(
    frame: Frame, goods: Sequence[Sample], boxes: Sequence[DefectBox], each: int, seed: int
) -> tuple[Tensor, Tensor]:
    """`each` windows of every good picture, of the size of windows around real defects and near their places:
    (N, 3, side, side) in [-1, 1]; with them (N, 1, side, side) bool, the place that a box of this size has there."""
    read, pictures, regions = recent(read_image), list[RGB](), list[Mask]()
    for sample in goods:
        image = read(Path(sample.image))
        height, width = image.shape[:2]
        for variant in range(each):
            rng = np.random.default_rng(seed_for(seed, "good", sample.id, variant))
            box = boxes[int(rng.integers(len(boxes)))].box
            spread, by = rng.uniform(*CONTEXT_SPREAD), rng.uniform(-WANDER, WANDER, 2) * (width, height)
            half = spread * np.subtract(box[2:], box[:2]) / 2
            middle = np.clip(np.add(box[:2], box[2:]) / 2 + by, half, np.maximum((width, height) - half, half))
            window_box: Any = tuple(np.rint([*(middle - half), *(middle + half)]).astype(int).tolist())
            place = frame.around(window_box)
            pictures.append(resize(crop(image, place), frame.side, frame.side))
            regions.append(region_of(window_box, place, frame.side))
    return to_tensor(np.stack(pictures)), torch.from_numpy(np.stack(regions))[:, None]


def defect_patches(
    frame: Frame, images: Sequence[Path], boxes: Sequence[DefectBox], each: int, seed: int
) -> tuple[Tensor, Tensor]:
    """`each` patches around every real defect, at random places and in turn with different flips: (N, 3, patch, patch)
    in [-1, 1]; with them (N, 1, patch, patch) bool, the defect's box.

    images: the picture of each box.
    """
    read, pictures, regions = recent(read_image), list[RGB](), list[Mask]()
    for path, item in zip(images, boxes, strict=True):
        image = read(path)
        for variant in range(each):
            rng, flips = np.random.default_rng(seed_for(seed, item.sample, item.component, variant)), flips_of(variant)
            place = random_window(item.box, image.shape, frame.window.context, frame.patch, rng)
            pictures.append(flipped(resize(crop(image, place), frame.patch, frame.patch), flips))
            regions.append(flipped(region_of(item.box, place, frame.patch), flips))
    return to_tensor(np.stack(pictures)), torch.from_numpy(np.stack(regions))[:, None]


def region_of(box: Box, place: Window, side: int) -> Mask:
    """(side, side) bool: the box in the window, seen at `side` px."""
    return box_mask(scaled(place.inside(box), side / place.side), side, side)


def surroundings(signals: Tensor, regions: Tensor) -> Tensor:
    """What is known of a place before anything is painted there: (N, C + 1, H, W), the signals with 0 in the regions,
    and the regions (N, 1, H, W) as a channel of 0 and 1."""
    return torch.cat([signals.masked_fill(regions, 0), regions.to(signals.dtype)], dim=1)


# Requests


@dataclass(frozen=True)
class Request:
    """One placement as the networks see it. window: in px of the picture; corner: x and y of the patch in the networks'
    window; kind: number of the class; source: (3, S, S) in [-1, 1], the good picture in the window; open: (1, S, S)
    bool, where it may change."""

    window: Window
    corner: tuple[int, int]
    kind: int
    seed: int
    source: Tensor
    open: Tensor


def request_of(box: Box, normal: RGB, kind: int, seed: int, frame: Frame, radius: float) -> Request:
    place = frame.around(box)
    small = scaled(place.inside(box), frame.side / place.side)
    corner = frame.corner(small)
    disc = support(frame.side, torch.tensor([corner]) + frame.patch / 2, radius)[0]
    source = to_tensor(resize(crop(normal, place), frame.side, frame.side)[None])[0]
    inside = torch.from_numpy(box_mask(small, frame.side, frame.side))
    return Request(place, corner, kind, seed, source, disc & inside)


def allowed(box: Box, shape: Sequence[int], request: Request, frame: Frame, radius: float) -> Mask:
    """(H, W) bool: the box, clipped to the gate's support."""
    height, width = shape[:2]
    window, scale = request.window, request.window.side / frame.side
    centre = (torch.tensor([request.corner]) + frame.patch / 2 + 0.5) * scale - 0.5
    disc = support(window.side, centre, radius * scale)[0, 0].numpy()
    x0, y0 = max(window.x0, 0), max(window.y0, 0)
    x1, y1 = min(window.x0 + window.side, width), min(window.y0 + window.side, height)
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = disc[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
    return mask & box_mask(box, width, height)
