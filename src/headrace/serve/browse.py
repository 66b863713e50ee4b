"""GET /predictions -> what generation jobs have committed, as JSON; bounded memory, bounded answers.

    GET /predictions           every store: rows, errors, bytes, what was asked for
    GET /predictions/NAME      rows in the order of their commits, filtered, page by page

Only committed rows are seen, also while a job runs: a later call sees more. `position` is a row's place in the
order of the commits; it stays while a job runs, and moves only when `--retry-errors` replaces error rows before it.
A filtered call looks at no more than SCAN_ROWS rows or SCAN_BYTES bytes of parts and says where to go on, so a search
in a billion rows is many short answers, never a long one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import ConfigError, HeadraceError
from headrace.sink import JOB, SCHEMA, Part, committed_parts, count_predictions, decode_part, parse_job
from headrace.storage import open_blob

LIMIT, MAX_LIMIT = 50, 200
MAX_QUERY, MAX_EXCERPT = 1000, 10_000
ANSWER_BYTES = 4 << 20
"""Rows of one answer: it ends with the row that passes this."""
SCAN_ROWS, SCAN_BYTES = 65_536, 64 << 20
FRESH_S = 1.0
"""A snapshot of the commits is used this long: many viewers cost as much as one."""
READERS = 2
"""Calls that read parts at the same time; each holds one part, some tens of MB."""

PER_TOKEN = ("token_ids", "logprobs", "prompt_logprobs")
SHORT = [name for name in SCHEMA.names if name not in PER_TOKEN]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a call wants to see."""

    offset: int = 0
    """Position to begin at."""
    limit: int = LIMIT
    query: str = ""
    """In id, prompt, text or error message; letter case does not matter."""
    errors: bool = False
    """Only rows that hold an error."""
    excerpt: int | None = None
    """Characters of prompt and text around what was found, without the values per token; None: whole rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A job's commits at one moment."""

    taken_at: float
    request: Mapping[str, Any]
    run_id: str
    parts: list[Part]
    rows: int
    errors: int


def routes(stores: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> list[Route]:
    """Routes that show prediction stores.

    Args:
        stores: name -> output directory or URL of `headrace generate`; it need not exist yet.
        clock: seconds; decides when a snapshot of the commits is too old.
    """
    shelf = {name: _Store(out, clock=clock) for name, out in stores.items()}
    limiter = anyio.CapacityLimiter(READERS)

    async def list_stores(_: Request) -> Response:
        found = await anyio.to_thread.run_sync(
            lambda: [_describe(name, store) for name, store in shelf.items()], limiter=limiter
        )
        return _json({"object": "list", "data": found})

    async def list_rows(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in shelf:
            there = ", ".join(shelf) or "none"
            return _error(404, f"There is no prediction store named {name!r}; there are: {there}.", "name")
        try:
            asked = parse(request.query_params)
        except _BadParameter as error:
            return _error(400, str(error), error.name)
        try:
            return _json(await anyio.to_thread.run_sync(lambda: _page(shelf[name], asked), limiter=limiter))
        except (HeadraceError, OSError) as error:
            return _error(500, str(error))

    return [Route("/predictions", list_stores), Route("/predictions/{name}", list_rows)]


class _Store:
    """One job's output, with its latest snapshot."""

    def __init__(self, out: str, *, clock: Callable[[], float]) -> None:
        self.out = out
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        with self._lock:
            last, now = self._last, self._clock()
            if last is not None and now - last.taken_at < FRESH_S:
                return last
            parts = committed_parts(self.out)
            rows = sum(_visible(part) for part in parts)
            job = parse_job(bytes(open_blob(self.out).get(JOB)), where=self.out)
            # Counting errors reads every key: only after a commit.
            unchanged = last is not None and (last.rows, len(last.parts)) == (rows, len(parts))
            errors = last.errors if last is not None and unchanged else count_predictions(self.out)[1]
            self._last = Snapshot(
                taken_at=now,
                request=job["request"],
                run_id=job["run_id"],
                parts=parts,
                rows=rows,
                errors=errors,
            )
            return self._last


def _describe(name: str, store: _Store) -> dict[str, Any]:
    """One store of the list; one that cannot be read says so and leaves the others in peace."""
    try:
        seen = store.snapshot()
    except (HeadraceError, OSError) as error:
        return {
            "object": "prediction_store",
            "name": name,
            "rows": 0,
            "errors": 0,
            "bytes": 0,
            "error": str(error),
        }
    prompts, samples = seen.request.get("num_prompts"), seen.request.get("num_samples")
    return {
        "object": "prediction_store",
        "name": name,
        "rows": seen.rows,
        "rows_wanted": prompts * samples if isinstance(prompts, int) and isinstance(samples, int) else None,
        "errors": seen.errors,
        "bytes": sum(part.nbytes for part in seen.parts),
        "parts": len(seen.parts),
        "model": seen.request.get("model"),
        "run_id": seen.run_id,
        "request": dict(seen.request),
        "error": None,
    }


def _page(store: _Store, asked: Asked) -> dict[str, Any]:
    seen = store.snapshot()
    rows: list[orjson.Fragment] = []
    nbytes, reached = 0, min(asked.offset, seen.rows)
    for position, row in _scan(seen.parts, asked):
        reached = position
        if row is not None:
            encoded = orjson.dumps(row)
            rows.append(orjson.Fragment(encoded))
            nbytes += len(encoded)
            if len(rows) == asked.limit or nbytes >= ANSWER_BYTES:
                break
    return {
        "object": "list",
        "data": rows,
        "offset": asked.offset,
        "limit": asked.limit,
        "next_offset": reached if reached < seen.rows else None,
        "rows": seen.rows,
        "errors": seen.errors,
    }


def _scan(parts: list[Part], asked: Asked) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Rows that are wanted, each with the position after it; None: as far as that nothing more is wanted."""
    filtered = bool(asked.query) or asked.errors
    columns = SCHEMA.names if asked.excerpt is None else SHORT
    first = scanned_rows = scanned_bytes = 0
    for part in parts:
        count = _visible(part)
        if first + count <= asked.offset:
            first += count
            continue
        if scanned_rows >= SCAN_ROWS or scanned_bytes >= SCAN_BYTES:
            return
        position = first
        for batch in decode_part(part, columns=columns):
            skip = max(0, asked.offset - position)
            wanted = batch.slice(skip)
            for index in _matches(wanted, asked) if filtered else range(wanted.num_rows):
                place = position + skip + index
                (row,) = wanted.slice(index, 1).to_pylist()
                yield place + 1, {"position": place} | (row if asked.excerpt is None else _cut(row, asked))
            position += batch.num_rows
        first += count
        scanned_rows, scanned_bytes = scanned_rows + count, scanned_bytes + part.nbytes
        yield first, None


def _visible(part: Part) -> int:
    return part.rows - len(part.superseded)


def _matches(batch: pa.RecordBatch, asked: Asked) -> list[int]:
    """Indices of the rows that are asked for, ascending."""
    error = batch.column("error")
    mask = pc.is_valid(error)
    if asked.query:
        texts = [batch.column(name) for name in ("prompt_id", "prompt", "text")]
        found = [pc.match_substring(text, asked.query, ignore_case=True) for text in texts]
        in_error = pc.match_substring(pc.struct_field(error, "message"), asked.query, ignore_case=True)
        anywhere = pc.or_(
            pc.or_(found[0], found[1]), pc.or_(found[2], pc.fill_null(in_error, fill_value=False))
        )
        mask = pc.and_(mask, anywhere) if asked.errors else anywhere
    indices: list[int] = pc.indices_nonzero(mask).to_pylist()
    return indices


def _cut(row: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """The row with short texts; `clipped` says whether something was left out."""
    short = {name: excerpt(row[name], asked.excerpt or 0, around=asked.query) for name in ("prompt", "text")}
    return row | short | {"clipped": any(short[name] != row[name] for name in short)}


def excerpt(text: str, length: int, *, around: str = "") -> str:
    """At most `length` characters of a text, from a little before what is looked for.

    >>> excerpt("a needle in a haystack", 8, around="HAY")
    '…a haysta…'
    >>> excerpt("short", 8)
    'short'
    """
    if len(text) <= length:
        return text
    found = max(0, text.lower().find(around.lower())) if around else 0
    start = max(0, found - length // 4)
    return "…" * (start > 0) + text[start : start + length] + "…" * (start + length < len(text))


class _BadParameter(ConfigError):
    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


def parse(params: QueryParams) -> Asked:
    """A URL's parameters as what is wanted.

    Raises:
        ConfigError: an unknown or repeated parameter, or a value of the wrong kind.
    """
    given = dict(params.multi_items())
    known = ("offset", "limit", "query", "errors", "excerpt")
    for name in given:
        if name not in known:
            raise _BadParameter(name, f"not a parameter here; there are {', '.join(known)}.")
    if len(given) != len(params.multi_items()):
        name = next(name for name in given if len(params.getlist(name)) > 1)
        raise _BadParameter(name, "given more than once; give it once.")
    query = given.get("query", "")
    if len(query) > MAX_QUERY:
        raise _BadParameter("query", f"{len(query)} characters; at most {MAX_QUERY}.")
    errors = given.get("errors", "false").lower()
    if errors not in ("true", "false", "1", "0"):
        raise _BadParameter("errors", f"{errors[:40]!r}; wanted true (only errors) or false.")
    return Asked(
        offset=_integer(given, "offset", default=0, least=0, most=2**62),
        limit=_integer(given, "limit", default=LIMIT, least=1, most=MAX_LIMIT),
        query=query,
        errors=errors in ("true", "1"),
        excerpt=_integer(given, "excerpt", default=0, least=1, most=MAX_EXCERPT)
        if "excerpt" in given
        else None,
    )


def _integer(given: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = given.get(name, str(default))
    # int() alone would take "1_0", " 7" and other scripts' digits.
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= value <= most:
        raise _BadParameter(name, f"{text[:40]!r}; wanted a whole number from {least:,} to {most:,}.")
    return value


def _json(content: Any, status: int = 200) -> Response:
    return Response(
        orjson.dumps(content),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def _error(status: int, message: str, param: str | None = None) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = "not_found" if status == 404 else None
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
