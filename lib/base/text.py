"""The text side of the base: a small tokenizer in CLIP's format, a small text encoder, and its use while it learns."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib.diffusion.components import Components, tokenize

TOKENS = 48  # positions of the text encoder; captions of short names need about 40, those of long ones are cut
VOCABULARY = 1400  # pieces of words that are learnt from the captions, at most
WIDTH = 64  # of the embeddings
END_OF_WORD = "</w>"


def make_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format: all bytes, and the merges that spell the captions' words."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=letters, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    learner.train_from_iterator((text.lower() for text in texts), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    words = letters + [letter + END_OF_WORD for letter in letters] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        Path(folder, "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Random weights: two layers over the tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class TrainableText(nn.Module):
    """The text encoder inside of the loop: unlike in fine-tuning its weights still move, so only tokens are cached."""

    def __init__(self, parts: Components, texts: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.tokens = parts.text_encoder, tokenize(parts, texts)

    def forward(self, rows: list[int]) -> Tensor:
        """Embeddings (b, T, D) of rows of the texts."""
        return self.encoder(self.tokens[rows])[0]
