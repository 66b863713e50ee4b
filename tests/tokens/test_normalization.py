"""Tokenizers that compose text: the ids are the reference's, whatever Unicode table an engine has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from headrace.tokens.flat import FlatTexts
from headrace.tokens.huggingface import HFTokenizer
from headrace.tokens.normalization import UNEQUAL, unequal_texts

NORMALIZERS = {
    "NFC": normalizers.NFC(),
    "NFD": normalizers.NFD(),
    "NFKC": normalizers.NFKC(),
    "NFKD": normalizers.NFKD(),
    "sequence": normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
}
# Scripts with marks; ideographs, syllables of Hangul and private characters compose by rule or not at all.
BLOCKS = [
    (0x80, 0x3400),
    (0xA000, 0xAC00),
    (0xD7A0, 0xD800),
    (0xF900, 0x20000),
    (0x2F800, 0x2FA20),
    (0xE0000, 0xE0200),
]
SAMPLES = [
    "\u0c15\u0c4d\u0c3c",
    "\U000113c2\U000113c2",
    "\U00016d67\U00016d67",
    "\U0001611e\U0001611e",
    "\U000105d2\u0307",
]


def tokenizer(name):
    t = Tokenizer(models.BPE())
    t.normalizer = NORMALIZERS[name]
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    t.train_from_iterator(["hello world of marks"] * 3, trainer)
    return HFTokenizer(name=name, definition=t.to_str().encode())


TOKENIZERS = {name: tokenizer(name) for name in NORMALIZERS}


def forms(char):
    """A character alone, among marks of other classes, behind letters that compose, and twice."""
    return [
        char,
        f"a\u0315{char}",
        f"a{char}\u0316",
        f"\u0c15\u0c4d{char}",
        f"\u0915{char}\u093c",
        char + char,
    ]


def mismatches(t, texts):
    """Texts whose ids are not the reference's."""
    ids, offsets = t.encode_batch([text.encode() for text in texts])
    expected = t._reference_ids([text.encode() for text in texts])
    return [
        x
        for x, a, b, row in zip(texts, offsets, offsets[1:], expected, strict=False)
        if ids[a:b].tolist() != row
    ]


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
def test_every_character_of_the_list_gives_the_references_ids(name):
    chars = [chr(c) for first, last in UNEQUAL for c in range(first, last + 1)]
    texts = [form for char in chars for form in forms(char)] + SAMPLES
    assert not mismatches(TOKENIZERS[name], texts)


def test_ids_of_a_text_do_not_depend_on_the_others():
    t = TOKENIZERS["NFC"]
    plain = [f"plain document {i}, caf\u0301e" for i in range(400)]
    ids, offsets = t.encode_batch([text.encode() for text in [*plain, *SAMPLES]])
    for i, text in enumerate([*plain, *SAMPLES]):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == t.encode(text).tolist()
    assert t.engine == "gigatoken"


MARKS = st.sampled_from(
    [
        chr(c)
        for first, last in [(0x300, 0x370), (0x1AB0, 0x1AF0), (0x8CA, 0x900), *UNEQUAL]
        for c in range(first, last + 1)
    ]
)


@settings(deadline=None)
@given(st.lists(st.text(st.one_of(MARKS, st.characters(exclude_categories=["Cs"])), max_size=6), max_size=12))
def test_mixed_marks_give_the_references_ids(texts):
    assert not mismatches(TOKENIZERS["NFC"], texts)


def test_texts_with_such_characters_are_found_in_one_buffer_too():
    texts = [b"plain", "caf\u00e9".encode(), SAMPLES[0].encode(), b"x", SAMPLES[3].encode()]
    joined = b"\xff".join(texts) + b"\xff"
    flat = FlatTexts(joined, np.cumsum([len(x) + 1 for x in texts]) - 1)
    assert unequal_texts(texts).tolist() == unequal_texts(flat).tolist() == [2, 4]


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(NORMALIZERS))
def test_a_sweep_of_all_characters_that_compose_finds_no_other(name):
    t = TOKENIZERS[name]
    wrong = []
    for first, last in BLOCKS:
        for start in range(first, last, 2000):
            chars = [chr(c) for c in range(start, min(start + 2000, last)) if not 0xD800 <= c < 0xE000]
            wrong += mismatches(t, [form for char in chars for form in forms(char)])
    assert not wrong, [text.encode("unicode_escape") for text in wrong[:20]]
