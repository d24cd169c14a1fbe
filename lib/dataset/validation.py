"""Examine all pictures of a category, and report all problems at once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lib.core.errors import shortlist
from lib.core.records import GOOD
from lib.core.runtime import in_threads
from lib.dataset.annotations import BoxMasks
from lib.dataset.examination import Examination, examine
from lib.dataset.findings import Findings
from lib.dataset.pictures import Picture

GOODS = "pictures in the folder `good` (`train/good` and `test/good`)"
DEFECTS = "pictures in a folder named like the type of defect"


def validate(
    pictures: Sequence[Picture],
    findings: Findings,
    boxes: BoxMasks = "grabcut",
    goods: str = GOODS,
    defects: str = DEFECTS,
) -> list[Examination]:
    """Examine all pictures, on several threads, and add the problems of each and of all together to the findings.

    boxes: as for `draw`; goods, defects: how such pictures are marked in their layout, for messages. Checks for
    unreadable files, masks that do not fit or are empty, duplicate ids, duplicate pictures, and too few pictures of a
    kind.
    """
    examinations = in_threads(lambda one: examine(one, boxes), pictures, "pictures")
    findings.problems += [problem for one in examinations for problem in one.problems]
    _note_repetitions(examinations, findings)
    _note_colours(examinations, findings)
    _note_doubtful_masks(examinations, findings)
    _note_scarcity(pictures, findings, goods, defects)
    return examinations


def _note_repetitions(examinations: Sequence[Examination], findings: Findings) -> None:
    """Note ids and pictures that occur twice."""
    for first, second in _repetitions((one.picture.id.casefold(), one.picture) for one in examinations):
        findings.problems.append(
            f"{first.path} and {second.path}: names that differ only in their ending, in upper and lower case or in "
            f"their dashes would give both the id {second.id}; rename one"
        )
    for first, second in _repetitions((one.pixels, one.picture) for one in examinations if one.pixels):
        findings.problems.append(f"{first.path} and {second.path}: the same picture twice; remove one")


def _note_colours(examinations: Sequence[Examination], findings: Findings) -> None:
    """Warn of grey pictures among ones in colour: a detector may learn that as a defect, and takes both later."""
    opened = [one for one in examinations if one.pixels]
    grey = [str(one.picture.path) for one in opened if one.grey]
    if 0 < len(grey) < len(opened):
        findings.warnings.append(
            f"{len(grey)} of {len(opened)} pictures are grey, the others in colour: {shortlist(grey)}. Unless the line "
            f"takes both, save all of them alike"
        )


def _note_doubtful_masks(examinations: Sequence[Examination], findings: Findings) -> None:
    """Warn of masks that can be read in more than one way: one warning per kind, with the names of the files."""

    def warn(masks: Sequence[Path | None], what: str) -> None:
        if masks:
            findings.warnings.append(f"{len(masks)} mask(s) {what}: {shortlist([str(mask) for mask in masks])}")

    warn(
        [one.picture.mask for one in examinations if one.graded_mask],
        "hold values other than 0 and 255. In a JPEG, or with many values near 0 and 255, as after JPEG or smoothing, "
        "values above 127 count as defect; else every value except 0 does, even one that looks black",
    )
    warn(
        [one.picture.mask for one in examinations if one.covering_mask],
        "mark more than half of their picture. All pixels that are not black count as defect: if the defect is black "
        "in these masks, invert them",
    )
    warn(
        [one.picture.mask or one.picture.path for one in examinations if one.turned_mask],
        "fit their picture as it is stored. Since an EXIF tag rotates the picture upright, they are rotated with it",
    )
    warn(
        [one.picture.mask or one.picture.path for one in examinations if one.doubtful_turn],
        "fit their picture both as it is stored and as its EXIF tag rotates it. They are taken as drawn on the upright "
        "picture, as viewers show it: check them, and save the pictures without the tag if they do not match",
    )
    if guesses := [one for one in examinations if one.drawn and one.drawn.source == "grabcut"]:
        findings.warnings.append(
            f"{len(guesses)} picture(s) have boxes and no masks: GrabCut segments the defect in a box. Check these "
            f"masks, draw your own where they are wrong, or set dataset.boxes to whole: "
            f"{shortlist([str(one.picture.path) for one in guesses])}"
        )
    if unanswered := [one for one in examinations if one.drawn and one.drawn.guessed]:
        findings.warnings.append(
            f"{sum(one.drawn.guessed for one in unanswered if one.drawn)} box(es) are marked whole, since GrabCut "
            f"found no defect in them: {shortlist([str(one.picture.path) for one in unanswered])}"
        )
    if hidden := [
        f"{one.picture.path} ({', '.join(one.drawn.hidden)})" for one in examinations if one.drawn and one.drawn.hidden
    ]:
        findings.warnings.append(
            f"{len(hidden)} picture(s) have region(s) that lie wholly under regions of other types. They have no "
            f"effect, since a pixel has one type: {shortlist(hidden)}; correct or remove them"
        )
    if beside := [
        f"{one.picture.mask} (the picture shows something at {one.beside})" for one in examinations if one.beside
    ]:
        findings.warnings.append(
            f"{len(beside)} mask(s) touch nothing: they lie wholly in the uniform margin of their picture. Either "
            f"a part is missing there, or they are masks of other pictures: {shortlist(beside)}"
        )


def _note_scarcity(pictures: Sequence[Picture], findings: Findings, goods: str, defects: str) -> None:
    """Report kinds of pictures that are missing, or too few to be split."""
    number = Counter(defect_type for picture in pictures for defect_type in picture.types)
    if not number[GOOD]:  # first, since it may be why so many have no mask
        findings.problems.insert(0, f"no good pictures; add some: {goods}")
    if not number.keys() - {GOOD}:
        findings.problems.append(f"no defect pictures; add some: {defects}")
    findings.problems += [
        f"the defect type {defect_type} has one picture, but training and test need one each, and validation should "
        f"have one, too: add pictures, or remove the type"
        for defect_type, count in sorted(number.items())
        if defect_type != GOOD and count < 2
    ]


def _repetitions(pairs: Iterable[tuple[str, Picture]]) -> list[tuple[Picture, Picture]]:
    """Pairs of the first picture with a key and a later one with the same key."""
    first: dict[str, Picture] = {}
    return [(first[key], picture) for key, picture in pairs if first.setdefault(key, picture) is not picture]
