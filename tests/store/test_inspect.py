"""`inspect` counts what is there and reads rows back as their text."""

from __future__ import annotations

import numpy as np

from headrace.store import Store, commit_store, inspect_store, write_shard
from headrace.tokens import load_tokenizer


def make(path, texts):
    tokenizer = load_tokenizer("byte")
    tokens = np.concatenate([[*text.encode(), 256] for text in texts]).astype(np.uint16)
    ends = np.cumsum([len(text.encode()) + 1 for text in texts])
    entry = write_shard(path, "s0", tokens, ends, block_tokens=64)
    commit_store(path, [entry], tokenizer=tokenizer)
    return Store.open(path)


def test_a_report_counts_documents_tokens_and_bytes(tmp_path):
    texts = ["water turns the wheel", "the wheel turns the stone"] * 10
    with make(tmp_path / "store", texts) as store:
        report = inspect_store(store, samples=2, seq_len=16)
    assert (report.documents, report.tokens) == (20, sum(len(t) + 1 for t in texts))
    assert report.bytes_per_token == report.nbytes / report.tokens
    assert [shard.name for shard in report.shards] == ["s0"]


def test_samples_are_the_rows_as_text_and_the_same_each_time(tmp_path):
    texts = [f"document number {i} runs down the race" for i in range(50)]
    stream = "".join(texts)
    with make(tmp_path / "store", texts) as store:
        report = inspect_store(store, samples=5, seq_len=12)
        assert report == inspect_store(store, samples=5, seq_len=12)
        assert len(report.samples) == 5
        assert all(sample.text and sample.text in stream for sample in report.samples)
        assert report.samples != inspect_store(store, samples=5, seq_len=12, seed=1).samples


def test_a_store_smaller_than_a_row_is_shown_whole(tmp_path):
    with make(tmp_path / "store", ["ab"]) as store:
        assert inspect_store(store, samples=3).samples[0].text == "ab"


def test_documents_of_a_store_with_spans_are_shown_part_by_part(tmp_path):
    text = "<q>one</q>two" + chr(256) + "three"
    tokens = np.array([ord(char) for char in text] + [256], np.uint16)
    learned = np.zeros(len(tokens), np.bool_)
    learned[10:14] = True
    entry = write_shard(tmp_path, "s0", tokens, [len(tokens)], block_tokens=64, learned=learned)
    commit_store(
        tmp_path, [entry], tokenizer=load_tokenizer("byte"), extra={"ingest": [{"given_tokens": 16}]}
    )
    with Store.open(tmp_path) as store:
        report = inspect_store(store)
    assert report.samples == ()
    assert report.given_tokens == 16
    (document,) = report.documents_shown
    assert document.parts == (("given", "<q>one</q>"), ("learned", "two"), ("given", "three"))
