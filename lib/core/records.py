"""The records that stages exchange: one frozen dataclass each, stored as JSON Lines.

Paths in records are relative to the repository, written with forward slashes. Ids are stable and sortable, so a
sample can be followed from a synthetic picture back to the photograph that it came from.
"""

import io
import json
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from lib.core.geometry import Box
from lib.core.runtime import write_text

GOOD = "good"  # the defect type of a picture without a defect


@dataclass(frozen=True)
class Sample:
    """One real picture. `mask` is None for good pictures; `size` is (width, height) in pixels.

    `twin`: the same picture without its defect, which rendered data sets have.
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


@dataclass(frozen=True)
class Description:
    """The captions of one defect of one real picture; `component` numbers the defects of the picture."""

    sample: str
    component: int
    location: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class DefectBox:
    """The box around one defect of a real mask, grown by the margin; `area` is the defect's own, in px."""

    sample: str
    component: int
    defect_type: str
    box: Box
    area: int


@dataclass(frozen=True)
class Placement:
    """Where a defect shall appear: on which good picture, of which type, in which box, said in which words."""

    id: str
    category: str
    defect_type: str
    normal: str  # id of a good Sample of the train part
    box: Box
    location: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Synthetic:
    """One synthesized picture with everything that is needed to make it again."""

    placement: str
    category: str
    defect_type: str
    normal: str
    box: Box
    generator: str
    model: str  # base model @ revision + hash of the fine-tuned weights, or the name of the procedure
    prompt: str
    seed: int
    knobs: dict[str, Any]
    image: str
    sha256: str  # of the picture's file
    mask: str | None = None
    mask_sha256: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    accepted: bool | None = None
    reason: str | None = None


Record = TypeVar("Record", Sample, Description, DefectBox, Placement, Synthetic)


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSON Lines, one per line, keys in the order of the dataclass; the file appears whole or not."""
    write_text(path, "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records))


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read the records that `write_records` wrote.

    Raises ValueError that names file, line and field when a line is no JSON object of this kind.
    """
    names = {item.name for item in fields(kind)}
    hints = typing.get_type_hints(kind)
    records = []
    # Not `splitlines`, which also breaks at characters that JSON lets stand within a text, such as U+2028.
    for number, line in enumerate(io.StringIO(path.read_text(encoding="utf-8")), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, found {line:.40}")
            if unknown := set(row) - names:
                raise ValueError(f"unknown fields {sorted(unknown)}")
            records.append(kind(**{name: _frozen(value, hints[name]) for name, value in row.items()}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a {kind.__name__} record: {error}") from error
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


def _frozen(value: Any, hint: Any) -> Any:
    """JSON has no tuples: turn a list back into one where the dataclass says tuple."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, list) and any(typing.get_origin(option) is tuple for option in options):
        return tuple(value)
    return value
