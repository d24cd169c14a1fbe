"""Judging on the test part: every number again from all pixels at once, and each arm once while nothing changes."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lib.alarms import Decision, pieces
from lib.core.errors import UserError
from lib.core.params import Params
from lib.core.records import GOOD
from lib.core.runtime import write_json
from lib.detection import train_arm
from lib.evaluation import RECALLS, judge, judge_arm
from lib.metrics.bootstrap import RESAMPLES, resamples
from lib.metrics.boxes import ScoredBox, box_precision, component_boxes, painted, truth_boxes
from lib.metrics.intervals import mean_std
from lib.metrics.ranking import defect_pixels, rank, rank_pixels
from lib.scoring import Answer, image_score
from lib.trained import load_trained, read_decision
from stages import evaluate
from tests import brightness
from tests.brightness import bright_discs, write_discs
from tests.conftest import ROOT

CATEGORY = "slab"
TEST = bright_discs(9, 2)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The models that have predicted, once for each picture."""
    models: list[float] = []
    plain = brightness.predict

    def predict(model: float, image: np.ndarray) -> np.ndarray:
        models.append(model)
        return plain(model, image)

    monkeypatch.setattr(brightness, "predict", predict)
    return models


@pytest.fixture
def project(inside: Path, raw_params: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two arms of two seeds each, trained by the brightness detector in the U-Net's place."""
    for module in ("lib.detection", "lib.evaluation", "lib.trained"):
        monkeypatch.setattr(f"{module}.find", lambda name: brightness)
    monkeypatch.setattr("stages.evaluate.load", read_params)
    shutil.copy(ROOT / "dvc.yaml", inside)
    for folder in ("lib", "stages"):
        (inside / folder).symlink_to(ROOT / folder)
    write_params(raw_params)
    write_discs(CATEGORY, {"train": bright_discs(5, 0), "val": bright_discs(4, 1), "test": TEST})
    for arm in ("none", "placebo"):
        train_arm(read_params(), "unet", arm, CATEGORY, [], "key")
    return inside


def write_params(raw: dict[str, Any], **evaluate: Any) -> None:
    changes = {"dataset": {"categories": [CATEGORY]}, "detect": {"seeds": [0, 1], "on_synthetic": []}}
    values = {**raw, **{name: {**raw[name], **keys} for name, keys in changes.items()}, "detectors": ["unet"]}
    values["evaluate"] = {**raw["evaluate"], "overlays": 2, **evaluate}
    Path("params.yaml").write_text(yaml.safe_dump(values))


def read_params() -> Params:
    return Params.model_validate(yaml.safe_load(Path("params.yaml").read_text()))


def outputs() -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(Path("metrics").rglob("*")) if path.is_file()}


def test_every_number_is_that_of_all_pixels_at_once(project: Path):
    verdict = judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    curves = []
    for seed in (0, 1):
        trained = Path(f"models/detectors/unet/{CATEGORY}/none/seed-{seed}")
        model, decision = brightness.load(trained), read_decision(trained)
        maps = [brightness.predict(model, example.image) for example in TEST]
        marks = [decision.mask(scores) for scores in maps]
        assert sum(mask.any() for mask in marks) > 0 and decision.threshold != decision.alarm_threshold

        def flat(arrays: Any, types: Any) -> np.ndarray:
            return np.concatenate([one.ravel() for one, e in zip(arrays, TEST, strict=True) if e.defect_type in types])

        def pixels(*types: str, maps: Any = maps) -> Any:
            return rank(flat(maps, types), flat([example.mask for example in TEST], types))

        def iou(*types: str, marks: Any = marks) -> float:
            marked, truth = flat(marks, types), flat([example.mask for example in TEST], types)
            return float((marked & truth).sum() / (marked | truth).sum())

        everything = pixels(GOOD, "blob", "ring")
        in_use = iou(GOOD, "blob", "ring")
        pictures = rank([image_score(scores) for scores in maps], [example.has_defect for example in TEST])
        ap50, ap = box_precision(
            [
                component_boxes(np.where(mask, scores, -np.inf), decision.lowest)
                for mask, scores in zip(marks, maps, strict=True)
            ],
            [truth_boxes(example.mask) for example in TEST],
        )
        regions = rank_pixels([defect_pixels(one, example.mask) for one, example in zip(maps, TEST, strict=True)])
        for scores, example in zip(maps, TEST, strict=True):
            regions.count(scores[~example.mask])
        scores, truth = np.stack(maps), np.stack([example.mask for example in TEST])
        ious = [(truth & (scores >= level)).sum() / (truth | (scores >= level)).sum() for level in scores[truth]]
        expected = {
            "pixel_iou_max": max(ious),
            "aupro": regions.aupro(read_params().evaluate.fpr_limit),
            "box_ap50": ap50,
            "box_ap": ap,
            "image_auroc": pictures.auroc(),
            "image_ap": pictures.average_precision(),
            "image_f1_max": pictures.f1_max()[0],
            "pixel_auroc": everything.auroc(),
            "pixel_ap": everything.average_precision(),
            "pixel_f1_max": everything.f1_max()[0],
            "pixel_f1_at_val_threshold": 2 * in_use / (1 + in_use),
            "pixel_iou_at_val_threshold": in_use,
        }
        for name, value in expected.items():
            assert verdict["seeds"][str(seed)][name] == round(value, 6), name
        assert 0.2 < expected["pixel_ap"] < 1 and 0 < verdict["seeds"][str(seed)]["aupro"] < 1
        curves.append(everything.precision_at(RECALLS))
        blobs = pixels(GOOD, "blob").average_precision(), iou(GOOD, "blob")
        if seed == 0:
            first = blobs
    assert verdict["per_type"]["blob"]["mean"] == {
        "pixel_ap": round(mean_std([first[0], blobs[0]])[0], 6),
        "pixel_iou_at_val_threshold": round(mean_std([first[1], blobs[1]])[0], 6),
    }
    assert verdict["counts"] == {"seeds": 2, "good": 2, "blob": 3, "ring": 4}
    of_seeds = [verdict["seeds"][seed]["aupro"] for seed in ("0", "1")]
    assert verdict["mean"]["aupro"] == pytest.approx(np.mean(of_seeds), abs=2e-6)
    table = np.loadtxt("out/pr.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table, np.column_stack([RECALLS, np.mean(curves, axis=0)]), atol=1e-6)


def test_each_defect_is_told_with_its_size_and_the_seeds_that_found_it(project: Path):
    judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    with open("out/found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with_defect = [example for example in TEST if example.has_defect]
    assert [(row["type"], int(row["area"])) for row in rows] == [
        (one.defect_type, one.mask.sum()) for one in with_defect
    ]
    for seed in (0, 1):
        trained = Path(f"models/detectors/unet/{CATEGORY}/none/seed-{seed}")
        model, decision = brightness.load(trained), read_decision(trained)
        hits = [decision.mask(brightness.predict(model, one.image))[one.mask].any() for one in with_defect]
        assert [row[f"seed-{seed}"] for row in rows] == [str(int(hit)) for hit in hits]


def test_the_metrics_of_resamples_lie_around_those_of_the_test_part(project: Path):
    verdict = judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    table = np.loadtxt("out/resampled.csv", delimiter=",", skiprows=1)
    assert table.shape == (RESAMPLES, 2) and table[:, 0].std() > 0.005
    assert np.median(table[:, 0]) == pytest.approx(verdict["mean"]["pixel_ap"], abs=0.02)
    assert np.median(table[:, 1]) == pytest.approx(verdict["mean"]["image_auroc"], abs=0.02)


def test_every_arm_of_a_category_has_the_resamples_of_that_category(project: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def remembered(category: str, *of_pictures: list) -> np.ndarray:
        asked.append(category)
        return resamples(category, *of_pictures)

    monkeypatch.setattr("lib.evaluation.resamples", remembered)
    for arm in ("none", "placebo"):
        judge_arm(read_params(), "unet", CATEGORY, arm, Path(arm))
    assert asked == [CATEGORY] * 2


def test_a_detector_that_tells_types_apart_is_judged_by_that_too(project: Path, monkeypatch: pytest.MonkeyPatch):
    class Model(float):
        types = ("blob", "ring")

    plain = brightness.predict

    def predict_typed(model: Model, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores as ever, and the right type everywhere, but for one ring that is taken for a blob."""
        number = next(n for n, one in enumerate(TEST) if np.array_equal(one.image, image))
        right = 2 if TEST[number].defect_type == "ring" and number != 2 else 1
        return plain(model, image), np.full(image.shape[:2], right, np.uint8)

    monkeypatch.setattr(brightness, "load", lambda folder: Model(20))
    monkeypatch.setattr(brightness, "predict_typed", predict_typed, raising=False)
    assert TEST[2].defect_type == "ring" and TEST[2].has_defect
    verdict = judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    defects = sum(example.has_defect for example in TEST)
    assert verdict["mean"]["type_accuracy"] == pytest.approx(1 - 1 / defects, abs=1e-6)
    assert verdict["mean"]["type_pictures"] == defects
    assert 0 < verdict["mean"]["box_map50"] < verdict["mean"]["box_ap50"], (
        "the ring under another name is found and missed"
    )
    of_seeds = []
    for seed in (0, 1):
        trained = Path(f"models/detectors/unet/{CATEGORY}/none/seed-{seed}")
        decision, both, either = read_decision(trained), 0, 0
        for number, example in enumerate(TEST):
            truth = example.mask & (example.defect_type == "ring")
            told = decision.mask(plain(20.0, example.image)) & (example.defect_type == "ring" and number != 2)
            both, either = both + (truth & told).sum(), either + (truth | told).sum()
        of_seeds.append(both / either)
    ious = {name: of_type["mean"]["type_iou"] for name, of_type in verdict["per_type"].items()}
    assert ious["ring"] == pytest.approx(np.mean(of_seeds), abs=1e-6) and 0 < ious["ring"] < 1
    assert verdict["mean"]["type_miou"] == pytest.approx(np.mean(list(ious.values())), abs=2e-6)


def test_a_detector_that_finds_boxes_is_asked_once_and_judged_by_these_and_their_map(project: Path, monkeypatch):
    asked = []

    def boxes(model: float, image: np.ndarray) -> list[ScoredBox]:
        asked.append(model)
        (example,) = (one for one in TEST if np.array_equal(one.image, image))
        return [ScoredBox(box, 0.5) for box in truth_boxes(example.mask)]

    params = read_params()
    of_map = judge_arm(params, "unet", CATEGORY, "none", Path("of-map"))["mean"]
    assert 0 < of_map["box_ap"] < of_map["box_ap50"] < 1
    monkeypatch.setattr(brightness, "boxes", boxes, raising=False)
    monkeypatch.setattr(brightness, "predict", lambda *_: pytest.fail("its boxes have told all"))
    shutil.rmtree(".work")
    of_boxes = judge_arm(params, "unet", CATEGORY, "none", Path("of-boxes"))["mean"]
    assert sorted(asked) == sorted([20.0, 40.0] * len(TEST)), "once for each picture and seed"
    assert (of_boxes["box_ap50"], of_boxes["box_ap"]) == (1, 1)
    maps = [painted([ScoredBox(box, 0.5) for box in truth_boxes(one.mask)], one.image.shape) for one in TEST]
    pixels = rank(*(np.concatenate([one.ravel() for one in of]) for of in (maps, [one.mask for one in TEST])))
    assert of_boxes["pixel_ap"] == round(pixels.average_precision(), 6)


@pytest.mark.parametrize(("alarm_threshold", "min_area"), [(140, 1), (140, 12), (190, 1), (130, 12)])
def test_boxes_and_alarms_are_judged_as_they_are_in_use_without_pieces_that_do_not_count(
    project: Path, alarm_threshold: float, min_area: int
):
    folder = Path(f"models/detectors/unet/{CATEGORY}/none")
    for trained in folder.glob("seed-*"):
        write_json(trained / "threshold.json", asdict(Decision(140.0, alarm_threshold, min_area)))
    verdict = judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    inspector, found, alarms = load_trained(folder / "seed-0").inspector(), [], {True: [], False: []}
    for example in TEST:
        scores = inspector.predict(example.image)
        mask = inspector.decision.mask(scores)
        found.append(inspector.boxes(Answer(scores), mask))
        alarms[example.has_defect].append(mask.any())
    of_all = [component_boxes(inspector.predict(example.image), 140) for example in TEST]
    assert (sum(map(len, found)) < sum(map(len, of_all))) == (min_area > 1 or alarm_threshold > 140)
    in_use = box_precision(found, [truth_boxes(example.mask) for example in TEST])
    of_seed = verdict["seeds"]["0"]
    assert (of_seed["box_ap50"], of_seed["box_ap"]) == pytest.approx(in_use, abs=1e-6) and 0 < in_use[1] < 1
    with open("out/levels.csv", newline="") as file:
        levels = list(csv.DictReader(file))
    assert [int(row["defect"]) for row in levels] == [one.has_defect for one in TEST]
    for example, row in zip(TEST, levels, strict=True):
        scores, level = inspector.predict(example.image), np.float32(row["seed-0"])
        assert pieces(scores, level, min_area).any() and not pieces(scores, np.nextafter(level, 999), min_area).any()
    shares = [of_seed["defects_alarmed"], of_seed["good_alarmed"]]
    assert shares == pytest.approx([np.mean(alarms[True]), np.mean(alarms[False])], abs=1e-6)
    assert (shares[1] < 1) == (min_area > 1 or alarm_threshold > 140), "specks alone made good pictures alarm"


def test_the_stage_writes_every_arm_and_nothing_else(project: Path):
    stale = Path("metrics/detection/unet/other/none/best.png")
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a category that is no more")
    evaluate.main("unet")
    folder = f"metrics/detection/unet/{CATEGORY}"
    files = {
        f"{folder}/{arm}/{name}"
        for arm in ("none", "placebo")
        for name in ("best.png", "worst.png", "pr.csv", "resampled.csv", "found.csv", "levels.csv")
    }
    assert set(outputs()) == {*files, "metrics/detection/unet.json"}
    verdicts = json.loads(Path("metrics/detection/unet.json").read_text())[CATEGORY]
    assert list(verdicts) == ["none", "placebo"]
    assert {arm: list(verdict["seeds"]) for arm, verdict in verdicts.items()} == {
        "none": ["0", "1"],
        "placebo": ["1000", "1001"],
    }
    assert not list(Path(".work").rglob("*.npy")), "the score maps are gone"


def test_a_second_run_predicts_nothing_and_without_its_memory_it_gives_the_same_bytes(project: Path, predicted: list):
    evaluate.main("unet")
    first, count = outputs(), len(predicted)
    assert count == 4 * len(TEST)
    shutil.rmtree("metrics")
    evaluate.main("unet")
    assert len(predicted) == count and outputs() == first
    shutil.rmtree(".work")
    evaluate.main("unet")
    assert len(predicted) == 2 * count and outputs() == first


def test_where_one_arm_has_changed_that_arm_alone_is_judged_again(project: Path, predicted: list):
    evaluate.main("unet")
    predicted.clear()
    threshold = Path(f"models/detectors/unet/{CATEGORY}/placebo/seed-1000/threshold.json")
    threshold.write_text('{"threshold": 150.0, "chosen_on": "val", "min_area": 1}')
    evaluate.main("unet")
    assert set(predicted) == {20.0 * 1001, 20.0 * 1002} and len(predicted) == 2 * len(TEST)
    kept = [path.relative_to(".work").as_posix() for path in Path(".work").glob("evaluate-unet/*/*")]
    assert len(kept) == 2, "the older verdict of the arm is gone"


def test_an_arm_more_or_less_leaves_the_others_as_they_are(project: Path, predicted: list, raw_params: dict):
    evaluate.main("unet")
    predicted.clear()
    write_params({**raw_params, "generators": ["perlin"]})
    evaluate.main("unet")
    assert not predicted


@pytest.mark.parametrize("change", ["record", "parameter", "code"])
def test_whatever_a_verdict_depends_on_has_it_made_anew(project: Path, predicted: list, raw_params: dict, change: str):
    evaluate.main("unet")
    predicted.clear()
    if change == "record":
        records = Path(f"data/prepared/{CATEGORY}/samples.jsonl")
        lines = records.read_text().splitlines()
        records.write_text("\n".join(line for line in lines if '"test-8"' not in line) + "\n")
    elif change == "parameter":
        write_params(raw_params, fpr_limit=0.2)
    else:
        Path("lib").unlink()
        shutil.copytree(ROOT / "lib", "lib")
        with open("lib/metrics/ranking.py", "a") as file:
            file.write("# changed\n")
    evaluate.main("unet")
    assert len(predicted) == 4 * (len(TEST) - (change == "record"))


def test_a_killed_run_leaves_no_half_a_verdict(project: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    expected = judge_arm(read_params(), "unet", CATEGORY, "placebo", Path("whole"))
    with monkeypatch.context() as patch:
        patch.setattr("lib.evaluation.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    (work,) = Path(".work").glob(f"evaluate-unet/{CATEGORY}-none/*")
    (work / "maps-left").mkdir()  # what SIGKILL would have left
    assert judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))["counts"] == expected["counts"]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "best.png",
        "found.csv",
        "levels.csv",
        "pr.csv",
        "resampled.csv",
        "worst.png",
    ]


def test_without_trained_seeds_or_defects_it_says_so(project: Path, tmp_path: Path):
    with pytest.raises(UserError, match="perlin: not found; `dvc repro` makes"):
        judge_arm(read_params(), "unet", CATEGORY, "perlin", Path("out"))
    Path("models/empty").mkdir()
    with pytest.raises(UserError, match="holds no trained seeds"):
        judge("unet", Path("models/empty"), [], read_params().evaluate, tmp_path)
    with pytest.raises(UserError, match="no defect, so there is nothing to measure"):
        judge("unet", Path(f"models/detectors/unet/{CATEGORY}/none"), [], read_params().evaluate, tmp_path)


def test_a_type_that_training_never_showed_is_judged_as_one_that_was_not_found(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    class Model(float):
        types = ("blob",)

    def predict_typed(model: Model, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return brightness.predict(model, image), np.ones(image.shape[:2], np.uint8)

    monkeypatch.setattr(brightness, "load", lambda folder: Model(20))
    monkeypatch.setattr(brightness, "predict_typed", predict_typed, raising=False)
    verdict = judge_arm(read_params(), "unet", CATEGORY, "none", Path("out"))
    kinds = [example.defect_type for example in TEST if example.has_defect]
    assert "ring" in kinds
    assert 0 < verdict["mean"]["box_map50"] <= 0.5 and verdict["mean"]["box_map"] < verdict["mean"]["box_map50"]
    assert verdict["per_type"]["ring"]["mean"]["type_iou"] == 0
    assert verdict["mean"]["type_miou"] == pytest.approx(verdict["per_type"]["blob"]["mean"]["type_iou"] / 2, abs=1e-5)
    assert verdict["mean"]["type_accuracy"] == pytest.approx(kinds.count("blob") / len(kinds), abs=1e-6)
