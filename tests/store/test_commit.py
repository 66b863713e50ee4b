"""A store is complete or is not a store; snapshots follow each other and stay.

Of commit.py and format.py.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from storage_fakes import FlakyBlob
from store_fakes import BYTE, WIDE, make_store, sample_tokens

from headrace.errors import ConfigError, ManifestError
from headrace.storage import open_blob
from headrace.store import ShardEntry, Store, commit_store, write_shard

BOTH = pytest.mark.parametrize("url", ["local", "memory"], indirect=True)


def files_of(blob):
    return {name: bytes(blob.get(name)) for name in blob.list()}


@BOTH
def test_the_same_commands_make_the_same_bytes(url, blob, tmp_path):
    tokens, ends = sample_tokens(500)
    make_store(url, tokens, ends, sizes=[123, 377], extra={"b": 1, "a": [2]})
    first = files_of(blob)
    make_store(tmp_path / "again", tokens, ends, sizes=[123, 377], extra={"a": [2], "b": 1})
    assert files_of(open_blob(tmp_path / "again")) == first
    make_store(url, tokens, ends, sizes=[123, 377], extra={"b": 1, "a": [2]})
    assert files_of(blob) == first, "a second run changed something"


@BOTH
def test_old_snapshots_stay_openable_after_appending(url):
    tokens, ends = sample_tokens(600)
    make_store(url, tokens[:200], ends[ends <= 200])
    first = Store.open(url)
    later = ends[(ends > 200)] - 200
    entries = [write_shard(url, "later", tokens[200:], later, block_tokens=64)]
    assert commit_store(url, entries, tokenizer=BYTE, append=True) == 2
    assert commit_store(url, entries, tokenizer=BYTE, append=True) == 2, "run again after it had succeeded"
    newest = Store.open(url)
    assert np.array_equal(newest.read(0, 600), tokens)
    assert newest.document_ends(0, 600).tolist() == sorted([*ends[ends <= 200], *(later + 200)])
    assert (newest.snapshot, newest.num_shards) == (2, 2)
    again = Store.open(url, snapshot=1)
    assert (again.fingerprint, again.num_tokens) == (first.fingerprint, 200)
    with pytest.raises(ManifestError, match=r"manifest-00000003\.json"):
        Store.open(url, snapshot=3)


def test_a_commit_without_append_replaces_and_keeps_the_old_snapshot(tmp_path):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends)
    make_store(tmp_path, tokens[:100], ends[ends <= 100], prefix="other")
    assert (Store.open(tmp_path).snapshot, Store.open(tmp_path).num_tokens) == (2, 100)
    assert np.array_equal(Store.open(tmp_path, snapshot=1).read(0, 300), tokens)


class Killed(BaseException):
    """What no handler catches, as a process that ends."""


@pytest.mark.parametrize("append", [False, True])
def test_killed_before_any_write_a_store_is_what_it_was_and_the_next_run_completes_it(tmp_path, append):
    tokens, ends = sample_tokens(300)
    before = tmp_path / "before"
    if append:
        make_store(before, tokens[:100], ends[ends <= 100])
    entry = write_shard(before, "next", tokens[100:], ends[ends > 100] - 100, block_tokens=64)
    done = tmp_path / "done"
    shutil.copytree(before, done)
    commit_store(done, [entry], tokenizer=BYTE, append=append)
    wanted = files_of(open_blob(done))
    writes = 0
    while True:
        path = tmp_path / f"killed-{writes}"
        shutil.copytree(before, path)
        count = 0

        def trouble(number, operation, name, limit=writes):
            nonlocal count
            if operation.startswith("put"):
                count += 1
                if count > limit:
                    raise Killed

        try:
            commit_store(FlakyBlob(open_blob(path), trouble), [entry], tokenizer=BYTE, append=append)
        except Killed:
            if append:
                assert Store.open(path).num_tokens == 100
            else:
                with pytest.raises(ManifestError, match="not a complete store"):
                    Store.open(path)
            commit_store(path, [entry], tokenizer=BYTE, append=append)
            assert files_of(open_blob(path)) == wanted
            writes += 1
        else:
            break
    assert writes == 4, "table, tokenizer, snapshot's manifest, manifest"


@BOTH
def test_of_two_commits_at_once_one_is_refused(url, blob):
    tokens, ends = sample_tokens(300)
    make_store(url, tokens[:100], ends[ends <= 100])
    mine = write_shard(url, "mine", tokens[100:], ends[ends > 100] - 100, block_tokens=64)
    theirs = write_shard(url, "theirs", tokens[100:200], [100], block_tokens=64)

    def trouble(number, operation, name):
        if operation == "put_if_absent":
            commit_store(url, [theirs], tokenizer=BYTE, append=True)

    with pytest.raises(ManifestError, match="another writer committed snapshot 2"):
        commit_store(FlakyBlob(blob, trouble), [mine], tokenizer=BYTE, append=True)
    assert Store.open(url).num_tokens == 200


def test_what_does_not_fit_together_is_refused(tmp_path):
    tokens, ends = sample_tokens(300)
    entry = write_shard(tmp_path, "a", tokens, ends, block_tokens=64)
    other = write_shard(tmp_path, "b", tokens, ends, block_tokens=32)
    wide = write_shard(tmp_path, "c", tokens.astype(np.uint32), ends, block_tokens=64)
    for entries, message in [
        ([], "at least one"),
        ([entry, entry], "named twice"),
        ([entry, other], "blocks of 32"),
        ([entry, wide], "uint32"),
    ]:
        with pytest.raises(ConfigError, match=message):
            commit_store(tmp_path, entries, tokenizer=BYTE)
    with pytest.raises(ManifestError, match="no store to append to"):
        commit_store(tmp_path, [entry], tokenizer=BYTE, append=True)
    with pytest.raises(ConfigError, match="JSON does not have"):
        commit_store(tmp_path, [entry], tokenizer=BYTE, extra={"a": object()})
    commit_store(tmp_path, [entry], tokenizer=BYTE)
    with pytest.raises(ConfigError, match="its tokenizer is byte"):
        commit_store(tmp_path, [wide], tokenizer=WIDE, append=True)
    with pytest.raises(ConfigError, match="named twice"):
        commit_store(tmp_path, [write_shard(tmp_path, "d", tokens, ends, block_tokens=64), entry],
                     tokenizer=BYTE, append=True)  # fmt: skip


def test_an_entry_survives_a_journal_in_json(tmp_path):
    tokens, ends = sample_tokens(300)
    entry = write_shard(tmp_path, "a", tokens, ends)
    assert ShardEntry.from_json(json.loads(json.dumps(entry.to_json()))) == entry
    broken = {**entry.to_json(), "tokens": "300"}
    with pytest.raises(ManifestError, match="field tokens is '300', expected int"):
        ShardEntry.from_json(broken)


def test_what_the_writer_keeps_comes_back(tmp_path):
    tokens, ends = sample_tokens(300)
    make_store(tmp_path, tokens, ends, extra={"sources": ["a.jsonl.gz"], "bytes": 12})
    assert Store.open(tmp_path).extra == {"sources": ["a.jsonl.gz"], "bytes": 12}
