"""Masks of the object that a person drew, for pictures where `lib.placement.foreground` fails.

`dataset.foreground` names a folder in the data set. In it a mask has the path that its picture has in the data set,
with any ending: `bracket/test/scratch/003.jpg` is covered by `<foreground>/bracket/test/scratch/003.png`.
"""

from collections.abc import Sequence
from pathlib import Path

from lib.core.errors import UserError, shortlist
from lib.core.images import read_mask
from lib.core.params import Dataset
from lib.core.runtime import sha256_of
from lib.dataset.examination import Examination
from lib.dataset.findings import Findings
from lib.dataset.pictures import by_path

KEY = "dataset.foreground"


def read_foregrounds(
    dataset: Dataset, category: str, examinations: Sequence[Examination], findings: Findings
) -> dict[str, tuple[Path, str]]:
    """The mask of the object and the SHA-256 of its file, by the picture's id, for the pictures that have one.

    Adds problems to the findings: a folder that is missing, masks without a picture, two masks of one picture, and
    masks that are unreadable, empty, or do not fit their picture; and a warning where the category has no mask.
    """
    if dataset.foreground is None:
        return {}
    root = Path(dataset.path)
    folder = root / dataset.foreground
    if not folder.is_dir():
        findings.problems.append(
            f"{KEY}: {folder}: no such folder; put the masks there, or set the key to null to have objects guessed"
        )
        return {}
    # A data set that is one category as a whole has no folder of its name.
    place = folder / category if (root / category).is_dir() else folder
    by_name = by_path(place.rglob("*"), folder, KEY, findings)
    if not by_name:
        findings.warnings.append(f"{KEY}: {place} holds no mask: the objects of {category} are guessed")
    masks = {}
    for one in examinations:
        mask = by_name.pop(one.picture.path.relative_to(root).with_suffix(""), None)
        if mask is not None and one.size != (0, 0):
            if problem := _problem(mask, one):
                findings.problems.append(f"{KEY}: {problem}")
            else:
                masks[one.picture.id] = mask, sha256_of(mask)
    if by_name:
        names = shortlist([str(file) for file in by_name.values()])
        findings.problems.append(
            f"{KEY}: {len(by_name)} mask(s) without a picture of the same path in {root}: {names}; "
            f"rename or remove them"
        )
    return masks


def _problem(path: Path, examination: Examination) -> str:
    """What is wrong with the mask of an object, or nothing."""
    try:
        mask = read_mask(path)
    except (OSError, UserError) as error:
        return f"{error}; replace or remove the file"
    if mask.shape[::-1] != examination.size:
        (height, width), size = mask.shape, "{} x {}".format(*examination.size)
        return f"{path}: the mask is {width} x {height} px, its picture, upright, {size} px; draw it at the same size"
    return "" if mask.any() else f"{path}: the mask is empty; mark the object, or remove the file"
