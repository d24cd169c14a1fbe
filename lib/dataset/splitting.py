"""Splits a category into train, val and test, so that no picture and no capture group is in two of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.defects import types_of
from lib.core.errors import shortlist
from lib.core.images import Depth
from lib.core.params import PARTS, Dataset, Split
from lib.core.records import GOOD, Sample, TypeMap
from lib.dataset.conversion import dataset_depth
from lib.dataset.examination import Examination
from lib.dataset.findings import DatasetProblems, Findings, natural_key
from lib.dataset.pictures import Picture
from lib.dataset.survey import Look, look_at

NEAR = 4  # of 64 bits; re-encoding or rescaling a picture changes about as many

Parts = tuple[list[Sample], dict[str, Any]]


def split_categories(dataset: Dataset, split: Split) -> tuple[dict[str, Parts], Depth, dict[str, Look]]:
    """Read, validate and split all categories: of each its samples, sorted by id, and the summary for `split.json`; the
    one depth of all their pictures; and what was seen of each.

    Of masks that are drawn the samples name the types alone: `lib.dataset.conversion` writes them.

    Raises DatasetProblems with everything that is wrong in any of them, and all warnings beside it.
    """
    looks = {category: look_at(dataset, category) for category in dataset.categories}
    splits, depth, problems = split_looks(looks, dataset, split)
    if problems:
        raise DatasetProblems(problems, [warning for look in looks.values() for warning in look.findings.warnings])
    return splits, depth, looks


def split_looks(looks: Mapping[str, Look], dataset: Dataset, split: Split) -> tuple[dict[str, Parts], Depth, list[str]]:
    """`split_categories` of what was seen: the parts of sound categories, the depth, and all problems of any."""
    depth, problems = dataset_depth([one for look in looks.values() for one in look.examinations], dataset.depth)
    problems += [problem for look in looks.values() for problem in look.findings.problems]
    whole = [category for category, look in looks.items() if look.place and look.place.base == Path(dataset.path)]
    if len(whole) > 1:
        problems.append(
            f"dataset.categories: {dataset.path} is one category, which {', '.join(whole)} would all be; name one"
        )
    splits = {}
    for category, look in looks.items():
        if not look.findings.problems:
            splits[category] = _split(look, split, category)
            problems += look.findings.problems
    return splits, depth, problems


def _split(look: Look, split: Split, category: str) -> Parts:
    """The samples of a category, sorted by id, and the summary; adds what is wrong with the parts to the findings."""
    if split.rule == "given" and (unsaid := [str(one.path) for one in look.pictures if not one.folder]):
        look.findings.problems.append(
            f"split.rule is given, but {len(unsaid)} picture(s) lie in no part, train, val or test, of the data set: "
            f"{shortlist(unsaid)}; choose another rule, or move them"
        )
        return [], {}
    part_of = assign_splits(look.pictures, look.groups, split)
    samples = [
        _sample(category, one, look.groups[one.picture.id], part_of[look.groups[one.picture.id]])
        for one in look.examinations
    ]
    samples = [_with_foreground(sample, look.foregrounds.get(sample.id)) for sample in samples]
    samples = [replace(sample, regions=look.regions.get(sample.id)) for sample in samples]
    whole = sorted(samples, key=lambda sample: sample.id)
    samples = thinned(whole, split.train_fraction)
    look.findings.warnings += [_what_is_left_out(whole, samples)] if split.train_fraction < 1 else []
    _check_parts(samples, look.findings)
    look.findings.problems += leaks(samples)
    _warn_of_single(samples, look.findings)
    _warn_of_moves(look.pictures, {sample.id: sample.split for sample in samples}, look.findings)
    hashes = {one.picture.id: one.perceptual_hash for one in look.examinations}
    _warn_of_near_duplicates(samples, hashes, look.findings)
    return samples, _summary(samples, split, look.findings.warnings)


def _sample(category: str, examination: Examination, group: str, part: str) -> Sample:
    """The record of an examined picture in its part."""
    picture = examination.picture
    return Sample(
        id=picture.id,
        category=category,
        defect_type=picture.defect_type,
        image=picture.path.as_posix(),
        mask=picture.mask.as_posix() if picture.mask else None,
        group=group,
        split=part,
        size=examination.size,
        sha256=examination.sha256,
        mask_sha256=examination.mask_sha256,
        twin=picture.twin.as_posix() if picture.twin else None,
        twin_sha256=examination.twin_sha256,
        type_map=TypeMap("", "", picture.types) if picture.several else None,
    )


def _with_foreground(sample: Sample, drawn: tuple[Path, str] | None) -> Sample:
    """The record with the mask of the object, where a person drew one, and its digest."""
    return replace(sample, foreground=drawn[0].as_posix(), foreground_sha256=drawn[1]) if drawn else sample


def assign_splits(pictures: Sequence[Picture], groups: Mapping[str, str], split: Split) -> dict[str, str]:
    """The part (`train`, `val` or `test`) of every capture group.

    groups: the group of every picture, by the picture's id. Types with the fewest groups choose first, and a group
    keeps its part, so that a common type cannot take the only groups of a rare one.

    Defects: of a type's groups, ordered by the name of their first picture, the first ones are for fitting and the
    rest is test. Rule `first_third`: a third of the groups, rounded down, at least one. Rule `shots`: as many groups
    as hold `shots` pictures. Of the fitting groups `val_fraction` is val: the neighbours that come closest to this
    fraction of the pictures too, the last ones where groups are equally large. Where there is one fitting group, val
    takes the next; where groups shared with other types would make val outweigh train, train gets one more. One
    group at least is left for test. With `fold` 1 or 2 the order begins one or two thirds later and goes on at its
    start: by `first_third` the fitting groups of three folds have none in common, where a type has six or more.

    Rule `given`: every group is of the part that its pictures lie in, of the later one where they lie in two, in the
    order train, val, test. Without any for val, `val_fraction` of the train groups are, evenly spaced, of groups with
    defects and of good ones alike.

    Good pictures follow the defects of their group. Other groups keep to the folders, `test/good` to test and
    `train/good` to fitting; without a folder for test the last third of the groups is test, since neighbours in a
    series look alike; a fold turns them in the same way. Of the fitting groups `val_fraction`, evenly spaced, are val.
    """
    if split.rule == "given":
        return _given(pictures, groups, split.val_fraction)
    # type, and whether it stands for several -> group -> number of pictures, in natural order
    ordered: dict[tuple[str, bool], dict[str, int]] = defaultdict(dict)
    for picture in sorted(pictures, key=lambda one: (natural_key(one.path.stem), one.id)):
        sizes = ordered[picture.defect_type, picture.several]
        sizes[groups[picture.id]] = sizes.get(groups[picture.id], 0) + 1
    part_of: dict[str, str] = {}
    for defect_type in sorted(ordered.keys() - {(GOOD, False)}, key=lambda one: (len(ordered[one]), one)):
        part_of |= _assign_defects(_turned(ordered[defect_type], split.fold), split, part_of)

    free = [group for group in ordered[GOOD, False] if group not in part_of]
    if any(picture.folder == "test" for picture in pictures):
        test = {groups[one.id] for one in pictures if one.defect_type == GOOD and one.folder == "test"}
    else:
        free = list(_turned(dict.fromkeys(free, 1), split.fold))
        test = set(free[len(free) - max(1, len(free) // 3) :])
    val = _evenly_spaced([group for group in free if group not in test], split.val_fraction)
    return part_of | {group: "test" if group in test else "val" if group in val else "train" for group in free}


def _turned(sizes: Mapping[str, int], fold: int) -> dict[str, int]:
    """The groups in the order of a fold: those of the first `fold` thirds come last."""
    groups = list(sizes)
    start = (fold * len(groups) + 1) // 3
    return {group: sizes[group] for group in groups[start:] + groups[:start]}


def _given(pictures: Sequence[Picture], groups: Mapping[str, str], val_fraction: float) -> dict[str, str]:
    """The part of every group by the rule `given`."""
    part_of: dict[str, str] = {}
    with_defects = {groups[picture.id] for picture in pictures if picture.defect_type != GOOD}
    for picture in sorted(pictures, key=lambda one: (natural_key(one.path.stem), one.id)):
        group = groups[picture.id]
        part_of[group] = max(part_of.get(group, picture.folder), picture.folder, key=PARTS.index)
    if "val" not in part_of.values():
        train = [group for group, part in part_of.items() if part == "train"]
        for kind in (True, False):
            val = _evenly_spaced([group for group in train if (group in with_defects) == kind], val_fraction)
            part_of |= dict.fromkeys(val, "val")
    return part_of


def thinned(samples: Sequence[Sample], fraction: float) -> list[Sample]:
    """The samples without some defects of the train part, so that one sees what the others gain.

    Of each type's capture groups there, in natural order, the first `fraction` stay, rounded up, and a group that any
    type keeps stays whole. Good pictures, val and test are as they were.
    """
    ordered: dict[str, dict[str, None]] = defaultdict(dict)
    for sample in sorted(samples, key=lambda one: (natural_key(Path(one.image).stem), one.id)):
        if sample.split == "train" and sample.defect_type != GOOD:
            for name in types_of(sample):
                ordered[name][sample.group] = None
    stay = {group for groups in ordered.values() for group in list(groups)[: ceil(round(fraction * len(groups), 6))]}
    return [one for one in samples if one.split != "train" or one.defect_type == GOOD or one.group in stay]


def _what_is_left_out(whole: Sequence[Sample], thin: Sequence[Sample]) -> str:
    """A sentence on what `split.train_fraction` does to the train part, which may be nothing."""
    types = [Counter(name for one in part if one.split == "train" for name in types_of(one)) for part in (whole, thin)]
    same = sorted(name for name, count in types[0].items() if name != GOOD and types[1][name] == count)
    text = f"split.train_fraction leaves out {len(whole) - len(thin)} defect picture(s) of the train part"
    return f"{text}, none with {', '.join(same)}, since capture groups stay whole" if same else text


def _evenly_spaced(groups: Sequence[str], fraction: float) -> set[str]:
    """Those of the groups for fitting, in order, that are val."""
    number = _val_number(len(groups), fraction)
    return {groups[int((index + 0.5) * len(groups) / number)] for index in range(number)}


def leaks(samples: Sequence[Sample]) -> list[str]:
    """A sentence for each capture group, and each file's content, that occurs in more than one part."""
    parts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # what -> part -> the first picture there
    for sample in samples:
        parts["the capture group", sample.group].setdefault(sample.split, sample.image)
        parts["the file content", sample.sha256].setdefault(sample.split, sample.image)
    return [
        f"{what} {value} is in more than one part: "
        + ", ".join(f"{image} in {part}" for part, image in sorted(first.items()))
        for (what, value), first in parts.items()
        if len(first) > 1
    ]


def near_duplicates(samples: Sequence[Sample], hashes: Mapping[str, int]) -> list[tuple[Sample, Sample]]:
    """Pairs of a picture for fitting (train, val) and one of the test part whose hashes differ in at most NEAR bits.

    hashes: the perceptual hash of every sample, by its id. The closest pairs come first.
    """
    test = [sample for sample in samples if sample.split == "test"]
    bits = np.array([hashes[sample.id] for sample in test], dtype=np.uint64)
    pairs = []
    for sample in samples:
        if sample.split != "test":
            distance = np.bitwise_count(bits ^ np.uint64(hashes[sample.id]))
            pairs += [(int(distance[index]), sample, test[index]) for index in np.flatnonzero(distance <= NEAR)]
    return [(fitting, test) for _, fitting, test in sorted(pairs, key=lambda pair: (pair[0], pair[1].id, pair[2].id))]


def _assign_defects(sizes: Mapping[str, int], split: Split, part_of: Mapping[str, str]) -> dict[str, str]:
    """The part of each group of one defect type that has none yet; sizes: pictures per group, in order."""

    def pictures(some: Iterable[str]) -> int:
        return sum(sizes[group] for group in some)

    fixed = [group for group in sizes if part_of.get(group) in ("train", "val")]
    free = [group for group in sizes if group not in part_of]
    candidates = fixed + free
    # Unless another type has put a group of this one into test already, the last one stays there.
    most = len(candidates) - (len(candidates) == len(sizes))
    if split.rule == "first_third":
        number = max(1, len(sizes) // 3)
    else:
        number = int(np.searchsorted(np.cumsum([sizes[group] for group in candidates]), split.shots)) + 1
    number = max(min(number, most), len(fixed))
    if number == 1 and most > 1:
        number = 2  # the second one is for val
    train = [group for group in fixed if part_of[group] == "train"]
    val = [group for group in fixed if part_of[group] == "val"]
    new = free[: number - len(fixed)]

    # Of the new groups, the run of `count` neighbours that brings val closest to its share of the pictures.
    count = max(0, min(_val_number(number, split.val_fraction) - len(val), len(new) - (not train)))
    missing = split.val_fraction * pictures(fixed + new) - pictures(val)
    runs = [new[start : start + count] for start in reversed(range(len(new) - count + 1))]
    val += min(runs, key=lambda run: abs(pictures(run) - missing))
    train += [group for group in new if group not in val]
    if fixed and number < most and pictures(train) < pictures(val):
        train.append(candidates[number])
    return {group: "val" if group in val else "train" if group in train else "test" for group in free}


def _val_number(number: int, fraction: float) -> int:
    """How many of the groups for fitting are val: at least one, but never all of them."""
    return min(max(1, round(fraction * number)), max(number - 1, 0))


def _check_parts(samples: Sequence[Sample], findings: Findings) -> None:
    """Note parts without good or defect pictures, and types without training, validation or test pictures."""
    has = {(sample.split, name) for sample in samples for name in types_of(sample)}
    groups: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        for name in types_of(sample):
            groups[name].add(sample.group)
    types = sorted(groups.keys() - {GOOD})
    for part in PARTS:
        if (part, GOOD) not in has:
            findings.problems.append(
                f"the {part} part has no good pictures: they are of {len(groups[GOOD])} capture groups; add good "
                f"pictures of other groups" + (" to test/good" if part == "test" else "")
            )
        if not any((part, defect_type) in has for defect_type in types):
            findings.problems.append(
                f"the {part} part has no defect pictures: the types have "
                + ", ".join(f"{defect_type} {len(groups[defect_type])}" for defect_type in types)
                + " pictures or capture groups; three of a type are the least that all parts can share"
            )
        for defect_type in types:
            if (part, defect_type) not in has:
                message = (
                    f"the defect type {defect_type} has no pictures in the {part} part: they are of "
                    f"{len(groups[defect_type])} capture groups, some perhaps shared with other types; add pictures "
                    f"of other groups"
                )
                (findings.warnings if part == "val" else findings.problems).append(message)


def _warn_of_single(samples: Sequence[Sample], findings: Findings) -> None:
    """Warn of types with a single training picture: generators copy it, and the gate has no range to compare with."""
    numbers = Counter(name for sample in samples if sample.split == "train" for name in types_of(sample))
    if single := sorted(name for name, number in numbers.items() if number == 1 and name != GOOD):
        findings.warnings.append(
            f"{len(single)} defect type(s) have a single picture in the train part: {shortlist(single)}. All "
            "synthetic samples will resemble it, and the quality gate does not know how much real defects vary: add "
            "pictures, or give more of them to training (split.rule shots, with a higher split.shots)"
        )


def _warn_of_moves(pictures: Sequence[Picture], part_of: Mapping[str, str], findings: Findings) -> None:
    """Say which good pictures left the part that their folder names."""
    for folder in ("train", "test"):
        moves = [
            str(one.path)
            for one in pictures
            if one.defect_type == GOOD and one.folder == folder != part_of[one.id].replace("val", "train")
        ]
        if moves:
            findings.warnings.append(
                f"{len(moves)} good pictures of {folder}/ went to another part with the rest of their capture group: "
                f"{shortlist(moves)}"
            )


def _warn_of_near_duplicates(samples: Sequence[Sample], hashes: Mapping[str, int], findings: Findings) -> None:
    """Say which pictures for fitting look like pictures of the test part."""
    if pairs := near_duplicates(samples, hashes):
        number = len({test.id for _, test in pairs})
        findings.warnings.append(
            f"{number} test pictures look almost like a picture that is trained or selected on ({len(pairs)} pairs, "
            f"perceptual hashes within {NEAR} of 64 bits). A fixed camera gives such pairs by nature; but if they "
            f"show the same workpiece, put them into one capture group (dataset.group_table or dataset.group_pattern), "
            f"or the test will flatter:\n  " + shortlist([f"{fit.image} ~ {test.image}" for fit, test in pairs], "\n  ")
        )


def _summary(samples: Sequence[Sample], split: Split, warnings: Sequence[str]) -> dict[str, Any]:
    """The content of `split.json`: how the parts came about and what is in each."""
    of = {part: [sample for sample in samples if sample.split == part] for part in PARTS}
    return {
        "split": split.model_dump(),
        "counts": {part: dict(Counter(name for sample in of[part] for name in types_of(sample))) for part in PARTS},
        "groups": {part: sorted({sample.group for sample in of[part]}, key=natural_key) for part in PARTS},
        "sha256": {part: {sample.image: sample.sha256 for sample in of[part]} for part in PARTS},
        "warnings": [warning.encode(errors="backslashreplace").decode() for warning in warnings],
    }
