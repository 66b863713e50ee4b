"""Held-out rows: of every store, made as training rows are, of the same tokenizer. Covers data.py too."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from flat_options import train

from headrace.errors import ConfigError
from headrace.load import BatchOptions, Loader
from headrace.model import GPTConfig
from headrace.store import Store, commit_store, write_shard
from headrace.tokens import load_tokenizer, train_tokenizer
from headrace.training import DataOptions
from headrace.training.data import open_data
from headrace.training.evaluation import open_held_out


@pytest.fixture
def training(store):
    with open_data(store, options=DataOptions()) as data:
        yield data


def test_rows_are_spread_evenly_over_the_store(store, training):
    held_out = open_held_out(store, training, seq_len=32, rows=4)
    with Store.open(store) as opened:
        available = opened.num_rows(32)
        starts = [index * available // 4 * 32 for index in range(4)]
        expected = np.stack([opened.read(start, start + 33) for start in starts]).astype(np.int64)
    assert torch.equal(held_out.ids_NT, torch.from_numpy(expected[:, :-1]))
    assert torch.equal(held_out.labels_NT, torch.from_numpy(expected[:, 1:]))


def test_of_several_stores_all_are_read(store, other_store, training):
    both = open_held_out([store, other_store], training, seq_len=32, rows=8)
    alone = [open_held_out(one, training, seq_len=32, rows=4) for one in (store, other_store)]
    assert torch.equal(both.ids_NT, torch.cat([rows.ids_NT for rows in alone]))
    weighted = open_held_out({str(store): 1, str(other_store): 3}, training, seq_len=32, rows=8)
    assert torch.equal(weighted.ids_NT[:2], open_held_out(store, training, seq_len=32, rows=2).ids_NT)


def test_packed_rows_are_packed_and_masked_as_in_training(store):
    output = BatchOptions(document_ids=True, position_ids=True)
    with open_data(store, options=DataOptions(packing="best_fit", output=output)) as data:
        held_out = open_held_out(store, data, seq_len=64, rows=1)
        with Store.open(store) as opened:
            first = next(
                Loader(opened, seq_len=64, batch_size=1, shuffle="none", packing="best_fit", output=output)
            )
    assert torch.equal(held_out.ids_NT, first.input_ids)
    assert torch.equal(held_out.labels_NT, first.labels)
    (_, _, masks), *_ = held_out.batches(1)
    assert torch.equal(masks["documents_BT"], torch.as_tensor(first.document_ids))
    assert torch.equal(masks["positions_BT"], torch.as_tensor(first.position_ids))


def test_a_store_of_another_tokenizer_is_refused(training, tmp_path):
    path = train_tokenizer(["the wheel turns"] * 20, vocab_size=258, out=tmp_path / "tokenizer.json")
    entry = write_shard(tmp_path / "other", "s0", np.zeros(500, np.uint16), [500], block_tokens=1024)
    commit_store(tmp_path / "other", [entry], tokenizer=load_tokenizer(path))
    with pytest.raises(ConfigError, match=r"is not that of the training stores .* Ingest it with the same"):
        open_held_out(tmp_path / "other", training, seq_len=32, rows=4)


def test_a_store_without_a_row_of_this_length_is_refused(store, training):
    with pytest.raises(ConfigError):
        open_held_out(store, training, seq_len=10**6, rows=4)


def test_bits_per_byte_are_those_of_the_text_of_the_labels_that_count(store, training):
    """One byte a token, but for ends of documents, whose cost counts and whose text is empty."""
    held_out = open_held_out(store, training, seq_len=32, rows=8)
    labels = held_out.labels_NT
    text = int(((labels >= 0) & (labels < 256)).sum())
    assert text < labels.numel()  # ends of documents are among them
    nats = 2.5 * labels.numel()
    assert held_out.bits_per_byte(2.5) == pytest.approx(nats / math.log(2) / text)
    masked = dataclasses.replace(held_out, bytes_per_token=0.0)
    assert masked.bits_per_byte(2.5) is None


def test_bits_per_byte_are_in_metrics_log_and_summary(store, other_store, tmp_path, read_metrics):
    shape = GPTConfig(
        num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
    )
    options = {"seq_len": 16, "batch_size": 4, "steps": 2, "eval_every": 1, "eval_stores": other_store}
    summary = train(store, out=tmp_path / "run", model=shape, device="cpu", dtype="float32", **options)
    lines = read_metrics(tmp_path / "run")
    assert all(1 < line["eval_bits_per_byte"] * math.log(2) / line["eval_loss"] < 1.2 for line in lines)
    assert summary.eval_bits_per_byte == lines[-1]["eval_bits_per_byte"]
    expected = f"({summary.eval_bits_per_byte:.3f} bits per byte)"
    assert expected in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_the_rows_and_fillers_do_not_count(ranks, store, training):
    parts = [
        open_held_out(store, training, seq_len=32, rows=6, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    whole = parts[0].labels_NT
    batches = [list(part.batches(4)) for part in parts]
    assert {tuple(ids.shape) for own in batches for ids, _, _ in own} == {(4 // ranks, 32)}
    labels = torch.cat([own[index][1] for index in range(2) for own in batches])
    assert torch.equal(labels[:6], whole)
    assert (labels[6:] == -100).all()
