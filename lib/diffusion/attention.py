"""Cross-attention maps of a U-Net's decoder, with gradients, from an ordinary forward pass.

`show_decoder_attention(unet)` once, then

    with attention_maps() as maps:
        prediction = unet(noisy, timesteps, text).sample
    attention = word_map(maps, positions, size)

Maps are collected per call: several threads may call one U-Net, and nothing is stored on it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_maps: ContextVar[list[Tensor] | None] = ContextVar("maps", default=None)


class ShownAttention:
    """An attention processor that computes the softmax explicitly (fused kernels return no probabilities), so that it
    can be collected.

    For the layers of a `Transformer2DModel`: tokens (B, N, C) in and out.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
        query, key, value = (
            attn.head_to_batch_dim(projected)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = attn.get_attention_scores(query, key, mask)  # (B * heads, N, T)
        maps = _maps.get()
        if maps is not None:
            maps.append(probabilities.float().unflatten(0, (-1, attn.heads)).mean(dim=1))
        project, dropout = attn.to_out
        return dropout(project(attn.batch_to_head_dim(probabilities @ value)))


def show_decoder_attention(unet: Any) -> None:
    """Make the cross-attention of the up blocks available to `attention_maps`; other layers stay as they are.

    The maps of the encoder do not follow the layout of the picture (Song et al. 2025 leave them out).
    """
    processors = {
        name: ShownAttention() if name.startswith("up_blocks.") and ".attn2." in name else processor
        for name, processor in unet.attn_processors.items()
    }
    unet.set_attn_processor(processors)


@contextlib.contextmanager
def attention_maps() -> Iterator[list[Tensor]]:
    """Yield a list to which forward passes inside the block, in this thread, append a map (B, N, T) per layer.

    Maps are softmax probabilities over the T tokens at each of N = h w positions, averaged over heads, with gradients.
    """
    maps: list[Tensor] = []
    token = _maps.set(maps)
    try:
        yield maps
    finally:
        _maps.reset(token)


def word_map(maps: list[Tensor], positions: Tensor, size: Sequence[int]) -> Tensor:
    """How much each position attends to one token: (B, 1, h, w) in [0, 1], the mean over all layers.

    maps: (B, N, T) of each layer; positions: (B,) int64, of each sample's token; size: (h, w) of the latents, to which
    every layer's map is resized bilinearly. Raises ValueError if there is no map.
    """
    if not maps:
        raise ValueError("no attention was collected: the U-Net's decoder has no cross-attention, or hides it")
    resized = []
    for probabilities in maps:
        count, places, _ = probabilities.shape
        rows = round((places * size[0] / size[1]) ** 0.5)
        at_word = probabilities.gather(2, positions.view(-1, 1, 1).expand(-1, places, 1))
        resized.append(
            F.interpolate(at_word.reshape(count, 1, rows, -1), list(size), mode="bilinear", align_corners=False)
        )
    return sum(resized[1:], resized[0]) / len(resized)
