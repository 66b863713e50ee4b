"""Fakes and corpora for ingest: small files in every format, and a trained vocabulary."""

import gzip
import json
import random
from pathlib import Path

import pytest

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "water",
    "wheel",
    "river",
    "mill",
    "stone",
    "channel",
    "turbine",
    "flow",
    "head",
    "race",
    "tail",
    "gate",
    "sluice",
    "dam",
    "weir",
    "naïve",
    "café",
    "über",
    "水",
    "流れ",
    "река",
    "мельница",
    "don't",
    "it's",
    "1234",
    "3.14",
    "--",
    "(see)",
    '"quoted"',
    "<|endoftext|>",
    "👍🏽",
]


def _make_documents(count: int, *, seed: int = 0, words: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 2 * words))) + f" #{seed}.{i}"
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def make_documents():
    """count, seed -> documents, all different."""
    return _make_documents


@pytest.fixture(scope="session")
def write_jsonl():
    """path, documents -> the path, written as JSON lines, gzipped if the name says so."""

    def write(path: Path, documents: list[str], *, field: str = "text") -> Path:
        data = b"".join(
            json.dumps({"id": i, field: text}, ensure_ascii=i % 2 == 0).encode() + b"\n"
            for i, text in enumerate(documents)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        return path

    return write


@pytest.fixture(scope="session")
def tree():
    """A directory -> every file in it."""

    def read(path: Path) -> dict[str, bytes]:
        return {
            file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
        }

    return read


@pytest.fixture(scope="session")
def texts_of():
    """A store -> its documents' texts."""

    def read(url) -> list[str]:
        from headrace.store import Store

        with Store.open(str(url)) as store:
            tokens = store.read(0, store.num_tokens)
            ends = store.document_ends(0, store.num_tokens)
            starts = [0, *ends[:-1]]
            assert all(int(tokens[end - 1]) == store.eos_id for end in ends)
            return [store.tokenizer.decode(tokens[a : b - 1]) for a, b in zip(starts, ends, strict=True)]

    return read


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory) -> Path:
    """A byte-level vocabulary of 400 ids, trained on the fake corpus."""
    from headrace.tokens import train_tokenizer

    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    return train_tokenizer(_make_documents(200, seed=99), vocab_size=400, out=path)
