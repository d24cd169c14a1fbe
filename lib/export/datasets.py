"""Whole data sets: a folder for each category in one format, with the provenance of every picture beside."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lib.core.errors import UserError
from lib.core.ownership import owned_folder
from lib.core.runtime import progress, sha256_of, write_text
from lib.export import coco, datumaro, mvtec, table, yolo
from lib.export.items import Item, read_items, refuse_strangers

FORMATS: dict[str, Callable[[Path, Sequence[Item]], list[Path]]] = {
    "mvtec": mvtec.write,
    "coco": coco.write,
    "yolo": yolo.write,
    "datumaro": datumaro.write,
    "csv": table.write,
}
PROVENANCE = "provenance.jsonl"


def write_dataset(
    name: str, out: Path, categories: Sequence[str], parts: Sequence[str], generators: Sequence[str]
) -> dict[str, int]:
    """Write `out/CATEGORY/` in the format of that name; returns how many pictures each category has.

    Beside the format's own files lies provenance.jsonl: a line for each picture with its file, that file's SHA-256, its
    subset, and the record of the pipeline that it comes from. Equal input gives equal bytes.
    The folder `out` appears whole, or not at all. Raises UserError when it holds what was not written this way, or
    when pictures are at odds with their records.
    """
    chosen = {category: read_items(category, parts, generators) for category in categories}
    if none := [category for category, items in chosen.items() if not items]:
        raise UserError(f"{', '.join(none)}: no picture in the parts {', '.join(parts)}, and no accepted sample")
    refuse_strangers([item for items in chosen.values() for item in items])
    with owned_folder(out) as folder:
        for category, items in progress(chosen.items(), f"export {name}", total=len(chosen)):
            place = folder / category
            rows = [_row(item, path, place) for item, path in zip(items, FORMATS[name](place, items), strict=True)]
            write_text(place / PROVENANCE, "".join(f"{row}\n" for row in rows))
    return {category: len(items) for category, items in chosen.items()}


def _row(item: Item, path: Path, folder: Path) -> str:
    """A picture's line of provenance.jsonl."""
    row = {"file": path.relative_to(folder).as_posix(), "sha256": sha256_of(path), "subset": item.subset}
    return json.dumps(row | {"record": item.provenance}, ensure_ascii=False)
