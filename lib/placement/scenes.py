"""The kind of a category's pictures: parts on a plain background, a part that fills the picture, or a texture.

Pictures show parts if a foreground is detected in most of them, and real defects lie on it. Else the part fills them.
If good pictures then show the same thing in the same place, as a spindle before a fixed camera, places have a meaning;
if not, it is a texture, on which a defect can be anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.geometry import Border, Box, Mask
from lib.core.images import read_image, recent
from lib.core.records import GOOD, DefectBox, Sample, of_split
from lib.core.regions import free_pixels
from lib.core.runtime import in_threads
from lib.placement.foreground import object_mask
from lib.placement.parts import Part, parts_of
from lib.placement.surroundings import (
    CHANNELS,
    Features,
    Points,
    alignment,
    features,
    features_at,
    reach,
    ring_offsets,
    scales,
)

Sums = NDArray[np.float64]  # (h + 1, w + 1), integral image of a foreground
Boxes = NDArray[np.int64]  # (K, 4)
Kind = Literal["parts", "filled", "texture"]

MIN_SHARE = 0.25  # of a box that lies on the object: less for a real box shows that the foreground is wrong
VERDICT_PICTURES = 7  # good pictures that decide the kind of a category, and its scales
ALIGNED = 0.6  # share of the variance that is explained by place. Measured: a spindle 0.98, textures 0.03 to 0.34


@dataclass(frozen=True)
class View:
    """A picture's foreground, features and parts."""

    sums: Sums
    features: Features
    parts: list[Part]
    closed: NDArray[np.int32] | None = None  # (H + 1, W + 1), integral image of where no defect may be placed

    @property
    def nbytes(self) -> int:
        closed = 0 if self.closed is None else self.closed.nbytes
        return self.sums.nbytes + self.features.nbytes + sum(part.nbytes for part in self.parts) + closed

    def open(self, boxes: Boxes) -> Mask:
        """(K,) whether defects may be placed on every pixel of each box (K, 4) in the picture."""
        if self.closed is None:
            return np.ones(len(boxes), bool)
        x0, y0, x1, y1 = np.asarray(boxes).T
        sums = self.closed
        return np.asarray(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] == 0)

    def open_starts(self, width: int, height: int) -> Boxes:
        """Upper left corners (N, 2), x and y, of all boxes of this size in px on which defects may be placed."""
        if self.closed is None:
            raise ValueError("the picture has no regions: every place is open")
        sums = self.closed[height:] - self.closed[:-height]
        rows, columns = np.nonzero(sums[:, width:] == sums[:, :-width])
        return np.stack([columns, rows], axis=1)

    @property
    def size(self) -> NDArray[np.int64]:
        """(2,): width and height in px."""
        return np.array(self.features.size)

    @property
    def is_whole(self) -> bool:
        """Whether all of the picture is foreground."""
        return bool(self.sums[-1, -1] > (self.sums.shape[0] - 1) * (self.sums.shape[1] - 1) - 0.01)  # rounded sums

    def shares(self, boxes: Boxes) -> NDArray[np.float64]:
        """(K,) share of each box (K, 4) that is foreground, with the resolution of the features' grid."""
        x0, y0, x1, y1 = np.asarray(boxes).T
        inside = self._sum(x1, y1) - self._sum(x1, y0) - self._sum(x0, y1) + self._sum(x0, y0)
        cell = self.features.step[0] * self.features.step[1]
        return np.asarray(np.clip(inside * cell / ((x1 - x0) * (y1 - y0)), 0, 1))

    def _sum(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        """The integral image at points in px, interpolated linearly within cells."""
        column, row = x / self.features.step[0], y / self.features.step[1]
        left = np.clip(column.astype(np.int64), 0, self.sums.shape[1] - 2)
        top = np.clip(row.astype(np.int64), 0, self.sums.shape[0] - 2)
        right, down = column - left, row - top
        upper = self.sums[top, left] * (1 - right) + self.sums[top, left + 1] * right
        lower = self.sums[top + 1, left] * (1 - right) + self.sums[top + 1, left + 1] * right
        return np.asarray(upper * (1 - down) + lower * down)


@dataclass(frozen=True)
class Place:
    """The place of a real defect: its box, the view of its picture, and the borders of that to which it belongs."""

    box: Box
    view: View
    borders: tuple[Border, ...]

    @property
    def centre(self) -> Points:
        """(2,), px."""
        return np.array([self.box[0] + self.box[2], self.box[1] + self.box[3]]) / 2

    @cached_property
    def share(self) -> float:
        """Share of the box that is foreground."""
        return float(self.view.shares(np.array([self.box]))[0])

    @property
    def reach(self) -> float:
        """The unit of the rings around the box, px."""
        return reach(self.box, self.view.features.size)

    @cached_property
    def offsets(self) -> Points:
        """(RINGS, ANGLES, 2): the points around the box at which its surroundings are sampled, px from its centre."""
        return ring_offsets(self.box, self.view.features.size)

    @cached_property
    def surroundings(self) -> tuple[NDArray[np.float32], Mask]:
        """The features (RINGS, ANGLES, 6) at these points, and where they are known."""
        return features_at(self.view.features, self.centre + self.offsets)


def scene_of(samples: Sequence[Sample], boxes: Sequence[DefectBox]) -> "Scene":
    """The scene of the train part of a category. Raises UserError if that has no good picture or no box."""
    train = sorted(of_split(samples, "train"), key=lambda sample: sample.id)
    goods, names = [sample for sample in train if sample.defect_type == GOOD], {sample.id for sample in train}
    reals = [real for real in boxes if real.sample in names]
    if not goods or not reals:
        what = "a box of a real defect" if goods else "a good picture"
        raise UserError(f"placements need {what} in the train part, there is none: check the split of the data set")
    return Scene(train, goods, reals)


class Scene:
    """The views of a category's pictures, their kind, and the scale of each feature on good pictures."""

    def __init__(self, samples: Sequence[Sample], goods: Sequence[Sample], reals: Sequence[DefectBox]) -> None:
        """samples: all pictures; goods: the good ones of them, the first of which decide the kind; reals: all real
        defects of the samples."""
        self.goods, self.reals = goods, reals
        self._sample_at = {Path(sample.image): sample for sample in samples}
        self._sample_of = {sample.id: sample for sample in samples}
        self._hidden = {sample.id: [real.box for real in reals if real.sample == sample.id] for sample in samples}
        self._places: dict[tuple[str, int], Place] = {}
        self._read = recent(self._view)  # type: ignore[type-var]
        self.kind: Kind = "parts"
        few = goods[:VERDICT_PICTURES]
        views = self.views(few)
        # If a person drew masks, only these decide.
        drawn = [view for sample, view in zip(few, views, strict=True) if sample.foreground is not None]
        judges = drawn or views
        if 2 * sum(view.is_whole for view in judges) > len(judges) or (not drawn and self._beside(reals)):
            self.kind = "filled"
            if not all(view.is_whole for view in views):
                self._read = recent(self._view)  # type: ignore[type-var]
                views = self.views(few)
            if alignment([view.features for view in views]) < ALIGNED:
                self.kind = "texture"
            self._places.clear()
        self.scale = scales([view.features for view in views])
        if self.kind != "parts":
            self.scale[CHANNELS.index("depth")] = np.inf

    def view(self, sample: Sample) -> View:
        return self._read(Path(sample.image))  # type: ignore[return-value]

    def views(self, samples: Sequence[Sample]) -> list[View]:
        return in_threads(self.view, samples, "views of pictures")

    def sample(self, name: str) -> Sample:
        return self._sample_of[name]

    def place(self, real: DefectBox) -> Place:
        key = real.sample, real.component
        if key not in self._places:
            borders = () if self.kind == "parts" else real.borders  # the border of a part is not that of its picture
            self._places[key] = Place(real.box, self.view(self._sample_of[real.sample]), borders)
        return self._places[key]

    def _beside(self, reals: Sequence[DefectBox]) -> bool:
        """Whether most real defects lie beside what was taken for objects."""
        self.views([self.sample(name) for name in sorted({real.sample for real in reals})])
        return float(np.median([self.place(real).share for real in reals])) < MIN_SHARE

    def _view(self, path: Path) -> View:
        sample = self._sample_at[path]
        image = read_image(path)
        if self.kind != "parts":
            foreground = np.ones(image.shape[:2], bool)
        else:
            foreground = object_mask(sample, image)
        look = features(image, foreground, self._hidden[sample.id])
        rows, columns = look.known.shape
        shares = cv2.resize(foreground.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        closed = None
        if sample.regions is not None:
            closed = np.asarray(cv2.integral((~free_pixels(sample.regions)).view(np.uint8)), np.int32)
        return View(np.asarray(cv2.integral(shares), np.float64), look, parts_of(foreground, look), closed)
