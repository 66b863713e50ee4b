"""Arrow data from outside is checked in full before it is read."""

from __future__ import annotations

import pyarrow as pa
import pytest

from headrace.errors import SinkError, SourceError
from headrace.storage import validate_arrow


def ipc_file(offsets):
    """A file whose column `text` has these int32 offsets, and another column of long strings behind it."""
    batch = pa.record_batch({"text": ["hello", "hello"], "z": ["x" * 200, "y" * 200]})
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, batch.schema) as file:
        file.write_batch(batch)
    data = out.getvalue().to_pybytes()
    old = b"".join(n.to_bytes(4, "little") for n in (0, 5, 10))
    assert data.count(old) == 1
    return data.replace(old, b"".join(n.to_bytes(4, "little", signed=True) for n in offsets))


@pytest.mark.parametrize("offsets", [(0, 5, 400), (0, 5, 1 << 30), (0, 11, 10), (-1, 5, 10), (5, 0, 10)])
@pytest.mark.parametrize("error", [SourceError, SinkError])
def test_an_offset_that_leaves_its_column_is_an_error_that_names_the_place(offsets, error):
    batch = pa.ipc.open_file(pa.BufferReader(ipc_file(offsets))).get_batch(0)
    with pytest.raises(error, match=r"a\.arrow: batch 0: invalid Arrow data: .*Damaged or forged"):
        validate_arrow(batch, where="a.arrow: batch 0", error=error)


def test_valid_data_is_returned_as_it_is():
    batch = pa.ipc.open_file(pa.BufferReader(ipc_file((0, 5, 10)))).get_batch(0)
    assert validate_arrow(batch, where="x", error=SourceError) is batch
    table = pa.Table.from_batches([batch])
    assert validate_arrow(table, where="x", error=SourceError)["text"].to_pylist() == ["hello", "hello"]


def test_text_that_is_not_utf8_is_an_error():
    array = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(SourceError, match="x: invalid Arrow data"):
        validate_arrow(array, where="x", error=SourceError)
