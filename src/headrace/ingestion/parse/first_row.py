"""The first bytes of a CSV or TSV file -> its delimiter, and the names of its columns."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from headrace.errors import SourceError
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.read.cuts import CsvRowEnds, Lines, Scanned
from headrace.ingestion.records import RecordRenderer

DELIMITERS = (",", ";", "|", "\t")
"""Those that are recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRow:
    """What the first row of a file says."""

    delimiter: str
    quoted: bool
    """CSV; in TSV a quote is a character like any other."""
    names: list[str]

    @property
    def quoting(self) -> int:
        """The csv module's constant."""
        return csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE


def read_first_row(url: str, head: bytes, fields: FieldOptions, *, quoted: bool) -> FirstRow:
    """The delimiter and the columns of a file.

    Args:
        url: of the file, for messages.
        head: its first bytes, without a byte order mark.
        fields: which columns are read.
        quoted: CSV; else TSV.

    Raises:
        SourceError: a column is missing or named twice, or the delimiter cannot be told.
    """
    delimiter = (fields.csv_delimiter or _recognise(url, head, fields)) if quoted else "\t"
    first = _row_at_start(url, head, delimiter, fields, quoted=quoted)
    names = _names(first, fields)
    _check_names(url, names, fields)
    return FirstRow(delimiter=delimiter, quoted=quoted, names=names)


def _recognise(url: str, head: bytes, fields: FieldOptions) -> str:
    """The delimiter with which the first row has all columns that are read."""
    rows = {}
    for delimiter in DELIMITERS:
        try:
            rows[delimiter] = _row_at_start(url, head, delimiter, fields, quoted=True)
        except SourceError:
            if delimiter == ",":
                raise
    renderer = RecordRenderer(fields)
    fitting = [delimiter for delimiter, row in rows.items() if renderer.has_columns(_names(row, fields))]
    cut = [delimiter for delimiter in fitting if len(rows[delimiter]) > 1]
    if len(cut) > 1:
        names = " and ".join(repr(delimiter) for delimiter in cut)
        raise SourceError(
            f"{url}: its delimiter cannot be told: with {names} the first row has the columns that are read. "
            f"Name it with csv_delimiter (--csv-delimiter)"
        )
    return (cut or fitting or [max(rows, key=lambda delimiter: len(rows[delimiter]))])[0]


def _row_at_start(url: str, head: bytes, delimiter: str, fields: FieldOptions, *, quoted: bool) -> list[str]:
    ends = CsvRowEnds(delimiter.encode(), fields.max_record_bytes)
    cut = Scanned(ends, resumable=True) if quoted else Lines()
    buffer = bytearray(head)
    end = cut.first_end(buffer, 0, len(buffer))
    first = head[: len(head) if end is None else end]
    if quoted and b"\r" in first.rstrip(b"\r\n"):
        raise SourceError(
            f"{url}: its rows end in lone carriage returns; expected newlines. Convert it: tr '\\r' '\\n'"
        )
    if not first.strip():
        return []
    lines = io.StringIO(first.decode("utf-8", errors="replace"), newline="")
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        return next(csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True))
    except csv.Error as error:
        what = "header" if fields.csv_header else "first row"
        raise SourceError(f"{url}: the {what} is no row of CSV: {error}") from error


def _names(row: list[str], fields: FieldOptions) -> list[str]:
    return row if fields.csv_header else [str(i + 1) for i in range(len(row))]


def _check_names(url: str, names: list[str], fields: FieldOptions) -> None:
    renderer = RecordRenderer(fields)
    kind = renderer.kind_of_columns(names, where=url)
    columns = (fields.text_field,) if kind is None else tuple(n for n in renderer.columns(kind) if n in names)
    needed = (*columns, *fields.keep)
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise SourceError(f"{url}: {names.count(twice[0])} columns are named {twice[0]!r}; expected one")
    missing = [name for name in needed if name not in names]
    if not missing:
        return
    option = "text_field (--text-field)" if missing[0] == fields.text_field else "keep (--keep)"
    cure = f"Name the right one with {option}"
    if f'"{missing[0]}"' in names:
        cure = "Its values are in quotes, which TSV does not know: --format csv --csv-delimiter tab"
    elif fields.csv_header:
        cure += "; a file without a header is read with --no-csv-header, and its columns are 1, 2, 3, ..."
    raise SourceError(
        f"{url}: no column {missing[0]!r}; the columns are: {', '.join(names) or 'none'}. {cure}"
    )
