"""The U-Net: what it learns, from which weights, how fast, and that equal seeds end in equal bits."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import UserError
from lib.core.params import Params
from lib.core.runtime import on_cores
from lib.detectors import unet
from lib.metrics.ranking import average_precision
from lib.vision.backbones import DEFAULT, load_backbone
from lib.vision.examples import Example
from tests.blobs import BUDGET, blobs

RATE = 0.1
NARROW = unet.Settings(width=8, encoder_rate=RATE, classes="defect")


@pytest.fixture(scope="module")
def params(raw_params) -> Params:
    return Params.model_validate(raw_params | {"detect": BUDGET.model_dump()})


@pytest.fixture
def fitted(tmp_path, params):
    """fitted(train, val, seed=0, **detect): the folder of a fit with that much of the budget changed."""

    def fit(train, val, seed=0, **changes):
        folder = tmp_path / f"fit-{len(list(tmp_path.glob('*')))}"
        folder.mkdir()
        changed = params.model_copy(update={"detect": BUDGET.model_copy(update=changes)})
        fit.history = unet.fit(train, val, changed, NARROW, seed, folder)
        return folder

    return fit


def pixels(model, examples) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([unet.predict(model, example.image).ravel() for example in examples])
    return scores, np.concatenate([example.mask.ravel() for example in examples])


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "steps"), [("none", 60), (DEFAULT, 40)])
def test_it_learns_bright_blobs_on_noise_in_a_few_steps(fitted, encoder, steps):
    folder = fitted(blobs(8, 0), blobs(4, 1), steps=steps, validate_every=20, batch_size=8, encoder=encoder)
    assert average_precision(*pixels(unet.load(folder), blobs(6, 2))) > 0.9


def test_a_small_defect_counts_as_much_as_a_large_one_beside_it_and_an_empty_window_has_no_dice():
    masks = torch.zeros(3, 32, 32)
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


@pytest.mark.parametrize("encoder", ["none", DEFAULT])
def test_equal_seeds_give_weights_equal_bit_for_bit_and_other_seeds_give_others(fitted, encoder):
    train, val = blobs(4, 0), blobs(3, 1)
    torch.manual_seed(1)
    first = fitted(train, val, encoder=encoder)
    history = fitted.history
    torch.manual_seed(2)
    second = fitted(train, val, encoder=encoder)
    assert fitted.history == history
    other = fitted(train, val, seed=1, encoder=encoder)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("encoder", ["none", DEFAULT])
def test_seeds_that_train_side_by_side_end_as_they_do_one_after_the_other(tmp_path, params, encoder):
    train, val, before = blobs(4, 0), blobs(3, 1), torch.get_num_threads()
    brief = params.model_copy(update={"detect": BUDGET.model_copy(update={"encoder": encoder, "steps": 2})})

    def fit(threads, seed):
        out = tmp_path / f"{threads}-{seed}"
        out.mkdir()
        unet.fit(train, val, brief, NARROW, seed, out)
        unet.load(out)
        return (out / "model.safetensors").read_bytes()

    try:
        weights = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            weights.append(on_cores(torch.device("cpu"), fit, [threads] * 2, [0, 1]))
    finally:
        torch.set_num_threads(before)
    assert weights[0] == weights[1]


def test_the_weights_are_those_of_the_best_validation(fitted):
    val = blobs(4, 1)
    folder = fitted(blobs(6, 0), val, steps=12, validate_every=3)
    curves = fitted.history.curves
    assert [step for step, _ in curves["loss"]] == list(range(1, 13))
    validations = curves["pixel AP on val"]
    assert [step for step, _ in validations] == [3, 6, 9, 12]
    assert average_precision(*pixels(unet.load(folder), val)) == pytest.approx(
        max(ap for _, ap in validations), abs=1e-5
    )


def test_without_defects_in_val_it_warns_and_keeps_the_last_weights(fitted):
    with pytest.warns(UserWarning, match="val part holds no defect"):
        first = fitted(blobs(4, 0), blobs(2, 1, good=2))
    assert fitted.history.curves["pixel AP on val"] == []
    last = fitted(blobs(4, 0), blobs(3, 1), validate_every=100)
    assert (first / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()


def test_without_a_defect_to_learn_from_it_says_so(fitted):
    with pytest.raises(UserError, match="no defect to learn from"):
        fitted(blobs(2, 0, good=2), [])


@pytest.mark.parametrize("steps", range(1, 8))
def test_it_trains_for_any_number_of_steps(fitted, steps):
    fitted(blobs(4, 0), blobs(3, 1), steps=steps, validate_every=5)
    assert [step for step, _ in fitted.history.curves["loss"]] == list(range(1, steps + 1))


def test_the_learning_rate_rises_for_a_fifth_of_the_steps_and_falls_to_nothing(monkeypatch, params):
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    detect = BUDGET.model_copy(update={"steps": 20, "batch_size": 2})
    network = unet.UNet(4, load_backbone(DEFAULT))
    list(unet._training(unet.Model(network, 32, 1.0), unet.Pools.of(blobs(4, 0)), detect, RATE, 0))
    rates = np.array(seen)
    assert rates[:, 0].argmax() == 3 and rates[3, 0] == pytest.approx(0.01) and rates[-1, 0] < 1e-5
    np.testing.assert_allclose(rates[:, 1], RATE * rates[:, 0])


def test_a_backbone_begins_with_what_it_knows_and_goes_on_slowly_from_there(fitted):
    folder = fitted(blobs(4, 0), blobs(3, 1), encoder=DEFAULT, steps=2, learning_rate=1e-3)
    before, after = load_backbone(DEFAULT).state_dict(), unet.load(folder).network.encoder.backbone.state_dict()
    for name, weight in before.items():
        moved = (after[name] - weight).abs().max()
        if "running" in name or "num_batches" in name:
            assert moved == 0, "statistics stay those of the photographs"
        else:
            assert moved < 3 * RATE * 1e-3, "Adam moves a weight by its rate in a step"
    assert any((after[name] != weight).any() for name, weight in before.items())
    assert all(weight.requires_grad for weight in unet.load(folder).network.parameters()), "no two seeds have its maps"


def test_a_frozen_backbone_stays_as_photographs_taught_it_and_gets_no_gradient(tmp_path, params):
    detect = BUDGET.model_copy(update={"encoder": DEFAULT, "steps": 3})
    frozen = unet.Settings(width=8, encoder_rate=0, classes="defect")
    unet.fit(blobs(4, 0), blobs(3, 1), params.model_copy(update={"detect": detect}), frozen, 0, tmp_path)
    loaded = unet.load(tmp_path).network.encoder.backbone
    assert not any(weight.requires_grad for weight in loaded.parameters()), "so that its maps are remembered"
    after = loaded.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in load_backbone(DEFAULT).state_dict().items())
    network = unet._untrained(params.model_copy(update={"detect": detect}), frozen, 0)
    network(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(weight.grad is None for weight in network.encoder.backbone.parameters())
    assert [group["lr"] for group in network.groups(0.01, 0)] == [0.01]


def test_networks_are_drawn_one_at_a_time(monkeypatch, fitted):
    """Building a network draws from torch's one random state, so that no other may be built meanwhile."""
    init = unet.UNet.__init__

    def watched(self, *args):
        assert unet.DRAWING.locked()
        init(self, *args)

    def loaded(name, allow_download):
        assert unet.DRAWING.locked()
        return load_backbone(name, allow_download)

    monkeypatch.setattr(unet.UNet, "__init__", watched)
    monkeypatch.setattr(unet, "load_backbone", loaded)
    unet.load(fitted(blobs(4, 0), blobs(3, 1), encoder=DEFAULT, steps=1))


@pytest.mark.parametrize("encoder", ["none", DEFAULT])
def test_every_weight_is_trained_once(encoder):
    network = unet.UNet(8, None if encoder == "none" else load_backbone(encoder))
    groups = network.groups(0.01, RATE)
    assert sorted(id(w) for group in groups for w in group["params"]) == sorted(map(id, network.parameters()))
    assert [group["lr"] for group in groups] == [0.01, 0.01 * RATE][: 1 + (encoder == DEFAULT)]


def test_a_backbone_of_other_strides_and_fewer_maps_fits_too(tiny_backbone, fitted):
    folder = fitted(blobs(4, 0), blobs(3, 1), encoder=str(tiny_backbone))
    model = unet.load(folder)
    assert model.network.encoder.backbone.strides == (4, 8)
    assert unet.predict(model, blobs(1, 2)[0].image).shape == (64, 64)


def test_a_trained_model_needs_its_backbone_no_more(tiny_backbone, fitted):
    folder = fitted(blobs(4, 0), blobs(3, 1), encoder=str(tiny_backbone))
    expected = unet.predict(unet.load(folder), blobs(1, 2)[0].image)
    tiny_backbone.rename(tiny_backbone.with_name("elsewhere"))
    np.testing.assert_array_equal(unet.predict(unet.load(folder), blobs(1, 2)[0].image), expected)
    with pytest.raises(UserError, match="is no backbone and no folder"):
        fitted(blobs(4, 0), blobs(3, 1), encoder=str(tiny_backbone))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_pictures_of_any_size_come_back_at_their_own_size(fitted, scale):
    model = unet.load(fitted(blobs(4, 0, side=21), blobs(3, 1, side=21), scale=scale))
    for height, width in ((1, 1), (21, 105), (70, 33)):
        scores = unet.predict(model, np.full((height, width, 3), 90, np.uint8))
        assert scores.shape == (height, width) and scores.dtype == np.float32
        assert 0 <= scores.min() <= scores.max() <= 1


def test_what_it_wrote_is_weights_and_one_page_of_json(fitted):
    folder = fitted(blobs(4, 0), blobs(3, 1))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {
        "width": 8,
        "window": 32,
        "scale": 1.0,
        "backbone": None,
        "frozen": False,
        "types": [],
    }
    assert set(load_file(folder / "model.safetensors")) == set(unet.UNet(8).state_dict())


def test_an_example_without_a_mask_is_a_good_picture(fitted):
    train = [Example(e.image, e.mask if e.mask.any() else None, False, e.defect_type) for e in blobs(4, 0)]
    assert (fitted(train, blobs(3, 1)) / "model.safetensors").read_bytes() == (
        fitted(blobs(4, 0), blobs(3, 1)) / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_it_learns_to_tell_types_apart_and_remembers_their_names(tmp_path, params):
    def of_both(seed: int) -> list[Example]:
        discs = blobs(8, seed)
        return [
            Example(255 - one.image, one.mask, False, "dark") if number % 2 and one.has_defect else one
            for number, one in enumerate(discs)
        ]

    budget = BUDGET.model_copy(update={"steps": 80, "validate_every": 40, "batch_size": 8, "encoder": DEFAULT})
    settings = NARROW.model_copy(update={"classes": "types"})
    unet.fit(of_both(0), of_both(1), params.model_copy(update={"detect": budget}), settings, 0, tmp_path)
    model = unet.load(tmp_path)
    assert model.types == ("blob", "dark")
    right = []
    for example in of_both(2):
        scores, labels = unet.predict_typed(model, example.image)
        np.testing.assert_array_equal(scores, unet.predict(model, example.image))
        assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {1, 2}
        if example.has_defect:
            right += (labels == example.labels(model.types))[example.mask].tolist()
    assert np.mean(right) > 0.9


def test_the_loss_of_types_is_their_cross_entropy_on_defects_with_equal_weight_for_every_window():
    logits, labels = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 8, 8).long()
    labels[0, :4], labels[1, 0, :2] = 1, 2
    shares = logits.log_softmax(dim=1)
    expected = -(shares[0, 0, :4].mean() + shares[1, 1, 0, :2].mean()) / 2
    assert unet.type_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert unet.type_loss(logits, torch.zeros_like(labels)) == 0, "no defect, no type"


def test_scores_are_told_apart_in_mixed_precision():
    """Thresholds lie between scores: bfloat16 has 256 in each octave."""
    torch.manual_seed(0)
    network, images = unet.UNet(8).eval(), torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        exact = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network(images)
    assert mixed.dtype == torch.float32 and len(mixed.unique()) > 0.9 * len(exact.unique())
