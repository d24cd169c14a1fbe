"""New pictures through a trained detector: masks, outlines and scores, and clear words where that cannot be."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lib.core.images import read_image, read_mask, write_png
from lib.detectors import unet
from lib.predict import listed, predict_all
from tests.detectors.test_unet import BRIEF, blobs


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    folder = tmp_path / "seed-0"
    folder.mkdir()
    unet.fit(blobs(4, 0), blobs(3, 1), BRIEF, 0, folder)
    return folder


def test_every_picture_gets_a_mask_an_outline_and_a_score(tmp_path: Path, trained: Path):
    images = [example.image for example in blobs(2, 7, side=40)]
    for number, image in enumerate(images):
        write_png(tmp_path / "new" / f"{number}.png", image)
    predict_all("unet", trained, listed([tmp_path / "new"]), tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    model = unet.load(trained)
    for number, (row, image) in enumerate(zip(rows, images, strict=True)):
        mask = read_mask(tmp_path / f"out/{number}_mask.png")
        assert row["picture"].endswith(f"new/{number}.png") and int(row["pixels_found"]) == mask.sum()
        scores = unet.predict(model, image)
        assert not mask.any() or scores[mask].min() > scores[~mask].max(initial=-1)
        assert read_image(tmp_path / f"out/{number}_found.png").shape == image.shape


def test_what_cannot_be_is_refused(tmp_path: Path):
    for name in ("a/1.png", "b/1.png"):
        write_png(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture in it"):
        listed([tmp_path / "empty"])
    with pytest.raises(ValueError, match="several pictures of this name"):
        listed([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match="holds no trained detector"):
        predict_all("unet", tmp_path, [tmp_path / "a/1.png"], tmp_path / "out")
