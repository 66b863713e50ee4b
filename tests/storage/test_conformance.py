"""One contract for every place that holds bytes: protocol.py, local.py, memory.py, remote.py, opener.py.

Each backend is a subclass of `BlobConformance`, and so is each kind of trouble that a caller must not notice.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from storage_fakes import BlobServer, FakeClock, FaultyProxy, FlakyBlob, LateBlob, cut
from store_fakes import make_store, sample_tokens

from headrace.errors import ConfigError, StorageError
from headrace.storage import (
    BulkReader,
    MemoryBlob,
    RangeRead,
    RemoteBlob,
    Retry,
    RetryingBlob,
    open_blob,
    read_into,
    upload,
    upload_file,
)
from headrace.store import Store, verify_store


class ReadConformance:
    """What every backend does that can be read; a subclass has the fixtures `place`, and `source`, which writes."""

    @pytest.fixture
    def source(self, place):
        """A blob that writes what `place` reads."""
        return place

    def test_get_size_and_info_are_of_the_last_put(self, place, source):
        source.put("a/b/c.bin", b"one")
        before = place.info("a/b/c.bin")
        source.put("a/b/c.bin", [b"tw", memoryview(b"o"), b"", b"!"])
        source.put("d", b"")
        assert bytes(place.get("a/b/c.bin")) == b"two!"
        assert bytes(place.get("d")) == b""
        assert (place.size("a/b/c.bin"), place.size("d")) == (4, 0)
        after = place.info("a/b/c.bin")
        assert (before.nbytes, after.nbytes) == (3, 4)
        assert before.version != after.version
        assert place.info("a/b/c.bin") == after

    def test_a_range_ends_where_the_bytes_end(self, place, source):
        source.put("x", bytes(range(100)))
        assert bytes(place.get_range("x", 10, 20)) == bytes(range(10, 20))
        assert bytes(place.get_range("x", 0, 100)) == bytes(range(100))
        assert bytes(place.get_range("x", 90, 200)) == bytes(range(90, 100))
        assert bytes(place.get_range("x", 100, 200)) == b""
        assert bytes(place.get_range("x", 5, 5)) == b""

    def test_a_missing_name_is_file_not_found(self, place, source):
        source.put("x", b"1")
        for call in (place.get, place.size, place.info, lambda path: place.get_range(path, 0, 1)):
            for name in ("not/there", "x/y"):
                with pytest.raises(FileNotFoundError):
                    call(name)

    @pytest.mark.parametrize(
        "path", ["", "/etc/passwd", "../x", "a/../x", "a\0b", "a//b", "a/./b", "a/", "a\n"]
    )
    def test_a_name_that_is_not_one_everywhere_is_refused(self, place, path):
        """An object store would refuse it, or keep it under another name than a disk."""
        calls = [place.get, place.size, lambda name: place.get_range(name, 0, 1)]
        calls += [
            place.delete,
            lambda name: place.put(name, b""),
            lambda name: place.put_if_absent(name, b""),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match="relative name without"):
                call(path)

    def test_many_large_requests_fill_memory_that_is_there(self, place, source):
        contents = {f"w/{i}": np.random.default_rng(i).bytes(70_000) for i in range(4)}
        for name, content in contents.items():
            source.put(name, content)
        buffers = {name: bytearray(len(content)) for name, content in contents.items()}
        reads = [
            RangeRead(
                name=name, start=at, stop=at + 10_000, into=(memoryview(buffers[name])[at : at + 10_000],)
            )
            for name in contents
            for at in range(0, 70_000, 10_000)
        ]
        assert sorted(BulkReader(place, num_requests=8).read(reads)) == list(range(28))
        assert buffers == contents
        with pytest.raises(StorageError, match=r"w/0: ends at byte 70,000, expected 70,001"):
            read_into(place, "w/0", 60_000, [memoryview(bytearray(10_001))])

    def test_a_store_is_read(self, place, source):
        tokens, ends = sample_tokens(1000)
        make_store(source, tokens, ends, sizes=[400, 600], codec=["none", "zstd"])
        with Store.open(place.url) as store:
            starts = np.arange(0, 950, 50)
            assert np.array_equal(store.gather(starts, 50), tokens[starts[:, None] + np.arange(50)])
            assert store.document_ends(0, 1000).tolist() == ends.tolist()
            assert verify_store(store) == store.nbytes
            assert store.tokenizer.name == "byte"


class BlobConformance(ReadConformance):
    """What every backend does that can be written too."""

    def test_list_returns_the_names_below_a_prefix_sorted(self, place):
        for name in ("d", "a/b/c.bin", "a/b.bin"):
            place.put(name, b"x")
        assert place.list() == ["a/b.bin", "a/b/c.bin", "d"]
        assert place.list("a/") == ["a/b.bin", "a/b/c.bin"]
        assert place.list("a/b/") == ["a/b/c.bin"]
        assert place.list("nothing/") == []
        place.delete("a/b.bin")
        place.delete("a/b.bin")
        place.delete("not/there")
        assert place.list("a/") == ["a/b/c.bin"]

    def test_a_name_of_any_characters_is_kept(self, place):
        names = sorted(["a b", "a%20b", "a+b", "a#b", "a?b=c&d", "[x]{y}", "a:b*c", "ü/日本", "x/.hidden/y"])
        for name in names:
            place.put(name, name.encode())
        assert place.list() == names
        assert [bytes(place.get(name)).decode() for name in names] == names
        for name in names:
            place.delete(name)
        assert place.list() == []

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

    def test_a_reader_sees_the_old_or_the_new_bytes_of_a_name_that_is_replaced(self, place):
        contents = [bytes([i]) * 50_000 for i in range(6)]
        place.put("x", contents[0])
        writer = threading.Thread(target=lambda: [place.put("x", content) for content in contents])
        writer.start()
        seen = [bytes(place.get("x")) for _ in range(10)]
        writer.join()
        assert set(seen) <= set(contents)
        assert bytes(place.get("x")) == contents[-1]

    def test_a_file_is_uploaded_whole_or_not_at_all(self, place, tmp_path, monkeypatch):
        """Two parts of the smallest size that S3 takes, and a short one."""
        monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
        content, counted = bytes(range(256)) * (2 * 20_480 + 1), []
        (tmp_path / "file").write_bytes(content)
        upload_file(place, "a/file", tmp_path / "file", count=counted.append)
        assert bytes(place.get("a/file")) == content
        assert sum(counted) == len(content)

        def end(nbytes):
            raise KeyError(nbytes)

        with pytest.raises(KeyError):
            upload_file(place, "b/file", tmp_path / "file", count=end)
        assert place.list() == ["a/file"]


class TestLocal(BlobConformance):
    @pytest.fixture
    def place(self, tmp_path):
        return open_blob(tmp_path / "blob")


class TestMemory(BlobConformance):
    @pytest.fixture
    def place(self, request):
        return open_blob(f"memory://{request.node.nodeid}")


class TestHTTP(ReadConformance):
    @pytest.fixture
    def source(self, request):
        return MemoryBlob(request.node.nodeid)

    @pytest.fixture
    def place(self, source):
        with BlobServer(source) as server:
            yield open_blob(server.url)


@pytest.mark.s3
class TestS3(BlobConformance):
    @pytest.fixture
    def place(self, s3_url):
        return open_blob(s3_url)

    def test_a_list_of_more_names_than_one_answer_holds_is_whole(self, place):
        names = [f"n/{i:04d}" for i in range(1100)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: place.put(name, b""), names))
        assert place.list("n/") == names


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


@pytest.mark.s3
@pytest.mark.parametrize("trouble", [503, "lose", "hang"])
class TestS3InTrouble(BlobConformance):
    """S3 that refuses, or does the work and loses the answer, or hangs: the first request of each kind and name, and
    every fourth after it; of those that hang the first only.
    """

    @pytest.fixture
    def place(self, s3_url, s3_server, trouble, monkeypatch):
        seen = {}

        def decide(number, method, path):
            key = (method, path.partition("?")[0])
            seen[key] = seen.get(key, 0) + 1
            if trouble == "hang":
                return trouble if number == 2 else None
            return trouble if seen[key] % 4 == 1 else None

        with FaultyProxy(s3_server) as proxy:
            proxy.trouble = decide
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setattr("headrace.storage.opener.RemoteBlob", _Impatient)
            monkeypatch.setattr("headrace.storage.opener.Retry", _without_waits)
            yield open_blob(s3_url)


class _Impatient(RemoteBlob):
    """A remote whose requests may be silent for half a second."""

    def __init__(self, url):
        super().__init__(url, silence_s=0.5, upload_s=0.5)


def _without_waits():
    return Retry(sleep=FakeClock().sleep)


@pytest.mark.parametrize("kind", ["http", pytest.param("s3", marks=pytest.mark.s3)])
def test_bytes_that_a_transfer_damages_are_read_again(kind, request, monkeypatch):
    """Every second answer has a flipped bit; the store itself is whole."""
    tokens, ends = sample_tokens(1000)
    with ExitStack() as stack:
        if kind == "s3":
            url = request.getfixturevalue("s3_url")
            make_store(open_blob(url), tokens, ends, codec="zstd")
            server = stack.enter_context(FaultyProxy(request.getfixturevalue("s3_server")))
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        else:
            make_store(MemoryBlob(request.node.nodeid), tokens, ends, codec="zstd")
            server = stack.enter_context(BlobServer(MemoryBlob(request.node.nodeid)))
            url = server.url
        server.trouble = lambda number, *_: "flip" if ".arrow" in _[-1] and number % 2 else None
        with Store.open(url) as store:
            for start in range(0, 950, 50):
                assert np.array_equal(store.gather([start], 50)[0], tokens[start : start + 50])


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
