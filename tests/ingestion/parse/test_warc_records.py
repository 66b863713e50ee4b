"""warc_records.py: records of whole and damaged archives, one member a record, one in all, and plain."""

import gzip
import random

import pytest

from headrace.errors import SourceError
from headrace.ingestion.parse.warc_records import BrokenRecord, WarcRecords, parse_headers
from headrace.ingestion.parse.warc_sources import open_source

TEXTS = [f"text {i} {random.Random(i).randbytes(150).hex()}" for i in range(8)]
SHAPES = ["plain", "record", "whole", "blocks"]


def _pack(records, shape):
    data = b"".join(records)
    if shape == "plain":
        return data
    parts = {
        "record": records,
        "whole": [data],
        "blocks": [data[i : i + 1000] for i in range(0, len(data), 1000)],
    }[shape]
    return b"".join(map(gzip.compress, parts))


def _read(path, data, *, limit=1 << 20, is_needed=lambda _: True):
    path.write_bytes(data)
    source = open_source(str(path), "gzip" if data.startswith(b"\x1f\x8b") else "none")
    try:
        return list(WarcRecords(source, url=str(path), max_block_bytes=limit, is_needed=is_needed))
    finally:
        source.close()


def _blocks(items):
    return [item.block.decode() if not isinstance(item, BrokenRecord) else None for item in items]


@pytest.fixture
def records(warc):
    return warc(gzip=False).texts(TEXTS).records()


@pytest.mark.parametrize("shape", SHAPES)
def test_records_are_those_that_were_written(tmp_path, records, shape):
    items = _read(tmp_path / "a", _pack(records, shape))
    assert _blocks(items) == TEXTS
    assert [item.offset for item in items] == [sum(map(len, records[:i])) for i in range(len(records))]
    assert items[3].headers["warc-target-uri"] == "http://example.org/3"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Content-Length: ", b"Content-Length: 9"),
        (b"Content-Length: ", b"Content-Length: 99999999999999999999999"),
        (b"Content-Length: 3", b"Content-Length: "),
        (b"Content-Length: ", b"Content-Length: -"),
        (b"Content-Length: ", b"Content-Width: "),
        (b"WARC/1", b"WORC/1"),
        (b"text 3", b"text 3 and some more"),
        (b"text 3", b"WARC/1.0\r\n\r\nWARC/1.0\r\n"),
    ],
)
def test_a_broken_record_costs_no_other(tmp_path, records, shape, old, new):
    """The record before it may be lost with it where only its end shows that something is wrong."""
    records[3] = records[3].replace(old, new, 1)
    items = _read(tmp_path / "a", _pack(records, shape))
    assert any(isinstance(item, BrokenRecord) for item in items)
    found = [block for block in _blocks(items) if block in TEXTS]
    assert set(TEXTS) - set(found) <= {TEXTS[3], TEXTS[2]}
    assert found == sorted(found)


def test_damage_in_one_member_of_many_is_one_broken_record(tmp_path, records):
    members = list(map(gzip.compress, records))
    for byte in (0, 12, 60, len(members[4]) - 6):
        damaged = bytearray(members[4])
        damaged[byte] ^= 0x41
        items = _read(tmp_path / "a", b"".join([*members[:4], bytes(damaged), *members[5:]]))
        assert _blocks(items) == [*TEXTS[:4], None, *TEXTS[5:]]
        assert items[4].offset == sum(map(len, records[:4]))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_that_ends_inside_a_record_is_an_error(tmp_path, records, shape):
    whole = _pack(records, shape)
    last = len(_pack(records[:-1], "plain" if shape == "plain" else "record"))
    for cut in (last + 3, last + 40, len(whole) - 60):
        if cut < len(whole):
            with pytest.raises(SourceError, match="truncated"):
                _read(tmp_path / "a", whole[:cut])


@pytest.mark.parametrize("shape", ["whole", "blocks"])
def test_damage_in_members_of_several_records_is_an_error(tmp_path, records, shape):
    data = bytearray(_pack(records, shape))
    data[len(data) // 2] ^= 0x41
    with pytest.raises(SourceError, match=r"damaged|truncated"):
        _read(tmp_path / "a", bytes(data))


def test_an_end_that_is_no_record_is_an_error(tmp_path, records):
    with pytest.raises(SourceError, match=r"damaged: the record at byte [\d,]+: its Content-Length is wrong"):
        _read(tmp_path / "a", b"".join(records) + bytes(100_000))


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_block_above_the_limit_the_beginning_is_held(tmp_path, warc, shape):
    builder = warc(gzip=False)
    for text in ("a" * 10, "b" * 400_000, "c" * 10):
        builder.add("conversion", text.encode())
    items = _read(tmp_path / "a", _pack(builder.records(), shape), limit=100_000)
    assert [item.is_whole for item in items] == [True, False, True]
    assert (items[1].length, items[1].block) == (400_000, b"b" * (64 << 10))


def test_records_that_are_not_needed_are_passed_over_without_their_blocks(tmp_path, warc):
    records = warc(gzip=False).texts(["a" * 400_000, "b", "c" * 400_000, "d"]).records()
    at = sum(map(len, records[:2]))
    items = _read(tmp_path / "a", b"".join(records), is_needed=lambda offset: offset >= at)
    assert [len(item.block) for item in items] == [0, 0, 400_000, 1]


def test_a_length_that_swallows_records_is_found_out_in_records_that_are_not_needed(tmp_path, records):
    records[2] = records[2].replace(b"Content-Length: 3", b"Content-Length: 13", 1)
    items = _read(tmp_path / "a", b"".join(records), is_needed=lambda _: False)
    assert [item.offset for item in items] == [sum(map(len, records[:i])) for i in range(len(records))]
    assert [i for i, item in enumerate(items) if isinstance(item, BrokenRecord)] == [2]


def test_a_record_that_quotes_another_is_one(tmp_path, warc):
    inner = warc(gzip=False).texts(["inner"]).data.decode()
    for shape in SHAPES:
        records = warc(gzip=False).texts(["before", f"quoted:\r\n\r\n{inner}", "behind"]).records()
        assert _blocks(_read(tmp_path / "a", _pack(records, shape))) == [
            "before",
            f"quoted:\r\n\r\n{inner}",
            "behind",
        ]


def test_headers_are_read_leniently():
    data = b"A: 1\nb : two\r\n  words\r\nA: 3\r\nnot a header\r\n folded behind it\r\nU: caf\xc3\xa9 \xff"
    assert parse_headers(data) == {"a": "1", "b": "two words", "u": "café �"}
