"""Several pictures looked at side by side: what is found is what one after the other would give."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from lib.alarms import Decision
from lib.core.images import png_bytes, read_image, read_mask
from lib.core.runtime import write_bytes
from lib.intake import Picture, listed
from lib.predict import _side_by_side, predict_all
from lib.results import QUICK_PNG
from lib.scoring import Answer
from lib.trained import Inspector
from tests.brightness import bright_discs

NEW = Path("data/new")
PROVENANCE = {"detector": "brightness", "depth": 8}


def redness(image: np.ndarray) -> Answer:
    return Answer(image[..., 0].astype(np.float32))


@pytest.fixture
def inspector(inside: Path) -> Inspector:
    """Six new pictures in `data/new`, of which the fourth is broken, and what looks at them."""
    for number, example in enumerate(bright_discs(6, 7, good=3)):
        write_bytes(NEW / f"{number}.png", png_bytes(example.image, QUICK_PNG))
    write_bytes(NEW / "3.png", b"no picture")
    return Inspector(redness, Decision(150.0, 150.0), PROVENANCE, "w")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("at_once", [2, 3, 9])
def test_pictures_side_by_side_give_the_files_of_one_after_the_other(inspector: Inspector, at_once: int):
    predict_all(inspector, listed([NEW], Path("alone")), Path("alone"))
    several = dataclasses.replace(inspector, at_once=at_once)
    results = predict_all(several, listed([NEW], Path("together")), Path("together"))
    assert files(Path("together")) == files(Path("alone"))
    assert [bool(row.error) for row in results.rows.values()] == [False, False, False, True, False, False]


def test_as_many_pictures_as_asked_are_looked_at_at_a_time_and_few_more_are_begun():
    both, asked = threading.Barrier(2, timeout=20), []

    def pictures():
        for number in range(8):
            asked.append(number)
            yield Picture(Path(str(number)), str(number))

    for done, _ in enumerate(_side_by_side(lambda _: both.wait() and None, pictures(), 2), start=1):
        assert len(asked) <= done + 2, "the folder is not read to its end first"
    assert done == 8


def test_an_error_of_one_picture_ends_the_run_and_keeps_the_table(inspector: Inspector):
    def broken(image: np.ndarray) -> Answer:
        raise MemoryError

    several = dataclasses.replace(inspector, look=broken, at_once=2)
    with pytest.raises(MemoryError):
        predict_all(several, listed([NEW], Path("out")), Path("out"))
    assert (Path("out") / "scores.csv").exists()


def test_quickly_written_pictures_hold_the_same_pixels(inside: Path):
    rng = np.random.default_rng(0)
    picture, mask = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8), rng.random((33, 47)) < 0.3
    write_bytes(Path("a.png"), png_bytes(picture, QUICK_PNG))
    write_bytes(Path("b.png"), png_bytes(mask, QUICK_PNG))
    assert np.array_equal(read_image(Path("a.png")), picture) and np.array_equal(read_mask(Path("b.png")), mask)
