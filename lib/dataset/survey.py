"""Read a data set before it is split: layout, pictures, groups, and the examination of every picture."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import shortlist
from lib.core.params import Dataset
from lib.core.records import GOOD, RegionMap
from lib.dataset.examination import Drawn, Examination
from lib.dataset.findings import DatasetProblems, Findings
from lib.dataset.folders import folders
from lib.dataset.foregrounds import read_foregrounds
from lib.dataset.groups import read_groups
from lib.dataset.layouts import ANNOTATIONS, FORMATS, Place, locate
from lib.dataset.pictures import Picture, part_of
from lib.dataset.regions import read_region_maps
from lib.dataset.validation import validate


@dataclass
class Look:
    """What was read of a category before it is split."""

    findings: Findings
    place: Place | None = None
    pictures: list[Picture] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    examinations: list[Examination] = field(default_factory=list)
    foregrounds: dict[str, tuple[Path, str]] = field(default_factory=dict)
    regions: dict[str, RegionMap] = field(default_factory=dict)

    @property
    def drawn(self) -> dict[str, Drawn]:
        """The masks that are drawn from annotations, by the picture's id."""
        return {one.picture.id: one.drawn for one in self.examinations if one.drawn}


def look_at(dataset: Dataset, category: str) -> Look:
    """Read a category and open all of its pictures; problems are in the findings."""
    look = Look(Findings())
    try:
        look.place = locate(Path(dataset.path), category, dataset.layout)
        look.findings.warnings += _merged(look.place, Path(dataset.path))
        named = {key: getattr(dataset, key) for key in ("foreground", "regions")}  # they may lie among the pictures
        apart = {f"dataset.{key}": Path(dataset.path) / folder for key, folder in named.items() if folder}
        look.findings.apart = tuple(apart.values())
        look.pictures = FORMATS[look.place.layout].read(look.place.base, look.findings)
        for key, folder in apart.items():
            _refuse_own(look.place, look.pictures, folder, key, look.findings)
    except DatasetProblems as error:
        look.findings.problems += error.problems
        look.pictures = []
        return look
    except PermissionError as error:
        look.findings.problems.append(f"{error.filename}: may not be read; change its rights, or move it elsewhere")
        look.pictures = []
        return look
    look.groups = read_groups(dataset, look.pictures, look.findings)
    layout = FORMATS[look.place.layout]
    look.examinations = validate(look.pictures, look.findings, dataset.boxes, layout.goods, layout.defects)
    look.foregrounds = read_foregrounds(dataset, category, look.examinations, look.findings)
    look.regions = read_region_maps(dataset, category, look.examinations, look.findings)
    return look


def _merged(place: Place, root: Path) -> list[str]:
    """A warning where a data set is taken for one category whose folders could each be one of their own."""
    if place.base != root or place.layout not in ANNOTATIONS:
        return []
    recognises = FORMATS[place.layout].recognises
    own = [one.name for one in folders(root) if not part_of(one / "x") and recognises(one)]
    if len(own) < 2:
        return []
    return [
        f"{root}: taken for one category, though {shortlist(own)} could each be one: where they show different "
        f"products, name them in dataset.categories (--category)"
    ]


def _refuse_own(place: Place, pictures: Sequence[Picture], folder: Path, key: str, findings: Findings) -> None:
    """Raise DatasetProblems if no good pictures, or no defects, are left since a folder that a key of params.yaml names
    for masks or regions holds the pictures themselves."""
    kinds = {one.defect_type == GOOD for one in pictures}
    if len(kinds) == 2 and not place.base.is_relative_to(folder):
        return
    all_of_them = FORMATS[place.layout].read(place.base, Findings())
    within = [one for one in all_of_them if one.path.is_relative_to(folder)]
    if len(within) == len(all_of_them) or (within and {one.defect_type == GOOD for one in all_of_them} != kinds):
        findings.problems.clear()  # of what is missing without them
        raise DatasetProblems(
            [
                f"{key}: {folder} holds the pictures themselves, {len(within)} of {len(all_of_them)}; name a folder of "
                f"its own, or set the key to null to go without"
            ]
        )


def taken_for(looks: Mapping[str, Look]) -> list[str]:
    """A line for each layout that was recognised, with its categories and the reason."""
    categories: dict[tuple[str, str], list[str]] = defaultdict(list)
    for category, look in looks.items():
        if look.place:
            categories[look.place.layout, look.place.reason].append(category)
    return [
        f"{', '.join(names)}: read as {layout}: {reason} (dataset.layout)"
        for (layout, reason), names in categories.items()
    ]
