"""What is exported: real pictures and accepted synthetic ones of a category, each with its masks and its provenance."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.defects import read_labels
from lib.core.errors import UserError
from lib.core.geometry import Mask
from lib.core.images import png_bytes, read_image, read_mask, read_shape, stored_orientation
from lib.core.records import RegionMap, Sample, Synthetic, TypeMap, by_id, of_split, read_records
from lib.core.regions import ignored_pixels
from lib.core.runtime import sha256_of

SHOWN = 20  # files at odds with their records that are named


@dataclass(frozen=True)
class Item:
    """One picture. `subset` is its part (`train`, `val`, `test`) or the generator that made it; `name` is unique in its
    category and fit for a file; `mask` is None for a good picture; `regions`: pixels that never count; `provenance` is
    the record that it comes from.
    """

    subset: str
    category: str
    defect_type: str
    name: str
    picture: Path
    sha256: str
    size: tuple[int, int]  # width, height in px, upright
    mask: Path | None
    mask_sha256: str | None
    type_map: TypeMap | None
    regions: RegionMap | None
    provenance: dict[str, Any]


def read_items(category: str, parts: Sequence[str], generators: Sequence[str]) -> list[Item]:
    """The real pictures of the named parts, good ones included, and the accepted samples of the named generators, each
    by name.

    Raises UserError, and FileNotFoundError where a list of records is missing.
    """
    samples = read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample)
    items = [_real(sample) for part in parts for sample in sorted(of_split(samples, part), key=lambda one: one.id)]
    normals = by_id(samples)
    for generator in generators:
        records = read_records(Path(f"data/masks/{generator}/{category}/manifest.jsonl"), Synthetic)
        accepted = [record for record in records if record.accepted]
        items += [_synthetic(record, normals) for record in sorted(accepted, key=lambda one: one.placement)]
    return items


def _real(sample: Sample) -> Item:
    return Item(
        subset=sample.split,
        category=sample.category,
        defect_type=sample.defect_type,
        name=_name(sample.split, sample.id),
        picture=Path(sample.image),
        sha256=sample.sha256,
        size=sample.size,
        mask=None if sample.mask is None else Path(sample.mask),
        mask_sha256=sample.mask_sha256,
        type_map=sample.type_map,
        regions=sample.regions,
        provenance=dataclasses.asdict(sample),
    )


def _synthetic(record: Synthetic, normals: Mapping[str, Sample]) -> Item:
    """Raises UserError for an accepted record without a picture or a mask, which no stage writes, and for one whose
    good picture is no longer there."""
    if record.image is None or record.sha256 is None or record.mask is None:
        raise UserError(f"{record.generator}, {record.placement}: accepted without a picture or mask; run `dvc repro`")
    if record.normal is not None and record.normal not in normals:
        raise UserError(
            f"{record.generator}, {record.placement}: made from {record.normal}, which `prepare` no longer has; run "
            "`dvc repro`"
        )
    picture, normal = Path(record.image), normals[record.normal] if record.normal is not None else None
    return Item(
        subset=record.generator,
        category=record.category,
        defect_type=record.defect_type,
        name=_name(record.generator, record.placement),
        picture=picture,
        sha256=record.sha256,
        size=read_shape(picture)[::-1] if normal is None else normal.size,
        mask=Path(record.mask),
        mask_sha256=record.mask_sha256,
        type_map=None,
        regions=normal.regions if normal else None,
        provenance=dataclasses.asdict(record),
    )


def _name(subset: str, key: str) -> str:
    """A file's name without suffix. Where letters had to go, a digest keeps names apart."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", key)
    return f"{subset}-{plain}" + ("" if plain == key else f"-{hashlib.sha256(key.encode()).hexdigest()[:8]}")


def refuse_strangers(items: Sequence[Item]) -> None:
    """Raise UserError, with one line for each, when files are missing or are not those that the records name."""
    problems = []
    for item in items:
        files = [(item.picture, item.sha256), (item.mask, item.mask_sha256)]
        if item.type_map is not None:
            files.append((Path(item.type_map.path), item.type_map.sha256))
        for path, sha256 in files:
            if path is None:
                continue
            if not path.is_file():
                problems.append(f"{path.as_posix()}: not found")
            elif sha256 is not None and sha256_of(path) != sha256:
                problems.append(f"{path.as_posix()}: is not the file that its record names")
    if problems:
        rest = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = "\n".join(f"  {line}" for line in [*problems[:SHOWN], *rest])
        raise UserError(f"{len(problems)} file(s) at odds with their records; `dvc repro` mends it:\n{lines}")


def masks_of(item: Item) -> list[tuple[str, Mask]]:
    """The defects of a picture as (type, mask (H, W) bool), one for each type that it shows, without pixels that never
    count; none for a good picture.

    Raises UserError when a mask has not the size of the picture.
    """
    if item.mask is None:
        return []
    if item.type_map is None:
        masks = [(item.defect_type, read_mask(item.mask))]
    else:
        numbers = read_labels(item.type_map)
        masks = [(name, numbers == number) for number, name in enumerate(item.type_map.types, start=1)]
    for _, mask in masks:
        if mask.shape != item.size[::-1]:
            raise UserError(f"{item.mask}: {mask.shape[::-1]} px, the picture has {item.size}; `dvc repro` mends it")
    if item.regions is not None:
        counting = ~ignored_pixels(item.regions)
        masks = [(name, mask & counting) for name, mask in masks]
    return [(name, mask) for name, mask in masks if mask.any()]


def types_of(items: Sequence[Item]) -> list[str]:
    """All types of defects of a category, sorted: their places number them in every file of the data set."""
    return sorted({name for item in items if item.mask is not None for name in _names(item)})


def _names(item: Item) -> tuple[str, ...]:
    return (item.defect_type,) if item.type_map is None else item.type_map.types


def subsets_of(items: Sequence[Item]) -> Iterator[tuple[str, list[Item]]]:
    """The items by subset, in their order; a subset has one or more."""
    for subset in dict.fromkeys(item.subset for item in items):
        yield subset, [item for item in items if item.subset == subset]


def copy_picture(item: Item, folder: Path, name: str, png: bool = False) -> Path:
    """Put an item's picture into a folder under a name, to which the suffix is added; returns its path.

    The file is the original, byte for byte, unless an EXIF tag leaves it lying, or `png` asks for a PNG and it is none:
    then its pixels are written once more as PNG.
    """
    data, suffix = item.picture.read_bytes(), item.picture.suffix.lower()
    if stored_orientation(item.picture) != 1 or (png and suffix != ".png"):
        data, suffix = png_bytes(read_image(item.picture)), ".png"
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)  # the whole folder appears at once, so that a file needs no renaming of its own
    return path
