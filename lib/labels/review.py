"""What people say of synthetic samples: which are bad, and which have a mask that a person corrected.

`data/review/review.csv` has a row for each; `data/review/README.md` says how it is written. A row names a picture by
the digest that it had when it was painted. One that was painted anew since is another picture: the row is stale.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import UserError, shortlist
from lib.core.forms import REVIEW, Row, read_form, refuse
from lib.core.geometry import Mask, box_mask
from lib.core.images import read_mask, read_shape
from lib.core.params import methods
from lib.core.records import Synthetic

REVIEWED = "reviewed"  # the reason of a sample that a person refused
BAD, MASK = "bad", "mask"  # verdicts
MASKS = REVIEW.path.parent / "masks"  # corrected masks: GENERATOR/CATEGORY/PLACEMENT.png

Key = tuple[str, str, str]  # generator, category, placement


@dataclass(frozen=True)
class Verdicts:
    """What is said of the samples of one generator and category, by their placements.

    masks: the files of corrected masks. stale: the lines of rows that name no sample that exists.
    """

    bad: frozenset[str] = frozenset()
    masks: Mapping[str, Path] = field(default_factory=dict)
    stale: tuple[int, ...] = ()


def read_verdicts(generator: str, arms: Mapping[str, Sequence[Synthetic]]) -> tuple[dict[str, Verdicts], str]:
    """The verdicts on one generator's samples by category, and a sentence on what they do, empty where there are none.

    arms: the records of `synth` by category. Raises UserError with all problems of the table and of corrected masks
    at once, those of other generators and categories, too, as far as they can be told without their pictures.
    """
    rows, problems = read_form(REVIEW)
    lines: dict[tuple[str, ...], int] = {}
    for row in rows:
        problems += [f"{REVIEW.path.as_posix()}, line {row.line}: {what}" for what in _faults(row)]
        before = lines.setdefault((*_key(row), row.values["sha256"]), row.line)
        if before != row.line:
            problems.append(f"{REVIEW.path.as_posix()}, line {row.line}: the sample of line {before} once more")
    problems += _unnamed({_key(row) for row in rows if row.values["verdict"] == MASK})
    refuse(problems)

    own = [row for row in rows if row.values["generator"] == generator]
    verdicts = {category: _verdicts(own, category, records) for category, records in arms.items()}
    for category, records in arms.items():
        painted = {record.placement: record for record in records}
        for placement, file in verdicts[category].masks.items():
            problems += _misfits(file, painted[placement])
    refuse(problems)
    return verdicts, _sentence(own, verdicts)


def _key(row: Row) -> Key:
    values = row.values
    return values["generator"], values["category"], values["placement"]


def _faults(row: Row) -> list[str]:
    """What is wrong with a row by itself. Its names become parts of a path."""
    values, faults = row.values, list[str]()
    if values["generator"] not in methods("generators"):
        faults.append(f"no generator {values['generator']!r}, known are {', '.join(methods('generators'))}")
    for name in ("category", "placement"):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}", values[name]):
            faults.append(f"{name} {values[name][:60]!r}: expected letters, digits, _ and -")
    if not re.fullmatch(r"[0-9a-f]{64}", values["sha256"]):
        faults.append("sha256: expected 64 hexadecimal digits, the `painted_sha256` of the sample's record")
    if values["verdict"] not in (BAD, MASK):
        faults.append(f"verdict {values['verdict'][:60]!r}: expected {BAD} or {MASK}")
    return faults


def _unnamed(named: set[Key]) -> list[str]:
    """Corrected masks that no row names, and other files where they lie."""
    problems = []
    for file in sorted(file for file in MASKS.rglob("*") if file.is_file() and not file.name.startswith(".")):
        parts = file.relative_to(MASKS).parts
        if len(parts) != 3 or file.suffix != ".png":
            problems.append(f"{file.as_posix()}: expected {MASKS.as_posix()}/GENERATOR/CATEGORY/PLACEMENT.png")
        elif (*parts[:2], file.stem) not in named:
            problems.append(
                f"{file.as_posix()}: no row of {REVIEW.path.as_posix()} with the verdict {MASK} names it: add the row, "
                f"whose digest says for which picture the mask was drawn"
            )
    return problems


def _verdicts(rows: Sequence[Row], category: str, records: Sequence[Synthetic]) -> Verdicts:
    """What the rows of a generator say of one category."""
    painted = {(record.placement, record.sha256) for record in records if record.image is not None}
    bad, masks, stale = set[str](), dict[str, Path](), list[int]()
    for row in rows:
        generator, of_category, placement = _key(row)
        if of_category != category:
            continue
        if (placement, row.values["sha256"]) not in painted:
            stale.append(row.line)
        elif row.values["verdict"] == BAD:
            bad.add(placement)
        else:
            masks[placement] = MASKS / generator / category / f"{placement}.png"
    return Verdicts(frozenset(bad), masks, tuple(stale))


def _misfits(file: Path, record: Synthetic) -> list[str]:
    """Why a corrected mask cannot be that of a sample."""
    where = file.as_posix()
    if not file.is_file():
        return [f"{where}: not there, and a row of {REVIEW.path.as_posix()} with the verdict {MASK} names it"]
    try:
        mask: Mask = read_mask(file)
    except UserError as error:
        return [str(error)]
    height, width = read_shape(Path(str(record.image)))
    if mask.shape != (height, width):
        return [f"{where}: {mask.shape[1]} x {mask.shape[0]} px, expected {width} x {height} as in {record.image}"]
    if not mask.any():
        return [f"{where}: empty; of a sample without a defect the verdict is {BAD}"]
    if record.normal is not None and (mask & ~box_mask(record.box, width, height)).any():
        return [f"{where}: reaches out of the box {record.box}, outside of which nothing has changed"]
    return []


def _sentence(rows: Sequence[Row], verdicts: Mapping[str, Verdicts]) -> str:
    """How many samples the rows of one generator refuse, how many masks they correct, how many rows are stale."""
    if not rows:
        return ""
    bad = sum(len(of.bad) for of in verdicts.values())
    masks = sum(len(of.masks) for of in verdicts.values())
    stale = sorted(
        [line for of in verdicts.values() for line in of.stale]
        + [row.line for row in rows if row.values["category"] not in verdicts]
    )
    sentence = f"{REVIEW.path.as_posix()}: samples refused: {bad}, masks corrected: {masks}"
    if not stale:
        return sentence
    lines = shortlist([str(line) for line in stale])
    return f"{sentence}; rows that name no sample, since it was painted anew or is gone: {len(stale)} (lines {lines})"


def rejected_corrections(records: Sequence[Synthetic]) -> str:
    """A sentence with the samples that the gate rejects with the masks that a person corrected, and why; or nothing."""
    corrected = [one for one in records if one.mask_source == "corrected"]
    rejected = [f"{one.placement} ({one.reason})" for one in corrected if not one.accepted]
    return f"\nrejected by the gate with their corrected masks: {', '.join(rejected)}" if rejected else ""
