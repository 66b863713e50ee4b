"""A block of JSON lines -> texts, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import simdjson

from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.fields import as_metadata, lookup, too_long_record
from headrace.ingestion.options import FieldOptions
from headrace.ingestion.parse.flat_lines import FlatLines, is_plain
from headrace.ingestion.parse.json_text import text_of_json
from headrace.ingestion.read.records import RecordBlock
from headrace.ingestion.records import Fault, RecordRenderer
from headrace.native import kernels

# Whatever simdjson refuses, the careful way looks at again; whatever it accepts is accepted there as well.
_FAULTS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)
_MAX_REFUSED = 32
"""Lines of a block that the extension may refuse one by one; after more, the rest is parsed without it."""


class JsonLines:
    """Texts of JSON lines; holds a parser that is used again and again."""

    def __init__(self, url: str, fields: FieldOptions) -> None:
        self._url = url
        self._fields = fields
        self._parser = simdjson.Parser()
        self._renderer = RecordRenderer(fields)
        # The extension reads one field; fields to keep need a parser that makes objects.
        self._reads_text = not fields.keep and fields.record in ("auto", "text")
        plain = self._reads_text and is_plain(fields.text_field)
        self._flat = FlatLines(fields.text_field, max_line_bytes=fields.max_document_bytes) if plain else None

    def parse(self, block: RecordBlock, *, lines_before: int) -> Parsed:
        """Parse whole lines.

        Args:
            block: from `Records` cut by lines.
            lines_before: lines already read of this unit.
        """
        if block.oversized:
            detail = too_long_record(self._fields)
            reject = self._reject(block.offset, lines_before, "too_long", detail)
            return Parsed(texts=[], rejects=[reject], nbytes=block.nbytes, lines=block.newlines)
        if self._flat is not None and block.data and (native := kernels()) is not None:
            return self._flat_texts(native, self._flat, block, lines_before)
        lines = block.data.split(b"\n")
        texts = None
        if self._reads_text and len(block.data) <= self._fields.max_document_bytes:
            texts = self._all_good(lines)
        parsed = Parsed(texts=texts or [], nbytes=len(block.data), lines=len(lines) - 1)
        if texts is None:
            parsed.texts = self._one_by_one(block.offset, lines, lines_before, parsed)
        return parsed

    def _flat_texts(self, native: Any, flat: FlatLines, block: RecordBlock, lines_before: int) -> Parsed:
        """Texts of the lines that the extension accepts, and of the others among them one by one."""
        data = block.data
        parsed = Parsed(texts=[], nbytes=len(data))
        flat.start(data)
        at = refused = newline = 0
        marked = False
        while (at := flat.read(native, at)) < len(data) and refused < _MAX_REFUSED:
            refused += 1
            newline = data.find(b"\n", at)
            stop = len(data) if newline < 0 else newline
            texts = self._one_by_one(
                block.offset + at, [data[at:stop]], lines_before + flat.lines_read, parsed
            )
            if any(parsed.marks):
                marked = True
                break
            flat.add(texts)
            at = min(stop + 1, len(data))
        if marked:
            # The block has records of which a part is given: read by itself, from its begin on.
            parsed = Parsed(texts=[], nbytes=len(data), lines=data.count(b"\n"))
            parsed.texts = self._one_by_one(block.offset, data.split(b"\n"), lines_before, parsed)
            return parsed
        parsed.marks = []
        parsed.texts = flat.texts()
        parsed.lines = flat.lines_read - (refused > 0 and newline < 0)
        if at < len(data):
            rest = data[at:].split(b"\n")
            texts = self._one_by_one(block.offset + at, rest, lines_before + flat.lines_read, parsed)
            if any(parsed.marks):
                parsed.marks = [*[None] * len(parsed.texts), *parsed.marks]
            parsed.texts = [*parsed.texts, *texts]
            parsed.lines += len(rest) - 1
        return parsed

    def _all_good(self, lines: Sequence[bytes]) -> list[bytes] | None:
        """Texts of lines without a fault; None at the first fault, or where a name may occur twice in a line.

        simdjson finds a name's first value; the last one counts, as in json, orjson and pyarrow.
        """
        name = self._fields.text_field
        quoted = b'"%b"' % name.encode()
        if sum(line.count(quoted) for line in lines) > len(lines) - lines.count(b""):
            return None
        parse: Any = self._parser.parse
        try:
            texts: list[bytes] = [parse(line)[name].encode() for line in lines if line]
        except _FAULTS:
            return None
        return texts if all(texts) else None

    def _one_by_one(
        self, offset: int, lines: Sequence[bytes], lines_before: int, parsed: Parsed
    ) -> list[bytes]:
        """Texts of lines; what else there is goes to `parsed`."""
        texts: list[bytes] = []
        keep = self._fields.keep
        parsed.meta = {name: [] for name in keep}
        for index, line in enumerate(lines, lines_before):
            if line and not line.isspace():
                got = text_of_json(line, self._fields, self._renderer)
                if isinstance(got, Fault):
                    parsed.rejects.append(self._reject(offset + got.at, index, got.reason, got.detail))
                elif got[1]:
                    texts.append(got[1])
                    parsed.marks.append(got[2])
                    for name in keep:
                        parsed.meta[name].append(as_metadata(lookup(got[0], name)))
                else:
                    parsed.empty += 1
            offset += len(line) + 1
        return texts

    def _reject(self, offset: int, index: int, reason: str, detail: str) -> Reject:
        return Reject(source=self._url, offset=offset, line=index + 1, reason=reason, detail=detail)
