"""Files written without Arrow are Arrow's, and are read back by us as by others.

Of writer.py and reader.py.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pyarrow import ipc

from headrace.store.arrow.reader import ArrowFileError, read_columns, read_numbers
from headrace.store.arrow.writer import Field, table_bytes

TYPES = {
    "uint8": some.integers(0, 255),
    "uint16": some.integers(0, 2**16 - 1),
    "uint32": some.integers(0, 2**32 - 1),
    "uint64": some.integers(0, 2**64 - 1),
    "utf8": some.text(max_size=8),
    "binary16": some.binary(min_size=16, max_size=16),
}


@given(data=some.data())
def test_what_is_written_is_read_by_us_pyarrow_and_polars(data):
    rows = data.draw(some.integers(0, 20))
    kinds = data.draw(some.lists(some.sampled_from(list(TYPES)), min_size=1, max_size=6))
    columns = {}
    for i, kind in enumerate(kinds):
        values = data.draw(some.lists(TYPES[kind], min_size=rows, max_size=rows))
        columns[f"column {i}"] = (kind, np.array(values, kind) if kind.startswith("uint") else values)
    written = table_bytes(columns)

    theirs = ipc.open_file(pa.BufferReader(written)).read_all()
    theirs.validate(full=True)
    assert theirs.to_pydict() == {name: list(values) for name, (_, values) in columns.items()}
    assert pl.read_ipc(io.BytesIO(written)).to_dict(as_series=False) == theirs.to_pydict()

    fields = [Field(name, kind) for name, (kind, _) in columns.items()]
    ours = read_columns(written, fields)
    for name, (kind, values) in columns.items():
        if kind == "utf8":
            text, ends = ours[name + ".bytes"].tobytes(), ours[name + ".ends"]
            assert [text[a:b].decode() for a, b in itertools.pairwise(ends)] == values
        elif kind == "binary16":
            assert [row.tobytes() for row in ours[name]] == values
        else:
            assert ours[name].tolist() == values.tolist()


def written_by_pyarrow(table, **options):
    sink = io.BytesIO()
    with ipc.new_file(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


END = pa.schema([pa.field("end", pa.uint64(), nullable=False), ("name", pa.string())])


def test_a_file_of_pyarrow_is_read_too():
    table = pa.table({"end": pa.array([1, 5], pa.uint64()), "name": ["a", None]}, END)
    assert read_columns(written_by_pyarrow(table), [Field("end", "uint64")])["end"].tolist() == [1, 5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([Field("end", "uint32")], "columns end uint64, expected end uint32"),
        ([Field("stop", "uint64")], "columns end uint64, expected stop uint64"),
        (
            [Field("end", "uint64"), Field("name", "utf8"), Field("x", "uint8")],
            "expected end uint64, name utf8, x uint8",
        ),
    ],
)
def test_other_columns_than_expected_are_refused(fields, message):
    table = pa.table({"end": pa.array([1, 5], pa.uint64()), "name": ["a", "b"]}, END)
    with pytest.raises(ArrowFileError, match=message):
        read_columns(written_by_pyarrow(table), fields)


def test_compressed_split_and_null_columns_are_refused():
    end = [Field("end", "uint64")]
    table = pa.table({"end": pa.array(np.arange(1000), pa.uint64())})
    with pytest.raises(ArrowFileError, match="compressed"):
        read_columns(written_by_pyarrow(table, compression="zstd"), end)
    two = pa.concat_tables([table, table])
    with pytest.raises(ArrowFileError, match="2 record batches where 1 is expected"):
        read_columns(written_by_pyarrow(two), end)
    with pytest.raises(ArrowFileError, match="no nulls"):
        read_columns(written_by_pyarrow(pa.table({"end": pa.array([1, None], pa.uint64())})), end)


@pytest.mark.parametrize(
    "data", [b"", b"ARROW1", b"ARROW1" * 4, bytes(100), b"ARROW1\0\0" + bytes(100) + b"ARROW1"]
)
def test_what_is_no_arrow_file_is_refused(data):
    with pytest.raises(ArrowFileError):
        read_columns(data, [Field("end", "uint64")])


@pytest.mark.parametrize("rows", [0, 1, 7, 64, 300])
def test_our_own_files_of_numbers_are_read_without_being_parsed(monkeypatch, rows):
    fields = (Field("a", "uint64"), Field("b", "uint32"), Field("c", "uint8"))
    values = {f.name: (f.type, np.arange(rows) % 256) for f in fields}
    written = table_bytes(values)
    parsed = read_columns(written, fields)
    changed = bytearray(written)
    changed[20] ^= 1
    with monkeypatch.context() as patch:
        patch.setattr("headrace.store.arrow.reader.read_columns", lambda *_: "parsed")
        ours = read_numbers(written, fields, rows)
        assert read_numbers(written, fields, rows + 1) == "parsed"
        assert read_numbers(bytes(changed), fields, rows) == "parsed"
    assert all(np.array_equal(ours[name], parsed[name]) for name in values)
