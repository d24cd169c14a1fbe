"""The defect pixels of a real picture, by defect type, without pixels that never count."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.geometry import Mask
from lib.core.images import decode, read_mask, recent
from lib.core.records import DefectBox, Sample, TypeMap
from lib.core.regions import ignored_pixels

FRAGMENT = 3  # as the gate has it by default (gate.outlier)
Labels = NDArray[np.uint8]  # (H, W): 0 without a defect, k for the k-th of some types


def whole_defects(boxes: Sequence[DefectBox]) -> list[DefectBox]:
    """The boxes without fragments: those of less than 1 / FRAGMENT of the area of the type's smallest defect, which is
    the largest piece in a picture. New ones are not drawn like fragments: beside real defects they would be too small.
    """
    largest: dict[tuple[str, str], int] = {}
    for box in boxes:
        key = box.defect_type, box.sample
        largest[key] = max(box.area, largest.get(key, 0))
    smallest: dict[str, int] = {}
    for (name, _), area in largest.items():
        smallest[name] = min(area, smallest.get(name, area))
    return [box for box in boxes if box.area * FRAGMENT >= smallest[box.defect_type]]


def types_of(sample: Sample) -> tuple[str, ...]:
    """The defect types in a picture, or only GOOD."""
    return sample.type_map.types if sample.type_map else (sample.defect_type,)


def defect_mask(sample: Sample, defect_type: str, read: Callable[[Path], Mask] = read_mask) -> Mask:
    """(H, W) bool: the pixels of a defect picture that show one of its types and count; may be empty.

    read: reads the mask, for example through a cache. Raises UserError for a picture without a mask, or with an invalid
    type map.
    """
    if sample.type_map is None:
        return _counting(sample, _whole_mask(sample, read))
    return _counting(sample, recent_labels(sample.type_map) == sample.type_map.types.index(defect_type) + 1)


def any_defect_mask(sample: Sample) -> Mask:
    """`defect_mask` of all types together."""
    return _counting(sample, _whole_mask(sample, read_mask))


def unsound_pixels(sample: Sample, read: Callable[[Path], Mask] = read_mask) -> Mask:
    """(H, W) bool: the pixels of a defect picture that show a defect of any type, or never count.

    read and errors: as for `defect_mask`.
    """
    mask = _whole_mask(sample, read)
    return mask if sample.regions is None else mask | ignored_pixels(sample.regions)


def _whole_mask(sample: Sample, read: Callable[[Path], Mask]) -> Mask:
    if sample.mask is None:
        raise UserError(f"{sample.image}: a picture with a defect but no mask; `dvc repro prepare` finds it")
    return read(Path(sample.mask))


def _counting(sample: Sample, mask: Mask) -> Mask:
    return np.asarray(mask if sample.regions is None else mask & ~ignored_pixels(sample.regions))


def read_labels(type_map: TypeMap) -> Labels:
    """The values of a type map. Raises UserError if it is not an 8-bit grey picture, or has more values than types."""
    picture = decode(Path(type_map.path))
    values = np.asarray(picture)
    if picture.mode != "L" or values.max(initial=0) > len(type_map.types):
        raise UserError(
            f"{type_map.path}: no type map: expected 8-bit grey values from 0 to {len(type_map.types)}; "
            "`dvc repro prepare` writes it anew"
        )
    return values


# The key includes the digest: a new map under an old name is read again.
recent_labels = recent(read_labels, 64 * 2**20)
