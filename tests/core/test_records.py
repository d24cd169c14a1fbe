"""Records: what is written is what is read, and a broken line is named."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lib.core.errors import UserError
from lib.core.records import (
    DefectBox,
    Description,
    Placement,
    RegionMap,
    Sample,
    Synthetic,
    TypeMap,
    by_id,
    of_split,
    read_records,
    write_records,
)

PLACEMENT = {
    "category": "slab",
    "defect_type": "scratch",
    "normal": "a/1",
    "box": (0, 0, 5, 6),
    "prompt": "There is",
    "seed": 2**63 - 1,
    "like": "a/2",
    "component": 1,
}
SYNTHETIC = {**PLACEMENT, "placement": "p1", "generator": "perlin", "model": "perlin", "knobs": {"a": 2}}
EXAMPLES: list[Any] = [
    Sample("a/1", "slab", "good", "images/1.png", None, "g", "train", (48, 32), "ab"),
    Sample("a/2", "slab", "scratch", "images/ä 2.png", "masks/2.png", "g", "test", (48, 32), "cd"),
    Description("a/2", 0, "in the center", ("There is a scratch", "“Kratzer”")),
    DefectBox("a/2", 1, "scratch", (0, 1, 10, 12), 33),
    Placement(id="p1", location="in the center", **PLACEMENT | {"box": (-1, 0, 5, 6)}),
    Placement(id="p2", location="in the center", shape=((0, 1), (4, 1), (2, 5)), **PLACEMENT),
    Synthetic(image="x.png", sha256="ab", **SYNTHETIC),
    Synthetic(image=None, sha256=None, accepted=False, reason="non-finite output", **SYNTHETIC | {"normal": None}),
    Synthetic(
        image="y.png",
        sha256="cd",
        mask="m.png",
        mask_sha256="ef",
        notes={"candidates": [0.25, 0.5], "angle": 3},
        scores={"fill": 0.25},
        accepted=False,
        reason="no visible change",
        shape=((0, 1), (4, 1), (2, 5)),
        painted_sha256="01",
        mask_source="corrected",
        **SYNTHETIC | {"knobs": {"strength": 0.5, "scheduler": "ddim"}},
    ),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_every_kind_survives_the_way_to_the_disk_and_back(tmp_path: Path, record: Any):
    write_records(tmp_path / "r.jsonl", [record, record])
    assert read_records(tmp_path / "r.jsonl", type(record)) == [record, record]


def test_tuples_come_back_as_tuples_and_can_be_hashed(tmp_path: Path):
    write_records(tmp_path / "r.jsonl", [EXAMPLES[2]])
    [description] = read_records(tmp_path / "r.jsonl", Description)
    write_records(tmp_path / "r.jsonl", [EXAMPLES[0]])
    [sample] = read_records(tmp_path / "r.jsonl", Sample)
    assert type(description.captions) is tuple and type(sample.size) is tuple
    assert hash(sample) == hash(EXAMPLES[0]) and hash(description) == hash(EXAMPLES[2])


# Everything that ends a line somewhere, and what JSON escapes.
BREAKS = 'a\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\0"\\ä'


@settings(max_examples=50)
@given(st.lists(st.text(BREAKS, max_size=4), max_size=3))
def test_any_text_stays_on_its_line(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    path = tmp_path_factory.getbasetemp() / "any-text.jsonl"
    records = [Description(text, number, text, (text, "", text)) for number, text in enumerate(texts)]
    write_records(path, records)
    assert read_records(path, Description) == records


def test_no_records_make_an_empty_file(tmp_path: Path):
    write_records(tmp_path / "r.jsonl", [])
    assert (tmp_path / "r.jsonl").read_bytes() == b"" and read_records(tmp_path / "r.jsonl", Sample) == []


BOX_ROW = {"sample": "a", "component": 0, "defect_type": "b", "box": [0, 0, 1, 1], "area": 1}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"sample": "a"', "Invalid JSON"),
        ("[]", "not a DefectBox record"),
        ("7", "not a DefectBox record"),
        ('""', "not a DefectBox record"),
        ("", "Invalid JSON"),
        (json.dumps({key: value for key, value in BOX_ROW.items() if key != "area"}), "area: Field required"),
        (json.dumps({**BOX_ROW, "hue": 2}), "hue: Unexpected keyword argument"),
        (json.dumps({**BOX_ROW, "box": "abc"}), "box: Input should be a valid"),
        (json.dumps({**BOX_ROW, "box": [0, 0, 1]}), "box.3: Field required"),
        (json.dumps({**BOX_ROW, "box": [0, 0, 1, "1"]}), "box.3: Input should be a valid integer"),
        (json.dumps({**BOX_ROW, "component": True}), "component: Input should be a valid integer"),
        (json.dumps({**BOX_ROW, "sample": None, "area": 1.5}), "area: Input should be a valid integer"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_field(tmp_path: Path, line: str, problem: str):
    path = tmp_path / "boxes.jsonl"
    write_records(path, [EXAMPLES[3]])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError) as error:
        read_records(path, DefectBox)
    assert f"{path}, line 2: not a DefectBox record" in str(error.value) and problem in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_no_record(value: float):
    with pytest.raises(ValidationError, match="finite number"):
        Synthetic(image="x.png", sha256="ab", scores={"fill": value}, **SYNTHETIC)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_note_that_is_no_number_is_not_written(tmp_path: Path, value: float):
    """A browser could not read it: JSON has no such numbers."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_records(tmp_path / "r.jsonl", [Synthetic(image="x.png", sha256="ab", notes={"loss": value}, **SYNTHETIC)])
    assert not (tmp_path / "r.jsonl").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(st.dictionaries(st.text(), VALUES))
def test_the_bytes_are_those_of_the_plain_copy_of_a_record(tmp_path_factory: pytest.TempPathFactory, notes: dict):
    maps = {"type_map": TypeMap("t.png", "ab", ("dent", "“Riß”")), "regions": RegionMap("r.png", "cd")}
    records = [*EXAMPLES, replace(EXAMPLES[0], **maps), Synthetic(image="x.png", sha256="ab", notes=notes, **SYNTHETIC)]
    path = tmp_path_factory.mktemp("r") / "r.jsonl"
    write_records(path, records)
    plain = [json.dumps(asdict(record), ensure_ascii=False) for record in records]
    assert path.read_bytes() == "".join(f"{line}\n" for line in plain).encode()


def test_keys_stand_in_the_order_of_the_dataclass(tmp_path: Path):
    write_records(tmp_path / "r.jsonl", [EXAMPLES[3]])
    row = json.loads((tmp_path / "r.jsonl").read_text())
    assert list(row) == ["sample", "component", "defect_type", "box", "area", "borders"]


def test_a_list_that_breaks_off_leaves_the_old_file_whole(tmp_path: Path):
    def breaks():
        yield EXAMPLES[0]
        raise RuntimeError

    path = tmp_path / "r.jsonl"
    write_records(path, [EXAMPLES[1]])
    with pytest.raises(RuntimeError):
        write_records(path, breaks())
    assert read_records(path, Sample) == [EXAMPLES[1]] and list(tmp_path.iterdir()) == [path]


def test_samples_are_found_by_part_and_by_id():
    good, scratch = EXAMPLES[:2]
    assert of_split([good, scratch], "test", "val") == [scratch]
    assert of_split([good, scratch], "train", "test") == [good, scratch]
    assert by_id([good, scratch]) == {"a/1": good, "a/2": scratch}
