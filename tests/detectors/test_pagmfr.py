"""PAGMFR: it learns to undo anomalies, and what nobody knows the clean form of teaches no rebuilding."""

import hashlib
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from lib.core.errors import UserError
from lib.core.params import Params
from lib.core.records import GOOD
from lib.detectors import pagmfr
from lib.vision.backbones import DEFAULT, image_tensor
from lib.vision.examples import Example
from lib.vision.purification import focal_loss
from lib.vision.reconstruction import ssim
from lib.vision.windows import Pools, Windows
from tests.blobs import BUDGET

DETECT = BUDGET.model_copy(update={"encoder": DEFAULT, "window": 64, "validate_every": 1, "batch_size": 4})


def cloth(seed: int, side: int = 64) -> np.ndarray:
    """A regular weave with a little noise: (side, side, 3) uint8."""
    rows, columns = np.mgrid[:side, :side]
    weave = 120 + 40 * np.sin(rows / 2) * np.sin(columns / 3 + seed)
    noisy = weave[..., None] + np.random.default_rng(seed).normal(0, 4, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def good(count: int, first: int = 0, side: int = 64) -> list[Example]:
    return [Example(cloth(seed, side), None, False, GOOD) for seed in range(first, first + count)]


def torn(count: int, first: int, synthetic: bool, side: int = 64) -> list[Example]:
    """Cloth with a bright square; a synthetic one comes with its clean twin."""
    examples = []
    for seed in range(first, first + count):
        y, x = np.random.default_rng(seed).integers(8, side - 24, 2)
        mask = np.zeros((side, side), bool)
        mask[y : y + 14, x : x + 14] = True
        clean = cloth(seed, side)
        picture = np.where(mask[..., None], np.uint8(235), clean)
        examples.append(Example(picture, mask, synthetic, "torn", clean if synthetic else None))
    return examples


@pytest.fixture(scope="module")
def params(raw_params) -> Params:
    return Params.model_validate(raw_params | {"detect": DETECT.model_dump()})


@pytest.fixture(scope="module")
def small(raw_params) -> pagmfr.Settings:
    return pagmfr.Settings.model_validate(raw_params["pagmfr"] | {"width": 8, "steps": 2})


def untrained(params, small) -> pagmfr.Model:
    return pagmfr._untrained(params, small, 0)


def test_equal_input_gives_equal_weights_and_what_is_loaded_predicts_alike(params, small, tmp_path):
    train = [*good(3), *torn(2, 10, False), *torn(2, 20, True)]
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        history = pagmfr.fit(train, [*good(1, 30), *torn(1, 40, False)], params, small, 0, folder)
    assert [step for step, _ in history.curves["loss"]] == [1, 2]
    assert [step for step, _ in history.curves["pixel AP on val"]] == [1, 2]
    digests = {hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() for folder in folders}
    assert len(digests) == 1
    model = pagmfr.load(folders[0])
    image = cloth(50, 100)
    scores = pagmfr.predict(model, image)
    assert scores.shape == (100, 100) and scores.dtype == np.float32
    assert scores.min() >= 0 and scores.max() <= 1
    torch.manual_seed(123)
    np.testing.assert_array_equal(scores, pagmfr.predict(pagmfr.load(folders[1]), image), "no random call")


def test_the_backbone_stays_as_it_was(params, small, tmp_path):
    before = {name: value.clone() for name, value in untrained(params, small).teacher.state_dict().items()}
    pagmfr.fit([*good(3), *torn(2, 10, False)], good(1, 30), params, small, 0, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert before
    for name, value in before.items():
        assert torch.equal(weights[f"teacher.{name}"], value)


def test_it_learns_what_is_torn_and_what_cloth_would_be_there(raw_params, small, tmp_path):
    budget = DETECT.model_copy(update={"steps": 2, "validate_every": 60})
    params, settings = (
        Params.model_validate(raw_params | {"detect": budget.model_dump()}),
        small.model_copy(update={"steps": 60}),
    )
    history = pagmfr.fit([*good(4), *torn(6, 20, True)], torn(2, 40, False), params, settings, 0, tmp_path)
    losses = [loss for _, loss in history.curves["loss"]]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    model, (unseen,) = pagmfr.load(tmp_path), torn(1, 60, True)
    scores = pagmfr.predict(model, unseen.image)
    assert scores[unseen.mask].mean() > 4 * scores[~unseen.mask].mean()
    with torch.inference_mode():
        image = image_tensor(unseen.image[None])
        rebuilt = model.network(image, model.teacher(image)[1:])[1].picture[0].permute(1, 2, 0).numpy()
    wanted, given = (one[unseen.mask].mean() / 255 for one in (unseen.clean, unseen.image))
    assert abs(rebuilt[unseen.mask].mean() - wanted) < abs(rebuilt[unseen.mask].mean() - given)


def batch(examples, count: int = 4) -> Windows:
    images, labels = np.stack([e.image for e in examples]), np.stack([e.mask for e in examples]).astype(np.uint8)
    clean = np.stack([e.image if e.clean is None else e.clean for e in examples])
    return Windows(images, labels, clean, np.array([e.clean is not None for e in examples]))


def test_what_is_rebuilt_is_the_clean_picture_and_not_the_disturbed_one(params, small):
    settings = small.model_copy(update={"detection_weight": 1e-9})
    model = untrained(params, settings)
    right = batch(torn(2, 5, True))
    swapped = right._replace(clean=right.images)
    assert pagmfr.total_loss(model, right).item() != pytest.approx(pagmfr.total_loss(model, swapped).item(), rel=1e-4)
    # Whatever `clean` says of a window of which it is not known, it does not count.
    unknown = right._replace(known=np.array([True, False]))
    first = right._replace(clean=np.stack([right.clean[0], 255 - right.clean[1]]), known=unknown.known)
    assert pagmfr.total_loss(model, unknown).item() == pytest.approx(pagmfr.total_loss(model, first).item(), rel=1e-6)


def test_the_loss_is_that_of_its_formula_and_features_and_picture_are_compared_with_the_clean_ones(params, small):
    given = batch(torn(3, 5, True))._replace(known=np.array([True, False, True]))
    model = untrained(params, small.model_copy(update={"gamma": 1.5}))
    images, clean = (image_tensor(one) for one in (given.images, given.clean))
    logits, purified = model.network(images, model.teacher(images)[1:])
    pairs = zip(purified.features, model.teacher(clean)[1:], strict=True)
    known = torch.tensor([0, 2])
    expected = small.detection_weight * focal_loss(logits, torch.from_numpy(given.masks).float(), 1.5)
    distances = [(1 - torch.cosine_similarity(one[known], other[known])).mean() for one, other in pairs]
    expected = expected + small.feature_weight * sum(distances)
    picture, target = purified.picture[known], clean[known]
    expected = expected + small.picture_weight * (picture - target).square().mean()
    expected = expected + small.ssim_weight * (1 - ssim(picture, target).mean())
    torch.testing.assert_close(pagmfr.total_loss(model, given), expected, rtol=1e-5, atol=1e-5)


def test_each_term_counts_by_its_weight_and_a_batch_of_unknown_ones_is_detection_alone(params, small):
    given = batch(torn(2, 5, True))
    names = ("detection_weight", "feature_weight", "picture_weight", "ssim_weight")
    nothing = dict.fromkeys(names[1:], 0.0)

    def loss(**weights: float) -> float:
        return pagmfr.total_loss(untrained(params, small.model_copy(update=nothing | weights)), given).item()

    alone = loss(detection_weight=1.0)
    terms = [loss(detection_weight=1.0, **{name: 1.0}) - alone for name in names[1:]]
    assert all(term > 0 for term in terms)
    everything = loss(detection_weight=2.0, feature_weight=1.0, picture_weight=3.0, ssim_weight=1.0)
    assert everything == pytest.approx(2 * alone + terms[0] + 3 * terms[1] + terms[2], rel=1e-4)
    unknown = given._replace(known=np.zeros(2, bool))
    only = pagmfr.total_loss(untrained(params, small), unknown).item()
    assert only == pytest.approx(small.detection_weight * alone, rel=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_the_share_of_pseudo_anomalies_holds_on_average(params, small, share):
    settings = small.model_copy(update={"pseudo_share": share})
    dark = [Example(np.zeros_like(e.image), None, False, GOOD) for e in good(2)]
    bright = [Example(np.full_like(e.image, 250), e.mask, False, e.defect_type) for e in torn(2, 5, False)]
    foreign = pagmfr.foreign_of(dark, settings, DETECT)
    pools = Pools.of([*bright, *(Example(np.full_like(e.image, 250), None, False, GOOD) for e in good(2))])
    batches = [pagmfr.draw(foreign, pools, settings, DETECT, np.random.default_rng(n)) for n in range(150)]
    assert all(len(one.images) == 4 for one in batches)
    darkness = np.mean([np.median(one.images, axis=(1, 2, 3)) < 128 for one in batches])
    assert darkness == pytest.approx(share, abs=0.05)


def test_without_defects_it_learns_on_pseudo_anomalies_and_they_choose_the_weights(params, small, tmp_path):
    history = pagmfr.fit(good(3), good(2, 30), params, small, 0, tmp_path)
    assert len(history.curves["pixel AP on val"]) == 2
    with pytest.warns(UserWarning, match="val part holds no picture"):
        history = pagmfr.fit(good(3), [], params, small, 0, tmp_path)
    assert history.curves["pixel AP on val"] == []
    with pytest.raises(UserError, match="no good picture"):
        pagmfr.fit(torn(2, 5, False), [], params, small, 0, tmp_path)


def test_as_published_no_defect_of_the_arm_is_looked_at(params, small, tmp_path):
    settings = small.model_copy(update={"pseudo_share": 1.0})
    digests = set()
    for name, defects in (("without", []), ("with", torn(3, 10, False))):
        (tmp_path / name).mkdir()
        pagmfr.fit([*good(3), *defects], good(1, 30), params, settings, 0, tmp_path / name)
        digests.add((tmp_path / name / "model.safetensors").read_bytes())
    assert len(digests) == 1


def test_settings_are_checked_and_kept(raw_params, small, params, tmp_path):
    for key, value in (("width", 7), ("pseudo_share", 0.0), ("route", "shape"), ("gamma", -1.0), ("branches", "none")):
        with pytest.raises(ValidationError):
            pagmfr.Settings.model_validate(raw_params["pagmfr"] | {key: value})
    pagmfr.fit(good(2), good(1, 9), params, small, 0, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["settings"]["width"] == 8 and config["window"] == 64 and config["scale"] == 1.0
