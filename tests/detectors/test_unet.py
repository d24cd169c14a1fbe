import json

import numpy as np
import pytest

from lib import detectors
from lib.core.params import Detect
from lib.core.records import GOOD
from lib.detectors import Example, unet
from lib.metrics.ranking import average_precision, f1_max
from lib.windows import Pools, batch_of, evenly_by_type, scaled_example

BRIEF = Detect(
    seeds=(0, 1),
    scale=1.0,
    window=32,
    width=8,
    encoder=None,
    steps=4,
    batch_size=4,
    learning_rate=0.01,
    synthetic_share=0.5,
    validate_every=2,
)


def blobs(count, seed, side=64, synthetic=False, good=2):
    """Bright discs on noise; the first `good` pictures have none."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    examples = []
    for n in range(count):
        y, x = rng.integers(6, side - 6, 2)
        mask = (rows - y) ** 2 + (columns - x) ** 2 < rng.integers(3, 6) ** 2
        mask &= n >= good
        image = np.clip(rng.normal(100, 25, (side, side, 3)) + 70 * mask[..., None], 0, 255).astype(np.uint8)
        examples.append(Example(image, mask, synthetic, "blob" if n >= good else GOOD))
    return examples


def fitted(tmp_path, train, val, seed=0, **changes):
    folder = tmp_path / f"fit-{len(list(tmp_path.glob('*')))}"
    folder.mkdir()
    unet.fit(train, val, BRIEF.model_copy(update=changes), seed, folder)
    return folder


@pytest.mark.slow
def test_it_learns_bright_blobs_on_noise_in_a_few_steps(tmp_path):
    folder = fitted(tmp_path, blobs(8, 0), blobs(4, 1), steps=60, validate_every=30, batch_size=8)
    model, test = unet.load(folder), blobs(6, 2)
    scores = np.concatenate([unet.predict(model, example.image).ravel() for example in test])
    assert average_precision(scores, np.concatenate([example.mask.ravel() for example in test])) > 0.9


def test_a_small_defect_counts_as_much_as_a_large_one_beside_it_and_an_empty_window_has_no_dice():
    masks = unet.torch.zeros(3, 32, 32)
    masks[0, :16], masks[1, 4:6, 4:6] = 1, 1
    surely = 40 * masks - 20
    assert unet.segmentation_loss(surely, masks) < 1e-3
    for missed in (0, 1):
        logits = surely.clone()
        logits[missed] = -20
        entropy = unet.F.binary_cross_entropy_with_logits(logits, masks)
        missing = unet.segmentation_loss(logits, masks) - entropy
        assert float(missing) == pytest.approx(0.5 * (1 - 1 / (float(masks[missed].sum()) + 1)), abs=1e-3)
    alarm = surely.clone()
    alarm[2] = 20
    assert unet.segmentation_loss(alarm, masks) == unet.F.binary_cross_entropy_with_logits(alarm, masks)


def test_equal_seeds_give_weights_equal_bit_for_bit_and_other_seeds_give_others(tmp_path):
    train, val = blobs(4, 0), blobs(3, 1)
    unet.torch.manual_seed(1)
    first = fitted(tmp_path, train, val)
    unet.torch.manual_seed(2)
    second, other = fitted(tmp_path, train, val), fitted(tmp_path, train, val, seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]
    assert (first / "history.json").read_bytes() == (second / "history.json").read_bytes()


def test_threshold_and_weights_are_those_of_the_best_validation(tmp_path):
    val = blobs(4, 1)
    folder = fitted(tmp_path, blobs(6, 0), val, steps=12, validate_every=3)
    model = unet.load(folder)
    scores = np.concatenate([unet.predict(model, example.image).ravel() for example in val])
    truth = np.concatenate([example.mask.ravel() for example in val])
    history = json.loads((folder / "history.json").read_text())
    assert len(history["loss"]) == 12
    assert [step for step, _ in history["val_pixel_ap"]] == [3, 6, 9, 12]
    assert average_precision(scores, truth) == pytest.approx(max(ap for _, ap in history["val_pixel_ap"]), abs=1e-5)
    stored = json.loads((folder / "threshold.json").read_text())
    assert stored["chosen_on"] == "val"
    assert stored["threshold"] == pytest.approx(f1_max(scores, truth)[1], rel=1e-4)


def test_a_validation_of_many_pictures_looks_at_a_few_of_each_type():
    good, blob, ring = blobs(30, 0, side=16, good=30), blobs(5, 1, side=16, good=0), blobs(2, 2, side=16, good=0)
    ring = [Example(e.image, e.mask, False, "ring") for e in ring]
    few = evenly_by_type([*good, *blob, *ring], 10)
    assert [sum(e.defect_type == name for e in few) for name in (GOOD, "blob", "ring")] == [4, 4, 2]


def test_without_defects_in_val_it_warns_and_keeps_the_last_weights_and_one_half(tmp_path):
    with pytest.warns(UserWarning, match="val part holds no defect"):
        folder = fitted(tmp_path, blobs(4, 0), blobs(2, 1, good=2))
    assert json.loads((folder / "threshold.json").read_text()) == {"threshold": 0.5, "chosen_on": "nothing"}
    assert json.loads((folder / "history.json").read_text())["val_pixel_ap"] == []


def test_without_a_defect_to_learn_from_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="no defect to learn from"):
        fitted(tmp_path, blobs(2, 0, good=2), [])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A file of weights for the way down, as random as any."""
    file = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    unet.torch.manual_seed(0)
    unet.save_file(unet.SqueezeNet().state_dict(), file)
    return file


def test_a_pretrained_way_down_is_taken_from_its_file_and_goes_on_slowly_from_there(tmp_path, encoder):
    file, name = encoder, "features.3.expand3x3.weight"
    folder = fitted(tmp_path, blobs(4, 0), blobs(3, 1), encoder=str(file), steps=2, learning_rate=1e-3)
    before, after = unet.load_file(file)[name], unet.load(folder).network.state_dict()[f"encoder.network.{name}"]
    moved = (after - before).abs().max()
    assert 0 < moved < 2 * 2 * unet.ENCODER_RATE * 1e-3, "Adam moves a weight by its rate in a step"


def test_a_model_with_a_pretrained_way_down_needs_the_file_no_more(tmp_path, encoder):
    file = encoder.with_name("weights.safetensors")
    file.write_bytes(encoder.read_bytes())
    folder = fitted(tmp_path, blobs(4, 0), blobs(3, 1), encoder=str(file))
    file.unlink()
    assert unet.predict(unet.load(folder), blobs(1, 2)[0].image).shape == (64, 64)
    with pytest.raises(ValueError, match=r"weights\.safetensors: not found"):
        fitted(tmp_path, blobs(4, 0), blobs(3, 1), encoder=str(file))


@pytest.mark.parametrize("pretrained", [False, True])
def test_every_weight_is_trained_once(pretrained):
    network = unet.UNet(8, unet.SqueezeNet() if pretrained else None)
    groups = network.groups(0.01)
    assert sorted(id(w) for group in groups for w in group["params"]) == sorted(map(id, network.parameters()))
    assert [group["lr"] for group in groups] == [0.01, 0.01 * unet.ENCODER_RATE][: 1 + pretrained]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_pictures_of_any_size_come_back_at_their_own_size(tmp_path, scale):
    model = unet.load(fitted(tmp_path, blobs(4, 0, side=21), blobs(3, 1, side=21), scale=scale))
    for height, width in ((1, 1), (21, 105), (70, 33)):
        scores = unet.predict(model, np.full((height, width, 3), 90, np.uint8))
        assert scores.shape == (height, width) and scores.dtype == np.float32
        assert 0 <= scores.min() <= scores.max() <= 1


def test_every_arm_sees_as_many_defect_windows_and_the_asked_share_of_synthetic_ones():
    def told_apart(example):
        return Example(example.image // 4 + 191 * example.synthetic, example.mask, example.synthetic, "blob")

    params = BRIEF.model_copy(update={"batch_size": 16})
    real, good = [told_apart(e) for e in blobs(4, 0, good=0)], blobs(2, 2)
    synthetic = [told_apart(e) for e in blobs(9, 1, good=0, synthetic=True)]
    for examples, expected in ((real + good, 0), (real + synthetic + good, 4), (synthetic + good, 8)):
        images, masks = batch_of(Pools.of(examples), params, np.random.default_rng(0))
        assert images.shape == (16, 32, 32, 3) and masks.shape == (16, 32, 32)
        assert masks[:8].any(axis=(1, 2)).all() and not masks[12:].any()
        assert (images[:8].mean(axis=(1, 2, 3)) > 140).sum() == expected


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_share_of_synthetic_windows_holds_on_average_in_batches_of_any_size(size, share):
    marked = [Example(np.full_like(e.image, 255), e.mask, True, "blob") for e in blobs(3, 1, good=0)]
    plain = [Example(np.zeros_like(e.image), e.mask, False, "blob") for e in blobs(3, 0, good=0)]
    pools = Pools.of([*plain, *marked])
    params = BRIEF.model_copy(update={"batch_size": size, "synthetic_share": share})
    batches = [batch_of(pools, params, np.random.default_rng(n))[0] for n in range(300)]
    assert np.mean([np.median(batch, axis=(1, 2, 3)) > 127 for batch in batches]) == pytest.approx(share, abs=0.07)


def test_a_type_with_few_synthetic_defects_gets_them_in_proportion_and_one_with_none_is_seen_on_real_ones():
    def marked(name, synthetic, shade, count):
        return [Example(np.full_like(e.image, shade), e.mask, synthetic, name) for e in blobs(count, 1, good=0)]

    examples = marked("crack", False, 50, 4) + marked("hole", False, 100, 4)
    pools = Pools.of([*examples, *marked("hole", True, 250, 1)])
    params = BRIEF.model_copy(update={"batch_size": 4, "synthetic_share": 0.5})
    batches = [batch_of(pools, params, np.random.default_rng(n))[0] for n in range(400)]
    shades = np.median(np.concatenate(batches), axis=(1, 2, 3))
    assert np.mean(shades < 75) == pytest.approx(0.5, abs=0.05), "types take turns"
    assert np.mean(shades > 175) == pytest.approx(0.5 * 0.5 / 4, abs=0.02), "one of four real ones' number"


def test_a_mask_keeps_lines_that_are_thinner_than_a_pixel_after_scaling():
    mask = np.zeros((64, 64), bool)
    mask[:, 20] = True
    scaled = scaled_example(Example(np.zeros((64, 64, 3), np.uint8), mask, False, "scratch"), 0.5)
    assert scaled.mask.shape == (32, 32) and scaled.mask.any(axis=1).all()


def test_a_detector_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"'u-net' is unknown, known are .*unet"):
        detectors.find("u-net")
