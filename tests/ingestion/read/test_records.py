"""Ranges of a file -> every record exactly once, however the bytes arrive."""

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SourceError
from headrace.ingestion.read.cuts import (
    CsvRowEnds,
    Lines,
    Scanned,
    Whole,
    blank_line_ends,
    json_object_ends,
)
from headrace.ingestion.read.records import Records

CSV = CsvRowEnds(b",", 1 << 20)


class FakeStream:
    """Bytes that arrive in pieces of given sizes."""

    def __init__(self, data: bytes, start: int, sizes: list[int]) -> None:
        self._file = io.BytesIO(data)
        self._file.seek(start)
        self._sizes = sizes or [1 << 20]
        self._calls = 0

    def readinto(self, buffer: memoryview) -> int:
        size = self._sizes[self._calls % len(self._sizes)]
        self._calls += 1
        return self._file.readinto(buffer[:size])

    def stored_position(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def records_of(data, cut, *, sizes=(), seekable=False, block_bytes=8, limit=1 << 20):
    return Records(
        lambda start: FakeStream(data, start, list(sizes)),
        cut,
        url="fake",
        seekable=seekable,
        max_record_bytes=limit,
        block_bytes=block_bytes,
    )


def cuts():
    return {
        "lines": Lines(),
        "whole": Whole(),
        "blocks": Scanned(blank_line_ends, resumable=True),
        "csv": Scanned(CSV, resumable=True),
        "json": Scanned(json_object_ends, resumable=False),
    }


alphabets = st.text(alphabet='ab\n\n\n \t\r"{},[]\\é', max_size=80).map(str.encode)
sizes = st.lists(st.integers(1, 20), max_size=5)


@given(data=alphabets, sizes=sizes, kind=st.sampled_from(sorted(cuts())), block=st.integers(1, 40))
def test_blocks_put_together_are_the_file(data, sizes, kind, block):
    """Nothing is lost, doubled or moved, whatever the cut and however the bytes arrive."""
    blocks = list(records_of(data, cuts()[kind], sizes=sizes, block_bytes=block).read())
    assert b"".join(b.data for b in blocks) == data
    assert [b.offset for b in blocks if b.data] == [
        sum(len(c.data) for c in blocks[:i]) for i, b in enumerate(blocks) if b.data
    ]


@given(
    data=alphabets,
    sizes=sizes,
    kind=st.sampled_from(sorted(cuts())),
    bounds=st.lists(st.integers(1, 90), max_size=4),
    seekable=st.booleans(),
    fresh=st.booleans(),
)
def test_every_record_is_read_by_exactly_one_range(*, data, sizes, kind, bounds, seekable, fresh):
    """A reader that goes on, or a new one for each range: the ranges' records are the file's."""
    bounds = [0, *sorted(set(bounds)), None]
    reader = records_of(data, cuts()[kind], sizes=sizes, seekable=seekable)
    found = []
    for start, stop in pairwise(bounds):
        if fresh:
            reader = records_of(data, cuts()[kind], sizes=sizes, seekable=seekable)
        blocks = [b for b in reader.read(start, stop) if b.data]
        for b in blocks:
            assert b.offset >= start
        found += blocks
    assert b"".join(b.data for b in found) == data


@pytest.mark.parametrize("kind", ["lines", "blocks", "csv", "json"])
def test_ranges_in_order_read_the_file_once(kind):
    """A packed file is read from its start again only when a reader goes back."""
    data = b'{"a": "b"},\n\n' * 200
    opened = []
    reader = Records(
        lambda start: opened.append(start) or FakeStream(data, start, [50]),
        cuts()[kind],
        url="fake",
        seekable=False,
        max_record_bytes=1 << 20,
        block_bytes=64,
    )
    blocks = [b for at in range(0, len(data), 100) for b in reader.read(at, at + 100)]
    assert b"".join(b.data for b in blocks) == data
    assert opened == [0]


@given(data=alphabets, at=st.integers(1, 60), first=sizes, second=sizes, kind=st.sampled_from(sorted(cuts())))
def test_where_a_range_ends_does_not_depend_on_how_the_bytes_arrive(data, at, first, second, kind):
    """Else two runs of one job would cut documents differently."""
    a, b = (
        b"".join(x.data for x in records_of(data, cuts()[kind], sizes=s).read(0, at)) for s in (first, second)
    )
    assert a == b


@given(before=st.integers(0, 3), after=st.integers(0, 3), size=st.integers(100, 400), sizes=sizes)
def test_a_line_longer_than_the_limit_is_passed_over_and_the_next_ones_are_read(before, after, size, sizes):
    lines = [b"a\n"] * before + [b"x" * size + b"\n"] + [b"b\n"] * after
    blocks = list(records_of(b"".join(lines), Lines(), sizes=sizes, block_bytes=16, limit=64).read())
    kept = b"".join(b.data for b in blocks if not b.oversized)
    # One that fits into what is held is left to the parser, which refuses it by its length.
    kept = kept.replace(b"x" * size + b"\n", b"")
    assert kept == b"a\n" * before + b"b\n" * after
    for long in blocks:
        if long.oversized:
            assert (long.offset, long.nbytes, long.newlines) == (2 * before, size + 1, 1)


def test_no_more_than_the_limit_is_held_of_a_line_that_does_not_end():
    reader = records_of(b"x" * 100_000 + b"\nnext\n", Lines(), sizes=[16], block_bytes=16, limit=64)
    oversized, after = [b for b in reader.read() if b.data]
    assert oversized.oversized
    assert len(oversized.data) <= 200
    assert len(reader._buffer) <= 512
    assert after.data == b"next\n"


def test_a_quote_left_open_costs_its_row_alone():
    data = b'a,b\n1,2\n3,"' + b"x\n" * 500
    short = Scanned(CsvRowEnds(b",", 64), resumable=True)
    blocks = list(records_of(data, short, block_bytes=16, limit=64).read())
    assert b"".join(block.data for block in blocks) == data
    assert not any(block.oversized for block in blocks)


def test_a_byte_order_mark_is_no_part_of_the_first_record():
    [block] = [b for b in records_of(b"\xef\xbb\xbfone\ntwo", Lines()).read() if b.data][:1]
    assert block.data.startswith(b"one")
    assert block.offset == 3


@pytest.mark.parametrize(
    ("find", "data", "ends"),
    [
        (blank_line_ends, b"a\nb\n\nc\n \t\r\n\nd", [5, 12]),
        (blank_line_ends, b"a\n\n", []),  # more blank lines may follow
        (CSV, b'a,"x\ny"\nb,c\n', [8, 12]),
        (CSV, b'a,"say ""hi""\n"\nb\n', [16, 18]),
        (json_object_ends, b'[{"a": {"b": "}"}}, {"c": "\\"}"}]', [18, 32]),
        (json_object_ends, b'{"a": "}', []),  # the string may go on
    ],
)
def test_ends_of_records(find, data, ends):
    assert find(bytearray(data), 0, len(data), final=False) == ends


@pytest.mark.parametrize("sizes", [[7], [1, 30], [1 << 20]])
def test_records_before_damage_are_read_before_it_is_raised(sizes):
    """Of what was decompressed, only the record that the damage cuts is lost."""

    class Damaged(FakeStream):
        def readinto(self, buffer: memoryview) -> int:
            count = super().readinto(buffer)
            if not count:
                raise SourceError("damaged here")
            return count

    data = b"".join(b"line %d\n" % i for i in range(100)) + b"half a li"
    records = Records(
        lambda start: Damaged(data, start, sizes),
        Lines(),
        url="fake",
        seekable=False,
        max_record_bytes=1 << 20,
        block_bytes=64,
    )
    found = []
    blocks = records.read()
    with pytest.raises(SourceError, match="damaged here"):
        found.extend(block.data for block in blocks)
    assert b"".join(found) == data[: data.rindex(b"\n") + 1]
