"""New words and adapters: what begins where, what is saved, and that diffusers reads it at the strength of training."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from safetensors.torch import load_file, save_file

from lib.core.errors import UserError
from lib.core.params import Base
from lib.diffusion.components import Components, embed, load
from lib.diffusion.words import LORA_FILE, add_adapters, add_words, load_words, save_words
from tests.tiny import tiny_components

CPU = torch.device("cpu")
PHRASES = {"<dent>": "dent", "<deep_crack>": "deep crack"}
PROMPTS = ["A photo of <dent>", "A nut with <deep_crack>", "A nut"]


def base(folder: Path) -> Components:
    return load(Base(model=str(folder), revision=None, allow_download=False), CPU)


def taught(folder: Path) -> tuple[Components, dict[str, int]]:
    """A base with words and adapters that are as far from their beginning as training takes them."""
    torch.manual_seed(0)
    parts = base(folder)
    ids = add_words(parts, PHRASES)
    add_adapters(parts, 2, 6, ids.values())
    draw = torch.Generator().manual_seed(0)
    for module in (parts.unet, parts.text_encoder):
        for value in module.parameters():
            if value.requires_grad:
                value.data += torch.randn(value.shape, generator=draw) / 10
    return parts, ids


def predictions(parts: Components) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    noisy = torch.randn(3, 9, 16, 16, generator=draw)
    with torch.inference_mode():
        text = embed(parts, PROMPTS)
        return text, parts.unet(noisy, torch.tensor([10, 400, 700]), text).sample


def test_a_word_begins_as_the_mean_of_the_words_that_it_is_called_by(tmp_path: Path):
    parts = tiny_components(tmp_path)
    before = parts.text_encoder.get_input_embeddings().weight.clone()
    ids = add_words(parts, PHRASES)
    table = parts.text_encoder.get_input_embeddings().weight
    letters = parts.tokenizer("deep crack", add_special_tokens=False).input_ids
    assert torch.allclose(table[ids["<deep_crack>"]], before[letters].mean(dim=0), atol=1e-6)
    assert torch.equal(table[: len(before)], before) and not table.requires_grad


def test_a_word_is_one_token(tmp_path: Path):
    parts = tiny_components(tmp_path)
    ids = add_words(parts, PHRASES)
    for word, number in ids.items():
        assert parts.tokenizer(f"a {word} b", add_special_tokens=False).input_ids.count(number) == 1


def test_a_word_that_the_tokenizer_has_is_refused(tmp_path: Path):
    parts = tiny_components(tmp_path)
    add_words(parts, {"<dent>": "dent"})
    with pytest.raises(UserError, match="knows <dent> already"):
        add_words(parts, {"<dent>": "dent"})


def test_diffusers_reads_adapters_and_words_and_predicts_the_same(tiny_base: Path, tmp_path: Path):
    parts, ids = taught(tiny_base)
    save_words(parts, ids, 2, 6, tmp_path)
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tiny_base, local_files_only=True, safety_checker=None)
    for file in sorted(tmp_path.glob("word-*.safetensors")):
        pipeline.load_textual_inversion(str(tmp_path), weight_name=file.name)
    pipeline.load_lora_weights(str(tmp_path), weight_name=LORA_FILE)
    theirs = Components(pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.scheduler)
    for ours, other in zip(predictions(parts), predictions(theirs), strict=True):
        assert torch.allclose(ours, other, atol=1e-4)


def test_merged_adapters_act_at_the_strength_of_training(tiny_base: Path, tmp_path: Path):
    parts, ids = taught(tiny_base)
    save_words(parts, ids, 2, 6, tmp_path)
    merged, plain = load_words(base(tiny_base), tmp_path), base(tiny_base)
    add_words(plain, PHRASES)
    for trained, ours, untaught in zip(predictions(parts), predictions(merged), predictions(plain), strict=True):
        assert torch.allclose(trained, ours, atol=1e-4)
        assert not torch.allclose(trained, untaught, atol=1e-2), "they do act"
    modules = [name for part in (merged.unet, merged.text_encoder) for name, _ in part.named_modules()]
    assert not any("lora" in name for name in modules), "nothing is left to be computed beside the weights"
    assert not any(value.requires_grad for value in merged.unet.parameters())


def test_equal_adapters_are_equal_bytes(tiny_base: Path, tmp_path: Path):
    for name in ("a", "b"):
        save_words(*taught(tiny_base), 2, 6, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [LORA_FILE, "word-deep_crack.safetensors", "word-dent.safetensors"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_file_says_rank_and_alpha(tiny_base: Path, tmp_path: Path):
    save_words(*taught(tiny_base), 2, 6, tmp_path)
    data = (tmp_path / LORA_FILE).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    facts = json.loads(header["lora_adapter_metadata"])
    assert {facts[f"{part}.{key}"] for part in ("unet", "text_encoder") for key in ("r",)} == {2}
    assert {facts[f"{part}.lora_alpha"] for part in ("unet", "text_encoder")} == {6}


@pytest.mark.parametrize("part", ["unet.", "text_encoder."])
def test_a_file_without_some_adapters_is_refused(tiny_base: Path, tmp_path: Path, part: str):
    save_words(*taught(tiny_base), 2, 6, tmp_path)
    weights = load_file(tmp_path / LORA_FILE)
    gone = next(name for name in weights if name.startswith(part))
    save_file({name: value for name, value in weights.items() if name != gone}, tmp_path / LORA_FILE)
    with pytest.raises(UserError, match=r"1 of .* weights are missing"):
        load_words(base(tiny_base), tmp_path)
