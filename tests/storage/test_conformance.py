"""One contract for every place that holds bytes: protocol.py, local.py, memory.py, remote.py, opener.py.

Each backend is a subclass of `BlobConformance`, and so is each kind of trouble that a caller must not notice.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from storage_fakes import FakeClock, FlakyBlob, LateBlob, cut
from store_fakes import make_store, sample_tokens

from headrace.errors import ConfigError
from headrace.storage import MemoryBlob, Retry, RetryingBlob, open_blob
from headrace.store import Store, verify_store


class BlobConformance:
    """What every backend does; a subclass has a fixture `place`, a fresh blob."""

    def test_get_and_size_return_the_bytes_of_the_last_put(self, place):
        place.put("a/b/c.bin", b"one")
        place.put("a/b/c.bin", [b"tw", memoryview(b"o"), b""])
        place.put("d", b"")
        assert bytes(place.get("a/b/c.bin")) == b"two"
        assert bytes(place.get("d")) == b""
        assert (place.size("a/b/c.bin"), place.size("d")) == (3, 0)

    def test_list_returns_the_names_below_a_prefix_sorted(self, place):
        for name in ("d", "a/b/c.bin", "a/b.bin"):
            place.put(name, b"x")
        assert place.list() == ["a/b.bin", "a/b/c.bin", "d"]
        assert place.list("a/") == ["a/b.bin", "a/b/c.bin"]
        assert place.list("a/b/") == ["a/b/c.bin"]
        assert place.list("nothing/") == []

    def test_a_range_ends_where_the_bytes_end(self, place):
        place.put("x", bytes(range(100)))
        assert bytes(place.get_range("x", 10, 20)) == bytes(range(10, 20))
        assert bytes(place.get_range("x", 0, 100)) == bytes(range(100))
        assert bytes(place.get_range("x", 90, 200)) == bytes(range(90, 100))
        assert bytes(place.get_range("x", 5, 5)) == b""

    def test_a_missing_name_is_file_not_found(self, place):
        for call in (place.get, place.size, lambda path: place.get_range(path, 0, 1)):
            with pytest.raises(FileNotFoundError):
                call("not/there")
        place.delete("not/there")

    def test_a_name_below_a_file_is_file_not_found(self, place):
        place.put("x", b"1")
        with pytest.raises(FileNotFoundError):
            place.get("x/y")

    def test_of_two_writers_that_create_a_name_one_wins(self, place):
        results = []
        threads = [
            threading.Thread(target=lambda i=i: results.append((place.put_if_absent("lock", b"%d" % i), i)))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [i for won, i in results if won]
        assert len(winners) == 1
        assert bytes(place.get("lock")) == b"%d" % winners[0]
        place.delete("lock")
        assert place.put_if_absent("lock", b"again")

    @pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
    def test_a_name_that_leaves_the_root_is_refused(self, place, path):
        for call in (place.get, place.delete, lambda name: place.put(name, b"")):
            with pytest.raises(ConfigError, match="relative name without"):
                call(path)

    def test_a_store_is_written_and_read(self, place):
        tokens, ends = sample_tokens(1000)
        make_store(place, tokens, ends, sizes=[400, 600], codec=["none", "zstd"])
        with Store.open(place.url) as store:
            starts = np.arange(0, 950, 50)
            assert np.array_equal(store.gather(starts, 50), tokens[starts[:, None] + np.arange(50)])
            assert store.document_ends(0, 1000).tolist() == ends.tolist()
            assert verify_store(store) == store.nbytes
            assert store.tokenizer.name == "byte"


class TestLocal(BlobConformance):
    @pytest.fixture
    def place(self, tmp_path):
        return open_blob(tmp_path / "blob")


class TestMemory(BlobConformance):
    @pytest.fixture
    def place(self, request):
        return open_blob(f"memory://{request.node.nodeid}")


@pytest.mark.s3
class TestS3(BlobConformance):
    @pytest.fixture
    def place(self, s3_url):
        return open_blob(s3_url)


class TestFlaky(BlobConformance):
    """Every call fails twice before it succeeds."""

    @pytest.fixture
    def place(self, request):
        tries = {}

        def trouble(number, operation, path):
            key = (threading.get_ident(), operation, path)
            tries[key] = tries.get(key, 0) + 1
            return cut() if tries[key] % 3 else None

        flaky = FlakyBlob(MemoryBlob(request.node.nodeid), trouble)
        return RetryingBlob(flaky, Retry(sleep=FakeClock().sleep))


class TestLate(BlobConformance):
    """Every other call returns only after the calls that began after it, or alone if there are none."""

    @pytest.fixture
    def place(self, request):
        return LateBlob(MemoryBlob(request.node.nodeid))


def test_each_scheme_opens_its_blob(tmp_path):
    assert open_blob(f"file://{tmp_path}").url == str(tmp_path)
    assert open_blob(tmp_path).url == str(tmp_path)
    assert open_blob("memory://a/b").url == "memory://a/b"
    with pytest.raises(ConfigError, match="scheme 'ftp' is not known"):
        open_blob("ftp://x")


def test_hidden_and_half_written_files_are_not_listed(tmp_path):
    blob = open_blob(tmp_path)
    blob.put("a", b"")
    (tmp_path / ".a.tmp").write_bytes(b"half")
    assert blob.list() == ["a"]
    blob.put("a", b"whole")
    assert not (tmp_path / ".a.tmp").exists()
