"""The fast engine's memory is bounded, and forgetting changes no id."""

import numpy as np

from headrace.tokens import load_tokenizer
from headrace.tokens.gigatoken import CHECK_EVERY_BYTES, Gigatoken


class FakeBackend:
    """Counts what it is asked; ids are lengths."""

    def encode_batch(self, texts, *, parallel):
        assert parallel is False

        class Layout:
            class content:  # noqa: N801
                data = np.array([len(t) for t in texts], np.uint32)

            class offsets:  # noqa: N801
                data = np.arange(len(texts) + 1)

        class Result:
            layout = Layout

        return Result


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
