"""VisA (Zou et al. 2022): `Data/Images/Normal`, `Data/Images/Anomaly`, masks in `Data/Masks/Anomaly`.

The part stands in `split_csv/1cls.csv` beside the categories. All defects have the type `anomaly`, as in the published
protocol: `image_anno.csv` may name several types for one mask, and says not which pixel shows which.
"""

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from lib.core.errors import UserError, shortlist
from lib.core.records import GOOD
from lib.dataset.album import note_unread
from lib.dataset.findings import Findings
from lib.dataset.folders import defects_with_masks, picture_files
from lib.dataset.pictures import PART_NAMES, Picture
from lib.dataset.reading import read_text

GOODS, DEFECTS = "the pictures in Data/Images/Normal", "pictures in Data/Images/Anomaly"
NORMAL, ANOMALY, MASKS = "Data/Images/Normal", "Data/Images/Anomaly", "Data/Masks/Anomaly"
BESIDE = "split_csv"  # a folder of tables beside the categories, and none itself
SPLIT = f"{BESIDE}/1cls.csv"


def recognises(base: Path) -> str | None:
    """The reason why the folder is recognised as VisA, or None."""
    return f"the folder {NORMAL}" if (base / NORMAL).is_dir() else None


def read(base: Path, findings: Findings) -> list[Picture]:
    """The pictures of a category; adds missing masks and unread files to the findings."""
    parts = _parts(base.parent / SPLIT, findings)

    pictures = [Picture(GOOD, "", path) for path in picture_files(base / NORMAL, findings)]
    pictures += defects_with_masks(base / ANOMALY, base / MASKS, "anomaly", "", findings)
    note_unread(base, pictures, findings)
    return [replace(one, folder=parts.get(one.path.relative_to(base.parent).as_posix(), "")) for one in pictures]


def _parts(table: Path, findings: Findings) -> dict[str, str]:
    """The part of every picture that the table names, by its path there; empty where there is no table."""
    if not table.is_file():
        return {}
    try:
        rows = [(row["image"], row["split"]) for row in csv.DictReader(read_text(table).splitlines())]
    except (UserError, csv.Error, KeyError) as error:
        findings.warnings.append(f"{table}: not read, so that pictures have no part: {error}")
        return {}
    parts: dict[str, set[str]] = defaultdict(set)
    for image, part in rows:
        parts[image].add(part)
    for what, images in (
        ("are in several parts; keep them in one", [image for image, several in parts.items() if len(several) > 1]),
        ("are in an unknown part; expected train or test", [image for image, part in rows if part not in PART_NAMES]),
    ):
        if images:
            findings.problems.append(f"{table}: {len(images)} picture(s) {what}: {shortlist(images)}")
    return {image: PART_NAMES.get(part, "") for image, part in rows}
