"""A store in memory that counts the rows that are read of it."""

import numpy as np
import pytest


class CountingStore:
    def __init__(self, num_tokens=1500):
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(0, 256, num_tokens).astype(np.uint16)
        self.tokens[rng.integers(0, num_tokens, num_tokens // 30)] = 256
        self.num_tokens, self.dtype, self.vocab_size, self.eos_id = num_tokens, np.dtype(np.uint16), 257, 256
        self.has_spans = False
        self.url, self.codec, self.block_tokens = "counting", "none", 64
        self.fingerprint, self.tokenizer_fingerprint, self.tokenizer = "1" * 32, "0" * 32, None
        self.rows_read = 0

    def num_rows(self, seq_len):
        return (self.num_tokens - 1) // seq_len

    def lookup(self, starts, length):
        return None

    def gather(self, starts, length, out=None):
        self.rows_read += len(starts)
        return self.tokens[np.asarray(starts)[:, None] + np.arange(length)]


@pytest.fixture
def store():
    return CountingStore()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models: handing their work to more threads costs more than the work, above all on a shared machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Thirty images with every kind of column: numbers, boxes and masks of objects, texts, tokens."""
    import headrace as hr
    from headrace.images import encode_png, encode_rle
    from headrace.store import (
        Array,
        ClassLabel,
        Image,
        List,
        Tokens,
        Value,
        columns_of_rows,
        commit_samples,
        write_sample_shard,
    )

    features = {
        "image": Image(),
        "mask": Image(),
        "label": ClassLabel(("a", "b")),
        "boxes": List(Array((4,), "float32")),
        "masks": List(Value("string")),
        "name": Value("string"),
        "words": List(Value("string")),
        "source": Tokens("uint16"),
        "target": Tokens("uint16"),
        "id": Value("uint32"),
        "place": Array((2,), "float32"),
    }
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        pixels = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        rows.append(
            {
                "image": encode_png(pixels),
                "mask": encode_png(pixels[:, :, 0] % 3),
                "label": i % 2,
                "boxes": [[j, j, j + 5, j + 4] for j in range(i % 3)],
                "masks": [encode_rle(pixels[:, :, j] > 128) for j in range(i % 3)],
                "name": f"row {i}",
                "words": ["one", "two"][: i % 3],
                "source": list(range(i % 5)),
                "target": list(range(i % 4 + 1)),
                "id": i,
                "place": [i, -i],
            }
        )
    path = tmp_path_factory.mktemp("interop") / "samples"
    commit_samples(
        path, [write_sample_shard(path, "s0", columns_of_rows(rows, features), features)], features=features
    )
    return hr.SampleStore.open(path)


@pytest.fixture(scope="session")
def interactions(tmp_path_factory):
    """A store of interactions of which a few users have most."""
    import headrace as hr

    folder = tmp_path_factory.mktemp("interactions")
    rng = np.random.default_rng(0)
    lines = ["user,item,time"]
    lines += [f"u{u},i{rng.integers(40)},{n}" for u in range(6) for n in range(30 // (u + 1))]
    (folder / "log.csv").write_text("\n".join(lines))
    hr.ingest(folder / "log.csv", folder / "store", interactions=hr.Interactions(session_gap=9))
    return hr.SampleStore.open(folder / "store")
