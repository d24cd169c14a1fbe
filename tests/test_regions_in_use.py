"""Regions in use: no defect is placed on black or red, and on red nothing is learned, found, judged or boxed."""

import importlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.boxes import real_defects
from lib.core.defects import any_defect_mask, defect_mask, types_of
from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import read_image, write_png
from lib.core.params import Params
from lib.core.records import GOOD, RegionMap, Sample, read_records, write_records
from lib.core.regions import GREY, blanked, ignored_pixels, silenced
from lib.detection import IGNORED_PIXELS, read_examples, train_arm
from lib.detectors import pagmfr, rgpkd, rtdetr, unet
from lib.evaluation import judge
from lib.exchange import FILE, load_exchanged
from lib.generators import RealData, defect_gen
from lib.labels import labelling
from lib.metrics.boxes import ScoredBox, truth_boxes
from lib.metrics.boxes import painted as boxes_painted
from lib.placement.random_boxes import place_boxes
from lib.scoring import image_score, predictions, rank_parts
from lib.trained import load_trained
from lib.vision.examples import Example, History
from lib.vision.foreign import Foreign
from lib.vision.windows import Pools, batch_of, good_batch
from tests import brightness
from tests.blobs import BUDGET
from tests.brightness import bright_discs, write_discs
from tests.category import tiny_params
from tests.mixed import DENT, HEIGHT, SCRATCH, WIDTH, mixed_sample
from tests.test_exchange import export, train
from tests.toy import toy_category

CATEGORY = "slab"
SIDE = 40
IGNORED = np.zeros((SIDE, SIDE), bool)
IGNORED[:12] = True


def painted(path: Path, shape: tuple[int, int], closed: np.ndarray | None = None, ignored: np.ndarray | None = None):
    picture = np.full((*shape, 3), 255, np.uint8)
    if closed is not None:
        picture[closed] = 0
    if ignored is not None:
        picture[ignored] = (255, 0, 0)
    return RegionMap(path.as_posix(), write_png(path, picture))


@pytest.mark.parametrize("lowest", [0.0, -7.0, 0.25, 1e6])
def test_pixels_that_never_count_score_just_below_all_others(lowest: float):
    scores = np.linspace(lowest, lowest + 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    quiet = silenced(scores, IGNORED)
    assert quiet.dtype == np.float32 and (quiet[~IGNORED] == scores[~IGNORED]).all()
    assert (quiet[IGNORED] < scores.min()).all() and np.allclose(quiet[IGNORED], scores.min(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("colour", ["closed", "ignored"])
def test_every_box_lies_where_defects_may_be_placed(tmp_path: Path, colour: str):
    samples, boxes = toy_category(tmp_path)
    forbidden = np.ones((120, 160), bool)
    forbidden[40:110, 50:120] = False
    forbidden[70, 60:110] = True  # a hairline
    regions = painted(tmp_path / "regions.png", (120, 160), **{colour: forbidden})
    with_regions = [replace(sample, regions=regions) for sample in samples]
    placements = place_boxes(with_regions, boxes, 12, 0.15, 0)
    for placement in placements:
        x0, y0, x1, y1 = placement.box
        assert not forbidden[y0:y1, x0:x1].any()
    assert len({placement.box for placement in placements}) > 12
    plain = place_boxes(samples, boxes, 12, 0.15, 0)
    assert any(forbidden[p.box[1] : p.box[3], p.box[0] : p.box[2]].any() for p in plain), "or the test shows nothing"
    white = painted(tmp_path / "white.png", (120, 160))
    assert place_boxes([replace(sample, regions=white) for sample in samples], boxes, 12, 0.15, 0) == plain


def test_a_picture_without_room_is_named(tmp_path: Path):
    samples, boxes = toy_category(tmp_path)
    forbidden = np.ones((120, 160), bool)
    forbidden[::5, ::5] = False
    regions = painted(tmp_path / "regions.png", (120, 160), closed=forbidden)
    with pytest.raises(UserError, match=r"dataset\.regions: .*good-\d.* has no room"):
        place_boxes([replace(sample, regions=regions) for sample in samples], boxes, 2, 0.15, 0)


@pytest.fixture
def params(raw_params: dict, inside: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A prepared category whose upper rows never count, with glaring defects there that no mask shows."""
    for module in ("lib.detection", "lib.evaluation", "lib.trained"):
        monkeypatch.setattr(f"{module}.find", lambda name: brightness)
    parts = {"train": bright_discs(8, 0), "val": bright_discs(6, 1), "test": bright_discs(9, 2)}
    for examples in parts.values():
        for number, example in enumerate(examples):
            example.image[:6] = 250  # a bright label
            truth = example.mask.copy()
            if number % 2 and example.has_defect and (truth & ~IGNORED).any():
                truth[:4, :20] = True  # which somebody marked as a defect
            examples[number] = replace(example, truth=truth if example.has_defect else None)
    parts = {
        part: [one for one in of if not one.has_defect or (one.mask & ~IGNORED).any()] for part, of in parts.items()
    }
    write_discs(CATEGORY, parts)
    regions = painted(Path("regions.png"), (SIDE, SIDE), ignored=IGNORED)
    file = Path(f"data/prepared/{CATEGORY}/samples.jsonl")
    write_records(file, [replace(sample, regions=regions) for sample in read_records(file, Sample)])
    return tiny_params(raw_params, detect={"seeds": [0], "on_synthetic": []})


def samples(part: str) -> list[Sample]:
    records = read_records(Path(f"data/prepared/{CATEGORY}/samples.jsonl"), Sample)
    return [sample for sample in records if sample.split == part]


def test_detectors_see_neither_what_never_counts_nor_its_marks(params: Params):
    examples = read_examples(samples("train"))
    for example in examples:
        assert (example.image[IGNORED] == GREY).all() and not example.mask[IGNORED].any()
        np.testing.assert_array_equal(example.image[~IGNORED], read_image(Path(example.picture))[~IGNORED])
        assert example.normal.sum() + example.mask.sum() == (~IGNORED).sum()
    pools = Pools.of(examples)
    for n in range(20):
        batch = batch_of(pools, BUDGET, np.random.default_rng(n))
        assert (batch.images[batch.masks].mean(axis=1) > 100).all() and batch.images.mean() < 200


def test_windows_share_a_blank_picture_and_its_marks_and_pools_decode_no_picture(
    params: Params, monkeypatch: pytest.MonkeyPatch
):
    """A window of 128 px would else blank its picture, of a million, once for every question about it."""
    asked: Counter[str] = Counter()

    def counted(module: str, name: str):
        original = getattr(importlib.import_module(module), name)

        def call(*args):
            asked[name] += 1
            return original(*args)

        monkeypatch.setattr(f"{module}.{name}", call)

    for name in ("read_image", "read_mask", "blanked", "ignored_pixels"):
        counted("lib.vision.examples", name)
    examples = read_examples(samples("train"))
    pools = Pools.of(examples)
    assert asked["read_image"] == asked["blanked"] == 0, "their sizes are in their headers"
    defects = sum(example.has_defect for example in examples)
    assert asked["read_mask"] == asked["ignored_pixels"] == defects
    for _ in range(2):
        for n in range(20):
            batch_of(pools, BUDGET, np.random.default_rng(n), twins=True, types=pools.types)
        assert asked["blanked"] == asked["read_image"] <= len(examples) and asked["read_mask"] == defects
    regions = examples[0].regions
    assert regions is not None and ignored_pixels(regions) is ignored_pixels(regions)


def half_hidden(folder: Path) -> list[Example]:
    """A bright surface with a dark label on its left half, which never counts."""
    ignored = np.zeros((64, 64), bool)
    ignored[:, :32] = True
    examples = []
    for seed in range(4):
        picture = np.random.default_rng(seed).normal(220, 3, (64, 64, 3)).astype(np.uint8)
        picture[ignored] = 20
        regions = painted(folder / f"{seed}.png", (64, 64), ignored=ignored)
        examples.append(Example(picture, None, False, GOOD, regions=regions))
    return examples


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("route", ["texture", "object"])
def test_pseudo_anomalies_lie_where_pixels_count_on_pictures_that_are_blank_elsewhere(tmp_path: Path, route, scale):
    foreign = Foreign.of(half_hidden(tmp_path), route, None, None, BUDGET.model_copy(update={"scale": scale}))
    windows = [foreign.window(np.random.default_rng(n)) for n in range(80)]
    for image, mask, clean in windows:
        counting = clean.mean(axis=2) > 172  # augmentation shifts brightness by less than what lies between
        assert not (mask & ~counting).any()
        assert clean.mean(axis=2).min() > 80, "the label shows"
        np.testing.assert_array_equal(image[~mask], clean[~mask])
    assert any(mask.any() for _, mask, _ in windows)


def test_pseudo_anomalies_that_choose_weights_lie_where_pixels_count(tmp_path: Path):
    detect = BUDGET.model_copy(update={"window": 64})
    images, masks, counting = rgpkd.pseudo_anomalies(half_hidden(tmp_path), detect, 0)
    assert not masks[:, :, :32].any() and masks[:, :, 32:].any()
    assert (images[:, :, :32] == GREY).all()
    assert not counting[:, :, :32].any() and counting[:, :, 32:].all()


def small_part(folder: Path) -> Example:
    """A part of 24 px in a picture of 512 px, the rest of which never counts."""
    ignored = np.ones((512, 512), bool)
    ignored[300:324, 100:124] = False
    picture = np.random.default_rng(0).normal(200, 9, (512, 512, 3)).astype(np.uint8)
    return Example(picture, None, False, GOOD, regions=painted(folder / "part.png", (512, 512), ignored=ignored))


def test_windows_show_what_counts_however_little_of_a_picture_does(tmp_path: Path):
    part = small_part(tmp_path)
    images, _ = good_batch([part], BUDGET.model_copy(update={"batch_size": 50}), np.random.default_rng(0))
    assert (images != GREY).any(axis=(1, 2, 3)).all()
    _, masks, counting = rgpkd.pseudo_anomalies([part], BUDGET.model_copy(update={"window": 256}), 0)
    assert masks.any(axis=(1, 2)).all() and not (masks & ~counting).any()


def test_boxes_descriptions_and_traits_are_of_defects_that_count(tmp_path: Path):
    sample = mixed_sample(tmp_path)
    whole = np.ones((HEIGHT, WIDTH), bool)
    for ignored, left in ((DENT, SCRATCH), (whole & ~DENT, DENT), (whole, ~whole), (~whole, DENT | SCRATCH)):
        regions = painted(tmp_path / f"{ignored.sum()}.png", (HEIGHT, WIDTH), ignored=ignored)
        for several in (sample, replace(sample, type_map=None, defect_type="dent")):
            one = replace(several, regions=regions)
            masks = [defect_mask(one, name) for name in types_of(one)]
            np.testing.assert_array_equal(np.logical_or.reduce(masks), left)
            np.testing.assert_array_equal(any_defect_mask(one), left)
            boxed = sum(defect.component.area for defect in real_defects([one], 0.0, 1))
            traits = labelling._real_traits({one.id: one})
            assert boxed == left.sum() and len(traits) == sum(mask.any() for mask in masks)


def test_a_type_all_of_which_never_counts_is_none_of_a_generators(raw_params: dict, tmp_path: Path):
    sample = mixed_sample(tmp_path)
    regions = painted(tmp_path / "regions.png", (HEIGHT, WIDTH), ignored=SCRATCH)
    sample = replace(sample, regions=regions)
    boxes = tuple(
        one.component.record(sample.id, one.number, one.defect_type) for one in real_defects([sample], 0.15, 4)
    )
    real = RealData("slab", {sample.id: sample}, boxes, {})
    settings = defect_gen.Settings.model_validate(raw_params["defect_gen"] | {"variants": 2})
    types = defect_gen.defect_types(real)
    views = defect_gen.training_views(tiny_params(raw_params), settings, real, types, 0)
    assert types == ["dent"] and all(set(np.unique(view.label)) == {0, 1} for view in views)


@pytest.mark.parametrize("detector", [unet, pagmfr, rtdetr])
def test_weights_are_chosen_by_pixels_that_count(raw_params: dict, tmp_path: Path, monkeypatch, detector):
    """Whatever a detector finds on red, it is the best one if it finds the defect, and it alone, elsewhere."""
    ignored = np.zeros((64, 64), bool)
    ignored[:16] = True
    regions = painted(tmp_path / "regions.png", (64, 64), ignored=ignored)
    defect = box_mask((20, 30, 40, 50), 64, 64)
    example = Example(np.full((64, 64, 3), 90, np.uint8), defect | box_mask((0, 0, 9, 9), 64, 64), False, "dent")
    found = [ScoredBox((0, 0, 60, 16), 0.9), ScoredBox((20, 30, 40, 50), 0.5)]
    monkeypatch.setattr(detector, "predict", lambda model, image: boxes_painted(found, image.shape))
    monkeypatch.setattr(detector, "boxes", lambda model, image: found, raising=False)
    scores = []

    def chosen(training, network, score, *_):
        scores.append(score())
        return {}, History()

    monkeypatch.setattr(detector, "best_weights", chosen)
    monkeypatch.setattr(detector, "save_file", lambda *_: None)
    name = detector.__name__.rpartition(".")[2]
    encoder = raw_params["detect"]["encoder"] if detector is pagmfr else "none"
    params = tiny_params(raw_params, detect={"encoder": encoder, "window": 64})
    settings = params.section(name, detector.Settings)
    good = Example(example.image, None, False, GOOD)
    for val in (replace(example, regions=regions), replace(example, truth=defect)):
        detector.fit([example, good], [val], params, settings, 0, tmp_path)
    assert scores[0] == 1 > scores[1]


def test_scores_there_are_the_lowest_and_its_pixels_are_in_no_ranking(params: Params):
    test = read_examples(samples("test"))
    with predictions(brightness, 0.0, test, Path()) as predicted:
        for one in predicted:
            assert (one.scores[IGNORED] == one.scores.min()).all()
        (ranking,) = rank_parts(test, predicted, [{"good", "blob", "ring"}])
    assert ranking.negatives + ranking.positives.size == len(test) * (~IGNORED).sum()


def test_the_score_of_a_picture_does_not_know_them(params: Params, monkeypatch: pytest.MonkeyPatch):
    test, plain = read_examples(samples("test")), brightness.predict
    monkeypatch.setattr(brightness, "predict", lambda model, image: plain(model, image) + np.float32(500) * IGNORED)
    with predictions(brightness, 0.0, test, Path()) as predicted:
        for one in predicted:
            assert one.image_score == image_score(one.scores) < 500 and one.highest == one.scores.max()


def test_metrics_are_those_of_the_pictures_without_these_pixels(params: Params, monkeypatch: pytest.MonkeyPatch):
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    trained = Path(f"models/detectors/unet/{CATEGORY}/none")
    cut = []
    for sample in samples("test"):
        image, row = read_image(Path(sample.image)), read_examples([sample])[0]
        mask = row.mask[12:]
        names = Path(f"cut/{sample.id}.png"), Path(f"cut/{sample.id}_mask.png")
        write_png(names[0], image[12:])
        write_png(names[1], mask)
        cut.append(
            replace(
                sample, image=str(names[0]), mask=str(names[1]) if mask.any() else None, regions=None, size=(40, 28)
            )
        )
    noisy = brightness.predict
    monkeypatch.setattr(
        brightness, "predict", lambda model, image: noisy(0.0, image)
    )  # noise is drawn for a whole picture
    for folder in ("whole", "less"):
        Path(folder).mkdir()
    verdict = judge("unet", trained, samples("test"), params.evaluate, Path("whole"))
    expected = judge("unet", trained, cut, params.evaluate, Path("less"))
    for name in ("pixel_ap", "pixel_auroc", "aupro", "pixel_f1_max", "box_ap50", "image_auroc"):
        assert verdict["mean"][name] == pytest.approx(expected["mean"][name], abs=1e-6), name
    assert verdict["mean"]["pixel_ap"] > 0.5
    resampled = [np.loadtxt(f"{folder}/resampled.csv", delimiter=",", skiprows=1) for folder in ("whole", "less")]
    np.testing.assert_allclose(*resampled, atol=1e-6)


def test_boxes_that_lie_wholly_there_are_no_false_alarms(params: Params, monkeypatch: pytest.MonkeyPatch):
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    truth = {one.image.tobytes(): truth_boxes(one.mask) for one in read_examples(samples("test"))}

    def boxes(model: float, image: np.ndarray) -> list[ScoredBox]:
        return [ScoredBox((2, 2, 38, 11), 0.9), *(ScoredBox(box, 0.5) for box in truth[image.tobytes()])]

    monkeypatch.setattr(brightness, "boxes", boxes, raising=False)
    verdict = judge("unet", Path(f"models/detectors/unet/{CATEGORY}/none"), samples("test"), params.evaluate, Path())
    assert verdict["mean"]["box_ap50"] == verdict["mean"]["box_ap"] == 1


def test_a_trained_seed_knows_what_never_counts_and_refuses_pictures_of_another_size(params: Params):
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    seed = Path(f"models/detectors/unet/{CATEGORY}/none/seed-0")
    assert (seed / IGNORED_PIXELS).exists()
    trained = load_trained(seed)
    np.testing.assert_array_equal(trained.ignored, IGNORED)
    image = bright_discs(3, 5)[2].image
    image[:6] = 255
    scores = trained.inspector().predict(image)
    np.testing.assert_array_equal(scores, silenced(brightness.predict(trained.model, blanked(image, IGNORED)), IGNORED))
    with pytest.raises(UserError, match="30 x 20 px, but the pixels that this model ignores are told for 40 x 40 px"):
        trained.inspector().predict(np.zeros((20, 30, 3), np.uint8))


def test_regions_of_single_pictures_say_nothing_of_new_ones(params: Params):
    file = Path(f"data/prepared/{CATEGORY}/samples.jsonl")
    records = read_records(file, Sample)
    write_records(file, [replace(records[0], regions=None), *records[1:]])
    train_arm(params, "unet", "none", CATEGORY, [], "key")
    assert not Path(f"models/detectors/unet/{CATEGORY}/none/seed-0/{IGNORED_PIXELS}").exists()


def test_an_onnx_file_carries_them_too(raw_params: dict, tmp_path: Path):
    folder = train("unet", raw_params, tmp_path)
    write_png(folder / IGNORED_PIXELS, np.eye(64, dtype=bool))
    export(folder)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    expected = load_trained(folder).inspector().predict(image)
    lone = tmp_path / "elsewhere" / FILE
    lone.parent.mkdir()
    lone.write_bytes((folder / FILE).read_bytes())
    for place in (folder, lone):
        scores = load_exchanged(place).predict(image)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert (scores[np.eye(64, dtype=bool)] == scores.min()).all()
