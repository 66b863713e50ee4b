"""Ranges of a blob are read into memory that is there, whatever the backend does: slow, flaky, late, cut, hanging."""

from __future__ import annotations

import threading

import pytest
from storage_fakes import BlobServer, FakeClock, FlakyBlob, LateBlob, cut

from headrace.errors import StorageError
from headrace.storage import BulkReader, MemoryBlob, RangeRead, Retry, RetryingBlob, open_blob, read_into

DATA = bytes(range(251)) * 40


def backends(tmp_path, node):
    local = open_blob(tmp_path)
    memory = MemoryBlob(node)
    number = iter(range(1 << 30))
    flaky = FlakyBlob(MemoryBlob(node), lambda *_: cut() if next(number) % 3 else None)
    return {
        "local": local,
        "memory": memory,
        "late": LateBlob(memory),
        "flaky": RetryingBlob(flaky, Retry(sleep=FakeClock().sleep)),
    }


@pytest.mark.parametrize("kind", ["local", "memory", "late", "flaky"])
def test_ranges_arrive_in_their_memory_or_in_the_hands_of_a_function(tmp_path, request, kind):
    blob = backends(tmp_path, request.node.nodeid)[kind]
    blob.put("a", DATA)
    blob.put("b", DATA[::-1])
    first, second, used = bytearray(700), bytearray(900), {}
    reads = [
        RangeRead(name="a", start=100, stop=1700, into=(memoryview(first), memoryview(second))),
        RangeRead(name="b", start=0, stop=10_040, use=lambda data: used.update(b=bytes(data))),
        RangeRead(name="a", start=5, stop=6, use=lambda data: used.update(a=bytes(data))),
    ]
    reader = BulkReader(blob, num_requests=2)
    assert sorted(reader.read(reads)) == [0, 1, 2]
    assert bytes(first + second) == DATA[100:1700]
    assert used == {"b": DATA[::-1], "a": DATA[5:6]}
    assert "MB/s, limited by the" in reader.note(1000, 1.0)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_an_object_that_ends_too_soon_is_an_error_with_its_name_and_sizes(tmp_path, request, kind):
    blob = backends(tmp_path, request.node.nodeid)[kind]
    blob.put("a", DATA[:100])
    with pytest.raises(StorageError, match=r"/a: ends at byte 100, expected 140 at least"):
        list(
            BulkReader(blob).read(
                [RangeRead(name="a", start=90, stop=140, into=(memoryview(bytearray(50)),))]
            )
        )
    with pytest.raises(FileNotFoundError):
        list(BulkReader(blob).read([RangeRead(name="x", start=0, stop=1, use=print)]))


def test_many_requests_are_in_flight_and_no_more_than_allowed(request):
    inner, together = MemoryBlob(request.node.nodeid), threading.Barrier(4)
    inner.put("a", DATA)
    blob = FlakyBlob(inner, lambda *_: (together.wait(timeout=30), None)[1])
    reads = [RangeRead(name="a", start=i, stop=i + 1, use=lambda _: None) for i in range(8)]
    assert sorted(BulkReader(blob, num_requests=4).read(reads)) == list(range(8))
    assert blob.most_running == 4


def test_an_error_of_the_function_ends_the_reading(request):
    blob = MemoryBlob(request.node.nodeid)
    blob.put("a", DATA)

    def fail(data):
        raise ValueError("cannot be used")

    with pytest.raises(ValueError, match="cannot be used"):
        list(BulkReader(blob).read([RangeRead(name="a", start=0, stop=9, use=fail)]))


def test_a_remote_that_refuses_for_a_while_and_closes_connections_is_read_all_the_same(request):
    inner = MemoryBlob(request.node.nodeid)
    inner.put("x/a", DATA)
    with BlobServer(inner) as server:
        server.trouble = lambda number, path: {1: 503, 2: "cut"}.get(number)
        buffer = bytearray(len(DATA))
        read_into(open_blob(f"{server.url}/x"), "a", 0, [memoryview(buffer)])
    assert bytes(buffer) == DATA
