"""Values that pass through ingest: what was read of a file, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.tokens import FlatTexts, PartMarks


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
    """invalid_utf8, broken_json, no_text, too_long, broken_row, bad_conversation, damaged_file; of web archives also
    broken_record, wrong_digest, broken_http or broken_html."""
    detail: str
    """What was got and expected, in words."""


@dataclass(slots=True, kw_only=True)
class Parsed:
    """A few megabytes of a file, parsed; the arrays of one batch belong together."""

    texts: list[bytes] | FlatTexts
    """Documents of valid UTF-8, in the file's order."""
    meta: dict[str, list[str | None]] = field(default_factory=dict)
    """Columns that were asked for, one value a text."""
    marks: list[PartMarks | None] = field(default_factory=list)
    """Which part of each text is learned; None: all of it. An empty list stands for None for each."""
    rejects: list[Reject] = field(default_factory=list)
    """Lines are counted from the start of what is read as one unit; the job adds what stands before."""
    empty: int = 0
    """Documents without a character; they are left out, and not an error."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Records that are no documents, by what they are; left out, and no error."""
    nbytes: int = 0
    """Decompressed bytes that this was parsed from."""
    lines: int = 0
    """Lines among them."""

    def add(self, text: bytes, *, marks: PartMarks | None = None) -> None:
        """Append a text, where each is an object of its own."""
        assert isinstance(self.texts, list)
        if marks is not None or self.marks:
            self.marks = self._all_marks([marks])
        self.texts.append(text)

    def extend(self, other: Parsed) -> None:
        """Append the texts of another one, their marks and metadata."""
        assert isinstance(self.texts, list)
        if other.has_marks or self.marks:
            self.marks = self._all_marks(other.marks or [None] * len(other.texts))
        self.texts += other.texts
        for name, values in other.meta.items():
            self.meta[name] += values

    def select(self, keep: Sequence[int]) -> None:
        """Keep these texts only."""
        texts = list(self.texts)
        self.texts = [texts[i] for i in keep]
        self.marks = [self.marks[i] for i in keep] if self.marks else []
        self.meta = {name: [values[i] for i in keep] for name, values in self.meta.items()}

    @property
    def has_marks(self) -> bool:
        """Whether a part of some text is given."""
        return any(self.marks)

    def _all_marks(self, more: list[PartMarks | None]) -> list[PartMarks | None]:
        marks = self.marks or [None] * len(self.texts)
        marks += more  # in place: texts are appended one by one
        return marks
