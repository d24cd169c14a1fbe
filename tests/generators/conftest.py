"""A folder with the tiny category, in which the tests of one file run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.category import write_category


@pytest.fixture(scope="module")
def monkeymodule() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, monkeymodule: pytest.MonkeyPatch) -> Path:
    """The working folder of a file's tests, with the tiny category in it."""
    folder = tmp_path_factory.mktemp("workplace")
    monkeymodule.chdir(folder)
    write_category()
    return folder
