"""What drives detectors: examples from files, seeds side by side that outlive a kill, thresholds, the placebo."""

import itertools
import json
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lib import detection
from lib.alarms import AREAS, Decision, alarm_level, balanced_threshold
from lib.core.errors import UserError
from lib.core.images import read_image, recent, write_png
from lib.core.params import PLACEBO_SEED, Params
from lib.core.records import GOOD, Sample, Synthetic, read_records
from lib.core.runtime import write_json, write_text
from lib.detection import choose_thresholds, colours_of, read_examples, train_arm, train_seeds, training_key
from lib.detectors import find
from lib.metrics.ranking import rank
from lib.scoring import image_score, predictions, rank_parts
from lib.vision.examples import Example, PictureKey, _read_counting_mask
from tests import brightness
from tests.blobs import BUDGET
from tests.brightness import bright_discs, write_discs
from tests.category import tiny_params
from tests.conftest import ROOT
from tests.mixed import DENT, SCRATCH, mixed_sample

CATEGORY = "slab"


@pytest.fixture
def params(raw_params: dict, inside: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A prepared category, and the brightness detector in the U-Net's place."""
    monkeypatch.setattr("lib.detection.find", lambda name: brightness)
    write_discs(CATEGORY, {"train": bright_discs(5, 0), "val": bright_discs(4, 1), "test": bright_discs(3, 2)})
    return tiny_params(raw_params, detect={"seeds": [0, 1]})


STAGES_OF_TRAINING = {
    "baseline": {"detector": "unet", "category": CATEGORY},
    "detect": {"detector": "unet", "category": CATEGORY, "generator": "perlin"},
}


@pytest.fixture
def project_inputs(params: Params, inside: Path) -> None:
    """All that the stages of training read."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, inside)
    for folder in ("lib", "stages"):
        (inside / folder).symlink_to(ROOT / folder)
    write_text(Path(f"data/masks/perlin/{CATEGORY}/manifest.jsonl"), "")


def sample(**changes: Any) -> Sample:
    values: dict[str, Any] = {
        "id": "a",
        "category": CATEGORY,
        "defect_type": "blob",
        "image": "a.png",
        "mask": "a_mask.png",
        "group": "a",
        "split": "train",
        "size": (8, 8),
        "sha256": "",
    }
    return Sample(**values | changes)


def synthetic(**changes: Any) -> Synthetic:
    values: dict[str, Any] = {
        "placement": "p0",
        "category": CATEGORY,
        "defect_type": "blob",
        "normal": "train-0",
        "box": (8, 8, 20, 20),
        "like": "train-2",
        "component": 0,
        "generator": "perlin",
        "model": "perlin",
        "prompt": "",
        "seed": 0,
        "knobs": {},
        "image": f"data/prepared/{CATEGORY}/images/train-2.png",
        "sha256": "",
        "mask": f"data/prepared/{CATEGORY}/masks/train-2.png",
        "accepted": True,
    }
    return Synthetic(**values | changes)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_an_example_of_files_equals_one_in_memory(params: Params):
    samples = [json.loads(line) for line in Path(f"data/prepared/{CATEGORY}/samples.jsonl").read_text().splitlines()]
    stored = read_examples(
        sample(id=row["id"], defect_type=row["defect_type"], image=row["image"], mask=row["mask"])
        for row in samples
        if row["split"] == "train"
    )
    for one, other in zip(stored, bright_discs(5, 0), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.mask.dtype == bool and one.has_defect == other.has_defect == other.mask.any()
        assert (one.synthetic, one.defect_type) == (False, other.defect_type)


def test_a_synthetic_example_says_so_and_knows_the_good_picture_beneath(inside: Path):
    good = sample(id="good-0", defect_type=GOOD, image="good.png", mask=None)
    made = synthetic(normal="good-0")
    real, example = read_examples([sample(), made], {"good-0": good})
    assert (real.synthetic, real.twin) == (False, None)
    assert (example.synthetic, example.twin) == (True, Path("good.png").absolute())
    assert real.foreground is example.foreground is None
    shown = replace(good, foreground="objects/good.png")
    for one in read_examples([shown, made], {"good-0": shown}):
        assert one.foreground == Path("objects/good.png").absolute()


def test_weights_and_threshold_are_chosen_on_val_alone_and_train_alone_is_learned(params: Params, monkeypatch):
    seen: dict[str, list[list[Path]]] = {"train": [], "val": [], "threshold": []}
    fit, choose = brightness.fit, choose_thresholds

    def remembered_fit(train: Any, val: Any, *rest: Any) -> Any:
        seen["train"].append([example.picture for example in train])
        seen["val"].append([example.picture for example in val])
        return fit(train, val, *rest)

    def remembered_choice(module: Any, model: Any, val: Any, *rest: Any) -> Any:
        seen["threshold"].append([example.picture for example in val])
        return choose(module, model, val, *rest)

    monkeypatch.setattr(brightness, "fit", remembered_fit)
    monkeypatch.setattr("lib.detection.choose_thresholds", remembered_choice)
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    records = read_records(Path(f"data/prepared/{CATEGORY}/samples.jsonl"), Sample)
    for what, part in (("train", "train"), ("val", "val"), ("threshold", "val")):
        pictures = [Path(one.image).absolute() for one in records if one.split == part]
        assert seen[what] == [pictures] * len(params.detect.seeds), what


def test_reading_the_list_opens_no_file_and_names_what_is_missing_when_asked(inside: Path):
    (example,) = read_examples([sample()])
    assert example.has_defect
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        _ = example.image
    with pytest.raises(UserError, match=r"a\.png: a picture of type 'blob' needs a mask"):
        read_examples([sample(mask=None)])
    with pytest.raises(ValueError, match="no picture"):
        read_examples([synthetic(image=None)])


def test_equal_names_below_another_folder_are_other_pictures(inside: Path, monkeypatch: pytest.MonkeyPatch):
    for shade in (10, 20):
        Path(f"{shade}").mkdir()
        monkeypatch.chdir(inside / f"{shade}")
        write_png(Path("a.png"), np.full((8, 8, 3), shade, np.uint8))
        (example,) = read_examples([sample()])
        assert (example.image == shade).all()
        monkeypatch.chdir(inside)


def test_a_mask_of_another_size_than_its_picture_is_refused(inside: Path):
    write_png(Path("a.png"), np.zeros((8, 8, 3), np.uint8))
    write_png(Path("a_mask.png"), np.ones((8, 9), bool))
    (example,) = read_examples([sample()])
    with pytest.raises(UserError, match=r"a_mask\.png: size \(9, 8\), its picture has \(8, 8\)"):
        _ = example.mask


def test_a_thousand_examples_hold_no_more_pixels_than_the_cache(inside: Path, monkeypatch: pytest.MonkeyPatch):
    write_png(Path("a.png"), np.zeros((64, 64, 3), np.uint8))
    write_png(Path("a_mask.png"), np.ones((64, 64), bool))
    reads: list[Path] = []

    def read(key: PictureKey) -> np.ndarray:
        reads.append(key.file)
        return read_image(key.file)

    monkeypatch.setattr("lib.vision.examples._image", recent(read, 10 * 64 * 64 * 3))
    monkeypatch.setattr("lib.vision.examples._mask", recent(_read_counting_mask, 10 * 64 * 64))
    for n in range(30):
        Path(f"{n}.png").symlink_to("a.png")
    examples = read_examples(sample(image=f"{n}.png") for n in range(30))
    for example in examples * 2:
        assert example.image.shape == (64, 64, 3)
    assert len(reads) == 60, "more pictures than fit are read anew"
    for _ in range(5):
        assert examples[-1].mask.all() and examples[-1].image.shape == (64, 64, 3)
    assert len(reads) == 60, "the latest ones are not"


def test_every_seed_tells_what_it_is_and_what_it_was_trained_on(params: Params):
    train_arm(params, "unet", "perlin", CATEGORY, [synthetic()], "key")
    folder = Path(f"models/detectors/unet/{CATEGORY}/perlin")
    assert sorted(path.name for path in folder.iterdir()) == ["learning.png", "seed-0", "seed-1"]
    for seed in (0, 1):
        files = {path.name: read_json(path) for path in (folder / f"seed-{seed}").iterdir()}
        assert files["detector.json"] == {
            "detector": "unet",
            "category": CATEGORY,
            "arm": "perlin",
            "seed": seed,
            "content": files["detector.json"]["content"],
            "depth": 8,
            "colours": "colour",
        }
        assert files["config.json"] == {"seed": seed, "width": 16, "examples": 6}
        assert files["history.json"] == {"loss": [[1, 1.0], [2, 1 / (1 + seed)]]}
        assert set(files) == {"detector.json", "config.json", "history.json", "threshold.json"}


def test_the_depth_is_that_of_the_deep_pictures_where_some_have_8_bits(params: Params, monkeypatch):
    read, count = detection.read_records, iter(range(99))

    def deep(file: Path, kind: Any) -> Any:
        return [replace(one, depth=12) if next(count) else one for one in read(file, kind)]

    monkeypatch.setattr(detection, "read_records", deep)
    train_arm(params, "unet", "perlin", CATEGORY, [synthetic()], "key")
    stored = read_json(Path(f"models/detectors/unet/{CATEGORY}/perlin/seed-0/detector.json"))
    assert stored["depth"] == 12


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that have been trained."""
    seeds: list[int] = []
    fit = brightness.fit

    def remembered(train: Any, val: Any, params: Any, settings: Any, seed: int, out: Path) -> Any:
        seeds.append(seed)
        return fit(train, val, params, settings, seed, out)

    monkeypatch.setattr(brightness, "fit", remembered)
    return seeds


def test_other_thresholds_and_more_seeds_train_nothing_twice(params: Params, raw_params: dict, fitted: list[int]):
    def contents(seed: int) -> dict[str, bytes]:
        folder = Path(f"models/detectors/unet/{CATEGORY}/none/seed-{seed}")
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "threshold.json"}

    def train(**detect: Any) -> Path:
        train_arm(tiny_params(raw_params, detect=detect), "unet", "none", CATEGORY, [], "key")
        return Path(f"models/detectors/unet/{CATEGORY}/none")

    first = train(seeds=[0, 1])
    weights, threshold = contents(0), read_json(first / "seed-0/threshold.json")
    train(seeds=[0, 1], false_alarm_rate=0.5)
    changed = read_json(first / "seed-0/threshold.json")
    assert sorted(fitted) == [0, 1] and contents(0) == weights
    assert changed["alarm_threshold"] != threshold["alarm_threshold"] and changed["false_alarm_rate"] == 0.5
    train(seeds=[0, 1, 2, 3])
    assert sorted(fitted) == [0, 1, 2, 3] and contents(0) == weights
    assert read_json(first / "seed-0/threshold.json") == threshold
    fewer = train(seeds=[3, 0])
    assert sorted(path.name for path in fewer.iterdir()) == ["learning.png", "seed-0", "seed-3"]
    assert sorted(fitted) == [0, 1, 2, 3] and len(list(Path(".work").glob("detect-*/*"))) == 1
    train_arm(tiny_params(raw_params, detect={"seeds": [0, 3]}), "unet", "none", CATEGORY, [], "of other inputs")
    assert sorted(fitted) == [0, 0, 1, 2, 3, 3]


def test_a_trained_seed_is_not_kept_where_its_thread_had_another_share_of_the_cores(
    params: Params, raw_params: dict, fitted: list[int], monkeypatch: pytest.MonkeyPatch
):
    for threads in (1, 2):
        monkeypatch.setattr("lib.detection.threads_each", lambda where, calls, threads=threads: threads)
        train_arm(tiny_params(raw_params, detect={"seeds": [0]}), "unet", "none", CATEGORY, [], "key")
    assert fitted == [0, 0]


@pytest.mark.parametrize("links", [True, False])
def test_a_seed_whose_files_were_changed_is_as_it_was_trained_again(
    params: Params, fitted: list[int], monkeypatch, links
):
    def missing(*places: str) -> None:
        raise OSError

    if not links:
        monkeypatch.setattr("lib.detection.os.link", missing)
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    file = Path(f"models/detectors/unet/{CATEGORY}/none/seed-1/config.json")
    before = file.read_bytes()
    write_json(file, {"seed": 99})
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert sorted(fitted) == [0, 1] and file.read_bytes() == before, "a new file leaves the kept one alone"
    file.write_text('{"seed": 99}')
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert sorted(fitted) == ([0, 1, 1] if links else [0, 1]) and file.read_bytes() == before, (
        "it went through the link"
    )


@pytest.mark.parametrize("text", ['{"detector": "un', "{}", "[]", ""])
def test_a_seed_whose_provenance_was_broken_through_its_link_is_trained_again(params: Params, fitted: list[int], text):
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    file = Path(f"models/detectors/unet/{CATEGORY}/none/seed-1/detector.json")
    before = file.read_bytes()
    file.write_text(text)
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert sorted(fitted) == [0, 1, 1] and file.read_bytes() == before


def test_a_killed_run_goes_on_with_its_seeds_and_chooses_all_thresholds(params: Params, fitted: list[int], monkeypatch):
    def killed(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lib.detection.choose_thresholds", killed)
        with pytest.raises(KeyboardInterrupt):
            train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert not Path(f"models/detectors/unet/{CATEGORY}/none").exists()
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert sorted(fitted) == [0, 1]
    assert len(list(Path(f"models/detectors/unet/{CATEGORY}/none").glob("seed-*/threshold.json"))) == 2


def test_a_training_reads_all_inputs_of_its_stage_but_seeds_and_thresholds(project_inputs: None):
    before = {stage: training_key(stage, **item) for stage, item in STAGES_OF_TRAINING.items()}
    changes = [("seeds", [0, 7]), ("false_alarm_rate", 0.1), ("min_area", 3), ("steps", 7), ("window", 64)]
    for name, value in changes:
        settings = yaml.safe_load(Path("params.yaml").read_text())
        settings["detect"][name] = value
        Path("params.yaml").write_text(yaml.safe_dump(settings))
        after = {stage: training_key(stage, **item) for stage, item in STAGES_OF_TRAINING.items()}
        for stage in before:
            assert (after[stage] != before[stage]) == (name in ("steps", "window")), name
        before = after


def test_grey_and_colour_are_told_of_real_pictures_alone(params: Params):
    grey = Example(np.full((4, 4, 3), 9, np.uint8), np.zeros((4, 4), bool), False, GOOD)
    tinted = replace(grey, picture=np.array([[[9, 9, 9], [9, 9, 8]]], np.uint8))
    painted = replace(tinted, synthetic=True)
    assert [colours_of(some) for some in ([grey], [tinted], [grey, tinted], [grey, painted])] == [
        "grey",
        "colour",
        "both",
        "grey",
    ]


def test_the_placebo_is_the_same_training_under_other_seeds(params: Params):
    for arm in ("none", "placebo"):
        train_arm(params, "unet", arm, CATEGORY, [], "key")
    folder = Path(f"models/detectors/unet/{CATEGORY}")
    trained = {
        arm: [read_json(path) for path in sorted((folder / arm).glob("seed-*/config.json"))]
        for arm in ("none", "placebo")
    }
    assert [config["seed"] for config in trained["none"]] == [0, 1]
    assert [config["seed"] for config in trained["placebo"]] == [PLACEBO_SEED, PLACEBO_SEED + 1]
    assert [config["examples"] for config in trained["none"]] == [config["examples"] for config in trained["placebo"]]


def test_one_that_learns_from_good_pictures_sees_no_others_and_is_refused_for_synthetic_ones(
    params: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(brightness, "LEARNS_FROM", "good")
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert read_json(Path(f"models/detectors/unet/{CATEGORY}/none/seed-0/config.json"))["examples"] == 2
    with pytest.raises(UserError, match=r"detect\.on_synthetic: unet learns from good pictures alone"):
        train_arm(params, "unet", "perlin", CATEGORY, [synthetic()], "key")


@pytest.mark.parametrize(("name", "section"), [("unet", "detect"), ("rtdetr", "rtdetr")])
def test_a_training_that_diverges_is_told_with_the_rate_to_lower(params: Params, monkeypatch, name: str, section: str):
    monkeypatch.setattr("lib.detection.find", find)
    detect = BUDGET.model_copy(update={"seeds": (0,), "learning_rate": 1e20})
    own = {
        "classes": "defect",
        "weights": None,
        "width": 32,
        "layers": 2,
        "queries": 8,
        "denoising": 0,
        "encoder_rate": 0,
        "steps": 4,
    }
    rtdetr = own | {"learning_rate": 1e20, "most_iou": 0.5}
    params = Params.model_validate(params.model_dump() | {"detect": detect.model_dump(), "rtdetr": rtdetr})
    with pytest.raises(UserError, match=rf"^{name}: the training diverged.*: lower {section}\.learning_rate$"):
        train_arm(params, name, "none", CATEGORY, [], "key")
    assert not Path("models").exists()


def test_other_errors_of_a_method_keep_their_traceback(params: Params, monkeypatch: pytest.MonkeyPatch):
    def fit(*arguments: object) -> None:
        raise ValueError("an infinite banana")

    monkeypatch.setattr(brightness, "fit", fit)
    with pytest.raises(ValueError, match="banana") as raised:
        train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert not isinstance(raised.value, UserError)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_no_numbers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float):
    monkeypatch.setattr(brightness, "predict", lambda model, image: np.full(image.shape[:2], value, np.float32))
    with pytest.raises(UserError, match=r"^brightness: the training diverged.*: lower detect\.learning_rate$"):
        choose_thresholds(brightness, 3.0, bright_discs(4, 1), (1,), None, tmp_path)


def test_a_finished_seed_is_not_trained_again_and_a_killed_one_leaves_nothing_behind(tmp_path: Path):
    trained = []

    def train_seed(seed: int, out: Path) -> None:
        trained.append(seed)
        write_json(out / "history.json", {"loss": [[1, 1.0], [2, 0.5]]})
        if seed == 1 and trained.count(1) == 1:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_seeds(train_seed, (0, 1), work)
    (work / "seed-1.tmp-99").mkdir()  # what SIGKILL would have left
    (work / "learning.png.tmp-99").write_bytes(b"half")
    train_seeds(train_seed, (0, 1), work)
    assert sorted(trained) == [0, 1, 1]
    assert sorted(path.name for path in work.iterdir()) == ["learning.png", "seed-0", "seed-1"]


def test_masks_have_the_best_f1_over_all_pixels_of_val_and_alarms_the_fewest_errors_over_its_pictures(tmp_path: Path):
    val = bright_discs(6, 1)
    scores = np.concatenate([brightness.predict(3.0, example.image).ravel() for example in val])
    truth = np.concatenate([example.mask.ravel() for example in val])
    chosen = choose_thresholds(brightness, 3.0, val, (1,), None, tmp_path)
    levels = [alarm_level(brightness.predict(3.0, example.image), 1) for example in val]
    assert chosen == {
        "threshold": rank(scores, truth).f1_max()[1],
        "alarm_threshold": balanced_threshold(levels[2:], levels[:2]),
        "min_area": 1,
        "chosen_on": "val",
        "good_pictures": 2,
        "defect_pictures": 4,
        "missed": sum(level < chosen["alarm_threshold"] for level in levels[2:]),
        "false_alarms": sum(level >= chosen["alarm_threshold"] for level in levels[:2]),
        "false_alarm_rate": None,
    }
    assert chosen["threshold"] != chosen["alarm_threshold"]
    assert not list(tmp_path.iterdir()), "the score maps are gone"


def test_without_defects_in_val_the_threshold_is_above_every_good_picture(tmp_path: Path):
    val = bright_discs(3, 1, good=3)
    highest = max(float(brightness.predict(3.0, example.image).max()) for example in val)
    with pytest.warns(UserWarning, match="val part holds no defect"):
        chosen = choose_thresholds(brightness, 3.0, val, (1,), None, tmp_path)
    assert highest < chosen["threshold"] < highest * 1.001 and chosen["good_pictures"] == 3
    assert chosen["alarm_threshold"] == chosen["threshold"] and chosen["defect_pictures"] == 0
    with pytest.raises(UserError, match="holds no picture"):
        choose_thresholds(brightness, 3.0, [], (1,), None, tmp_path)


@pytest.mark.parametrize("min_area", [1, 12])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_a_rate_of_false_alarms_is_kept_on_the_good_pictures_of_val(tmp_path: Path, rate: float, min_area: int):
    val = bright_discs(12, 1, good=8)
    chosen = choose_thresholds(brightness, 3.0, val, (min_area,), rate, tmp_path)
    decision = Decision(chosen["threshold"], chosen["alarm_threshold"], chosen["min_area"])
    alarms = [decision.mask(brightness.predict(3.0, example.image)).any() for example in val[:8]]
    assert np.mean(alarms) == rate, "brightness differs from picture to picture, so that the share is met exactly"
    assert chosen["min_area"] == min_area and chosen["good_pictures"] == 8 and chosen["false_alarm_rate"] == rate


def test_without_good_pictures_in_val_alarms_have_the_threshold_of_masks(tmp_path: Path):
    with pytest.warns(UserWarning, match="no good picture to count false alarms on"):
        chosen = choose_thresholds(brightness, 3.0, bright_discs(4, 1, good=0), (1,), None, tmp_path)
    assert chosen["alarm_threshold"] == chosen["threshold"] and chosen["good_pictures"] == 0


def test_a_detector_that_tells_nothing_apart_is_told(tmp_path: Path):
    val = bright_discs(6, 1)
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="no threshold tells defect pictures"):
        patch.setattr(brightness, "predict", lambda model, image: np.full(image.shape[:2], 7, np.float32))
        chosen = choose_thresholds(brightness, 3.0, val, (1,), None, tmp_path)
    assert (chosen["missed"], chosen["false_alarms"]) == (0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_thresholds(brightness, 3.0, val, (1,), None, tmp_path)


def test_a_rate_of_false_alarms_leaves_the_threshold_of_masks_as_it_is(tmp_path: Path):
    val = bright_discs(12, 1, good=8)
    chosen = [choose_thresholds(brightness, 3.0, val, (1,), rate, tmp_path) for rate in (None, 0.0, 0.5)]
    assert len({one["threshold"] for one in chosen}) == 1 and len({one["alarm_threshold"] for one in chosen}) == 3


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_rate_that_val_can_show_is_not_warned_of(tmp_path: Path, rate: float):
    """With two good pictures: none of them, or exactly one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_thresholds(brightness, 3.0, bright_discs(4, 1), (1,), rate, tmp_path)


def test_a_rate_that_val_cannot_show_is_warned_of_or_refused(tmp_path: Path):
    with pytest.warns(UserWarning, match="less than one of the 2 good val pictures"):
        choose_thresholds(brightness, 3.0, bright_discs(4, 1), (1,), 0.01, tmp_path)
    with pytest.raises(UserError, match="no good picture"):
        choose_thresholds(brightness, 3.0, bright_discs(4, 1, good=0), (1,), 0.01, tmp_path)


@pytest.mark.parametrize("rate", [None, 0.0])
def test_no_threshold_is_chosen_where_a_whole_picture_could_be_no_alarm(tmp_path: Path, rate: float | None):
    with pytest.raises(UserError, match=r"^detect\.min_area: 1601 is more than the 1600 pixels of a picture"):
        choose_thresholds(brightness, 3.0, bright_discs(4, 1), (1601,), rate, tmp_path)


def speckled(speck: int, count: int = 8) -> list[Example]:
    """Good pictures with a bright square of `speck` px a side, and as many with a paler disc that is a defect."""
    examples = bright_discs(2 * count, 3, good=count)
    for n, example in enumerate(examples):
        image = np.full((40, 40, 3), 100, np.uint8)
        image[example.mask] = 200
        image[2 : 2 + speck, 30 : 30 + speck] = 220 + n % count
        examples[n] = replace(example, picture=image)
    return examples


@pytest.mark.filterwarnings("ignore:no threshold tells")
@pytest.mark.parametrize("rate", [None, 0.0])
@pytest.mark.parametrize(("speck", "area"), [(1, 4), (3, 16), (0, 1)])
def test_the_smallest_area_with_the_fewest_errors_on_val_is_chosen(
    tmp_path: Path, speck: int, area: int, rate: float | None
):
    val = speckled(speck)
    chosen = choose_thresholds(brightness, 0.0, val, AREAS, rate, tmp_path)
    assert (chosen["min_area"], chosen["missed"], chosen["false_alarms"]) == (area, 0, 0)
    fixed = choose_thresholds(brightness, 0.0, val, (1,), rate, tmp_path)
    assert (fixed["missed"] + fixed["false_alarms"] > 0) == (speck > 0)


@pytest.mark.filterwarnings("ignore:the val part holds no")
def test_without_errors_of_both_kinds_to_weigh_the_first_area_is_taken(tmp_path: Path):
    for val in (speckled(3)[:8], speckled(3)[8:]):
        assert choose_thresholds(brightness, 0.0, val, AREAS, None, tmp_path)["min_area"] == 1


@pytest.mark.filterwarnings("ignore:no threshold tells")
def test_no_area_is_tried_that_a_picture_of_val_does_not_have(tmp_path: Path):
    tiny = replace(bright_discs(1, 0)[0], picture=np.full((3, 3, 3), 230, np.uint8))
    assert choose_thresholds(brightness, 0.0, [*speckled(3), tiny], AREAS, None, tmp_path)["min_area"] <= 4


@pytest.mark.filterwarnings("ignore:no threshold tells")
@pytest.mark.parametrize(("smallest", "area"), [(16, 16), (15, 1)])
def test_areas_are_no_larger_than_the_smallest_real_defect_of_train_or_val(
    raw_params: dict, inside: Path, monkeypatch: pytest.MonkeyPatch, smallest: int, area: int
):
    monkeypatch.setattr("lib.detection.find", lambda name: brightness)
    monkeypatch.setattr(brightness, "load", lambda folder: 0.0)
    train = bright_discs(4, 0)
    train[-1].mask[...] = False
    train[-1].mask.ravel()[np.arange(smallest)] = True
    write_discs(CATEGORY, {"train": train, "val": speckled(3), "test": bright_discs(3, 2)})
    params = tiny_params(raw_params, detect={"seeds": [0], "min_area": None})
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    (file,) = Path(f"models/detectors/unet/{CATEGORY}/none").glob("seed-*/threshold.json")
    assert read_json(file)["min_area"] == area


def test_predictions_and_rankings_are_the_same_on_one_core_and_on_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    examples, results = bright_discs(7, 3), []
    for cores in (1, 4):
        monkeypatch.setattr("lib.core.runtime.cores", lambda where, cores=cores: cores)
        # Two threads meet: else one might do it all on a busy machine.
        names, calls, meeting = set(), itertools.count(), threading.Barrier(min(cores, 2), timeout=60)

        class Watched:
            @staticmethod
            def predict(model: float, image: np.ndarray) -> np.ndarray:
                names.add(threading.current_thread().name)  # noqa: B023
                if next(calls) < 2:  # noqa: B023
                    meeting.wait()  # noqa: B023
                return brightness.predict(model, image)

        with predictions(Watched, 5.0, examples, tmp_path) as predicted:  # type: ignore[arg-type]
            rankings = rank_parts(examples, predicted, [{GOOD, "blob", "ring"}, {GOOD, "blob"}])
            results.append(
                [
                    [one.image_score for one in predicted],
                    [(r.auroc(), r.average_precision(), r.f1_max(), r.aupro()) for r in rankings],
                ]
            )
            for example, one in zip(examples, predicted, strict=True):
                np.testing.assert_array_equal(one.scores, brightness.predict(5.0, example.image))
                assert (one.lowest, one.highest) == (one.scores.min(), one.scores.max())
        assert len(names) > 1 if cores > 1 else names == {"MainThread"}
    assert results[0] == results[1]


def test_a_network_predicts_the_same_bits_with_one_thread_and_with_pictures_side_by_side(tmp_path: Path):
    network, before, results = torch.nn.Conv2d(3, 1, 9, padding=4), torch.get_num_threads(), []

    class Network:
        @staticmethod
        @torch.inference_mode()
        def predict(model: torch.nn.Module, image: np.ndarray) -> np.ndarray:
            return model(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0, 0].numpy()

    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with predictions(Network, network, bright_discs(7, 3), tmp_path) as predicted:  # type: ignore[arg-type]
                results.append(np.stack([one.scores for one in predicted]))
    finally:
        torch.set_num_threads(before)
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()


def test_rankings_are_the_same_for_any_number_of_pictures_that_are_counted_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    examples, results, parts = bright_discs(7, 3), [], [{GOOD, "blob", "ring"}, {GOOD, "ring"}]
    with predictions(brightness, 5.0, examples, tmp_path) as predicted:  # type: ignore[arg-type]
        size = predicted[0].file.stat().st_size
        for room in (1, 3 * size, 100 * size):
            monkeypatch.setattr("lib.scoring.COUNTED_BYTES", room)
            rankings = rank_parts(examples, predicted, parts)
            results.append([(r.negatives, r.average_precision(), r.aupro()) for r in rankings])
    assert results[0] == results[1] == results[2]


def test_a_part_is_ranked_by_its_own_types_alone(tmp_path: Path):
    examples = bright_discs(7, 3)
    with predictions(brightness, 5.0, examples, tmp_path) as predicted:  # type: ignore[arg-type]
        (blobs,) = rank_parts(examples, predicted, [{GOOD, "blob"}])
    chosen = [example for example in examples if example.defect_type in {GOOD, "blob"}]
    assert 0 < len(chosen) < len(examples)
    assert blobs.positives.size == sum(int(example.mask.sum()) for example in chosen)
    assert blobs.negatives == sum(int((~example.mask).sum()) for example in chosen)


def test_of_a_picture_of_several_types_those_of_a_part_count_and_the_others_are_not_normal_either(tmp_path: Path):
    examples = read_examples([mixed_sample(tmp_path)])
    with predictions(brightness, 0.0, examples, tmp_path) as predicted:  # type: ignore[arg-type]
        (dents,) = rank_parts(examples, predicted, [{GOOD, "dent"}])
    assert (dents.positives.size, dents.negatives) == (DENT.sum(), (~(DENT | SCRATCH)).sum())


def test_the_score_of_a_picture_ignores_one_odd_pixel_but_not_a_small_defect():
    scores = np.zeros((200, 200), np.float32)
    scores[0, 0] = 1
    assert image_score(scores) == pytest.approx(1 / 40)
    scores[:7, :7] = 1
    assert image_score(scores) == 1
    assert image_score(np.full((1, 1), 0.5, np.float32)) == 0.5
