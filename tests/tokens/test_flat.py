"""Texts in one buffer are the sequence of those texts, and every engine gives them the same ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.tokens import load_tokenizer
from headrace.tokens.flat import SEPARATOR, FlatTexts, lengths_of


def flat(texts):
    ends = np.cumsum([len(text) + 1 for text in texts]) - 1
    return FlatTexts(b"".join(text + SEPARATOR for text in texts), np.array(ends, np.int64))


def test_flat_texts_are_a_sequence():
    texts = FlatTexts(b"one\xfftwo\xffthree\xff", np.array([3, 7, 13]))
    assert (texts[0], texts[-1], texts[1:]) == (b"one", b"three", [b"two", b"three"])
    assert list(texts) == [b"one", b"two", b"three"]
    assert lengths_of(texts).tolist() == lengths_of(list(texts)).tolist() == [3, 3, 5]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            texts[outside]


texts_of_utf8 = st.lists(st.text(min_size=1, max_size=30).map(str.encode), max_size=20)


@given(texts=texts_of_utf8, at=st.slices(20))
def test_iterating_indexing_and_slicing_give_the_texts(texts, at):
    joined = flat(texts)
    assert list(joined) == [joined[i] for i in range(len(joined))] == texts
    assert joined[at] == texts[at]
    assert lengths_of(joined).tolist() == [len(text) for text in texts]


@given(texts=texts_of_utf8)
def test_bytes_of_joined_texts_are_those_of_each(texts):
    tokenizer = load_tokenizer("byte")
    for one, other in zip(tokenizer.encode_batch(flat(texts)), tokenizer.encode_batch(texts), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_tokenizer_gives_joined_texts_the_same_ids(trained, engine):
    tokenizer = load_tokenizer(trained)
    tokenizer = tokenizer.as_reference() if engine == "reference" else tokenizer
    texts = [f"text {i} \u00e9\U0001f600 ".encode() * (1 + i % 7) for i in range(50)]
    for one, other in zip(tokenizer.encode_batch(flat(texts)), tokenizer.encode_batch(texts), strict=True):
        assert np.array_equal(one, other)
