"""A store of samples keeps the tokenizer of its columns of tokens."""

from __future__ import annotations

import pytest

import headrace as hr
from headrace.errors import ManifestError
from headrace.store import SampleStore, Tokens, columns_of_rows, commit_samples, write_sample_shard

FEATURES = {"source": Tokens("uint16")}


def test_the_tokenizer_of_a_store_decodes_its_rows_and_a_store_may_have_none(tmp_path):
    byte = hr.load_tokenizer("byte")
    entry = write_sample_shard(
        tmp_path, "s", columns_of_rows([{"source": list(b"Hello")}], FEATURES), FEATURES
    )
    assert commit_samples(tmp_path, [entry], features=FEATURES) == 1
    assert SampleStore.open(tmp_path).tokenizer is None
    assert commit_samples(tmp_path, [entry], features=FEATURES, tokenizer=byte) == 2
    assert commit_samples(tmp_path, [entry], features=FEATURES, tokenizer=byte) == 2
    store = SampleStore.open(tmp_path)
    assert store.tokenizer.fingerprint == byte.fingerprint
    assert store.tokenizer.decode(store[0]["source"]) == "Hello"
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ManifestError, match="missing, and the manifest names it"):
        _ = SampleStore.open(tmp_path).tokenizer
