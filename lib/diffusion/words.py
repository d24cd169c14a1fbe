"""New words for a base model: tokens with learned embeddings, and the adapters that are trained with them.

Saved in the formats of diffusers, which loads the adapters with `load_lora_weights` and the words with
`load_textual_inversion`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from lib.core.errors import UserError
from lib.diffusion.adapters import LORA_FILE, UNET_HALVES, UNET_TARGETS, adapter_keys, check_adapters
from lib.diffusion.components import Components, as_pipeline

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # all attention projections of the text encoder
TEXT_HALVES = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
TOKEN_TABLE = "token_embedding"  # of the text encoder
WORD_FILES = "word-*.safetensors"


def add_words(parts: Components, phrases: Mapping[str, str]) -> dict[str, int]:
    """Add one new token per word to tokenizer and text encoder; returns their ids.

    phrases: for each new word a phrase of known words: the new embedding starts as the mean of theirs (Gal et al. 2022
    start with one known word). Raises UserError if the tokenizer already knows a word.
    """
    tokenizer, encoder = parts.tokenizer, parts.text_encoder
    begins = {word: tokenizer(phrase, add_special_tokens=False).input_ids for word, phrase in phrases.items()}
    for word in phrases:
        if tokenizer.add_tokens([word]) != 1:
            raise UserError(f"base.model: its tokenizer knows {word} already, which was to become a new word")
    ids = {word: int(tokenizer.convert_tokens_to_ids(word)) for word in phrases}
    rows = encoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:  # some tables have unused rows
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        for word, begin in begins.items():
            table[ids[word]] = table[begin].mean(dim=0)
    encoder.requires_grad_(False)
    return ids


def add_adapters(parts: Components, rank: int, alpha: int, words: Iterable[int]) -> None:
    """Add LoRA adapters to all attention projections of U-Net and text encoder, and make the words' rows trainable.

    After that only these require a gradient. There is no dropout: it would use a random generator that threads share.
    """
    shape = {"r": rank, "lora_alpha": alpha, "init_lora_weights": "gaussian"}
    parts.unet.add_adapter(LoraConfig(**shape, target_modules=list(UNET_TARGETS)))
    rows = {TOKEN_TABLE: list(words)}
    parts.text_encoder.add_adapter(LoraConfig(**shape, target_modules=list(TEXT_TARGETS), trainable_token_indices=rows))


def save_words(parts: Components, words: Mapping[str, int], rank: int, alpha: int, out: Path) -> None:
    """Write the adapters and one file per word into a folder. words: ids in the order given to `add_adapters`."""
    layers: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, targets in (("unet", UNET_TARGETS), ("text_encoder", TEXT_TARGETS)):
        state = get_peft_model_state_dict(getattr(parts, name), save_embedding_layers=False)
        adapters = {key: value for key, value in state.items() if ".lora_" in key}
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(adapters)
        # Without these, diffusers assumes alpha = rank, and scales the adapters differently than in training.
        facts |= {f"{name}.r": rank, f"{name}.lora_alpha": alpha, f"{name}.target_modules": list(targets)}

    def write(weights: dict[str, Tensor], path: str) -> None:
        # A single key: safetensors writes several in random order, but equal adapters must give equal bytes.
        save_file(weights, path, metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(facts, indent=2, sort_keys=True)})

    StableDiffusionInpaintPipeline.save_lora_weights(out, **layers, save_function=write)
    learned = parts.text_encoder.get_input_embeddings().token_adapter.trainable_tokens_delta["default"].detach()
    for row, word in zip(learned, words, strict=True):
        save_file({word: row.clone().contiguous()}, out / WORD_FILES.replace("*", word.strip("<>")))


def load_words(parts: Components, folder: Path) -> Components:
    """Add the saved words to the tokenizer of a base, and merge the adapters into its weights, in place.

    Raises UserError unless the file has adapters for exactly the attention layers of this base.
    """
    expected = adapter_keys("unet", parts.unet, UNET_TARGETS, UNET_HALVES)
    expected |= adapter_keys("text_encoder", parts.text_encoder, TEXT_TARGETS, TEXT_HALVES)
    check_adapters(folder / LORA_FILE, expected)
    pipeline = as_pipeline(parts)
    for file in sorted(folder.glob(WORD_FILES)):
        pipeline.load_textual_inversion(str(folder), weight_name=file.name, use_safetensors=True)
    pipeline.load_lora_weights(str(folder), weight_name=LORA_FILE, use_safetensors=True)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for module in (parts.unet, parts.text_encoder):
        module.requires_grad_(False).eval()
    parts.unet.to(memory_format=torch.channels_last)
    return parts


def word_positions(ids: Tensor, words: Tensor) -> Tensor:
    """The position of each prompt's word, (B,) int64: prompts are token ids (B, T), words token ids (B,).

    Raises UserError if a prompt lacks its word: it is longer than the tokenizer's limit, and was cut.
    """
    at = ids == words[:, None]
    if not at.any(dim=1).all():
        raise UserError(
            f"base.model: a prompt was cut before its word, there is room for {ids.shape[1]} tokens: give the category "
            "a shorter name, or take a base whose tokenizer knows longer words"
        )
    return at.int().argmax(dim=1)
