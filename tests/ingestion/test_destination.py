"""The destination of a store: locked against other jobs, and a full device is one line.

Modules: job/destination.py, job/lock.py.
"""

from __future__ import annotations

import errno

import numpy as np
import pytest

from headrace.errors import ConfigError, SpaceError, StorageError
from headrace.ingestion import ingest
from headrace.ingestion.job.destination import BLOCK_BYTES, block_tokens_for, open_destination
from headrace.storage import open_blob
from headrace.store import Store
from headrace.tokens import load_tokenizer


@pytest.fixture
def text(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("the wheel turns\n" * 50)
    return source


def test_blocks_of_a_new_store_hold_256_kib_of_tokens_whatever_their_type(tmp_path):
    class Large:
        vocab_size = 100_000

    assert block_tokens_for(open_blob(tmp_path / "new"), load_tokenizer("byte")) * 2 == BLOCK_BYTES
    assert block_tokens_for(open_blob(tmp_path / "new"), Large()) * 4 == BLOCK_BYTES


def test_appended_shards_have_the_block_size_of_the_store(tmp_path, text):
    ingest([text], tmp_path / "store", tokenizer="byte")
    with Store.open(tmp_path / "store") as store:
        assert block_tokens_for(open_blob(tmp_path / "store"), load_tokenizer("byte")) == store.block_tokens


def test_a_destination_that_is_a_file_is_refused_and_not_changed(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(ConfigError, match="is a file; expected a directory"),
        open_destination(tmp_path / "file", None, restart=True),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_destination_is_locked_against_other_jobs(tmp_path):
    with (
        open_destination(tmp_path / "store", None, restart=False),
        pytest.raises(ConfigError),
        open_destination(tmp_path / "store", None, restart=False),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EFBIG, "ulimit -f")],
)
def test_a_full_device_is_one_line_that_says_what_to_do(tmp_path, number, why):
    with (
        pytest.raises(SpaceError, match=f"{why}.*run the same command again"),
        open_destination(tmp_path / "store", None, restart=False),
    ):
        raise OSError(number, "full", "part-0")


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ESTALE])
def test_any_error_of_a_device_names_the_file_and_says_that_work_is_kept(tmp_path, number):
    with (
        pytest.raises(StorageError, match=r"part-0: broken\..*run the same command again") as caught,
        open_destination(tmp_path / "store", None, restart=False),
    ):
        raise OSError(number, "broken", "part-0")
    assert not isinstance(caught.value, SpaceError)


def test_a_restart_forgets_the_store_that_was_there(tmp_path, text):
    ingest([text], tmp_path / "store", tokenizer="byte")
    other = tmp_path / "b.txt"
    other.write_text("other words\n")
    ingest([other], tmp_path / "store", tokenizer="byte", restart=True)
    with Store.open(tmp_path / "store") as store:
        assert store.num_documents == 1
        assert bytes(store.read(0, store.num_tokens - 1).astype(np.uint8)) == b"other words\n"


def test_a_destination_below_a_file_is_one_line_with_the_path(tmp_path, text):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match=r"file.*A part of the path is a file"):
        ingest([text], tmp_path / "file" / "store", tokenizer="byte")
