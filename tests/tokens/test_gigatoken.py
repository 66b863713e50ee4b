"""The fast engine's memory is bounded, and forgetting changes no id."""

import os
import subprocess
import sys

import numpy as np
import pytest

from headrace.tokens import load_tokenizer
from headrace.tokens.gigatoken import CHECK_EVERY_BYTES, Gigatoken


class FakeBackend:
    """Ids are lengths."""

    def encode(self, text):
        return np.array([len(text)], np.uint32)


def test_it_is_rebuilt_when_the_process_has_grown_and_not_before():
    builds = []
    sizes = iter([100, 100 + 50, 100 + 51, 500, 540, 560])
    engine = Gigatoken(
        lambda: builds.append(1) or FakeBackend(), cache_bytes=50, resident=lambda: next(sizes)
    )
    text = [b"x" * CHECK_EVERY_BYTES]
    rebuilds = []
    for _ in range(6):
        engine.encode_batch(text)
        rebuilds.append(engine.rebuilds)
    assert rebuilds == [0, 0, 1, 1, 1, 2]
    assert len(builds) == 3


def test_ids_are_the_same_before_and_after_it_forgets(trained):
    import functools

    from headrace.tokens.huggingface import _build_gigatoken

    definition = load_tokenizer(trained)._json
    growing = iter(range(0, 1 << 40, 1 << 30))
    engine = Gigatoken(
        functools.partial(_build_gigatoken, definition), cache_bytes=1, resident=lambda: next(growing)
    )
    texts = [f"word{i} {i * 7919:x}".encode() for i in range(2000)]
    wanted = load_tokenizer(trained).as_reference().encode_batch(texts)
    for _ in range(4):
        engine._unchecked_bytes = CHECK_EVERY_BYTES
        ids, offsets = engine.encode_batch(texts)
        assert np.array_equal(ids, wanted[0])
        assert np.array_equal(offsets, wanted[1])
    assert engine.rebuilds >= 2


SLIM = """
import sys
import numpy as np
from headrace.tokens import load_tokenizer
from headrace.tokens.flat import SEPARATOR, FlatTexts
from headrace.tokens.gigatoken import slim_results
slim_results()
texts = [f"word{i} is \u00e9 {i * 7919:x}".encode() for i in range(500)] + [b""]
tokenizer = load_tokenizer(sys.argv[1], engine="fast")
ids, offsets = tokenizer.encode_batch(texts)
print(ids.sum(), offsets.sum(), len(offsets), type(sys.modules["awkward"]).__name__)
assert not hasattr(sys.modules["awkward"], "contents")
wanted = tokenizer.as_reference().encode_batch(texts)
assert (ids == wanted[0]).all() and (offsets == wanted[1]).all()
texts = texts[:-1]
joined = b"".join(text + SEPARATOR for text in texts)
flat = FlatTexts(joined, np.flatnonzero(np.frombuffer(joined, np.uint8) == SEPARATOR[0]))
ids, offsets = tokenizer.encode_batch(flat)
assert (ids == wanted[0]).all() and (offsets == wanted[1][:-1]).all()
"""


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_in_a_worker_results_come_without_loading_awkward_and_are_the_same(
    kind, tmp_path, sentences, trained
):
    """Of texts in a list, and of texts in one piece of memory."""
    if kind == "sentencepiece":
        trained = tmp_path / "sp.model"
        pytest.importorskip("sentencepiece").SentencePieceTrainer.train(
            sentence_iterator=iter(sentences * 20),
            model_prefix=str(trained.with_suffix("")),
            vocab_size=420,
            hard_vocab_limit=False,
            model_type="bpe",
            byte_fallback=True,
            minloglevel=2,
        )
    subprocess.run(
        [sys.executable, "-c", SLIM, str(trained)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_few_long_and_many_short_texts_take_ways_of_their_own_to_the_same_ids(trained):
    tokenizer = load_tokenizer(trained, engine="fast")
    reference = tokenizer.as_reference()
    for texts in ([b"a few"] * 3, [b"many short ones"] * 1000, [b"few long ones " * 1000] * 40):
        for got, wanted in zip(tokenizer.encode_batch(texts), reference.encode_batch(texts), strict=True):
            assert np.array_equal(got, wanted)
