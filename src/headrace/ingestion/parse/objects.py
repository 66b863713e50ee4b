"""A block of JSON objects, one after the other or in one array -> texts."""

from __future__ import annotations

from headrace.errors import SourceError
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import as_metadata, endless_record, lookup
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.json_text import text_of_json
from headrace.ingestion.read.cuts import json_object_ends
from headrace.ingestion.read.open import read_head
from headrace.ingestion.read.records import RecordBlock
from headrace.ingestion.records import Fault, RecordRenderer

_BETWEEN = b"[], \t\r\n"


class JsonObjects:
    """Texts of a .json file: an array of objects, or objects one after the other, on any number of lines."""

    def __init__(self, url: str, fields: FieldOptions, *, compression: str) -> None:
        self._url = url
        self._compression = compression
        self._fields = fields
        self._renderer = RecordRenderer(fields)

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
        start = 0
        for end in [*json_object_ends(buffer, 0, len(buffer), final=block.final), len(buffer)]:
            piece = block.data[start:end].strip(_BETWEEN)
            if piece:
                at = block.data.index(piece[:1], start)
                if len(piece) > self._fields.max_record_bytes:
                    raise endless_record(self._url, block.offset + start, self._fields.max_record_bytes)
                got = text_of_json(piece, self._fields, self._renderer)
                if isinstance(got, Fault):
                    line = lines_before + 1 + block.data.count(b"\n", 0, at + got.at)
                    parsed.rejects.append(
                        Reject(
                            source=self._url,
                            offset=block.offset + at + got.at,
                            line=line,
                            reason=got.reason,
                            detail=got.detail,
                        )
                    )
                elif got[1]:
                    parsed.add(got[1], marks=got[2])
                    for name in keep:
                        parsed.meta[name].append(as_metadata(lookup(got[0], name)))
                else:
                    parsed.empty += 1
            start = end
        if block.final and self._is_array() and not block.data.rstrip().endswith(b"]"):
            raise SourceError(
                f"{self._url}: the array that the file begins with has no closing bracket: the file ends at byte "
                f"{block.offset + len(block.data):,} of its text. Truncated? Fetch it again"
            )
        return parsed

    def _is_array(self) -> bool:
        """Does the file begin with a bracket? The head is read only once the file's end is reached."""
        head = read_head(self._url, self._compression, 1 << 16)
        return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
