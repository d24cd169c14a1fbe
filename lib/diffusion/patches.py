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
from torch import Tensor

from lib.core.geometry import RGB, Box, Window, crop, resize
from lib.core.images import read_image, recent
from lib.core.params import WindowParams
from lib.core.records import DefectBox, Sample
from lib.core.runtime import seed_for
from lib.diffusion.components import to_tensor
from lib.diffusion.views import CONTEXT_SPREAD, Flips, flipped, flips_of, random_window

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


def good_windows(frame: Frame, goods: Sequence[Sample], boxes: Sequence[DefectBox], each: int, seed: int) -> Tensor:
    """`each` windows of every good picture, of the size of windows around real defects and near their places:
    (N, 3, side, side) in [-1, 1]."""
    read, pictures = recent(read_image), list[RGB]()
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
            pictures.append(resize(crop(image, frame.around(window_box)), frame.side, frame.side))
    return to_tensor(np.stack(pictures))


def defect_patches(frame: Frame, images: Sequence[Path], boxes: Sequence[DefectBox], each: int, seed: int) -> Tensor:
    """`each` patches around every real defect, in turn with different flips: (N, 3, patch, patch) in [-1, 1].

    images: the picture of each box.
    """
    read, pictures = recent(read_image), list[RGB]()
    for path, item in zip(images, boxes, strict=True):
        image = read(path)
        for variant in range(each):
            rng = np.random.default_rng(seed_for(seed, item.sample, item.component, variant))
            pictures.append(patch_of(frame, image, item.box, flips_of(variant), rng))
    return to_tensor(np.stack(pictures))


def patch_of(frame: Frame, image: RGB, box: Box, flips: Flips, rng: np.random.Generator) -> RGB:
    """A random patch around the box, flipped as asked: (patch, patch, 3) uint8."""
    place = random_window(box, image.shape, frame.window.context, frame.patch, rng)
    return flipped(resize(crop(image, place), frame.patch, frame.patch), flips)
