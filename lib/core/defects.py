"""The defect pixels of a real picture, one defect type at a time; none where pixels never count."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import UserError
from lib.core.geometry import Mask
from lib.core.images import decode, read_mask, recent
from lib.core.records import Sample, TypeMap
from lib.core.regions import ignored_pixels

Labels = NDArray[np.uint8]  # (H, W): 0 without a defect, k for the k-th of some types


def types_of(sample: Sample) -> tuple[str, ...]:
    """The defect types that a picture shows, or GOOD alone."""
    return sample.type_map.types if sample.type_map else (sample.defect_type,)


def defect_mask(sample: Sample, defect_type: str, read: Callable[[Path], Mask] = read_mask) -> Mask:
    """(H, W) bool: where a defect picture shows one of its types, on pixels that count: nowhere if none of them does.

    read: reads its mask, perhaps through a memory. Raises UserError for a picture without a mask, or where its type map
    is none.
    """
    if sample.type_map is None:
        return _counting(sample, _whole_mask(sample, read))
    return _counting(sample, recent_labels(sample.type_map) == sample.type_map.types.index(defect_type) + 1)


def any_defect_mask(sample: Sample, read: Callable[[Path], Mask] = read_mask) -> Mask:
    """`defect_mask` of all types together."""
    return _counting(sample, _whole_mask(sample, read))


def unsound_pixels(sample: Sample, read: Callable[[Path], Mask] = read_mask) -> Mask:
    """(H, W) bool: where a defect picture does not show a sound product: it has a defect there, or never counts.

    read, and what is raised: as of `defect_mask`.
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
    """The values of a type map. Raises UserError where it is no 8-bit grey picture, or has more values than types."""
    picture = decode(Path(type_map.path))
    values = np.asarray(picture)
    if picture.mode != "L" or values.max(initial=0) > len(type_map.types):
        raise UserError(
            f"{type_map.path}: no type map: expected 8-bit grey values from 0 to {len(type_map.types)}; "
            "`dvc repro prepare` writes it anew"
        )
    return values


# Keyed by the digest, too: another map under an old name is another map.
recent_labels = recent(read_labels, 64 * 2**20)
