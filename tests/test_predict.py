"""New pictures through a trained detector: what is found, in files, and no file of anybody else's touched."""

import csv
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lib import predict
from lib.alarms import Decision
from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.geometry import RGB
from lib.core.images import read_image, read_mask, write_png
from lib.core.runtime import write_json
from lib.detectors import find
from lib.exchange import export
from lib.intake import listed
from lib.metrics.boxes import ScoredBox, component_boxes
from lib.plots import heat_map
from lib.predict import described, loaded, predict_all, watch
from lib.results import Results, one_at_a_time
from lib.scoring import image_score
from lib.trained import Inspector
from lib.vision.examples import Example
from tests import brightness
from tests.blobs import BUDGET
from tests.brightness import bright_discs
from tests.commands import run_here
from tests.conftest import ROOT

THRESHOLD = 150.0
NEW, OUT = Path("data/new"), Path("data/out")
FILES = ("mask", "found", "heat")
RESULTS = {"scores.csv", "boxes.json", "run.json"} | {f"{n}_{what}.png" for n in (0, 1) for what in FILES}


@pytest.fixture
def trained(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One trained seed, and two new pictures in `data/new`."""
    monkeypatch.setattr("lib.trained.find", {"unet": brightness}.__getitem__)
    folder = Path("models/seed-0")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 0}')
    (folder / "threshold.json").write_text(json.dumps({"threshold": THRESHOLD, "chosen_on": "val"}))
    (folder / "detector.json").write_text('{"detector": "unet", "depth": 8}')
    for number, example in enumerate(bright_discs(2, 7, good=1)):
        write_png(NEW / f"{number}.png", example.image)
    return folder


def look(model: Path, *places: Path, out: Path = OUT) -> Results:
    return predict_all(loaded(model), listed(places or [NEW], out), out)


def rows() -> list[dict[str, str]]:
    with open(OUT / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scores_of(model: Path, picture: Path) -> np.ndarray:
    return brightness.predict(brightness.load(model), read_image(picture))


def test_every_picture_gets_a_mask_an_outline_a_heat_map_and_a_score(trained: Path):
    look(trained)
    assert set(contents(OUT)) == RESULTS
    for number, row in enumerate(rows()):
        image, mask = read_image(NEW / f"{number}.png"), read_mask(OUT / f"{number}_mask.png")
        scores = scores_of(trained, NEW / f"{number}.png")
        np.testing.assert_array_equal(mask, scores >= THRESHOLD)
        assert row["picture"] == f"data/new/{number}.png" and int(row["defect_pixels"]) == mask.sum()
        assert row["result"] == f"{number}" and row["alarm"] == "yes" and row["error"] == ""
        assert float(row["anomaly_score"]) == pytest.approx(image_score(scores), abs=1e-6)
        shown = read_image(OUT / f"{number}_found.png")
        assert shown.shape == image.shape and mask.any()
        np.testing.assert_array_equal(shown[mask], image[mask])
        np.testing.assert_array_equal(read_image(OUT / f"{number}_heat.png"), heat_map(scores / (2 * THRESHOLD)))
    assert json.loads((OUT / "run.json").read_text())["heat"] == [0, 2 * THRESHOLD]


def test_boxes_are_results_of_coco(trained: Path):
    look(trained)
    answers = json.loads((OUT / "boxes.json").read_text())
    for number in (0, 1):
        expected = component_boxes(scores_of(trained, NEW / f"{number}.png"), THRESHOLD)
        found = [one for one in answers if one["image_id"] == number + 1]
        assert [one["bbox"] for one in found] == [[x0, y0, x1 - x0, y1 - y0] for (x0, y0, x1, y1), *_ in expected]
        assert [one["score"] for one in found] == pytest.approx([one.score for one in expected])
        assert {one["file_name"] for one in found} == {f"data/new/{number}.png"}
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1}], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(str(OUT / "boxes.json")).anns) == len(answers) > 0


def test_a_detector_that_answers_boxes_is_asked_for_them_once(trained: Path, monkeypatch: pytest.MonkeyPatch):
    answers = [ScoredBox((0, 0, 40, 40), THRESHOLD), ScoredBox((0, 0, 40, 40), THRESHOLD - 1)]
    answers.append(ScoredBox((39, 39, 39.2, 39.2), THRESHOLD + 2))
    answers.append(ScoredBox((3, 3, 9, 9), THRESHOLD + 3))
    write_json(trained / "threshold.json", {"threshold": THRESHOLD, "alarm_threshold": THRESHOLD + 3})
    asked = []
    monkeypatch.setattr(brightness, "boxes", lambda model, image: asked.append(image) or answers, raising=False)
    look(trained)
    assert len(asked) == 2, "once for each picture, since its map is painted of its boxes"
    found = json.loads((OUT / "boxes.json").read_text())
    assert [(one["bbox"], one["score"]) for one in found] == [
        ([0, 0, 40, 40], THRESHOLD),
        ([3, 3, 6, 6], THRESHOLD + 3),
    ] * 2


def test_pieces_below_the_least_area_neither_count_nor_alarm(trained: Path):
    look(trained)
    before = rows()
    marked = scores_of(trained, NEW / "1.png") >= THRESHOLD
    labels, count = ndimage.label(marked, np.ones((3, 3)))
    areas = ndimage.sum_labels(marked, labels, range(1, count + 1))
    write_json(trained / "threshold.json", {"threshold": THRESHOLD, "min_area": int(areas.max())})
    look(trained)
    mask = read_mask(OUT / "1_mask.png")
    np.testing.assert_array_equal(mask, np.isin(labels, 1 + np.flatnonzero(areas == areas.max())))
    assert int(rows()[1]["defect_pixels"]) == areas.max() < int(before[1]["defect_pixels"])
    assert len([one for one in json.loads((OUT / "boxes.json").read_text()) if one["image_id"] == 2]) == 1
    write_json(trained / "threshold.json", {"threshold": THRESHOLD, "min_area": 1600})
    look(trained)
    assert [row["alarm"] for row in rows()] == ["no", "no"] and not read_mask(OUT / "1_mask.png").any()
    assert json.loads((OUT / "boxes.json").read_text()) == []
    assert [row["anomaly_score"] for row in rows()] == [row["anomaly_score"] for row in before]


def test_a_picture_without_an_alarm_has_no_marks_and_one_with_an_alarm_has_the_whole_region(trained: Path):
    maps = [scores_of(trained, NEW / f"{number}.png") for number in (0, 1)]
    lower, higher = sorted(float(scores.max()) for scores in maps)
    decision = Decision(THRESHOLD, (lower + higher) / 2)
    write_json(trained / "threshold.json", asdict(decision))
    look(trained)
    assert sorted(row["alarm"] for row in rows()) == ["no", "yes"]
    for number, scores in enumerate(maps):
        mask = read_mask(OUT / f"{number}_mask.png")
        np.testing.assert_array_equal(mask, decision.mask(scores))
        assert (rows()[number]["alarm"] == "yes") == mask.any() == (scores.max() == higher)
        boxes = [one for one in json.loads((OUT / "boxes.json").read_text()) if one["image_id"] == number + 1]
        assert bool(boxes) == mask.any()
    assert json.loads((OUT / "run.json").read_text())["alarm_threshold"] == decision.alarm_threshold


def test_pieces_hang_together_over_corners_too():
    scores = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 0]], np.float32)
    assert Decision(1, 1, 2).mask(scores).sum() == 2 and not Decision(1, 1, 3).mask(scores).any()


def test_a_run_may_be_repeated_after_a_kill_too_and_with_more_pictures(trained: Path, monkeypatch: pytest.MonkeyPatch):
    calls = itertools.count()

    def killed(scores: np.ndarray) -> float:
        if next(calls):
            raise KeyboardInterrupt
        return image_score(scores)

    with monkeypatch.context() as patch:
        patch.setattr("lib.predict.image_score", killed)
        with pytest.raises(KeyboardInterrupt):
            look(trained)
    assert (OUT / "0_mask.png").exists()
    look(trained)
    first = contents(OUT)
    look(trained)
    assert contents(OUT) == first
    write_png(NEW / "2.png", np.zeros((8, 8, 3), np.uint8))
    look(trained)
    assert len(rows()) == 3


@pytest.mark.parametrize("name", ["0_mask.png", "1_found.png", "scores.csv"])
def test_a_file_that_no_earlier_run_wrote_is_left_alone(trained: Path, name: str):
    OUT.mkdir()
    (OUT / name).write_bytes(b"picture,anomaly_score\n")
    with pytest.raises(UserError, match=rf"{name}: exists and is not from an earlier run"):
        look(trained)
    assert contents(OUT) == {name: b"picture,anomaly_score\n"}


def test_results_of_other_pictures_are_left_alone(trained: Path):
    look(trained, NEW / "0.png")
    before = contents(OUT)
    with pytest.raises(UserError, match=r"holds results of other pictures, such as 0_found\.png"):
        look(trained, NEW / "1.png")
    assert contents(OUT) == before
    (OUT / "notes.txt").write_text("of the user")
    look(trained)
    assert (OUT / "notes.txt").read_text() == "of the user"


def test_results_never_go_beside_the_pictures(trained: Path):
    before = contents(NEW)
    with pytest.raises(UserError, match=r"new lies there; results need another folder"):
        look(trained, out=NEW / ".." / "new")
    with pytest.raises(UserError, match="is a file"):
        look(trained, out=NEW / "0.png")
    assert contents(NEW) == before


def test_a_table_of_three_columns_as_it_once_was_is_an_earlier_run_too(trained: Path):
    OUT.mkdir()
    (OUT / "scores.csv").write_text("picture,anomaly_score,defect_pixels\ndata/new/0.png,1.0,1\n")
    (OUT / "0_mask.png").write_bytes(b"old")
    (OUT / "boxes.json").write_text("of the user")
    with pytest.raises(UserError, match=r"boxes\.json: exists and is not from an earlier run"):
        look(trained)
    (OUT / "boxes.json").unlink()
    look(trained)
    assert set(contents(OUT)) == RESULTS


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_looked_at(trained: Path):
    look(trained)
    (NEW / "0.png").write_bytes((NEW / "0.png").read_bytes()[:300])
    (NEW / "2.png").mkdir()
    results = look(trained)
    assert [bool(row["error"]) for row in rows()] == [True, False] and "0.png: cannot be read" in rows()[0]["error"]
    assert rows()[0]["alarm"] == rows()[0]["anomaly_score"] == "" and rows()[1]["alarm"] == "yes"
    assert not list(OUT.glob("0_*")), "what an earlier run found in it is no longer true"
    assert {one["image_id"] for one in json.loads((OUT / "boxes.json").read_text())} == {2}
    assert [bool(row.error) for row in results.rows.values()] == [True, False]


def test_a_picture_of_another_depth_is_named_with_its_values_and_the_others_are_looked_at(trained: Path):
    Image.fromarray(read_image(NEW / "0.png")[..., 0].astype(np.uint16) * 16).save(NEW / "0.png")
    look(trained)
    assert [row["alarm"] for row in rows()] == ["", "yes"]
    assert "0.png: holds values from" in rows()[0]["error"] and "training was 8" in rows()[0]["error"]


@pytest.mark.parametrize(("colours", "refused"), [("colour", [0]), ("grey", [1]), ("both", []), (None, [])])
def test_grey_pictures_are_refused_by_a_model_that_knows_colour_alone_and_the_other_way_round(
    trained: Path, colours: str | None, refused: list[int]
):
    told = {"colours": colours} if colours else {}  # models of before say nothing
    write_json(trained / "detector.json", {"detector": "unet", "depth": 8, **told})
    write_png(NEW / "0.png", np.full((32, 32, 3), 7, np.uint8))
    tinted = np.full((32, 32, 3), 7, np.uint8)
    tinted[3, 4, 2] = 8
    write_png(NEW / "1.png", tinted)
    look(trained)
    assert [n for n, row in enumerate(rows()) if row["error"]] == refused
    for n in refused:
        assert "trained on are" in rows()[n]["error"] and f"{n}.png" in rows()[n]["error"]


def test_a_picture_smaller_than_what_counts_is_named_and_no_picture_without_a_defect(trained: Path):
    write_json(trained / "threshold.json", {"threshold": 0.0, "min_area": 65})
    write_png(NEW / "0.png", np.zeros((8, 8, 3), np.uint8))
    look(trained)
    assert [row["alarm"] for row in rows()] == ["", "yes"]
    assert "min_area of the model: 65 is more than the 64 pixels of data/new/0.png" in rows()[0]["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is text")
def test_a_name_that_is_no_utf8_is_told_by_its_bytes_and_the_others_are_looked_at(trained: Path):
    (NEW / "0.png").rename(NEW / os.fsdecode(b"bad\xff.png"))
    look(trained)
    assert [row["picture"] for row in rows()] == ["data/new/1.png", r"data/new/bad\xff.png"]
    assert [row["alarm"] for row in rows()] == ["yes", ""] and "no UTF-8" in rows()[1]["error"]
    for file in OUT.iterdir():
        file.unlink()
    first, again = (once(trained, nothing) for _ in range(2))
    assert len(first) == 2 and "no UTF-8" in first[1] and again == first[1:]
    assert len(rows()) == 2, "one row each, however often it is looked at"


def test_results_mirror_subfolders_and_tell_pictures_of_one_shot_apart(trained: Path):
    write_png(NEW / "line/0.png", read_image(NEW / "0.png"))
    Image.fromarray(read_image(NEW / "1.png")).save(NEW / "line/0.jpg")
    look(trained)
    assert [row["result"] for row in rows()] == ["0", "1", "line/0", "line/0.png"]
    assert {name for name in contents(OUT) if name.endswith("mask.png")} == {
        "0_mask.png", "1_mask.png", "line/0_mask.png", "line/0.png_mask.png"
    }  # fmt: skip
    assert (OUT / "line/0.png_mask.png").read_bytes() == (OUT / "0_mask.png").read_bytes()


def test_results_within_the_folder_of_pictures_are_not_looked_at(trained: Path):
    out = NEW / "found"
    look(trained, out=out)
    first = contents(out)
    look(trained, out=out)
    assert contents(out) == first and len(first) == len(RESULTS)
    look(trained, out=NEW / "more/found")
    assert len(contents(NEW / "more/found")) == len(RESULTS)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("detector.json", '{"detector": "unet"', r"detector\.json: cannot be read as JSON"),
        (
            "detector.json",
            '{"detector": ["unet"], "depth": 8}',
            r"detector\.json: expected an object of JSON with detector",
        ),
        ("detector.json", '{"detector": "unet", "depth": 9}', r"detector\.json: depth is 9, expected one of"),
        (
            "detector.json",
            '{"detector": "unet", "depth": 8, "colours": ["grey"]}',
            r"detector\.json: colours is \['grey'\], expected one of grey, colour, both",
        ),
        ("threshold.json", "[" * 200_000, r"threshold\.json: cannot be read as JSON"),
        ("threshold.json", "[]", r"threshold\.json: expected an object"),
        ("threshold.json", "{}", r"threshold\.json: threshold is None, expected a number"),
        ("threshold.json", '{"threshold": NaN}', r"threshold\.json: threshold is nan, expected a number"),
        (
            "threshold.json",
            '{"threshold": 1, "alarm_threshold": "a"}',
            r"threshold\.json: alarm_threshold is 'a', expected",
        ),
        ("threshold.json", '{"threshold": 1, "min_area": 0}', r"threshold\.json: min_area is 0, expected a whole"),
        ("threshold.json", '{"threshold": 1, "min_area": 2.5}', r"threshold\.json: min_area is 2\.5, expected a whole"),
        ("config.json", "{", r"config\.json: cannot be read as JSON"),
        ("threshold.json", None, r"threshold\.json: not found; copy the whole folder"),
        ("config.json", None, r"config\.json: not found; copy the whole folder"),
        ("detector.json", None, "holds no trained detector"),
    ],
)
def test_a_broken_model_is_told_with_the_files_name(trained: Path, file: str, text: str | None, message: str):
    if text is None:
        (trained / file).unlink()
    else:
        (trained / file).write_text(text)
    with pytest.raises(UserError, match=message):
        loaded(trained)


@pytest.fixture
def network(inside: Path, raw_params: dict) -> Path:
    """A trained seed of the real `unet`, tiny, and two pictures in `data/new`."""
    from lib.core.params import Params

    unet = find("unet")
    params = Params.model_validate(raw_params | {"detect": BUDGET.model_dump()})
    folder = Path("models/seed-0")
    folder.mkdir(parents=True)
    examples: list[Example] = bright_discs(4, 7, good=2)
    unet.fit(examples, examples, params, unet.Settings(width=4, encoder_rate=0, classes="defect"), 0, folder)
    write_json(folder / "threshold.json", {"threshold": 0.3})
    write_json(folder / "detector.json", {"detector": "unet", "depth": 8})
    for number, example in enumerate(examples[1:3]):
        write_png(NEW / f"{number}.png", example.image)
    return folder


def test_truncated_or_foreign_weights_are_one_line_with_the_files_name(network: Path):
    weights = network / "model.safetensors"
    whole = weights.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"not weights at all"):
        weights.write_bytes(data)
        with pytest.raises(UserError, match=r"^models/seed-0/model\.safetensors: holds no whole unet[^\n]*$"):
            loaded(network)
    weights.write_bytes(whole)
    config = json.loads((network / "config.json").read_text())
    write_json(network / "config.json", config | {"width": 8})
    with pytest.raises(UserError, match=r"^models/seed-0/model\.safetensors: holds no whole unet[^\n]*size mismatch"):
        loaded(network)
    write_json(network / "config.json", {"scale": 1})
    with pytest.raises(UserError, match=r"^models/seed-0/[^\n]*$"):
        loaded(network)


def test_the_command_ends_with_1_where_a_picture_failed_and_says_how_many(network: Path):
    def run() -> subprocess.CompletedProcess:
        return run_here(Path(), "lib.predict", network, NEW, "--out", OUT)

    (NEW / "._0.png").write_bytes(b"\0\5\x16\7" + bytes(78))  # what a Mac leaves beside a picture
    done = run()
    assert done.returncode == 0 and "2 pictures" in done.stderr and "0 that cannot be read" in done.stderr
    (NEW / "2.png").write_bytes((NEW / "1.png").read_bytes()[:300])
    done = run()
    assert done.returncode == 1 and "3 pictures" in done.stderr and "1 that cannot be read" in done.stderr
    assert "Traceback" not in done.stderr and rows()[2]["error"] and not rows()[1]["error"]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals to single processes")
def test_watching_ends_cleanly_by_ctrl_c_and_by_a_services_stop(network: Path):
    words = [str(network.absolute()), str(NEW.absolute()), "--out", str(OUT.absolute()), "--watch", "--every", "0.1"]
    for number, stop in enumerate((signal.SIGINT, signal.SIGTERM)):
        watching = subprocess.Popen(
            [sys.executable, "-m", "lib.predict", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        assert watching.stderr
        write_png(NEW / f"late-{number}.png", read_image(NEW / "0.png"))
        assert any(f"late-{number}.png: alarm" in line for line in watching.stderr), "said as soon as it is looked at"
        watching.send_signal(stop)
        said = watching.communicate(timeout=60)[1]
        assert watching.returncode == 0 and "Traceback" not in said and f"{3 + number} pictures" in said
        assert {row["result"] for row in rows()} == {"0", "1", *(f"late-{n}" for n in range(number + 1))}


def once(model: Path, *between, out: Path = OUT) -> list[str]:
    """Watch, with these things happening between the turns; returns what was said."""
    said: list[str] = []
    steps = iter(between)
    watch(loaded(model), [NEW], out, lambda: next(steps)(), turns=len(between) + 1, say=said.append)
    return said


def nothing() -> None:
    """Between two turns."""


def test_watched_pictures_are_looked_at_when_they_are_whole(trained: Path):
    whole = (NEW / "1.png").read_bytes()
    (NEW / "1.png").unlink()

    def grow(count: int | None):
        return lambda: (NEW / "1.png").write_bytes(whole[:count])

    said = once(trained, nothing, grow(200), grow(400), grow(None), nothing)
    assert [line.split(":")[0] for line in said] == ["data/new/0.png", "data/new/1.png"]
    assert [row["alarm"] for row in rows()] == ["yes", "yes"] and set(contents(OUT)) == RESULTS
    watched = contents(OUT)
    for file in OUT.iterdir():
        file.unlink()
    look(trained)
    assert contents(OUT) == watched, "as in one run over both"


def test_a_watched_picture_that_failed_is_looked_at_again_when_it_is_mended(trained: Path):
    whole = (NEW / "1.png").read_bytes()
    (NEW / "1.png").write_bytes(whole[:300])
    said = once(trained, nothing, lambda: (NEW / "1.png").write_bytes(whole), nothing)
    assert [("cannot be read" in line) for line in said] == [False, True, False]
    assert [row["error"] for row in rows()] == ["", ""]


def test_results_that_are_removed_while_somebody_watches_are_never_rows_without_files(trained: Path):
    def remove() -> None:
        shutil.rmtree(OUT)
        Image.fromarray(read_image(NEW / "0.png")).save(NEW / "2.png")

    with pytest.raises(UserError, match=r"results were removed while this run writes them; start it again"):
        once(trained, nothing, remove, nothing)
    assert not (OUT / "scores.csv").exists()
    once(trained, nothing)
    assert [row["result"] for row in rows()] == ["0", "1", "2"] and (OUT / "0_mask.png").exists()


def test_watching_goes_on_where_it_was(trained: Path):
    once(trained, nothing)
    first, before = contents(OUT), (OUT / "0_mask.png").stat().st_mtime_ns
    Image.fromarray(read_image(NEW / "0.png")).save(NEW / "0.jpg")
    assert [line.split(":")[0] for line in once(trained, nothing)] == ["data/new/0.jpg"]
    assert (OUT / "0_mask.png").stat().st_mtime_ns == before, "and no picture is looked at twice"
    assert [row["result"] for row in rows()] == ["0", "1", "0.jpg"]
    answers = json.loads((OUT / "boxes.json").read_text())
    assert [one for one in answers if one["image_id"] < 3] == json.loads(first["boxes.json"])
    assert all(rows()[one["image_id"] - 1]["picture"] == one["file_name"] for one in answers)


def a_closed_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A folder `closed` among the pictures that cannot be read until what is returned is called."""
    (NEW / "closed").mkdir()
    scan, closed = os.scandir, [True]

    def refusing(folder: Path) -> object:
        if closed and isinstance(folder, Path) and folder.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr("lib.intake.os.scandir", refusing)
    return closed.clear


def test_boxes_stay_with_their_picture_where_a_row_above_goes_away(trained: Path, monkeypatch: pytest.MonkeyPatch):
    """The row of a folder that cannot be read, which lies before those of pictures, goes when it can be read."""
    opened = a_closed_folder(monkeypatch)
    kept = {name: (NEW / name).read_bytes() for name in ("0.png", "1.png")}
    for name in kept:
        (NEW / name).unlink()
    once(trained, nothing)
    for name, data in kept.items():
        (NEW / name).write_bytes(data)
    once(trained, nothing)
    assert next(iter(rows()))["picture"] == "data/new/closed"
    before = {one["file_name"] for one in json.loads((OUT / "boxes.json").read_text())}
    opened()
    shutil.copy(NEW / "1.png", NEW / "closed/2.png")
    once(trained, nothing)
    answers = json.loads((OUT / "boxes.json").read_text())
    assert before and before < {one["file_name"] for one in answers}
    assert all(rows()[one["image_id"] - 1]["picture"] == one["file_name"] for one in answers)


def test_tables_are_written_at_once_while_small_and_seldom_where_they_take_long(trained: Path, monkeypatch):
    once(trained, nothing, *[nothing] * 5)
    whole, results = (OUT / "scores.csv").stat().st_mtime_ns, Results(OUT, described(loaded(trained)), resume=True)
    once(trained, nothing)
    assert (OUT / "scores.csv").stat().st_mtime_ns > whole, "written once, so that what is there is whole"
    now = iter([0.0, 3.0, 29.9, 30.1])
    monkeypatch.setattr("lib.results.time.monotonic", lambda: next(now))
    results.write()  # takes three seconds
    assert [results.is_due(), results.is_due()] == [False, True]


def test_a_picture_that_changed_while_nobody_watched_is_looked_at_anew(trained: Path):
    once(trained, nothing)
    (NEW / "0.png").write_bytes((NEW / "1.png").read_bytes())
    assert [line.split(":")[0] for line in once(trained, nothing)] == ["data/new/0.png"]
    first, second = rows()
    assert first["anomaly_score"] == second["anomaly_score"]
    told = json.loads((OUT / "run.json").read_text())
    write_json(OUT / "run.json", {name: value for name, value in told.items() if name != "looks"})
    assert len(once(trained, nothing)) == 2, "of an earlier version nobody knows what it looked at"


def test_a_picture_that_may_be_read_at_last_is_looked_at_anew(trained: Path, monkeypatch: pytest.MonkeyPatch):
    """Its bytes do not change, nor does the time of their last change."""
    read, refused, access = Inspector.read, {NEW / "0.png"}, os.access

    def reading(inspector: Inspector, path: Path) -> RGB:
        if path in refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(inspector, path)

    monkeypatch.setattr(Inspector, "read", reading)
    monkeypatch.setattr("lib.intake.os.access", lambda path, mode: path not in refused and access(path, mode))

    told: list[str] = []

    def allowed() -> None:
        if any("Permission denied" in line for line in told):
            refused.clear()

    watch(loaded(trained), [NEW], OUT, allowed, turns=6, say=told.append)
    assert [one["error"] for one in rows()] == ["", ""] and sum("data/new/0.png: " in line for line in told) == 2


def test_a_subfolder_that_cannot_be_read_is_told_until_it_can_and_the_rest_is_looked_at(trained: Path, monkeypatch):
    opened = a_closed_folder(monkeypatch)
    shutil.copy(NEW / "1.png", NEW / "closed/2.png")
    for run in (look, lambda model: once(model, nothing)):
        shutil.rmtree(OUT, ignore_errors=True)
        run(trained)
        errors = {row["picture"]: row["error"] for row in rows()}
        assert errors.pop("data/new/closed").endswith("a folder that cannot be read; nothing in it is looked at")
        assert len(errors) == 2 and set(errors.values()) == {""}
    opened()
    once(trained, nothing)
    assert {row["picture"]: row["error"] for row in rows()} == dict.fromkeys([*errors, "data/new/closed/2.png"], "")


def test_a_folder_in_which_nothing_can_be_written_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch):
    access = os.access
    monkeypatch.setattr("lib.results.os.access", lambda path, mode: path != OUT and access(path, mode))
    with pytest.raises(UserError, match=f"{OUT}: nothing can be written there"):
        look(trained)


def test_two_runs_do_not_write_into_one_folder(trained: Path):
    with one_at_a_time(OUT):
        for run in (look, once):
            with pytest.raises(UserError, match=f"{OUT}: another run writes its results there"):
                run(trained)
    assert not OUT.exists(), "nothing was written"
    look(trained)
    assert set(contents(OUT)) == RESULTS


def test_a_folder_that_is_called_like_files_of_results_is_refused(trained: Path):
    (NEW / "0_mask.png").mkdir()
    shutil.copy(NEW / "1.png", NEW / "0_mask.png/2.png")
    with pytest.raises(UserError, match=r"2\.png: lies in a folder 0_mask\.png, .*rename it"):
        look(trained)
    assert not OUT.exists()
    once(trained, nothing)
    errors = {row["picture"]: row["error"] for row in rows()}
    assert "lies in a folder 0_mask.png" in errors.pop("data/new/0_mask.png/2.png") and set(errors.values()) == {""}


@pytest.mark.parametrize("text", ["null", '"x"', '{"looks": []}', "{", '{"looks": {"0": 3}}'])
def test_a_broken_run_json_is_not_gone_on_with(trained: Path, text: str):
    once(trained, nothing)
    (OUT / "run.json").write_text(text)
    with pytest.raises(UserError, match="holds results of something else"):
        once(trained, nothing)


def test_where_a_drive_has_no_locks_results_are_written_with_a_warning(trained: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(lock: object, timeout: float) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("lib.results.filelock.FileLock.acquire", refused)
    with pytest.warns(UserWarning, match="cannot be locked.*No locks available"):
        look(trained)
    assert set(contents(OUT)) == RESULTS


def test_watching_does_not_go_on_with_what_another_model_wrote(trained: Path):
    once(trained, nothing)
    before = contents(OUT)
    write_json(trained / "threshold.json", {"threshold": THRESHOLD + 1})
    with pytest.raises(UserError, match=r"of this model with other thresholds \(alarms from .*; name another folder"):
        once(trained, nothing)
    assert contents(OUT) == before
    (OUT / "run.json").unlink()
    with pytest.raises(UserError, match=r"of something else, .*such as scores\.csv"):
        once(trained, nothing)


def test_a_watched_picture_whose_results_would_replace_a_file_is_named_and_the_file_stays(trained: Path):
    OUT.mkdir()
    (OUT / "0_mask.png").write_bytes(b"of the user")

    def touch() -> None:
        os.utime(NEW / "0.png", (1, 1))

    once(trained, nothing, touch, nothing)
    assert (OUT / "0_mask.png").read_bytes() == b"of the user"
    assert "0_mask.png exists and is not from this run" in rows()[0]["error"] and rows()[1]["alarm"] == "yes"


def test_a_kill_while_watching_loses_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(scores: np.ndarray) -> float:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("lib.predict.image_score", killed)
        with pytest.raises(RuntimeError):
            once(trained, nothing)
    assert [row["alarm"] for row in rows()] == ["", ""]
    once(trained, nothing)
    assert [row["alarm"] for row in rows()] == ["yes", "yes"] and set(contents(OUT)) == RESULTS


def test_onnxruntime_finds_what_torch_finds(network: Path):
    with pytest.raises(UserError, match=r"model\.onnx: not found; python -m lib\.exchange"):
        loaded(network, "onnx")
    look(network)
    by_torch = rows()
    file = export(network)
    for model in (network, file):
        predict_all(loaded(model, "onnx"), listed([NEW], OUT), OUT)
        for ours, theirs in zip(rows(), by_torch, strict=True):
            assert float(ours["anomaly_score"]) == pytest.approx(float(theirs["anomaly_score"]), abs=1e-4)
            assert ours["alarm"] == theirs["alarm"]


def test_boxes_that_a_detector_answers_keep_their_types(trained: Path, monkeypatch: pytest.MonkeyPatch):
    class Model(float):
        types = ("blob", "ring")

    answers = [ScoredBox((0, 0, 40, 40), THRESHOLD + 1, 2), ScoredBox((0, 0, 30, 40), THRESHOLD, 1)]
    monkeypatch.setattr(brightness, "load", lambda folder: Model(0))
    monkeypatch.setattr(brightness, "boxes", lambda model, image: answers, raising=False)
    look(trained)
    found = json.loads((OUT / "boxes.json").read_text())
    assert [(one["bbox"][2], one["category_id"]) for one in found] == [(40, 2), (30, 1)] * 2


def test_watching_goes_on_with_what_a_version_without_types_wrote(trained: Path):
    once(trained, nothing)
    run = json.loads((OUT / "run.json").read_text())
    write_json(
        OUT / "run.json", {name: value for name, value in run.items() if name not in ("types", "alarm_threshold")}
    )
    once(trained, nothing)
    write_json(OUT / "run.json", run | {"types": ["blob"]})
    with pytest.raises(UserError, match="holds results of something else"):
        once(trained, nothing)


def test_boxes_are_told_with_their_types(trained: Path, monkeypatch: pytest.MonkeyPatch):
    class Model(float):
        types = ("blob", "ring")

    def predict_typed(model: Model, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return brightness.predict(model, image), np.full(image.shape[:2], 2, np.uint8)

    number = brightness.load(trained)
    look(trained)
    plain = json.loads((OUT / "boxes.json").read_text())
    assert json.loads((OUT / "run.json").read_text())["types"] == []
    monkeypatch.setattr(brightness, "load", lambda folder: Model(number))
    monkeypatch.setattr(brightness, "predict_typed", predict_typed, raising=False)
    predict_all(loaded(trained), listed([NEW], Path("data/typed")), Path("data/typed"))
    typed = json.loads(Path("data/typed/boxes.json").read_text())
    assert json.loads(Path("data/typed/run.json").read_text())["types"] == ["blob", "ring"]
    assert {box["category_id"] for box in plain} == {1} and {box["category_id"] for box in typed} == {2}
    assert [box | {"category_id": 1} for box in typed] == plain


def test_the_command_tells_what_is_wrong_in_one_message(trained: Path):
    done = run_here(Path(), "lib.predict", "empty", NEW, "--out", "out")
    assert done.returncode == 2 and "holds no trained detector" in done.stderr and "Traceback" not in done.stderr


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: object) -> str:
    """What the command says as it ends with 2."""
    monkeypatch.setattr(sys, "argv", ["lib.predict", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        end_with(predict.main)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "1e12"])
def test_only_a_time_that_can_be_waited_is_one(trained: Path, monkeypatch, capsys, seconds: str):
    said = refused(monkeypatch, capsys, trained, NEW, "--out", OUT, "--watch", f"--every={seconds}")
    assert "--every: expected seconds above 0, at most 86400" in said


def test_results_that_cannot_be_written_end_in_one_message_with_the_path(trained: Path, monkeypatch, capsys):
    Path("file").write_text("mine")
    assert "Not a directory: 'file/below'" in refused(monkeypatch, capsys, trained, NEW, "--out", "file/below")

    def full_disk(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    assert "No space left on device: 'data/out/scores.csv'" in refused(monkeypatch, capsys, trained, NEW, "--out", OUT)
    assert contents(OUT) == {}


def test_results_are_refused_where_a_stage_writes(trained: Path, monkeypatch, capsys):
    Path("dvc.yaml").write_text("stages:\n  prepare:\n    outs:\n    - data/prepared:\n        persist: true\n")
    said = refused(monkeypatch, capsys, trained, NEW, "--out", "data/prepared/found")
    assert "data/prepared belongs to the stage prepare" in said and not Path("data/prepared").exists()
