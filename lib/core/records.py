"""The records that stages exchange: frozen, strictly typed dataclasses, stored as JSON Lines.

Paths in records are relative to the repository, with forward slashes. Ids are stable and sortable, so that a synthetic
picture can be traced back to the photograph that it came from.
"""

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lib.core.errors import UserError
from lib.core.geometry import Border, Box, Polygon
from lib.core.runtime import write_text

GOOD = "good"  # the defect type of a picture without defects
MIXED = "mixed"  # the defect type of a picture with several types, which its type map distinguishes

# The origin of a mask, most exact first: painted by a person; a polygon around the defect; the difference from a
# template inside a box; GrabCut inside a box; the box itself.
MaskSource = Literal["drawn", "polygon", "difference", "grabcut", "box"]
MASK_SOURCES: tuple[MaskSource, ...] = get_args(MaskSource)

# Tables of every arm, which the stage evaluate writes for the report.
RESAMPLED = "resampled.csv"  # a row for each resample; row n is of the same pictures in every arm of a category
FOUND = "found.csv"  # a row for each defect of the test part: its size, and the seeds that found it
LEVELS = "levels.csv"  # a row for each picture of the test part: up to which threshold each seed gives an alarm

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=STRICT)
class TypeMap:
    """The defect type of each pixel: an 8-bit PNG (H, W) whose value k > 0 stands for `types[k - 1]`."""

    path: str
    sha256: str
    types: tuple[str, ...]


@dataclass(frozen=True, config=STRICT)
class RegionMap:
    """A picture of regions (`lib.core.regions`)."""

    path: str
    sha256: str


@dataclass(frozen=True, config=STRICT)
class Sample:
    """One real picture. `mask` is None for good pictures; `size` is (width, height) in pixels.

    `type_map` is set only for pictures with defects of several types, which have the type MIXED; `mask` is then where
    it is not 0. A data set may also have an ordinary type with this name.

    `twin`: the same picture without its defect, in rendered data sets. `depth`: of the values of the original file, if
    it had more than 8 bits. `foreground`: a mask of the object, if a person drew one; else `lib.placement.foreground`
    detects it.
    """

    id: str
    category: str
    defect_type: str
    image: str
    mask: str | None
    group: str
    split: str  # train | val | test
    size: tuple[int, int]
    sha256: str  # of the picture's file
    mask_sha256: str | None = None
    twin: str | None = None
    twin_sha256: str | None = None
    depth: Literal[8, 10, 12, 14, 16, "unit"] = 8
    foreground: str | None = None
    foreground_sha256: str | None = None
    type_map: TypeMap | None = None
    regions: RegionMap | None = None
    mask_source: MaskSource = "drawn"  # with several defects, that of the least exact one


@dataclass(frozen=True, config=STRICT)
class Description:
    """The captions of one defect of one real picture; `component` numbers the defects of the picture."""

    sample: str
    component: int
    location: str
    captions: tuple[str, ...]


@dataclass(frozen=True, config=STRICT)
class DefectBox:
    """The box around one defect of a real mask, with the margin; `area`: of the defect, in px.

    `borders`: those of the picture that the defect reaches, since it belongs to an edge or goes on beyond.
    """

    sample: str
    component: int
    defect_type: str
    box: Box
    area: int
    borders: tuple[Border, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Placement:
    """Where a defect is to be synthesized: its type, the good picture, the box, and the prompt.

    `like` and `component` name the real defect from which place, size and aspect were drawn, or, if a person drew the
    box, the one with the most similar size and aspect. `shape`: the outline that a person drew in the box, if any, as
    pixels (x, y); generators that paint into shapes use it as their hole, others use the box. `on_part`: what is
    painted beside the part is undone, also within the box; holes of a detected part may change.
    """

    id: str
    category: str
    defect_type: str
    normal: str  # id of a good Sample of the train part
    box: Box
    location: str
    prompt: str
    seed: int
    like: str  # id of the Sample that shows the real defect
    component: int  # its number among the defects of that Sample
    shape: Polygon | None = None
    on_part: bool = False


@dataclass(frozen=True, config=STRICT)
class Synthetic:
    """A synthetic sample, or the reason why there is none, with everything that is needed to reproduce it.

    `normal` is None if the generator paints its own background. A failed placement has no picture: `image` is None, and
    `reason` says why. `accepted` is None before the gate. `painted_sha256`: of the picture's file as the generator
    wrote it, before the stage masks changed it; verdicts of people refer to it. `mask_source`: the mask is known to the
    generator, measured, or corrected by a person.
    """

    placement: str
    category: str
    defect_type: str
    normal: str | None
    box: Box
    like: str
    component: int
    generator: str
    model: str  # base model @ revision + hash of the fine-tuned weights, or the name of the procedure
    prompt: str
    seed: int
    knobs: dict[str, Any]
    image: str | None
    sha256: str | None  # of the picture's file
    mask: str | None = None
    mask_sha256: str | None = None
    notes: dict[str, Any] = Field(default_factory=dict)  # the generator's own values
    scores: dict[str, float] = Field(default_factory=dict)
    accepted: bool | None = None
    reason: str | None = None
    shape: Polygon | None = None
    painted_sha256: str | None = None
    mask_source: Literal["known", "measured", "corrected"] | None = None


Record = TypeVar("Record", Sample, Description, DefectBox, Placement, Synthetic)


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSON Lines, keys in the order of the dataclass; the file is written atomically.

    Raises ValueError for NaN and infinities, which JSON does not have: use None for a missing number.
    """
    # Not `dataclasses.asdict`, which copies every value deeply first: that took most of the time.
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_fields)
    write_text(path, "".join(f"{encoder.encode(record)}\n" for record in records))


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read the records that `write_records` wrote.

    Raises UserError, which names file, line and fields, if a line is not a record of this kind.
    """
    adapter = TypeAdapter(kind)
    records = []
    # Not `splitlines`, which also splits at characters that are allowed inside JSON strings, such as U+2028.
    for number, line in enumerate(io.StringIO(path.read_text(encoding="utf-8")), start=1):
        try:
            records.append(adapter.validate_json(line))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'line'}: {problem['msg']}" for problem in error.errors()
            )
            raise UserError(
                f"{path}, line {number}: not a {kind.__name__} record ({problems}); `dvc repro` writes it anew"
            ) from error
    return records


def read_train(category: str) -> dict[str, Sample]:
    """The samples of a prepared category's train part, by their ids."""
    return by_id(of_split(read_records(Path(f"data/prepared/{category}/samples.jsonl"), Sample), "train"))


def of_split(samples: Sequence[Sample], *splits: str) -> list[Sample]:
    """The samples of the named parts (`train`, `val`, `test`), in their order."""
    return [sample for sample in samples if sample.split in splits]


def by_id(samples: Iterable[Sample]) -> dict[str, Sample]:
    """Samples by their id."""
    return {sample.id: sample for sample in samples}
