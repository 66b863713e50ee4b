"""Arrow data from outside -> the same data, its offsets and lengths checked before any value is read.

Arrow trusts the offsets in a file: a wrong one reads the memory of another column, or ends the process. This check
reads every offset, view and dictionary index once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def arrow_errors(where: str, *, error: type[HeadraceError], cure: str = "Fetch it again") -> Iterator[None]:
    """Whatever pyarrow raises for damaged or forged data becomes one error with its place and its cure.

    Args:
        where: begins the message: the file, and what of it.
        error: the class to raise.
        cure: ends the message.

    Raises:
        HeadraceError: of the class `error`; those of the block pass.
    """
    import pyarrow as pa

    try:
        yield
    except HeadraceError:  # some are ValueErrors too
        raise
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        SystemError,
        MemoryError,
        LookupError,
        OverflowError,
    ) as fault:
        raise error(f"{where}: {fault}. {cure}") from fault
