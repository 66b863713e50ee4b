"""Arrow data from outside -> the same data, its offsets and lengths checked before any value is read.

Arrow trusts the offsets in a file: a wrong one reads the memory of another column, or ends the process. This check
reads every offset, view and dictionary index once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    import pyarrow as pa

ArrowData = TypeVar("ArrowData", bound="pa.RecordBatch | pa.Table | pa.Array | pa.ChunkedArray")


def validate_arrow(data: ArrowData, *, where: str, error: type[HeadraceError]) -> ArrowData:
    """Return a batch, table or array whose every offset, length and text has been checked.

    Args:
        data: read from a file, a stream or another process.
        where: begins the message: the file, and which of its batches.
        error: the class to raise.

    Raises:
        HeadraceError: of the class `error`: the data are damaged or forged.
    """
    import pyarrow as pa

    try:
        data.validate(full=True)
    except pa.ArrowException as fault:
        raise error(
            f"{where}: invalid Arrow data: {fault}. Damaged or forged: write the file again"
        ) from fault
    return data
