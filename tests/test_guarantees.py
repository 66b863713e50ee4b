"""The eight promises of docs/guarantees.md, each through the whole library. The folders' own tests go deeper."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import psutil
import pytest

import headrace as hr

ROOT = Path(__file__).parent.parent
MODEL = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 257,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    lines = [orjson.dumps({"text": f"turn {i} of the wheel " * (1 + i % 5)}) for i in range(400)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "store"
    hr.ingest([corpus], out, workers=1, codec="none")
    return hr.Store.open(out)


def rows_of(batch):
    return [row.tobytes() for row in np.asarray(batch.tokens)]


def read(store, *, world_size=1, start=0, batches=10**6, **options):
    """Global batches, put together from all ranks."""
    loaders = [
        hr.Loader(store, seq_len=16, batch_size=12, seed=3, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for loader in loaders:
        loader.seek(start)
    batches_read = []
    for _, parts in zip(range(batches), zip(*loaders, strict=True), strict=False):
        batches_read.append([row for part in parts for row in rows_of(part)])
    return batches_read


def test_order_is_arithmetic(store):
    whole = read(store, batches=12, epochs=None)
    half = hr.Loader(store, seq_len=16, batch_size=12, seed=3, epochs=None, rank=0, world_size=4)
    for _ in range(5):
        next(half)
    state = json.loads(json.dumps(half.state_dict()))
    assert len(json.dumps(state)) <= 256
    after = [
        hr.Loader(store, seq_len=16, batch_size=12, seed=3, epochs=None, rank=rank, world_size=6)
        for rank in range(6)
    ]
    for loader in after:
        loader.load_state_dict(state)
    for expected in whole[5:]:
        assert [row for loader in after for row in rows_of(next(loader))] == expected


def test_once_per_epoch(store):
    expected = sorted(row.tobytes() for row in store.gather(np.arange(store.num_rows(16)) * 16, 17))
    for world_size in (1, 5):
        got = read(store, world_size=world_size, epochs=1)
        full = [row for batch in got for row in batch]
        assert sorted(full) == expected
    lengths = {
        len(hr.Loader(store, seq_len=16, batch_size=12, epochs=1, rank=r, world_size=5)) for r in range(5)
    }
    assert len(lengths) == 1


def test_no_byte_unverified(corpus, tmp_path):
    hr.ingest([corpus], tmp_path / "store", workers=1, codec="zstd")
    (shard,) = [p for p in (tmp_path / "store" / "data").iterdir() if re.fullmatch(r"[^.]+\.arrow", p.name)]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    with hr.Store.open(tmp_path / "store") as damaged, pytest.raises(hr.ShardError, match="block"):
        read(damaged, epochs=1)


def test_refuse_dont_guess(store):
    loader = hr.Loader(store, seq_len=16, batch_size=12, seed=3)
    state = loader.state_dict()
    for other in ({"seq_len": 15}, {"seed": 4}):
        changed = hr.Loader(store, **({"seq_len": 16, "batch_size": 12, "seed": 3} | other))
        with pytest.raises(hr.ResumeError, match=next(iter(other))):
            changed.load_state_dict(state)


def test_kill_it_anywhere(corpus, tmp_path):
    """An ingest killed when its first unit is written ends, run again, with the bytes of an undisturbed one."""
    hr.ingest([corpus], tmp_path / "whole", workers=1, job=hr.JobOptions(shard_text_bytes=4000))
    code = (
        "import os, signal, sys, headrace as hr\n"
        "def progress(done, total, note):\n"
        "    if done: os.kill(os.getpid(), signal.SIGKILL)\n"
        "hr.ingest([sys.argv[1]], sys.argv[2], workers=1,\n"
        "          job=hr.JobOptions(shard_text_bytes=4000), progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, corpus, tmp_path / "store"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "store" / "manifest.json").exists()
    hr.ingest([corpus], tmp_path / "store", workers=2, job=hr.JobOptions(shard_text_bytes=4000))

    def files(root):
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert files(tmp_path / "store") == files(tmp_path / "whole")


def test_committed_means_stored_once(store, tmp_path):
    hr.train(
        store.url,
        out=tmp_path / "run",
        model=hr.GPTConfig(**MODEL),
        steps=2,
        data=hr.DataOptions(seq_len=16, batch_size=4),
        optimizer=hr.OptimizerOptions(lr=1e-3),
    )
    prompts = [{"id": f"p{i}", "prompt": "turn"} for i in range(5)]
    for _ in range(2):  # requested twice, stored once
        hr.generate(model=tmp_path / "run", prompts=prompts, out=tmp_path / "out", max_new_tokens=3)
        table = hr.read_predictions(tmp_path / "out")
        assert sorted(table.column("prompt_id").to_pylist()) == [f"p{i}" for i in range(5)]


def test_memory_does_not_grow(store):
    process = psutil.Process()
    loader = hr.Loader(store, seq_len=16, batch_size=12, seed=1, epochs=None)
    for _ in range(200):
        next(loader)
    before = process.memory_info().rss
    for _ in range(20_000):  # some 100 epochs
        next(loader)
    assert process.memory_info().rss - before < 8 << 20


def test_it_says_where_the_time_goes(corpus, store, tmp_path):
    summary = hr.ingest([corpus], tmp_path / "store", workers=1)
    assert summary.limiting_stage in summary.stages
    assert all(seconds >= 0 for seconds in summary.stages.values())
    loader = hr.Loader(store, seq_len=16, batch_size=12)
    next(loader)
    stages = loader.stats.snapshot()
    assert sum(stage.items for stage in stages.values()) > 0
    assert sum(stage.busy_s for stage in stages.values()) > 0


def test_every_promise_on_the_page_has_a_test_of_its_name():
    page = (ROOT / "docs" / "guarantees.md").read_text()
    names = [
        re.sub(r"[^a-z ]", "", title.lower()).strip()
        for title in re.findall(r"^## \d\. (.*)$", page, re.MULTILINE)
    ]
    assert len(names) == 8
    for name in names:
        assert f"test_{name.replace(' ', '_')}" in globals(), name
