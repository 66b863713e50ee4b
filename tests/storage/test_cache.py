"""The machine's cache: one fetch per machine, bounded, and no dead process in the way."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import threading

import numpy as np
import pytest
from storage_fakes import FlakyBlob
from store_fakes import make_store, sample_tokens

from headrace.errors import ConfigError
from headrace.generation.prefix_cache.token_hashes import KEY_FORMAT
from headrace.storage import NodeCache, open_blob
from headrace.store import Store
from headrace.store.read.fetch import BLOCK_KEY_FORMAT

TOKENS, ENDS = sample_tokens(6400)
KEYS = [f"aa{'0' * 14}-{'0' * 16}-{i:x}" for i in range(10)]
FORK = multiprocessing.get_context("fork")


def open_cache(path, *, max_bytes=1 << 20, next_uses=dict, key_format=BLOCK_KEY_FORMAT):
    return NodeCache(path, max_bytes=max_bytes, next_uses=next_uses, key_format=key_format)


@pytest.fixture
def open_store(tmp_path, monkeypatch):
    """Opens a store of 100 blocks as if it were remote; each has its own count of requests."""
    make_store(tmp_path / "remote", TOKENS, ENDS, codec="zstd")
    opened = []

    def open_(**options):
        flaky = FlakyBlob(open_blob(tmp_path / "remote"))
        monkeypatch.setattr("headrace.store.store.open_blob", lambda _: flaky)
        options.setdefault("cache_dir", tmp_path / "cache")
        store = Store.open(tmp_path / "remote", **options)
        opened.append(store)
        return store, flaky

    yield open_
    for store in opened:
        store.close()


def fetched(flaky):
    """Blocks that were fetched: stored bytes over all data requests."""
    return sum(call[3] - call[2] for call in flaky.calls if call[1] == "data/s0.arrow")


def stored(store):
    return int(store._source.index(0).nbytes.sum())


def read_rows(store, seed=0):
    starts = np.random.default_rng(seed).permutation(200) * 32
    rows = [store.gather(part, 32) for part in np.split(starts, 10)]
    return np.array_equal(np.concatenate(rows), TOKENS[starts[:, None] + np.arange(32)])


def cached(path):
    return [file for file in (path / "cache").rglob("*") if file.is_file() and file.name != "evict.lock"]


def test_what_one_store_fetched_the_next_one_finds(open_store, tmp_path):
    one, first = open_store()
    assert read_rows(one)
    assert fetched(first) >= stored(one)
    two, second = open_store()
    assert read_rows(two, seed=1)
    assert fetched(second) == 0
    assert all(file.suffix not in (".claim", ".tmp") for file in cached(tmp_path))


def test_two_that_read_at_once_fetch_each_block_once(open_store, monkeypatch):
    monkeypatch.setattr("headrace.store.read.fetch.coalesce", lambda wanted, **_: [[one] for one in wanted])
    stores = [open_store() for _ in range(3)]
    right = []
    threads = [threading.Thread(target=lambda s=s: right.append(read_rows(s))) for s, _ in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 3
    ranges = [call[2:] for _, flaky in stores for call in flaky.calls if call[1] == "data/s0.arrow"]
    assert len(ranges) == len(set(ranges)) == 100


def _read_in_child(open_store, connection, barrier):
    store, flaky = open_store()
    barrier.wait(60)
    right = read_rows(store, seed=os.getpid())
    connection.send((right, [call[2:] for call in flaky.calls if call[1] == "data/s0.arrow"]))
    store.close()


def test_processes_of_one_machine_fetch_each_block_once(open_store, monkeypatch):
    monkeypatch.setattr("headrace.store.read.fetch.coalesce", lambda wanted, **_: [[one] for one in wanted])
    pipes, children, barrier = [], [], FORK.Barrier(3)
    for _ in range(3):
        mine, theirs = FORK.Pipe()
        pipes.append(mine)
        children.append(FORK.Process(target=_read_in_child, args=(open_store, theirs, barrier)))
        children[-1].start()
    answers = []
    for pipe in pipes:
        assert pipe.poll(120)
        answers.append(pipe.recv())
    for child in children:
        child.join()
    assert all(right for right, _ in answers)
    ranges = [tuple(call) for _, calls in answers for call in calls]
    assert len(ranges) == len(set(ranges)) == 100


def _claim_and_die(path, connection):
    cache = open_cache(path)
    assert cache.claim(KEYS[1])
    cache._path(KEYS[1], ".tmp").write_bytes(b"half")
    connection.send("claimed")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_no_claim_and_its_debris_is_cleaned(tmp_path):
    mine, theirs = FORK.Pipe()
    child = FORK.Process(target=_claim_and_die, args=(tmp_path, theirs))
    child.start()
    assert mine.poll(60)
    assert mine.recv() == "claimed"
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert sorted(file.name for file in (tmp_path / "aa").iterdir()) == [f"{KEYS[1]}.claim", f"{KEYS[1]}.tmp"]
    cache = open_cache(tmp_path)
    assert list((tmp_path / "aa").iterdir()) == []
    assert cache.claim(KEYS[1])


def test_a_claim_keeps_others_away_until_it_is_released(tmp_path):
    one = open_cache(tmp_path)
    two = open_cache(tmp_path)
    assert one.claim(KEYS[1])
    assert not two.claim(KEYS[1])
    waited = threading.Event()
    thread = threading.Thread(target=lambda: (two.wait(KEYS[1]), waited.set()))
    thread.start()
    assert not waited.is_set()
    one.put(KEYS[1], b"block")
    one.release(KEYS[1])
    thread.join()
    assert waited.is_set()
    assert two.get(KEYS[1]) == b"block"
    assert two.claim(KEYS[1])
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_cache_stays_within_its_bound(open_store, tmp_path):
    store, _ = open_store(cache_bytes=0, cache_dir_bytes=2000)
    for seed in range(3):
        assert read_rows(store, seed)
        assert sum(file.stat().st_size for file in cached(tmp_path)) <= 2000 * (1 + 1 / 32) + 200


def fill(cache, keys):
    for key in keys:
        assert cache.claim(key)
        cache.put(key, bytes(100))
        cache.release(key)


def test_what_is_needed_last_goes_first(tmp_path):
    cache = open_cache(tmp_path)
    fill(cache, KEYS)
    upcoming = {key: rank for rank, key in enumerate(KEYS)}
    open_cache(tmp_path, max_bytes=500, next_uses=lambda: upcoming)
    assert sorted(file.name for file in (tmp_path / "aa").iterdir()) == KEYS[:4], "90 % of the bound"


def test_without_an_order_the_oldest_goes_first(tmp_path):
    cache = open_cache(tmp_path)
    fill(cache, KEYS)
    for age, key in enumerate(KEYS):
        os.utime(tmp_path / "aa" / key, (1000 - age, 1000 - age))
    assert cache.get(KEYS[9]) is not None, "used now"
    open_cache(tmp_path, max_bytes=400)
    assert sorted(file.name for file in (tmp_path / "aa").iterdir()) == [KEYS[0], KEYS[1], KEYS[9]]


def test_a_block_damaged_in_the_cache_is_fetched_again(open_store, tmp_path):
    one, _ = open_store()
    assert read_rows(one)
    for file in cached(tmp_path)[:5]:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    cached(tmp_path)[5].write_bytes(b"")
    two, flaky = open_store()
    assert read_rows(two)
    assert 0 < fetched(flaky) < stored(one)
    three, again = open_store()
    assert read_rows(three)
    assert fetched(again) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize(
    "call", ["pathlib.Path.write_bytes", "pathlib.Path.mkdir", "os.open", "pathlib.Path.replace"]
)
def test_a_cache_that_fails_while_it_is_used_is_bypassed(open_store, tmp_path, monkeypatch, call, code):
    """No bytes, no inodes for a directory or a claim, an I/O error: rows are right, and nothing is kept."""
    store, _ = open_store()
    real = os.open if call == "os.open" else None

    def fail(path, *args, **options):
        if real is not None and ".claim" not in str(path):
            return real(path, *args, **options)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(call, fail)
    assert read_rows(store)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_when_the_cache_is_opened_is_bypassed_too(open_store, tmp_path, monkeypatch, code):
    def fail(*args, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.mkdir", fail)
        store, _ = open_store()
        assert read_rows(store)


@pytest.mark.parametrize("place", ["file", "below a file", "read-only", "not permitted"])
def test_a_cache_dir_that_cannot_be_used_is_refused_by_its_name(open_store, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_bytes(b"")
    name = {"file": "file", "below a file": "file/cache"}.get(place, "cache")
    code = {"read-only": errno.EROFS, "not permitted": errno.EACCES}.get(place)
    if code is not None:
        real = os.open

        def fail(path, *args, **options):
            if "evict.lock" in str(path):
                raise OSError(code, os.strerror(code))
            return real(path, *args, **options)

        monkeypatch.setattr("os.open", fail)
    with pytest.raises(
        ConfigError, match=r"cache_dir .*(file|cache): cannot be used: .*Name a local directory"
    ):
        open_store(cache_dir=tmp_path / name)


def test_a_cache_over_its_bound_is_opened_and_evicts(open_store, tmp_path):
    store, _ = open_store()
    assert read_rows(store)
    smaller, _ = open_store(cache_dir_bytes=1000)
    assert sum(file.stat().st_size for file in cached(tmp_path)) <= 1000
    assert read_rows(smaller, seed=1)


def test_files_of_the_user_in_the_directory_are_never_removed_nor_read(tmp_path):
    """A home directory given as cache_dir: neither eviction nor the removal of debris takes what is not the cache's."""
    uuid = "aa0000000000-0000-4000-8000-000000000000"
    names = [
        "photos/1.jpg",
        "photos/notes.tmp",
        "photos/x.claim",
        f"aa/{uuid}",
        "aa/aa-1",
        f"ab/{KEYS[2]}",
        "x.tmp",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (1, 1))
    elsewhere = tmp_path.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / KEYS[3].replace("aa", "ac", 1)).write_bytes(bytes(1000))
    (tmp_path / "ac").symlink_to(elsewhere)
    fill(open_cache(tmp_path), KEYS)
    open_cache(tmp_path, max_bytes=300)
    assert all((tmp_path / name).read_bytes() == bytes(1000) for name in names)
    assert len(list(elsewhere.iterdir())) == 1
    assert sum((tmp_path / "aa" / key).exists() for key in KEYS) == 2


def test_a_directory_that_is_not_the_caches_and_cannot_be_read_is_no_error(tmp_path, monkeypatch):
    """The root of a disk has lost+found, which only root may read."""
    (tmp_path / "lost+found").mkdir()
    real = os.scandir

    def scandir(path):
        if "lost+found" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    fill(open_cache(tmp_path), KEYS)


def test_caches_with_other_keys_share_a_directory_and_remove_only_their_own(tmp_path):
    other = [f"aa{i:038x}" for i in range(10)]
    fill(open_cache(tmp_path), KEYS)
    fill(open_cache(tmp_path, key_format=KEY_FORMAT), other)
    open_cache(tmp_path, max_bytes=300, key_format=KEY_FORMAT)
    assert sum((tmp_path / "aa" / key).exists() for key in other) == 2
    assert all((tmp_path / "aa" / key).exists() for key in KEYS)


def test_the_files_of_a_stores_cache_are_the_caches_own(open_store, tmp_path):
    """A file that the cache does not know for its own is never removed: the bound would not hold."""
    store, _ = open_store()
    store.read(0, 640)
    names = [file.name for file in (tmp_path / "cache").glob("??/*")]
    assert names
    assert all(re.fullmatch(BLOCK_KEY_FORMAT, name) for name in names)


def test_another_user_takes_blocks_from_the_cache_and_fetches_the_others(as_another_user):
    shared = as_another_user.path
    with_block = open_cache(shared)
    assert with_block.claim(KEYS[0])
    assert with_block.put(KEYS[0], b"block")
    with_block.release(KEYS[0])
    with as_another_user():
        cache = open_cache(shared)
        assert cache.get(KEYS[0]) == b"block"
        assert cache.claim(KEYS[1])
        assert not cache.put(KEYS[1], b"other")
        cache.release(KEYS[1])
        assert cache.get(KEYS[1]) is None
    assert open_cache(shared).get(KEYS[0]) == b"block"
