"""The base's tokenizer: whatever a caption says, it can spell."""

from lib import language
from lib.base.text import TOKENS, make_tokenizer


def test_the_tokenizer_spells_every_caption_within_its_length():
    names = ("scratch", "chipped_edge")
    texts = [text for name in names for text in language.captions(name, "hex_nut", "in the center")]
    tokenizer = make_tokenizer(texts)
    for text in texts:
        tokens = tokenizer(text).input_ids
        assert len(tokens) <= TOKENS and tokenizer.unk_token_id not in tokens[1:-1]
        spelling = tokenizer.decode(tokens, skip_special_tokens=True)
        assert "".join(spelling.split()) == "".join(text.lower().split())


def test_words_of_no_caption_are_spelled_by_their_letters():
    tokenizer = make_tokenizer(["a scratch"])
    tokens = tokenizer("zinc").input_ids
    assert tokenizer.unk_token_id not in tokens[1:-1] and tokenizer.decode(tokens, skip_special_tokens=True) == "zinc"
