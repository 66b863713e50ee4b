"""Both loaders are measured alike, on the same tokens."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest
import torch

from headrace.demo.loader_comparison import (
    BATCH_ROWS,
    LoaderMeasurement,
    compare_loaders,
    measure,
    naive_batches,
)
from headrace.errors import WorkerError
from headrace.tokens import load_tokenizer, train_tokenizer


@pytest.fixture
def text(tmp_path):
    """A file of documents and a tokenizer of their text."""
    documents = [f"document {i}: " + " ".join(str(i * j) for j in range(200)) for i in range(40)]
    path = tmp_path / "part-0000.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": one}) + "\n" for one in documents)
    train_tokenizer(documents, vocab_size=300, out=tmp_path / "tokenizer.json")
    return path, tmp_path / "tokenizer.json", documents


def test_the_clock_starts_before_the_data_is_opened_and_the_first_batch_is_not_in_the_rate():
    now = [0.0]

    def batches():
        now[0] += 5.0  # opening
        while True:
            yield torch.zeros(2, 8), torch.zeros(2, 8)
            now[0] += 0.5

    def clock():
        return now[0]

    found = measure(batches, seconds=10.0, clock=clock, resident=iter([(100, 100), (200, 350)]).__next__)
    assert found == LoaderMeasurement(
        first_batch_s=5.0, tokens_per_s=32.0, peak_bytes=350, data_bytes=250, batches=20, measured_s=10.0
    )


def test_the_naive_loader_delivers_every_token_and_wastes_none(text):
    """The rows of its first epoch are the documents' own ids, in documents' order of shuffling."""
    path, tokenizer, documents = text
    ids, _ = load_tokenizer(tokenizer).encode_batch([one.encode() for one in documents])
    expected = Counter(ids.tolist())
    eos = load_tokenizer(tokenizer).eos_id
    total = len(ids) + len(documents)
    seen: Counter[int] = Counter()
    rows = naive_batches([str(path)], str(tokenizer), seq_len=15, seed=0)()
    for _ in range(total // (BATCH_ROWS * 16)):
        input_ids, labels = next(rows)
        assert input_ids.shape == labels.shape == (BATCH_ROWS, 15)
        assert input_ids.dtype == torch.int64
        assert torch.equal(input_ids[:, 1:], labels[:, :-1])
        seen.update(torch.cat([input_ids[:, :1], labels], dim=1).flatten().tolist())
    expected[eos] = len(documents)
    assert not seen - expected
    assert expected.total() - seen.total() < BATCH_ROWS * 16


def test_both_loaders_run_in_their_own_processes_on_the_same_text(text, tmp_path):
    from headrace.ingestion import ingest

    path, tokenizer, _ = text
    summary = ingest([path], tmp_path / "store", tokenizer=tokenizer, workers=1)
    found = compare_loaders(
        files=[path],
        tokenizer=tokenizer,
        store=tmp_path / "store",
        seq_len=15,
        seconds=0.2,
        once_s=summary.wall_s,
        epoch_tokens=summary.tokens,
    )
    for loader in ("naive", "headrace"):
        assert found[loader]["tokens_per_s"] > 0
        assert found[loader]["first_batch_s"] > 0
        # Their own memory, not that of the process that started them.
        assert found[loader]["peak_bytes"] < 1_000_000_000
        assert found[loader]["data_bytes"] < found[loader]["peak_bytes"]


def test_a_loader_that_fails_says_which_and_why(text, tmp_path):
    path, tokenizer, _ = text
    with pytest.raises(WorkerError, match=r"headrace loader: exit code 1: .*no-store"):
        compare_loaders(
            files=[path],
            tokenizer=tokenizer,
            store=tmp_path / "no-store",
            seq_len=15,
            seconds=0.01,
            once_s=1.0,
            epoch_tokens=1,
        )
