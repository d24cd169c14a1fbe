"""Pictures of regions that a person painted (`lib.core.regions`), for whole categories and for single pictures.

`dataset.regions` names a folder in the data set: `<regions>/bracket.png` holds for all pictures of the category
`bracket`, `<regions>/bracket/test/scratch/003.png` for `bracket/test/scratch/003.jpg` alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.core.errors import UserError, shortlist
from lib.core.params import Dataset
from lib.core.records import RegionMap
from lib.core.regions import ignored_pixels, recent_regions
from lib.core.runtime import sha256_of
from lib.dataset.examination import Examination
from lib.dataset.findings import Findings
from lib.dataset.pictures import by_path

KEY = "dataset.regions"


def read_region_maps(
    dataset: Dataset, category: str, examinations: Sequence[Examination], findings: Findings
) -> dict[str, RegionMap]:
    """The picture of regions of each picture that has one, by the picture's id.

    Adds problems to the findings: a missing folder, pictures of regions with unexpected sizes or colours, without a
    picture, or two for one picture, and defects that lie wholly where pixels never count.
    """
    if dataset.regions is None:
        return {}
    root = Path(dataset.path)
    folder = root / dataset.regions
    if not folder.is_dir():
        findings.problems.append(f"{KEY}: {folder}: no such folder; put the pictures there, or set the key to null")
        return {}
    # A data set that is one category as a whole has no folder of its name.
    below = folder / category if (root / category).is_dir() else folder
    single = by_path(below.rglob("*") if below.is_dir() else (), folder, KEY, findings)
    whole = by_path(folder.glob(f"{category}.*"), folder, KEY, findings).get(Path(category))
    single.pop(Path(category), None)
    if whole is None and not single:
        findings.problems.append(
            f"{KEY}: {folder} holds no picture of regions for {category}: expected {folder / category}.png, or "
            f"pictures in {below} under the names of the data set's; set the key to null to go without"
        )
    maps: dict[str, RegionMap] = {}
    map_of: dict[Path, RegionMap | None] = {}
    for one in examinations:
        path = single.pop(one.picture.path.relative_to(root).with_suffix(""), whole)
        if path is None or one.size == (0, 0):
            continue
        if path not in map_of:
            map_of[path] = _readable(path, findings)
        regions = map_of[path]
        if regions is None:
            continue
        if problem := _problem(regions, one):
            findings.problems.append(f"{KEY}: {problem}")
        else:
            maps[one.picture.id] = regions
    if single:
        names = shortlist([str(file) for file in single.values()])
        findings.problems.append(
            f"{KEY}: {len(single)} picture(s) of regions without a picture of the same path in {root}: {names}; rename "
            f"or remove them"
        )
    return maps


def _readable(path: Path, findings: Findings) -> RegionMap | None:
    """The record of a picture of regions; None, with the problem noted, where it is none."""
    try:
        regions = RegionMap(path.as_posix(), sha256_of(path))
        recent_regions(regions)
    except (OSError, UserError) as error:
        findings.problems.append(f"{KEY}: {error}")
        return None
    return regions


def _problem(regions: RegionMap, examination: Examination) -> str:
    """What is wrong with regions for one picture, or nothing."""
    kinds = recent_regions(regions)
    if kinds.shape[::-1] != examination.size:
        (height, width), size = kinds.shape, "{} x {}".format(*examination.size)
        picture = examination.picture.path
        return (
            f"{regions.path}: {width} x {height} px, but {picture} is, upright, {size} px; paint regions at the size "
            f"of the picture, or give that picture regions of its own"
        )
    ignored = ignored_pixels(regions)
    if ignored.all():
        return f"{regions.path}: all of it is red, so that no pixel counts; leave some white"
    defect = examination.defect()
    if defect is not None and defect.shape == ignored.shape and not np.any(defect & ~ignored):
        file = examination.picture.mask or examination.picture.path
        return f"{file}: lies wholly where {regions.path} is red, so that the picture shows no defect; remove it"
    return ""
