"""A tiny category, its parameters, and its samples of the train part."""

from pathlib import Path

import pytest

from lib.core.params import Params
from lib.core.records import Sample, by_id, of_split, read_records
from tests.category import CATEGORY, tiny_params, write_category


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    write_category()
    return tiny_params(raw_params)


@pytest.fixture
def real(params: Params) -> dict[str, Sample]:
    return by_id(of_split(read_records(Path(f"data/prepared/{CATEGORY}/samples.jsonl"), Sample), "train"))
