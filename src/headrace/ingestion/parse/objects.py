"""A block of JSON objects, one after the other or in one array -> texts."""

from __future__ import annotations

import re
from typing import Final

from headrace.errors import SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import as_metadata, endless_record, lookup
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.json_text import text_of_json
from headrace.ingestion.read.cuts import json_object_ends
from headrace.ingestion.read.open import read_head
from headrace.ingestion.read.records import RecordBlock
from headrace.ingestion.records import Fault, RecordRenderer

_BOM: Final = b"\xef\xbb\xbf"
_BETWEEN: Final = b"[], \t\r\n"
# What may stand before the first object, between two, and behind the last one; arrays may follow each other, and one
# comma between objects without an array harms nothing.
_ARRAY_GAPS: Final = {
    "first": re.compile(rb"\s*\[\s*(\]\s*\[\s*)*"),
    "middle": re.compile(rb"\s*(,|(\]\s*\[\s*)+)\s*"),
    "last": re.compile(rb"\s*\]\s*(\[\s*\]\s*)*"),
    "only": re.compile(rb"\s*(\[\s*\]\s*)+"),
}
_GAPS: Final = {
    "first": re.compile(rb"\s*"),
    "middle": re.compile(rb"\s*,?\s*"),
    "last": re.compile(rb"\s*"),
    "only": re.compile(rb"\s*"),
}


class JsonObjects:
    """Texts of a .json file: an array of objects, or objects one after the other, on any number of lines."""

    def __init__(self, url: str, fields: FieldOptions, *, compression: str) -> None:
        self._url = url
        self._compression = compression
        self._fields = fields
        self._renderer = RecordRenderer(fields)
        self._array: bool | None = None

    def parse(self, block: RecordBlock, *, lines_before: int) -> Parsed:
        """Parse whole objects; see `JsonLines.parse`."""
        keep = self._fields.keep
        parsed = Parsed(
            texts=[],
            meta={name: [] for name in keep},
            nbytes=len(block.data),
            lines=block.data.count(b"\n"),
        )
        buffer = bytearray(block.data)
        start = behind = 0
        checked, closed = True, -1
        for end in [*json_object_ends(buffer, 0, len(buffer), final=block.final), len(buffer)]:
            piece = block.data[start:end].strip(_BETWEEN)
            if piece:
                at = block.data.index(piece[:1], start)
                if len(piece) > self._fields.max_record_bytes:
                    raise endless_record(self._url, block.offset + start, self._fields.max_record_bytes)
                got = text_of_json(piece, self._fields, self._renderer)
                if checked and (fault := self._gap_fault(block, behind, at)) is not None:
                    parsed.rejects.append(self._reject(block, behind, fault, lines_before))
                # Behind a damaged record nobody knows where its end would have been.
                checked = not isinstance(got, Fault)
                closed = block.data.find(b"]", behind, at)
                behind = at + len(piece)
                if isinstance(got, Fault):
                    parsed.rejects.append(self._reject(block, at, got, lines_before))
                elif got[1]:
                    parsed.add(got[1], marks=got[2])
                    for name in keep:
                        parsed.meta[name].append(as_metadata(lookup(got[0], name)))
                else:
                    parsed.empty += 1
            start = end
        if block.final:
            self._check_end(block, behind, closed=closed, checked=checked)
        return parsed

    def _reject(self, block: RecordBlock, at: int, fault: Fault, lines_before: int) -> Reject:
        return Reject(
            source=self._url,
            offset=block.offset + at + fault.at,
            line=lines_before + 1 + block.data.count(b"\n", 0, at + fault.at),
            reason=fault.reason,
            detail=fault.detail,
        )

    def _gap_fault(self, block: RecordBlock, start: int, stop: int) -> Fault | None:
        """What is wrong with the brackets and commas before an object, if anything is."""
        gaps = _ARRAY_GAPS if self._is_array(block) else _GAPS
        first = block.offset + start <= len(_BOM)
        gap = block.data[start:stop]
        # A block that begins behind a damaged record may begin behind its comma, too.
        if gaps["first" if first else "middle"].fullmatch(gap) or (
            start == 0 and not first and not gap.strip()
        ):
            return None
        at = len(gap) - len(gap.lstrip())
        expected = ("a bracket" if first else "one comma") if gaps is _ARRAY_GAPS else "an object"
        return Fault(
            at=at,
            reason="broken_json",
            detail=f"broken JSON: expected {expected} between records; got {gap[at : at + 40]!r}",
        )

    def _check_end(self, block: RecordBlock, behind: int, *, closed: int, checked: bool) -> None:
        """Raises: SourceError: what the file begins with is not closed, or something follows it."""
        tail = block.data[behind:]
        is_array = self._is_array(block)
        if is_array and b"]" not in tail and closed < 0:
            raise SourceError(
                f"{self._url}: the array that the file begins with has no closing bracket: the file ends at byte "
                f"{block.offset + len(block.data):,} of its text. Truncated? Fetch it again"
            )
        gaps = _ARRAY_GAPS if is_array else _GAPS
        if is_array and b"]" not in tail:
            behind, expected = closed + 1, "the end of the file behind the array"
        elif checked and not gaps["last" if block.offset + behind > len(_BOM) else "only"].fullmatch(tail):
            expected = (
                f"{'one closing bracket and ' if is_array else ''}the end of the file behind the last record"
            )
        else:
            return
        at = len(block.data) - len(block.data[behind:].lstrip())
        raise SourceError(
            f"{self._url}: byte {block.offset + at:,} of its text: got {block.data[at : at + 40]!r}, "
            f"expected {expected}. Is it damaged, or parts of two files? Fetch it again"
        )

    def _is_array(self, block: RecordBlock) -> bool:
        """Does the file begin with a bracket? Its head is read again by a reader that begins further on."""
        if self._array is None:
            head = (
                block.data if block.offset <= len(_BOM) else read_head(self._url, self._compression, 1 << 16)
            )
            self._array = head.removeprefix(_BOM).lstrip().startswith(b"[")
        return self._array
