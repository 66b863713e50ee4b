"""Tests directory.py; whole blocks after a kill, shared, bounded."""

import logging
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from headrace.errors import ConfigError
from headrace.generation.prefix_cache import BlockDirectory

SHAPE = (2, 1, 1, 4, 8)
BLOCK_BYTES = 4 * 2 * 4 * 8


def opened(path, **more):
    return BlockDirectory(
        path, **{"max_bytes": 1 << 20, "model": "m", "dtype": torch.float32, "shape": SHAPE} | more
    )


def chain(first, count):
    return [(f"{number:040x}", torch.full(SHAPE, float(number))) for number in range(first, first + count)]


def files(path):
    return sorted(file for file in path.glob("*/*") if not file.name.endswith((".claim", ".tmp")))


def test_blocks_are_found_by_another_process_and_by_no_other_model(tmp_path):
    one, other, foreign = opened(tmp_path), opened(tmp_path), opened(tmp_path, model="n")
    assert one.write_later(chain(0, 3))
    assert one.flush(60)
    for key, block in chain(0, 3):
        assert torch.equal(other.read(key), block)
    assert other.read(f"{9:040x}") is None
    assert foreign.read(f"{0:040x}") is None


def test_a_damaged_block_is_logged_removed_and_written_again(tmp_path, caplog):
    cache = opened(tmp_path)
    cache.write_later(chain(0, 1))
    cache.flush(60)
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-40] ^= 4
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, "headrace.cache"):
        assert cache.read(f"{0:040x}") is None
    assert str(file) in caplog.text
    assert "XXH3-128" in caplog.text
    assert not file.exists()
    cache.write_later(chain(0, 1))
    cache.flush(60)
    assert cache.read(f"{0:040x}") is not None


def test_the_least_recently_used_blocks_are_removed_down_to_the_bound(tmp_path):
    cache = opened(tmp_path)
    cache.write_later(chain(0, 40))
    cache.flush(60)
    size = files(tmp_path)[0].stat().st_size
    for number, (key, _) in enumerate(chain(0, 40)):
        os.utime(cache.path / key[:2] / key, ns=(number, number))
    assert cache.read(f"{0:040x}") is not None  # used now
    opened(tmp_path, max_bytes=20 * size)
    kept = {int(file.name, 16) for file in files(tmp_path)}
    assert kept == {0, *range(23, 40)}


def test_more_blocks_than_may_wait_are_not_taken(tmp_path):
    cache = opened(tmp_path, pending_bytes=BLOCK_BYTES)
    taken = [cache.write_later(chain(10 * i, 10)) for i in range(200)]
    assert taken[0]
    assert not all(taken)
    assert cache.flush(60)
    assert len(files(tmp_path)) == 10 * sum(taken)


def test_the_directory_is_closed_to_other_users(tmp_path):
    assert opened(tmp_path / "a" / "b").path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("directory", ["s3://bucket/cache", "file"])
def test_a_url_and_a_file_are_refused(tmp_path, monkeypatch, directory):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(ConfigError, match="prefix_cache"):
        opened(directory)


def test_a_bound_below_one_block_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a block of this model has 256 bytes"):
        opened(tmp_path, max_bytes=100)


def _write_until_killed(path, pipe):
    cache = opened(path, shape=(2, 1, 1, 64, 64), max_bytes=1 << 30)
    first = 0
    while True:
        cache.write_later(
            [(f"{n:040x}", torch.full((2, 1, 1, 64, 64), float(n))) for n in range(first, first + 8)]
        )
        cache.flush()
        pipe.send(first)
        first += 8


def test_a_kill_leaves_whole_blocks_or_none(tmp_path):
    """Four writers of the same blocks are killed while they write; every file that is there is whole."""
    context = multiprocessing.get_context("fork")
    for turn in range(4):
        path = tmp_path / str(turn)
        ours, theirs = context.Pipe()
        writers = [context.Process(target=_write_until_killed, args=(path, theirs)) for _ in range(2)]
        for writer in writers:
            writer.start()
        for _ in range(turn + 1):
            ours.recv()
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        cache = opened(path, shape=(2, 1, 1, 64, 64), max_bytes=1 << 30)
        found = files(path)
        assert len(found) >= 8
        for file in found:
            block = cache.read(file.name)
            assert block is not None, file
            assert torch.equal(block, torch.full((2, 1, 1, 64, 64), float(int(file.name, 16))))
        assert not list(path.glob("*/*.tmp"))
