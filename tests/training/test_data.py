"""Stores and Megatron files -> the data of a training run."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.store import Store, commit_store, export_megatron, write_shard
from headrace.tokens import load_tokenizer
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


def chats(path):
    """Ten documents of 20 tokens, of which the last 5 are learned."""
    tokens = np.tile(np.append(np.arange(19), 256), 10).astype(np.uint16)
    learned = np.tile(np.arange(20) >= 15, 10)
    ends = np.arange(20, 201, 20)
    entry = write_shard(path, "s0", tokens, ends, block_tokens=64, learned=learned)
    commit_store(path, [entry], tokenizer=load_tokenizer("byte"))
    return path


def test_rows_of_conversations_learn_answers_alone_and_keep_documents_apart(tmp_path):
    options = DataOptions(packing="best_fit", separate_documents=True)
    assert options.identity() == {"packing": "best_fit", "document_ids": True, "position_ids": True}
    with open_data(chats(tmp_path), options=options) as data:
        assert not data.cuts_conversations
        loader = data.loader(seq_len=39, batch_size=2, seed=0, rank=0, world_size=1)
        batch = next(loader)
        assert sorted(batch.labels[batch.labels != -100].tolist()) == sorted([15, 16, 17, 18, 256] * 4)
        assert batch.position_ids[0].tolist() == [*range(20), *range(19)]
        assert batch.document_ids[0].tolist() == [0] * 20 + [1] * 19
        loader.close()


def test_that_rows_cut_conversations_is_known(tmp_path, new_store):
    with open_data([chats(tmp_path / "a"), new_store(tmp_path / "b")], options=DataOptions()) as data:
        assert data.cuts_conversations
    with open_data(new_store(tmp_path / "c"), options=DataOptions()) as data:
        assert not data.cuts_conversations
