"""The losses that teach a word: what each looks at, how they add up, and what they move."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import UserError
from lib.core.params import Finetune
from lib.diffusion import word_objective
from lib.diffusion.attention import show_decoder_attention
from lib.diffusion.components import to_tensor, tokenize
from lib.diffusion.inpainting import blanked, encode_views, latent_masks
from lib.diffusion.training import min_snr_weight
from lib.diffusion.word_objective import (
    Losses,
    Prompts,
    Views,
    WordObjective,
    object_weights,
    random_boxes,
    total_loss,
    weighted_error,
)
from lib.diffusion.words import add_adapters, add_words, word_positions
from tests.tiny import random_pictures, tiny_components

PUBLISHED = Losses(
    defect_weight=0.5,
    object_weight=0.2,
    attention_weight=0.05,
    background=0.3,
    attention_pass="object",
    random_boxes=30,
)


def draws(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


def a_mask() -> torch.Tensor:
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 2:4, 1:6], mask[1, 0, 7, :] = 1, 1
    return mask


# The formulas


def test_the_defect_loss_looks_at_the_defect_alone():
    mask, residuals = a_mask(), torch.randn(2, 4, 8, 8, requires_grad=True)
    loss = weighted_error(residuals, mask)
    elsewhere = residuals + 9 * (1 - mask)
    assert torch.equal(loss, weighted_error(elsewhere, mask))
    loss.sum().backward()
    outside = (mask == 0).expand(-1, 4, -1, -1)
    assert residuals.grad is not None
    assert (residuals.grad[outside] == 0).all() and (residuals.grad[~outside] != 0).all()


def test_the_defect_loss_is_zero_where_the_prediction_is_right_inside():
    mask = a_mask()
    assert (weighted_error(torch.randn(2, 4, 8, 8) * (1 - mask), mask) == 0).all()


def test_object_weights_are_one_inside_and_alpha_outside():
    mask = a_mask()
    weights = object_weights(mask, 0.3)
    assert (weights[mask == 1] == 1).all() and torch.allclose(weights[mask == 0], torch.tensor(0.3))


def test_alpha_one_is_the_plain_loss_and_alpha_zero_the_defect_loss():
    mask, residuals = a_mask(), torch.randn(2, 4, 8, 8)
    plain = weighted_error(residuals, object_weights(mask, 1))
    assert torch.allclose(plain, residuals.square().mean(dim=(1, 2, 3)))
    assert torch.equal(weighted_error(residuals, object_weights(mask, 0)), weighted_error(residuals, mask))


def test_residuals_are_weighted_before_they_are_squared():
    mask = torch.zeros(1, 1, 1, 2)
    mask[..., 0] = 1
    error = weighted_error(torch.tensor([[[[0.0, 2.0]]]]), object_weights(mask, 0.3))
    assert error.item() == pytest.approx(0.09 * 4 / 1.09)


def test_the_total_is_the_published_sum_and_a_weight_of_zero_takes_its_term_away():
    a, b, c = torch.tensor([1.0]), torch.tensor([10.0]), torch.tensor([100.0])
    assert total_loss(a, b, c, PUBLISHED).item() == pytest.approx(0.5 + 2 + 5)
    for name, rest in (("defect_weight", 7.0), ("object_weight", 5.5), ("attention_weight", 2.5)):
        assert total_loss(a, b, c, PUBLISHED.model_copy(update={name: 0})).item() == pytest.approx(rest)


# Random boxes


@settings(max_examples=40)
@given(st.integers(16, 200), st.integers(0, 2**31))
def test_one_random_box_lies_inside_with_sides_in_range(side: int, seed: int):
    rows, columns = np.nonzero(random_boxes(1, side, draws(1, seed)[0]))
    for extent in (rows, columns):
        assert max(round(0.03 * side), 1) <= np.ptp(extent) + 1 <= round(0.25 * side)
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_random_boxes_are_a_union_by_their_seed_alone():
    first, again, other = (random_boxes(30, 96, draws(1, seed)[0]) for seed in (1, 1, 2))
    assert first.dtype == bool and first.shape == (96, 96)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert 0.2 < np.mean([random_boxes(30, 96, draws(1, seed)[0]).mean() for seed in range(50)]) < 0.6


def test_random_boxes_reach_every_place():
    ever = np.any([random_boxes(30, 32, draws(1, seed)[0]) for seed in range(50)], axis=0)
    assert ever.all()


# Where the word stands


def test_a_word_is_located_by_its_id_wherever_it_stands(tmp_path: Path):
    parts = tiny_components(tmp_path)
    ids = add_words(parts, {"<dent>": "dent", "<crack>": "crack"})
    tokens = tokenize(parts, ["a <dent> nut", "<crack>", "a nut with <dent>"])
    words = torch.tensor([ids["<dent>"], ids["<crack>"], ids["<dent>"]])
    positions = word_positions(tokens, words)
    assert positions.tolist() == [2, 1, 9], "after the start token, letters count one each"
    assert (tokens.gather(1, positions[:, None])[:, 0] == words).all()


@pytest.mark.parametrize("prompt", ["a nut", "a" * 90 + " <dent>"])
def test_a_word_that_is_not_there_is_an_error(tmp_path: Path, prompt: str):
    parts = tiny_components(tmp_path)
    ids = add_words(parts, {"<dent>": "dent"})
    with pytest.raises(UserError, match="prompt was cut before its word"):
        word_positions(tokenize(parts, [prompt]), torch.tensor([ids["<dent>"]]))


# The objective


def objective(tmp_path: Path, shared: dict[str, Any], **changes: Any) -> WordObjective:
    parts = tiny_components(tmp_path, "tiny")
    parts.scheduler.register_to_config(prediction_type=shared.pop("prediction", "epsilon"))
    ids = add_words(parts, {"<dent>": "dent", "<crack>": "crack"})
    pictures = random_pictures(4)
    masks = np.zeros((4, 32, 32), dtype=bool)
    masks[:, 8:20, 10:14] = True
    latents, masked, small = encode_views(parts.vae, [(pictures, masks, torch.arange(4))])
    torch.manual_seed(0)
    add_adapters(parts, 2, 4, ids.values())
    show_decoder_attention(parts.unet)
    prompts = Prompts(
        tokenize(parts, ["A photo of <dent>", "A photo of <crack>"]),
        tokenize(parts, ["A nut with <dent>", "A nut with <crack>"]),
        tokenize(parts, [""])[0],
        torch.tensor(list(ids.values())),
    )
    views = Views(pictures, latents, masked, small, torch.tensor([0, 1, 0, 1]))
    return WordObjective(parts, prompts, views, PUBLISHED.model_copy(update=changes), finetune_settings(**shared))


def finetune_settings(**changes: Any) -> Finetune:
    values = {
        "steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.5,
        "gradient_clip": 1.0,
        "checkpoint_every": 2,
        "min_snr_gamma": None,
        "caption_dropout": 0.0,
    }
    return Finetune(**{**values, **changes})


class Calls:
    """Records what the U-Net and the text encoder are asked."""

    def __init__(self, model: WordObjective, patch: pytest.MonkeyPatch) -> None:
        self.unet: list[torch.Tensor] = []
        self.ids: list[torch.Tensor] = []
        unet, text = model.unet.forward, model.text_encoder.forward
        patch.setattr(model.unet, "forward", lambda noisy, *rest: self.unet.append(noisy) or unet(noisy, *rest))
        patch.setattr(model.text_encoder, "forward", lambda ids, *rest: self.ids.append(ids) or text(ids, *rest))


def test_both_passes_are_one_call_in_the_order_of_diffusers_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = objective(tmp_path, {})
    calls = Calls(model, monkeypatch)
    indices = torch.tensor([2, 1])
    model(indices, draws(2))
    [noisy] = calls.unet
    assert noisy.shape == (4, 9, 16, 16)
    views = model.views
    assert torch.equal(noisy[:2, 4:5], views.masks[indices]), "the hole of the defect pass is the defect"
    assert torch.equal(noisy[:2, 5:], views.masked[indices])
    assert noisy[2:, 4].unique().tolist() == [0, 1] and not torch.equal(noisy[2:, 4:5], views.masks[indices])
    assert not torch.equal(noisy[:2, :4], noisy[2:, :4]), "each pass has its own noise"


@pytest.mark.parametrize("count", [1, 30])
def test_the_object_pass_sees_its_picture_through_as_many_random_boxes_as_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
):
    model = objective(tmp_path, {}, random_boxes=count)
    calls = Calls(model, monkeypatch)
    model(torch.tensor([2, 1]), draws(2))
    boxes = torch.from_numpy(np.stack([random_boxes(count, 32, draw) for draw in draws(2)]))[:, None].float()
    masked = model.encode_pixels(blanked(to_tensor(model.views.pictures[[2, 1]]), boxes))
    assert torch.equal(calls.unet[0][2:, 4:5], latent_masks(boxes, masked))
    assert torch.allclose(calls.unet[0][2:, 5:], masked, atol=1e-5)


def test_a_prompt_names_the_type_of_its_own_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = objective(tmp_path, {})
    calls = Calls(model, monkeypatch)
    model(torch.tensor([3, 0, 2, 1]), draws(4))
    prompts, types = model.prompts, [1, 0, 0, 1]
    assert torch.equal(calls.ids[0], torch.cat([prompts.defect[types], prompts.object[types]]))


def test_a_dropped_caption_is_empty_in_both_passes_and_asks_for_no_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = objective(tmp_path, {"caption_dropout": 1.0}, defect_weight=0, object_weight=0)
    calls = Calls(model, monkeypatch)
    assert model(torch.tensor([0, 1]), draws(2)).tolist() == [0, 0]
    assert (calls.ids[0] == model.prompts.empty).all()


@pytest.mark.parametrize("term", ["defect_weight", "object_weight", "attention_weight"])
def test_every_loss_teaches_unet_text_encoder_and_word(tmp_path: Path, term: str):
    others = {"defect_weight", "object_weight", "attention_weight"} - {term}
    model = objective(tmp_path, {}, **dict.fromkeys(others, 0.0))
    draw = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():  # adapters begin as zero, which hides half of their gradients
        if "lora_B" in name:
            value.data = torch.randn(value.shape, generator=draw) / 10
    model(torch.tensor([0, 1]), draws(2)).sum().backward()
    for part in ("up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q", "attn2.to_k", "q_proj", "token_adapter"):
        gradients = [value.grad for name, value in model.named_parameters() if part in name and value.requires_grad]
        assert gradients and any(grad is not None and grad.abs().max() > 0 for grad in gradients), part


def test_only_adapters_and_words_are_trained(tmp_path: Path):
    model = objective(tmp_path, {})
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    assert all("lora" in name or "token_adapter" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}


@pytest.mark.parametrize("which", ["object", "defect"])
def test_attention_is_looked_at_in_the_chosen_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str):
    model = objective(tmp_path, {}, attention_pass=which, defect_weight=0, object_weight=0, attention_weight=1)
    given: dict[str, Any] = {}

    def spying(maps: list[torch.Tensor], positions: torch.Tensor, size: torch.Size) -> torch.Tensor:
        given.update(positions=positions, maps=maps)
        return model.views.masks[[0, 1]]

    monkeypatch.setattr(word_objective, "word_map", spying)
    loss = model(torch.tensor([0, 1]), draws(2))
    ids = getattr(model.prompts, which)
    assert torch.equal(given["positions"], word_positions(ids, model.prompts.words))
    assert all(len(layer) == 2 for layer in given["maps"])
    assert loss.tolist() == [0, 0], "the loss is zero where the map is the mask"


@pytest.mark.parametrize("gamma", [None, 0.5])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_errors_are_weighted_by_the_defects_mask_and_by_min_snr_in_both_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prediction: str, gamma: float | None
):
    """Of a prediction that is off by known residuals."""
    model = objective(tmp_path, {"prediction": prediction, "min_snr_gamma": gamma}, attention_weight=0)
    told: list[torch.Tensor] = []
    rows, residuals = torch.tensor([0, 1]), torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    latents = model.views.latents[rows].repeat(2, 1, 1, 1)

    def almost(noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> Any:
        told.append(timesteps)
        level = model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = (noisy[:, :4] - level.sqrt() * latents) / (1 - level).sqrt()
        answer = noise if prediction == "epsilon" else level.sqrt() * noise - (1 - level).sqrt() * latents
        return type("Output", (), {"sample": answer + residuals})

    masks = model.views.masks[rows]
    monkeypatch.setattr(model.unet, "forward", almost)
    monkeypatch.setattr(word_objective, "word_map", lambda *rest: masks)
    loss = model(rows, draws(2))
    errors = weighted_error(residuals, torch.cat([masks, object_weights(masks, 0.3)]))
    if gamma:
        errors *= min_snr_weight(model.alphas_cumprod, told[0], gamma, prediction)
    assert torch.allclose(loss, 0.5 * errors[:2] + 0.2 * errors[2:], rtol=1e-3)
    assert not torch.equal(told[0][:2], told[0][2:]), "each pass has its own noise level"


def test_a_sample_depends_on_its_own_draw_alone(tmp_path: Path):
    model = objective(tmp_path, {"min_snr_gamma": 5.0, "caption_dropout": 0.5})
    with torch.no_grad():
        together = model(torch.tensor([0, 1, 2]), draws(3))
        alone = [model(torch.tensor([number]), draws(1, number)) for number in range(3)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4)
