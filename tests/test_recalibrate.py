"""A stored model gets a new threshold from good pictures, and keeps everything else."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib import recalibrate
from lib.core.command import end_with
from lib.core.images import read_image, write_png
from lib.core.runtime import write_json
from lib.detectors import patchcore
from lib.intake import listed
from lib.trained import read_decision
from tests import brightness

RNG_SIDE = 24


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained seed whose detector says how bright a pixel is, and ten good pictures, each brighter than the last."""
    monkeypatch.setattr(patchcore, "load", brightness.load)
    monkeypatch.setattr(patchcore, "predict", brightness.predict)
    model = tmp_path / "seed-0"
    write_json(model / "detector.json", {"detector": "patchcore", "depth": 8})
    write_json(model / "config.json", {"seed": -1})
    write_json(model / "threshold.json", {"threshold": 250.0, "chosen_on": "val", "min_area": 1})
    for n in range(10):
        write_png(tmp_path / "good" / f"{n}.png", np.full((RNG_SIDE, RNG_SIDE, 3), 100 + 5 * n, np.uint8))
    return model


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["lib.recalibrate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        end_with(recalibrate.main)
    if ended.value.code:
        raise ended.value


def test_the_new_threshold_lets_the_asked_share_of_good_pictures_alarm(stored: Path, monkeypatch, capsys):
    call(monkeypatch, stored, stored.parent / "good", "--false-alarm-rate", 0.2)
    chosen = json.loads((stored / "threshold.json").read_text())
    pictures = [read_image(path) for path in sorted((stored.parent / "good").iterdir())]
    decision = read_decision(stored)
    assert sum(bool(decision.mask(brightness.predict(0.0, one)).any()) for one in pictures) == 2
    assert chosen["trained"] == {"threshold": 250.0, "chosen_on": "val", "min_area": 1}
    assert chosen["good_pictures"] == 10 and "250 -> " in capsys.readouterr().out
    call(monkeypatch, stored, stored.parent / "good", "--min-area", 30)
    again = json.loads((stored / "threshold.json").read_text())
    assert (
        again["min_area"] == 30
        and again["trained"] == chosen["trained"]
        and again["alarm_threshold"] > chosen["alarm_threshold"]
    )


@pytest.mark.parametrize(("before", "after"), [(50.0, 122.5), (130.0, 130.0), (250.0, 250.0)])
def test_the_threshold_of_masks_rises_to_what_half_of_the_good_pictures_stay_below(
    stored: Path, monkeypatch, capsys, before: float, after: float
):
    write_json(stored / "threshold.json", {"threshold": before, "alarm_threshold": 100.0, "min_area": 2})
    call(monkeypatch, stored, stored.parent / "good")
    decision = read_decision(stored)
    assert 145 < decision.alarm_threshold < 146 and decision.threshold == after and decision.min_area == 2
    assert f"of alarms 100 -> 145, of masks {before:g} -> {after:g}," in capsys.readouterr().out


def test_a_recalibration_with_the_wrong_pictures_is_undone_by_one_with_the_right_ones(stored: Path, monkeypatch):
    write_json(stored / "threshold.json", {"threshold": 50.0, "alarm_threshold": 100.0, "min_area": 2})
    call(monkeypatch, stored, stored.parent / "good")
    right, wrong = read_decision(stored), stored.parent / "wrong"
    for n in range(3):
        write_png(wrong / f"{n}.png", np.full((RNG_SIDE, RNG_SIDE, 3), 240 + n, np.uint8))
    call(monkeypatch, stored, wrong)
    assert read_decision(stored).threshold == 241
    call(monkeypatch, stored, stored.parent / "good")
    assert read_decision(stored) == right


def test_the_promise_is_kept_for_the_onnx_in_the_folder_too_whose_scores_differ(stored: Path, monkeypatch):
    (stored / "model.onnx").write_bytes(b"a graph")
    brighter = SimpleNamespace(predict=lambda image: brightness.predict(0.0, image) + np.float32(2))
    monkeypatch.setattr(recalibrate, "load_exchanged", lambda folder: brighter)
    _, after, _ = recalibrate.recalibrated(stored, listed([stored.parent / "good"], stored), 0.0, None)
    assert 147 < after["alarm_threshold"] < 148


def test_a_dry_run_changes_nothing(stored: Path, monkeypatch):
    before = (stored / "threshold.json").read_bytes()
    call(monkeypatch, stored, stored.parent / "good", "--dry-run")
    assert (stored / "threshold.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--false-alarm-rate", 0.05), "less than one of 10 pictures"),
        (("--false-alarm-rate", 1.0), "a share from 0 to below 1"),
        (("--min-area", 0), "at least one pixel"),
        (("--min-area", RNG_SIDE**2 + 1), f"--min-area: {RNG_SIDE**2 + 1} is more than the {RNG_SIDE**2} pixels of"),
    ],
)
def test_what_cannot_be_is_refused(stored: Path, monkeypatch, capsys, arguments, told: str):
    before = (stored / "threshold.json").read_bytes()
    with pytest.raises(SystemExit):
        call(monkeypatch, stored, stored.parent / "good", *arguments)
    assert told in capsys.readouterr().err and (stored / "threshold.json").read_bytes() == before


def test_two_folders_may_hold_pictures_of_one_name_and_a_picture_counts_once(stored: Path, monkeypatch):
    good, days = stored.parent / "good", [stored.parent / "day-1", stored.parent / "day-2"]
    for day, name in zip(days, ("1.png", "9.png"), strict=True):
        day.mkdir()
        (day / "0.png").write_bytes((good / name).read_bytes())
    call(monkeypatch, stored, *days, days[0], days[1] / "0.png")
    assert json.loads((stored / "threshold.json").read_text())["good_pictures"] == 2
    assert 145 < read_decision(stored).alarm_threshold < 146


def test_good_pictures_that_gave_an_alarm_are_named_the_highest_first(stored: Path, monkeypatch, capsys):
    good = stored.parent / "good"
    call(monkeypatch, stored, good)
    assert capsys.readouterr().err.count("gave an alarm") == 0
    for name, value in (("9", 255), ("4", 252)):
        write_png(good / f"{name}.png", np.full((RNG_SIDE, RNG_SIDE, 3), value, np.uint8))
    call(monkeypatch, stored, good, "--dry-run")
    told = capsys.readouterr().err
    assert f"2 of the good pictures gave an alarm before: {good}/9.png (255), {good}/4.png (252). Look at them" in told


def test_alarms_of_before_are_counted_by_the_area_of_before(stored: Path, monkeypatch, capsys):
    good = stored.parent / "good"
    speck = np.full((RNG_SIDE, RNG_SIDE, 3), 100, np.uint8)
    speck[3, 4] = 252  # one pixel
    write_png(good / "3.png", speck)
    call(monkeypatch, stored, good, "--min-area", 16, "--dry-run")
    assert f"1 of the good pictures gave an alarm before: {good}/3.png (252)." in capsys.readouterr().err
    write_json(stored / "threshold.json", {"threshold": 250.0, "min_area": 16})
    call(monkeypatch, stored, good, "--min-area", 1, "--dry-run")
    assert "gave an alarm" not in capsys.readouterr().err
    write_json(stored / "threshold.json", {"threshold": 250.0, "min_area": RNG_SIDE**2 + 1})
    call(monkeypatch, stored, good, "--min-area", 1, "--dry-run")
    assert "gave an alarm" not in capsys.readouterr().err, "never an alarm, so small is the picture"


def test_a_disk_that_is_full_is_told_with_the_path_and_the_threshold_stays(stored: Path, monkeypatch, capsys):
    def full_disk(number: int) -> None:
        raise OSError(28, "No space left on device")

    before = (stored / "threshold.json").read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SystemExit):
        call(monkeypatch, stored, stored.parent / "good")
    assert "threshold.json'" in capsys.readouterr().err and (stored / "threshold.json").read_bytes() == before


def test_a_picture_of_another_depth_is_refused(stored: Path, monkeypatch, capsys):
    Image.fromarray(np.full((RNG_SIDE, RNG_SIDE), 4000, np.uint16)).save(stored.parent / "good" / "3.png")
    with pytest.raises(SystemExit):
        call(monkeypatch, stored, stored.parent / "good")
    assert "3.png: holds values from 4000 to 4000, but the depth in training was 8" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(stored: Path, monkeypatch, capsys):
    shutil.rmtree(stored)
    with pytest.raises(SystemExit):
        call(monkeypatch, stored, stored.parent / "good")
    assert "holds no trained detector" in capsys.readouterr().err
