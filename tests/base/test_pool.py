"""Rendered pairs: the same for the same seed, and rendered once."""

from pathlib import Path

import numpy as np
import pytest

from lib.base import pool
from lib.base.pool import rendered_pool


@pytest.fixture(autouse=True)
def small_chunks(inside: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "CHUNK", 2)


def test_a_larger_pool_begins_with_the_smaller_one_which_is_not_rendered_again(inside: Path):
    few = rendered_pool(2, seed=1)
    [file] = inside.glob(".work/base-pool/*/*.npz")
    time = file.stat().st_mtime_ns
    many = rendered_pool(3, seed=1)
    assert len(many) == 3 and file.stat().st_mtime_ns == time
    for one, other in zip(few, many[:2], strict=True):
        assert np.array_equal(one.defect, other.defect) and np.array_equal(one.mask, other.mask)
        assert (one.surface, one.defect_type) == (other.surface, other.defect_type)


def test_another_seed_renders_other_pairs():
    one, other = rendered_pool(2, seed=1), rendered_pool(2, seed=2)
    assert not np.array_equal(one[0].normal, other[0].normal)
