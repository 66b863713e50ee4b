"""Records of two texts, or of a prompt and two answers -> units, and columns of token ids.

Sources, formats, units and the texts of records are those of an ingest of text; a text's marks say where it is cut
into the columns of its row.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from headrace.errors import ConfigError, DocumentError, SourceError
from headrace.ingestion.build.document_reader import DocumentReader, RejectFile, StrictError, UnitCounts
from headrace.ingestion.document import Parsed, Reject
from headrace.ingestion.options import (
    RECORD_FIELDS,
    ContentOptions,
    FieldOptions,
    JobOptions,
    PairOptions,
    RecordKind,
)
from headrace.ingestion.parse.reader import open_reader
from headrace.ingestion.read.sources import SourceFile, find_sources
from headrace.ingestion.records import chat_options
from headrace.ingestion.samples.plan import SamplePlan, SampleUnit
from headrace.ingestion.units.plan import SourceRange, Unit, plan_tracks, shard_bytes_for
from headrace.store import Columns, Feature, Ragged, Tokens, token_dtype
from headrace.tokens import (
    Offsets,
    PartEncoder,
    PartMarks,
    Tokenizer,
    ids_around,
    offsets_of,
    tokenizer_from_files,
)

COLUMNS: Final[Mapping[RecordKind, tuple[str, ...]]] = {
    "source": ("source", "target"),
    "prompt": ("source", "target"),
    "question": ("source", "target"),
    "preference": ("prompt", "chosen", "rejected"),
}
"""Kind of the records -> columns of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSetup:
    """What a worker reads pairs by; it is pickled."""

    sources: tuple[SourceFile, ...]
    options: ContentOptions
    limits: JobOptions
    tokenizer_files: Mapping[str, bytes]


def plan_pairs(
    sources: Sequence[str | os.PathLike[str]], fields: FieldOptions, job: JobOptions, tokenizer: Tokenizer
) -> tuple[SamplePlan, PairSetup]:
    """The plan of a job: its columns by the kind of the first records, its units as of text.

    Raises:
        SourceError: a source is missing or damaged, or its first records are of no kind of pair.
        ConfigError: they are of several kinds.
    """
    notes: list[str] = []
    files = find_sources(sources, format=fields.format, notes=notes, skip_damaged=job.skip_damaged)
    fields = replace(
        fields, chat=chat_options(fields, tokenizer), pairs=PairOptions(reserved=_reserved(tokenizer))
    )
    fields = replace(fields, record=_kind_of(files[0], fields))
    options = ContentOptions(fields=fields, shard_text_bytes=job.shard_text_bytes or shard_bytes_for(files))
    dtype = token_dtype(tokenizer.vocab_size).name
    features: dict[str, Feature] = {name: Tokens(dtype) for name in COLUMNS[fields.record]}
    plan = SamplePlan(layout="pairs", features=features, notes=notes)
    plan.notes.insert(0, f"layout pairs: columns {', '.join(features)}")
    plan.options = {"tokenizer": tokenizer.fingerprint, "fields": options.to_json()["fields"]}
    for track in plan_tracks(files, options, skip_damaged=job.skip_damaged):
        ranges: list[tuple[SourceRange, ...]]
        if track.is_open:  # a large compressed file: how many ranges it has is known at its end only
            ranges = [(SourceRange(source=track.first_source),)]
        else:
            ranges = [track.unit(part).ranges for part in range(track.num_parts or 1)]
        for unit_ranges in ranges:
            items = [
                (files[one.source].url, files[one.source].fingerprint, one.source, one.start, one.stop)
                for one in unit_ranges
            ]
            plan.add("pairs", items, sum(files[one.source].nbytes for one in unit_ranges) // len(ranges))
    setup = PairSetup(sources=tuple(files), options=options, limits=job, tokenizer_files=tokenizer.files())
    return plan, setup


def _reserved(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Names of special tokens that text can spell: those of unigram models are pieces like others."""
    names = tokenizer.special_tokens()
    return tuple(name for name, number in names.items() if name and number in tokenizer.encode(name))


def _kind_of(source: SourceFile, fields: FieldOptions) -> RecordKind:
    if fields.record not in ("auto", *COLUMNS):
        raise ConfigError(
            f"record is {fields.record!r}, and layout pairs has records of kind {', '.join(COLUMNS)}"
        )
    kinds = [kind for kind in COLUMNS if fields.record in ("auto", kind) and _has_kind(source, fields, kind)]
    if len(kinds) > 1:
        raise ConfigError(
            f"{source.url}: its records are of {' and of '.join(kinds)}: say which with --record"
        )
    if not kinds:
        known = "; ".join(" and ".join(RECORD_FIELDS[kind]) for kind in COLUMNS)
        raise SourceError(
            f"{source.url}: its first records are no pairs: expected fields {known}. Name others with --field, as "
            "--field source=german"
        )
    return kinds[0]


def _has_kind(source: SourceFile, fields: FieldOptions, kind: RecordKind) -> bool:
    """Whether some of the first records of a file are of a kind."""
    try:
        reader = open_reader(source, replace(fields, record=kind))
    except (SourceError, ValueError):  # the file has other columns
        return False
    try:
        return any(next(iter(reader.read()), Parsed(texts=[])).marks)
    except SourceError:
        return False
    finally:
        reader.close()


class PairReader:
    """Reads units of pairs as columns of token ids."""

    def __init__(self, setup: PairSetup) -> None:
        self._setup = setup
        self._tokenizer = tokenizer_from_files(setup.tokenizer_files)
        self._parts = PartEncoder(self._tokenizer)
        self._documents = DocumentReader(
            setup.sources, setup.options, limits=setup.limits, seek_points=lambda _: None
        )
        self._names = COLUMNS[setup.options.fields.record]
        self.rejects: list[Reject] = []
        """Of the unit that was read last."""
        self.empty = 0
        """Records of that unit without a character."""

    def close(self) -> None:
        """Close the open file."""
        self._documents.close()

    def read(self, unit: SampleUnit) -> Iterator[Columns]:
        """Columns of some hundred rows at a time.

        Raises:
            SourceError: a file is missing, damaged, or has changed.
            DocumentError: strict, and a record is bad.
        """
        ranges = tuple(SourceRange(source=one[2], start=one[3], stop=one[4]) for one in unit.items)
        for one in ranges:
            _check_unchanged(self._setup.sources[one.source])
        counts = UnitCounts(track=unit.number, part=0)
        with RejectFile() as rejects:
            try:
                whole = Unit(track=unit.number, part=0, ranges=ranges)
                for parsed, _ in self._documents.batches(whole, counts, rejects):
                    if parsed.texts:
                        yield self._encode(parsed)
            except StrictError as error:
                raise DocumentError(f"{error.reject['source']}: {error.reject['detail']}") from error
            lines = bytes(rejects.data()).splitlines() if counts.rejected else []
        found = [Reject(**json.loads(line)) for line in lines]
        # Lines are counted from the begin of a range.
        self.rejects = [replace(one, line=None) if ranges[0].start else one for one in found]
        self.empty = counts.dropped["empty"]

    def _encode(self, parsed: Parsed) -> dict[str, Ragged]:
        pieces: list[bytes] = []
        marks: list[PartMarks | None] = []
        special: list[bool] = []
        for text, mark in zip(parsed.texts, parsed.marks, strict=True):
            assert mark is not None
            for begin, end in itertools.pairwise((0, *mark.cuts, len(text))):
                pieces.append(bytes(text[begin:end]))
                marks.append(PartMarks(edges=(0, end - begin), cuts=(), has_special=mark.has_special))
            special.append(mark.has_special)
        if any(special):
            encoded = self._parts.encode(pieces, marks)
            ids, offsets = encoded.ids, encoded.offsets
        else:
            ids, offsets = self._tokenizer.encode_batch(pieces)
        rows = Ragged(ids.astype(token_dtype(self._tokenizer.vocab_size)), offsets)
        numbers = np.arange(len(special), dtype=np.int64) * len(self._names)
        is_template = np.array(special, np.bool_)
        return {
            name: self._ended(name, rows.take(numbers + i), is_template) for i, name in enumerate(self._names)
        }

    def _ended(self, name: str, column: Ragged, is_template: np.ndarray[Any, np.dtype[np.bool_]]) -> Ragged:
        """A column with the ids that stand before and after each text.

        A template writes what stands before; an answer that continues a prompt has nothing before it, and the prompt
        nothing after it.
        """
        before, after = ids_around(self._tokenizer)
        if name in ("chosen", "rejected"):
            before = ()
        lead = np.where(is_template, 0, len(before))
        if name == "prompt":
            tails, after = np.zeros_like(lead), ()
        elif name == "source":
            tails = np.where(is_template, 0, len(after))
        else:
            tails = np.where(is_template, 1, len(after))
        lengths = column.lengths()
        offsets: Offsets = offsets_of(lengths + lead + tails)
        values = np.empty(int(offsets[-1]), column.values.dtype)
        starts = offsets[:-1] + lead
        places = np.repeat(starts - column.offsets[:-1], lengths) + np.arange(len(column.values))
        values[places] = column.values
        for i, one in enumerate(before):
            values[offsets[:-1][lead > 0] + i] = one
        plain_tail = (tails > 0) & ~is_template
        for i, one in enumerate(after):
            values[(starts + lengths)[plain_tail] + i] = one
        values[(starts + lengths)[(tails > 0) & is_template]] = self._tokenizer.eos_id
        return Ragged(values, offsets)


def _check_unchanged(source: SourceFile) -> None:
    if "://" in source.url:
        return
    status = os.stat(source.url)  # noqa: PTH116 - as where sources are found
    if (status.st_size, status.st_mtime_ns) != (source.nbytes, source.modified_ns):
        raise SourceError(
            f"{source.url}: changed while it was read. Run the same command again with --restart"
        )
