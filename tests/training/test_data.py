"""Stores and Megatron files -> the data of a training run."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.store import Store, export_megatron
from headrace.training.data import open_data
from headrace.training.options import DataOptions


def test_megatron_files_are_trained_on_with_a_named_tokenizer(tmp_path, new_store):
    """Beside a store too, whose own tokenizer it must be."""
    store = new_store(tmp_path / "store")
    with Store.open(store) as opened:
        export_megatron(opened, tmp_path / "pair" / "corpus")
    pair = tmp_path / "pair" / "corpus.bin"
    with open_data([pair, store], options=DataOptions(tokenizer="byte")) as data:
        assert [one.tokenizer.name for one in data.stores] == ["byte", "byte"]
    with open_data(pair, options=DataOptions()) as data, pytest.raises(ConfigError, match="has no tokenizer"):
        _ = data.source.tokenizer


def test_a_tokenizer_that_is_not_the_stores_is_refused(tmp_path, new_store):
    (tmp_path / "text").write_text("a b c a b c " * 50)
    from headrace import train_tokenizer

    other = train_tokenizer([str(tmp_path / "text")], vocab_size=260, out=tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="is not the tokenizer of"):
        open_data(new_store(tmp_path / "store"), options=DataOptions(tokenizer=str(other)))
