"""What detectors learn from and are evaluated on: pictures and what is marked in them; and the curves of a training."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.core.defects import Labels, recent_labels
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.images import read_image, read_mask, read_shape, recent
from lib.core.records import RegionMap, TypeMap
from lib.core.regions import blanked, ignored_pixels


class PictureKey(NamedTuple):
    """A picture's file and its pixels that never count, which are blank."""

    file: Path
    regions: RegionMap | None


class MaskKey(NamedTuple):
    """The defect pixels of a picture of shape (H, W) that count: of its mask, or with these values in its type map."""

    file: Path | TypeMap
    regions: RegionMap | None
    shape: tuple[int, ...]
    values: tuple[int, ...] = ()


def _read_picture(key: PictureKey) -> RGB:
    image = read_image(key.file)
    return image if key.regions is None else blanked(image, ignored_pixels(key.regions))


def _read_counting_mask(key: MaskKey) -> Mask:
    if isinstance(key.file, TypeMap):
        return _counting(np.isin(recent_labels(key.file), key.values), key.regions)
    mask = read_mask(key.file)
    if mask.shape != key.shape:
        raise UserError(f"{key.file}: size {mask.shape[::-1]}, its picture has {key.shape[::-1]}")
    return _counting(mask, key.regions)


def _counting(mask: Mask, regions: RegionMap | None) -> Mask:
    return mask if regions is None else mask & ~ignored_pixels(regions)


# Memory for decoded pictures and their masks: two thousand of 256 px, or more than a hundred of 1024 px. They are kept
# as they are used, without what never counts, since each training window asks for them.
_image = recent(_read_picture, 384 * 2**20)
_mask = recent(_read_counting_mask, 128 * 2**20)
_shape = lru_cache(2**16)(read_shape)


@dataclass(frozen=True)
class Example:
    """One picture for training or evaluation, in memory or, since thousands do not fit there, in its file.

    picture: (H, W, 3) uint8, or its file. truth: (H, W) bool, or its file, which is never empty (`prepare` and the gate
    reject empty masks); None for a good picture. Files are read at each access, through a cache that all examples
    share: keep the example instead of its arrays, and do not modify an array. twin: the picture without its defect, (H,
    W, 3) uint8 or its file: the good picture of a synthetic sample; None if unknown. type_map: of a picture with
    defects of several types. regions: pixels that never count; pictures are blank and masks empty there. foreground: a
    mask of the object that a person drew.
    """

    picture: RGB | Path
    truth: Mask | Path | None
    synthetic: bool
    defect_type: str
    twin: RGB | Path | None = None
    type_map: TypeMap | None = None
    regions: RegionMap | None = None
    foreground: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W); of a file only the header is read."""
        return _shape(self.picture) if isinstance(self.picture, Path) else self.picture.shape[:2]

    @property
    def ignored(self) -> Mask | None:
        """(H, W) bool: pixels that never count; None where all do."""
        return None if self.regions is None else ignored_pixels(self.regions)

    @property
    def counting(self) -> Mask:
        """(H, W) bool: pixels that count."""
        return np.ones(self.shape, bool) if self.ignored is None else ~self.ignored

    @property
    def normal(self) -> Mask:
        """(H, W) bool: pixels that show no defect and count."""
        normal = ~self.mask
        return normal if self.ignored is None else normal & ~self.ignored

    def counts_within(self, box: Sequence[float]) -> bool:
        """Whether any pixel of a box x0, y0, x1, y1 counts; fractions of a pixel are rounded."""
        x0, y0, x1, y1 = (max(round(value), 0) for value in box)
        return self.ignored is None or not bool(self.ignored[y0:y1, x0:x1].all())

    @property
    def types(self) -> tuple[str, ...]:
        """The defect types in the picture, or only GOOD."""
        return self.type_map.types if self.type_map else (self.defect_type,)

    def mask_of(self, types: Collection[str]) -> Mask:
        """(H, W) bool: the pixels with a defect of one of the types."""
        if self.type_map is None:
            return self.mask if self.defect_type in types else np.zeros(self.shape, bool)
        values = tuple(number for number, name in enumerate(self.type_map.types, start=1) if name in types)
        return _mask(MaskKey(self.type_map, self.regions, self.shape, values))

    def labels(self, types: Sequence[str]) -> Labels:
        """(H, W) uint8: k at pixels with a defect of the k-th of the types, else 0, also for other types."""
        labels = np.zeros(self.shape, np.uint8)
        for number, name in enumerate(types, start=1):
            if self.has_defect and name in self.types:
                labels[self.mask_of([name])] = number
        return labels

    @property
    def image(self) -> RGB:
        """(H, W, 3) uint8. Raises UserError where the file is no picture."""
        return self._read(self.picture)

    @property
    def mask(self) -> Mask:
        """(H, W) bool. Raises UserError where the file is no mask of the picture's size."""
        if self.truth is None:
            return np.zeros(self.shape, bool)
        if isinstance(self.truth, Path):
            return _mask(MaskKey(self.truth, self.regions, self.shape))
        return _counting(self.truth, self.regions)

    @property
    def clean(self) -> RGB | None:
        """The picture without its defect, (H, W, 3) uint8: the picture itself if it is good; None if unknown.

        Raises UserError if the twin has another size.
        """
        if self.twin is None:
            return None if self.has_defect else self.image
        if isinstance(self.twin, Path) and (shape := _shape(self.twin)) != self.shape:
            raise UserError(f"{self.twin}: size {shape[::-1]}, {self.picture} has {self.shape[::-1]}")
        return self._read(self.twin)

    @property
    def has_defect(self) -> bool:
        """Whether any pixel is marked; does not read a file."""
        return self.truth is not None and (isinstance(self.truth, Path) or bool(self.truth.any()))

    def _read(self, picture: RGB | Path) -> RGB:
        if isinstance(picture, Path):
            return _image(PictureKey(picture, self.regions))
        return picture if self.ignored is None else blanked(picture, self.ignored)


@dataclass(frozen=True)
class History:
    """The curves of one training, by name: lists of (step, value). Empty if there are no training steps."""

    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
