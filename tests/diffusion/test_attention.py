"""Where a word looks: exact softmax maps of the decoder alone, with their gradient, for each call by itself."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from lib.diffusion.attention import attention_maps, show_decoder_attention, word_map
from lib.diffusion.components import Components
from tests.tiny import tiny_components


@pytest.fixture
def parts(tmp_path: Path) -> Components:
    return tiny_components(tmp_path)


def inputs(seed: int = 0, count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    noisy, text = torch.randn(count, 9, 16, 16, generator=draw), torch.randn(count, 77, 16, generator=draw)
    return noisy, torch.tensor([10, 700])[:count], text


def maps_of(unet: torch.nn.Module, seed: int = 0) -> list[torch.Tensor]:
    with torch.no_grad(), attention_maps() as maps:
        unet(*inputs(seed))
    return maps


def test_explicit_attention_predicts_what_fused_attention_predicts(parts: Components):
    with torch.no_grad():
        fused = parts.unet(*inputs()).sample
        show_decoder_attention(parts.unet)
        shown = parts.unet(*inputs()).sample
    assert torch.allclose(fused, shown, atol=1e-5)


def test_decoder_cross_attention_alone_is_shown(parts: Components):
    show_decoder_attention(parts.unet)
    shown = {name for name, one in parts.unet.attn_processors.items() if not isinstance(one, AttnProcessor2_0)}
    assert len(shown) == 2 and all(name.startswith("up_blocks.") and ".attn2." in name for name in shown)
    assert len(maps_of(parts.unet)) == 2


def test_maps_are_probabilities_over_the_tokens(parts: Components):
    show_decoder_attention(parts.unet)
    for layer in maps_of(parts.unet):
        assert layer.shape == (2, 64, 77) and layer.min() >= 0
        assert torch.allclose(layer.sum(dim=2), torch.ones(2, 64), atol=1e-5)


def test_nothing_is_collected_outside_of_the_block_and_nothing_stays(parts: Components):
    show_decoder_attention(parts.unet)
    with attention_maps() as maps:
        pass
    with torch.no_grad():
        parts.unet(*inputs())
    assert maps == []
    assert all(not vars(one) for one in parts.unet.attn_processors.values() if not isinstance(one, AttnProcessor2_0))


def test_threads_get_their_own_maps(parts: Components):
    show_decoder_attention(parts.unet)
    alone = [maps_of(parts.unet, seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda seed: maps_of(parts.unet, seed), range(6)))
    for one, other in zip(alone, together, strict=True):
        assert len(one) == len(other) == 2
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


def test_maps_carry_a_gradient_to_queries_keys_and_text(parts: Components):
    show_decoder_attention(parts.unet)
    noisy, timesteps, text = inputs()
    text.requires_grad_()
    parts.unet.requires_grad_(True)
    with attention_maps() as maps:
        parts.unet(noisy, timesteps, text)
    word_map(maps, torch.tensor([3, 5]), (16, 16)).square().sum().backward()
    attention = parts.unet.up_blocks[0].attentions[0].transformer_blocks[0].attn2
    for projection in (attention.to_q, attention.to_k):
        assert projection.weight.grad is not None and projection.weight.grad.abs().max() > 0
    assert text.grad is not None and text.grad[0, 3].abs().max() > 0


def test_a_word_map_is_the_mean_of_all_layers_at_the_words_place():
    fine, coarse = torch.zeros(2, 16, 5), torch.zeros(2, 4, 5)
    fine[0, :, 3], coarse[0, :, 3] = 0.25, 0.75
    fine[1, 2, 1] = 1.0  # the third place of the first row
    looks = word_map([fine, coarse], torch.tensor([3, 1]), (4, 4))
    assert looks.shape == (2, 1, 4, 4)
    assert torch.allclose(looks[0], torch.full((1, 4, 4), 0.5))
    assert looks[1, 0, 0, 2] == 0.5 and looks[1].sum() == 0.5, "rows before columns"


def test_a_word_map_keeps_its_range_and_place_when_it_grows():
    layer = torch.zeros(1, 8, 2)
    layer[0, 1, 0] = 1.0  # row 0, column 1 of 2 x 4
    looks = word_map([layer], torch.tensor([0]), (4, 8))
    assert looks.shape == (1, 1, 4, 8) and looks.min() >= 0 and looks.max() <= 1
    assert looks[0, 0, 0].argmax() in (2, 3) and looks[0, 0, 0].max() == looks.max()


def test_without_cross_attention_in_the_decoder_there_is_an_error():
    with pytest.raises(ValueError, match="no attention was collected"):
        word_map([], torch.tensor([0]), (4, 4))
