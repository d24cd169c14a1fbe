"""Propose settings for a data set, each with a reason: pure functions of facts about it."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from lib.boxes import mask_boxes
from lib.core.errors import UserError
from lib.core.params import Dataset
from lib.core.records import GOOD
from lib.dataset.findings import Findings
from lib.dataset.pictures import PART_NAMES
from lib.dataset.reading import read_table
from lib.dataset.survey import Look

SPECK = 4  # px; smaller pieces of a mask are not measured
SCALES = (1.0, 0.5, 0.25, 0.125)
LARGE = 640  # px of the longer side; larger pictures are worth scaling
VISIBLE = 8  # px; least shorter side of small defects' boxes, after scaling, for reliable detection
LEAST_SIDE = 64  # px of the shorter side, after scaling
WINDOWS = (128, 192, 256)  # px, after scaling
FEW = range(6, 9)  # pictures of a type for which half for training is better than a third: a third leaves one
GROUP = re.compile(  # of a column's name in lower case without what stands between its words: part_type names no part
    r"(capture|(capture)?group|part|piece|workpiece|serial|position|specimen|board|item|object|unit)s?(id|no|nr|number)?"
)
KEPT = ("depth", "foreground", "regions", "boxes")  # keys of `dataset` that describe one data set
SILENT = "was of another data set"  # reason of a choice that is listed only if it changes something


@dataclass(frozen=True)
class Facts:
    """The facts about a data set on which the settings depend.

    reason: why its layout was recognised. parts: the data set's parts of each kind of picture, by category and type; ""
    for none. numbers: capture groups of each defect type, by category and type. single: whether each defect picture is
    a group of its own. shortest, longest: px, of all sides of
    pictures. short, long: (N,) px, the sides of the boxes around defects. megapixels: of a picture, on average. mixed:
    whether some pictures show several types. grouping: where capture groups come from, or "".
    """

    dataset: Dataset
    reason: str
    parts: Mapping[tuple[str, str], frozenset[str]]
    numbers: Mapping[tuple[str, str], int]
    single: bool
    shortest: int
    longest: int
    short: tuple[int, ...]
    long: tuple[int, ...]
    megapixels: float
    mixed: bool
    grouping: str


class Choice(NamedTuple):
    """A knob of params.yaml, the value that is proposed for it, and why."""

    key: str
    value: Any
    reason: str


def facts_of(dataset: Dataset, looks: Mapping[str, Look], reason: str) -> Facts:
    """The facts about a data set without problems."""
    parts: dict[tuple[str, str], set[str]] = defaultdict(set)
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    defects: Counter[tuple[str, str]] = Counter()
    sizes: list[tuple[int, int]] = []
    boxes: list[tuple[int, int]] = []
    for category, look in looks.items():
        for one in look.examinations:
            sizes.append(one.size)
            for name in one.picture.types:
                parts[category, name].add(one.picture.folder)
                groups[category, name].add(look.groups[one.picture.id])
                defects[category, name] += name != GOOD
            if (mask := one.defect()) is not None:
                of_mask = [component.box for component in mask_boxes(mask, 0.0, SPECK)]
                boxes += [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in of_mask]
    pictures = [picture for look in looks.values() for picture in look.pictures]
    grouping = f"the layout names the groups of {sum(bool(one.group) for one in pictures)} pictures"
    return Facts(
        dataset=dataset,
        reason=reason,
        parts={key: frozenset(names) for key, names in parts.items()},
        numbers={key: len(names) for key, names in groups.items() if key[1] != GOOD},
        single=all(len(groups[key]) == number for key, number in defects.items()),
        shortest=min(map(min, sizes)),
        longest=max(map(max, sizes)),
        short=tuple(min(box) for box in boxes),
        long=tuple(max(box) for box in boxes),
        megapixels=sum(width * height for width, height in sizes) / len(sizes) / 1e6,
        mixed=any(one.several for one in pictures),
        grouping=grouping if any(one.group for one in pictures) else "",
    )


def choices(facts: Facts, thorough: bool = False) -> list[Choice]:
    """What is proposed for a data set of photographs; thorough: for figures to rely on, not for a first look."""
    scale, why_scale = scale_for(facts)
    window, why_window = window_for(facts, scale)
    dataset = facts.dataset
    generators = ["perlin", "cutpaste", "mvp_diff", "defectfill"] if thorough else ["cutpaste", "defectfill"]
    detectors = ["unet", "patchcore", "pagmfr"] if thorough else ["unet", "patchcore"]
    raised = "for figures to rely on" if thorough else "a first look"
    return [
        Choice("dataset.path", dataset.path, "your pictures"),
        Choice("dataset.categories", list(dataset.categories), "what lies in it"),
        Choice("dataset.layout", dataset.layout, facts.reason),
        *_grouping(facts),
        *(Choice(f"dataset.{key}", getattr(dataset, key), SILENT) for key in KEPT),
        *split_for(facts),
        Choice("split.fold", 0, SILENT),
        Choice("split.train_fraction", 1.0, SILENT),
        Choice("generators", generators, _arms(thorough)),
        Choice("detectors", detectors, _detectors(thorough)),
        Choice("detect.on_synthetic", ["unet"], "patchcore would learn nothing from synthetic defects"),
        Choice("detect.scale", scale, why_scale),
        Choice("detect.window", window, why_window),
        Choice("detect.seeds", [0, 1, 2] if thorough else [0], f"{raised}: chance shows in three seeds, not in one"),
        Choice("detect.steps", 600 if thorough else 100, f"{raised}; photographs gain up to 600 and beyond"),
        Choice("detect.validate_every", 50, "of the steps; the best of these on val is kept"),
        Choice("detect.learning_rate", 0.003, "of photographs, with an encoder that learns, too"),
        Choice("unet.encoder_rate", 0.1, "photographs change the encoder's features, too; a step takes twice as long"),
        Choice("unet.classes", "types" if facts.mixed else "defect", _classes(facts)),
        Choice("placements.per_type", 24 if thorough else 8, f"{raised}: synthetic defects of each type"),
        Choice(
            "mvp_diff.adapter", "full", "the embedded base learns photographs with all its weights, hardly by adapters"
        ),
        Choice("finetune.learning_rate", 0.0005 if thorough else 0.001, "the longer, the lower"),
        Choice("finetune.steps", 400 if thorough else 200, f"{raised} of what the generator learns"),
    ]


def settings_of(chosen: Sequence[Choice]) -> dict[str, Any]:
    """Choices as sections of knobs, as a preset has them."""
    sections: dict[str, Any] = {}
    for key, value, _ in chosen:
        section, _, knob = key.partition(".")
        if knob:
            sections.setdefault(section, {})[knob] = value
        else:
            sections[section] = value
    return sections


def _grouping(facts: Facts) -> list[Choice]:
    dataset = facts.dataset
    if dataset.group_table:
        reason = facts.grouping or "pictures of one of its values show one thing and stay in one part"
    elif dataset.group_pattern:
        reason = "as params.yaml has it"
    else:
        reason = facts.grouping or "none are known: if several pictures show one part, the test flatters"
    keys = ("group_table", "group_column", "group_pattern")
    return [
        Choice(f"dataset.{key}", getattr(dataset, key), reason if getattr(dataset, key) or number == 0 else SILENT)
        for number, key in enumerate(keys)
    ]


def split_for(facts: Facts) -> list[Choice]:
    """The rule by which pictures go to train, val and test, and its number of shots where it needs one."""
    if _parts_serve(facts.parts):
        return [Choice("split.rule", "given", "the data set's own parts have defects to train on and to test on")]
    fewest, most = min(facts.numbers.values()), max(facts.numbers.values())
    if facts.single and fewest in FEW and most // 3 <= fewest // 2:
        return [
            Choice("split.rule", "shots", f"a third of {fewest} would leave a single defect of a type to train on"),
            Choice("split.shots", fewest // 2, f"half of the {fewest} pictures of the rarest type; the rest tests"),
        ]
    third = f"of each type a third trains and selects, the rest tests ({fewest} to {most} of a type)"
    return [Choice("split.rule", "first_third", third)]


def _parts_serve(parts: Mapping[tuple[str, str], frozenset[str]]) -> bool:
    """Whether the parts of a data set can be taken as they are: nothing lies in none, every type is in train and in
    test, and what has a val part has good pictures and defects in it."""
    if any("" in names or not {"train", "test"} <= names for names in parts.values()):
        return False
    for category in {category for category, _ in parts}:
        validated = {name == GOOD for (other, name), names in parts.items() if other == category and "val" in names}
        if len(validated) == 1:
            return False
    return True


def scale_for(facts: Facts) -> tuple[float, str]:
    """The share of their size at which detectors see pictures: large ones smaller, unless small defects vanish."""
    size = f"the longest side has {facts.longest} px"
    quarter = float(np.quantile(facts.short, 0.25))
    scale = SCALES[0]
    for smaller in SCALES[1:]:
        if facts.longest * scale <= LARGE:
            break
        if quarter * smaller < VISIBLE:
            narrow = f"a quarter of the defects are narrower than {quarter * scale:.0f} px then"
            return scale, f"{size}, which is large, but {narrow}: smaller, they would vanish"
        if facts.shortest * smaller < LEAST_SIDE:
            least = f"the narrowest picture has {facts.shortest * scale:.0f} px then"
            return scale, f"{size}, which is large, but {least}: smaller, there would be little left of it"
        scale = smaller
    if scale == 1:
        return scale, f"{size}: native"
    return scale, f"{size}, which is large; three quarters of the defects keep {quarter * scale:.0f} px of width"


def window_for(facts: Facts, scale: float) -> tuple[int, str]:
    """The side of the windows, a multiple of 16: no larger than pictures of 32 px and more, larger where most defects
    are."""
    side = int(facts.shortest * scale)
    half = float(np.median(facts.long)) * scale
    wanted = next((window for window in WINDOWS if window >= half), WINDOWS[-1])
    if side < wanted:
        return max(side // 16 * 16, 32), f"the smallest picture has {side} px after scaling"
    if wanted > WINDOWS[0]:
        return wanted, f"half of the defects are longer than {half:.0f} px after scaling; a step takes longer"
    return wanted, f"half of the defects are within {half:.0f} px after scaling"


def _arms(thorough: bool) -> str:
    pair = "cutpaste pastes real defects elsewhere, defectfill learns to paint them into their shape"
    return f"{pair}, mvp_diff into a box; perlin needs none at all" if thorough else pair


def _detectors(thorough: bool) -> str:
    pair = "one that learns defects, and one that learns good pictures alone"
    return f"{pair}; pagmfr learns both, takes long, and is the best on some photographs" if thorough else pair


def _classes(facts: Facts) -> str:
    return "some pictures show several types" if facts.mixed else "no picture shows several types"


def _names_groups(column: str) -> bool:
    """Whether a column is called like a part, such as Part No. or captureGroup.

    >>> _names_groups("Part No."), _names_groups("captureGroup"), _names_groups("part_type")
    (True, True, False)
    """
    return GROUP.fullmatch(re.sub(r"[^a-z0-9]", "", column.lower())) is not None


class Table(NamedTuple):
    """A CSV that names capture groups: its file's name, the column, and how many groups of how many pictures."""

    name: str
    column: str
    groups: int
    pictures: int


def group_table(root: Path, names: Collection[str], findings: Findings) -> Table | None:
    """The table in a data set that tells which pictures show the same thing, or None.

    It is a CSV with a column `path`, and a column that is called like a part, with values that repeat, for at least
    half of the pictures. names: paths of the pictures within the data set. Tables that cannot be read are added to the
    findings.
    """
    for path in sorted(root.glob("*.csv")):
        try:
            columns, rows = read_table(path)
        except UserError as error:
            findings.warnings.append(f"{error}; it may say which pictures show one part (dataset.group_table)")
            continue
        if "path" not in map(str.lower, columns):
            continue
        places = [(PurePosixPath(row["path"].replace("\\", "/")).as_posix(), row) for _, row in rows]
        for column in columns:
            values = {place: row[column.lower()] for place, row in places if place in names}
            often = Counter(value for value in values.values() if value)
            repeated = len(often) > 1 and max(often.values(), default=0) > 1
            enough = 2 * often.total() >= len(names)
            is_part = {value.lower() for value in often} <= PART_NAMES.keys()
            if column.lower() != "path" and _names_groups(column) and repeated and enough and not is_part:
                return Table(path.name, column, len(often), often.total())
    return None
