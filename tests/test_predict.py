"""New pictures through a trained detector: masks, outlines and scores, and no file of anybody else's touched."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.images import read_image, read_mask, write_png
from lib.detection import image_score
from lib.predict import listed, predict_all
from tests import brightness
from tests.brightness import bright_discs
from tests.conftest import ROOT

THRESHOLD = 150.0
NEW, OUT = Path("data/new"), Path("data/out")
RESULTS = {"scores.csv"} | {f"{n}_{what}.png" for n in (0, 1) for what in ("mask", "found")}


@pytest.fixture
def trained(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One trained seed, and two new pictures in `data/new`."""
    monkeypatch.setattr("lib.predict.find", {"unet": brightness}.__getitem__)
    folder = Path("models/seed-0")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 0}')
    (folder / "threshold.json").write_text(json.dumps({"threshold": THRESHOLD, "chosen_on": "val"}))
    (folder / "detector.json").write_text('{"detector": "unet", "depth": 8}')
    for number, example in enumerate(bright_discs(2, 7, good=1)):
        write_png(NEW / f"{number}.png", example.image)
    return folder


def rows() -> list[dict[str, str]]:
    with open(OUT / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_picture_gets_a_mask_an_outline_and_a_score(trained: Path):
    predict_all(trained, listed([NEW]), OUT)
    assert set(contents(OUT)) == RESULTS
    for number, row in enumerate(rows()):
        image, mask = read_image(NEW / f"{number}.png"), read_mask(OUT / f"{number}_mask.png")
        scores = brightness.predict(brightness.load(trained), image)
        np.testing.assert_array_equal(mask, scores >= THRESHOLD)
        assert row["picture"] == f"data/new/{number}.png" and int(row["defect_pixels"]) == mask.sum()
        assert float(row["anomaly_score"]) == pytest.approx(image_score(scores), abs=1e-6)
        shown = read_image(OUT / f"{number}_found.png")
        assert shown.shape == image.shape and mask.any()
        np.testing.assert_array_equal(shown[mask], image[mask])


def test_a_run_may_be_repeated_after_a_kill_too_and_with_more_pictures(trained: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(scores: np.ndarray) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lib.predict.image_score", killed)
        with pytest.raises(KeyboardInterrupt):
            predict_all(trained, listed([NEW]), OUT)
    assert (OUT / "0_mask.png").exists()
    predict_all(trained, listed([NEW]), OUT)
    first = contents(OUT)
    predict_all(trained, listed([NEW]), OUT)
    assert contents(OUT) == first
    write_png(NEW / "2.png", np.zeros((8, 8, 3), np.uint8))
    predict_all(trained, listed([NEW]), OUT)
    assert len(rows()) == 3


@pytest.mark.parametrize("name", ["0_mask.png", "1_found.png", "scores.csv"])
def test_a_file_that_no_earlier_run_wrote_is_left_alone(trained: Path, name: str):
    OUT.mkdir()
    (OUT / name).write_bytes(b"picture,anomaly_score\n")
    with pytest.raises(UserError, match=rf"{name}: exists and is not from an earlier run"):
        predict_all(trained, listed([NEW]), OUT)
    assert contents(OUT) == {name: b"picture,anomaly_score\n"}


def test_results_of_other_pictures_are_left_alone(trained: Path):
    predict_all(trained, listed([NEW / "0.png"]), OUT)
    before = contents(OUT)
    with pytest.raises(UserError, match=r"holds results of other pictures, such as 0_found\.png"):
        predict_all(trained, listed([NEW / "1.png"]), OUT)
    assert contents(OUT) == before
    (OUT / "notes.txt").write_text("of the user")
    predict_all(trained, listed([NEW]), OUT)
    assert (OUT / "notes.txt").read_text() == "of the user"


def test_results_never_go_beside_the_pictures(trained: Path):
    before = contents(NEW)
    with pytest.raises(UserError, match=r"0\.png lies there; results need another folder"):
        predict_all(trained, listed([NEW]), NEW / ".." / "new")
    with pytest.raises(UserError, match="is a file"):
        predict_all(trained, listed([NEW]), NEW / "0.png")
    assert contents(NEW) == before


def test_what_cannot_be_is_refused(trained: Path):
    for name in ("a/1.png", "b/1.png"):
        write_png(Path(name), np.zeros((8, 8, 3), np.uint8))
    Path("empty").mkdir()
    with pytest.raises(UserError, match="no picture in it"):
        listed([Path("empty")])
    with pytest.raises(UserError, match="several pictures of this name"):
        listed([Path("a"), Path("b")])
    with pytest.raises(UserError, match=r"nowhere: not found"):
        listed([Path("nowhere")])
    with pytest.raises(UserError, match="holds no trained detector"):
        predict_all(Path("empty"), listed([NEW]), OUT)
    assert not OUT.exists()


def test_the_command_tells_what_is_wrong_in_one_message(trained: Path):
    command = [sys.executable, "-m", "lib.predict", "empty", str(NEW.absolute()), "--out", "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "holds no trained detector" in done.stderr and "Traceback" not in done.stderr
