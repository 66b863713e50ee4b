"""Values that pass through ingest: what was read of a file, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.tokens import FlatTexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A document that is not in the store, and why."""

    source: str
    """Path or URL of its file."""
    offset: int
    """Byte in the decompressed file at which the fault, or else the document, stands; row in a table."""
    line: int | None
    """Line in the file, counting from 1, for formats of lines; row in a table, counting from 1; else None."""
    reason: str
    """invalid_utf8, broken_json, no_text, too_long, broken_row, end_token_in_text, or damaged_file."""
    detail: str
    """What was got and wanted, in words."""


@dataclass(slots=True, kw_only=True)
class Parsed:
    """A few megabytes of a file, parsed; the arrays of one batch belong together."""

    texts: list[bytes] | FlatTexts
    """Documents of valid UTF-8, in the file's order."""
    meta: dict[str, list[str | None]] = field(default_factory=dict)
    """Columns that were asked for, one value a text."""
    rejects: list[Reject] = field(default_factory=list)
    """Lines are counted from the start of what is read as one unit; the job adds what stands before."""
    empty: int = 0
    """Documents without a character; they are left out, and not an error."""
    nbytes: int = 0
    """Decompressed bytes that this was parsed from."""
    lines: int = 0
    """Lines among them."""

    def add(self, *texts: bytes) -> None:
        """Append texts, where each is an object of its own."""
        assert isinstance(self.texts, list)
        self.texts += texts
