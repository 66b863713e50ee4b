"""A prediction store and a query -> one page of rows.

A filtered call looks at no more than SCAN_ROWS rows or SCAN_BYTES bytes of parts and returns where to continue, so a
search in a billion rows is many short responses, never a long one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from headrace.serve.predictions.compare import KeyIndex, build_index, keys_of, rows_at
from headrace.serve.predictions.query import RowQuery
from headrace.sink import JOB, SCHEMA, Part, committed_parts, count_predictions, decode_part, parse_job
from headrace.storage import open_blob

RESPONSE_BYTES = 4 << 20
"""A response ends with the row that passes this size."""
SCAN_ROWS, SCAN_BYTES = 65_536, 64 << 20
FRESH_S = 1.0
"""A snapshot of the commits is used this long: many viewers cost as much as one."""
PER_TOKEN = ("token_ids", "logprobs", "prompt_logprobs", "top_logprobs")
EXCERPT_COLUMNS = [name for name in SCHEMA.names if name not in PER_TOKEN]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSnapshot:
    """A job's commits at one moment."""

    taken_at: float
    request: Mapping[str, Any]
    run_id: str
    parts: list[Part]
    rows: int
    errors: int


class PredictionStore:
    """One job's output, with its latest snapshot.

    Args:
        name: what clients call it.
        out: directory or URL.
        clock: seconds.
    """

    def __init__(self, name: str, out: str, *, clock: Callable[[], float]) -> None:
        self.name, self.out = name, out
        self._clock = clock
        self._lock = threading.Lock()
        self._last: StoreSnapshot | None = None
        self._index: tuple[tuple[str, int, int], KeyIndex] | None = None

    def snapshot(self) -> StoreSnapshot:
        """What is committed now, or was a moment ago.

        Raises:
            SinkError: not a job's output, or it is damaged.
        """
        with self._lock:
            last, now = self._last, self._clock()
            if last is not None and now - last.taken_at < FRESH_S:
                return last
            parts = committed_parts(self.out)
            rows = sum(visible_rows(part) for part in parts)
            job = parse_job(bytes(open_blob(self.out).get(JOB)), where=self.out)
            # Counting errors reads every key: only after a commit.
            unchanged = last is not None and (last.rows, len(last.parts)) == (rows, len(parts))
            errors = last.errors if last is not None and unchanged else count_predictions(self.out)[1]
            self._last = StoreSnapshot(
                taken_at=now,
                request=job["request"],
                run_id=job["run_id"],
                parts=parts,
                rows=rows,
                errors=errors,
            )
            return self._last

    def index(self, snapshot: StoreSnapshot) -> KeyIndex:
        """Key -> position, built once for each set of commits.

        Raises:
            ConfigError: too many rows.
        """
        version = (snapshot.run_id, len(snapshot.parts), snapshot.rows)
        with self._lock:
            if self._index is None or self._index[0] != version:
                self._index = None
                self._index = (version, build_index(snapshot.parts, rows=snapshot.rows, name=self.name))
            return self._index[1]


def describe(store: PredictionStore) -> dict[str, Any]:
    """One store of the list.

    Raises:
        SinkError: it cannot be read.
    """
    snapshot = store.snapshot()
    prompts, samples = snapshot.request.get("num_prompts"), snapshot.request.get("num_samples")
    return {
        "object": "prediction_store",
        "name": store.name,
        "rows": snapshot.rows,
        "rows_expected": prompts * samples if isinstance(prompts, int) and isinstance(samples, int) else None,
        "errors": snapshot.errors,
        "bytes": sum(part.nbytes for part in snapshot.parts),
        "parts": len(snapshot.parts),
        "model": snapshot.request.get("model"),
        "run_id": snapshot.run_id,
        "request": dict(snapshot.request),
        "error": None,
    }


def read_page(
    store: PredictionStore, query: RowQuery, other: PredictionStore | None = None
) -> dict[str, Any]:
    """One response: rows, and the offset to continue at.

    Args:
        store: where the rows are.
        query: which rows.
        other: a second store, whose rows of the same keys come along.
    """
    snapshot = store.snapshot()
    rows: list[orjson.Fragment] = []
    nbytes, reached = 0, min(query.offset, snapshot.rows)
    for next_position, row in _scan(snapshot.parts, query, _OtherStore.of(other)):
        reached = next_position
        if row is not None:
            encoded = orjson.dumps(row)
            rows.append(orjson.Fragment(encoded))
            nbytes += len(encoded)
            if len(rows) == query.limit or nbytes >= RESPONSE_BYTES:
                break
    return {
        "object": "list",
        "data": rows,
        "offset": query.offset,
        "limit": query.limit,
        "next_offset": reached if reached < snapshot.rows else None,
        "rows": snapshot.rows,
        "errors": snapshot.errors,
    }


@dataclass(frozen=True, slots=True)
class _OtherStore:
    """The other store of a comparison."""

    parts: list[Part]
    index: KeyIndex

    @classmethod
    def of(cls, store: PredictionStore | None) -> _OtherStore | None:
        if store is None:
            return None
        snapshot = store.snapshot()
        return cls(snapshot.parts, store.index(snapshot))

    def rows(self, batch: pa.RecordBatch, columns: list[str]) -> list[dict[str, Any] | None]:
        """The other store's row for each row of a batch; None where it has none."""
        positions = self.index.positions(batch)
        found = rows_at(self.parts, [one for one in positions if one is not None], columns)
        rows = []
        for position, key in zip(positions, keys_of(batch), strict=True):
            row = None if position is None else found.get(position)
            same = row is not None and (row["prompt_id"], row["sample_index"]) == key
            rows.append(row if same else None)
        return rows


def _scan(
    parts: list[Part], query: RowQuery, other: _OtherStore | None
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Matching rows, each with the position after it; a None row says how far nothing more matches."""
    columns = SCHEMA.names if query.excerpt is None else EXCERPT_COLUMNS
    first = scanned_rows = scanned_bytes = 0
    for part in parts:
        count = visible_rows(part)
        if first + count <= query.offset:
            first += count
            continue
        if scanned_rows >= SCAN_ROWS or scanned_bytes >= SCAN_BYTES:
            return
        position = first
        for batch in decode_part(part, columns=columns):
            skip = max(0, query.offset - position)
            candidates = batch.slice(skip)
            matches = _matches(candidates, query, other)
            others: list[Any] = []
            if other is not None:  # read together; the caller takes `limit` rows at most
                others = other.rows(candidates.take(pa.array(matches[: query.limit], pa.int64())), columns)
            for number, index in enumerate(matches):
                at = position + skip + index
                (row,) = candidates.slice(index, 1).to_pylist()
                result = {"position": at} | _shortened(row, query)
                if other is not None:
                    match = others[number]
                    result["other"] = None if match is None else _shortened(match, query)
                yield at + 1, result
            position += batch.num_rows
        first += count
        scanned_rows, scanned_bytes = scanned_rows + count, scanned_bytes + part.nbytes
        yield first, None


def visible_rows(part: Part) -> int:
    """Rows of a part that no later part replaced."""
    return part.rows - len(part.superseded)


def _matches(batch: pa.RecordBatch, query: RowQuery, other: _OtherStore | None) -> list[int]:
    """Indices of matching rows, ascending."""
    if not query.filtered:
        return list(range(batch.num_rows))
    error = batch.column("error")
    mask = pc.is_valid(error)
    if not query.errors:
        mask = pc.or_(mask, pc.invert(mask))
    if query.text:
        texts = [batch.column(name) for name in ("prompt_id", "prompt", "text")]
        in_error = pc.match_substring(pc.struct_field(error, "message"), query.text, ignore_case=True)
        anywhere = pc.fill_null(in_error, fill_value=False)
        for text in texts:
            anywhere = pc.or_(anywhere, pc.match_substring(text, query.text, ignore_case=True))
        mask = pc.and_(mask, anywhere)
    indices: list[int] = pc.indices_nonzero(mask).to_pylist()
    if query.different and other is not None and indices:
        candidates = batch.take(pa.array(indices))
        texts = candidates.column("text").to_pylist()
        others = other.rows(candidates, ["prompt_id", "sample_index", "text"])
        indices = [
            index
            for index, text, match in zip(indices, texts, others, strict=True)
            if match is None or match["text"] != text
        ]
    return indices


def _shortened(row: dict[str, Any], query: RowQuery) -> dict[str, Any]:
    """The row, or with excerpts of its texts; `clipped` is true when something was left out."""
    if query.excerpt is None:
        return row
    short = {name: excerpt(row[name], query.excerpt, around=query.text) for name in ("prompt", "text")}
    return row | short | {"clipped": any(short[name] != row[name] for name in short)}


def excerpt(text: str, length: int, *, around: str = "") -> str:
    """At most `length` characters of a text, from a little before the first match.

    >>> excerpt("a needle in a haystack", 8, around="HAY")
    '…a haysta…'
    >>> excerpt("short", 8)
    'short'
    """
    if len(text) <= length:
        return text
    match = max(0, text.lower().find(around.lower())) if around else 0
    start = max(0, match - length // 4)
    return "…" * (start > 0) + text[start : start + length] + "…" * (start + length < len(text))
