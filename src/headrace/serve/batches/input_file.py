"""A batch's input file -> its requests, or what is wrong with its lines.

Source: OpenAI's batch format, one JSON object a line: custom_id, method, url, body.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from headrace.serve.protocol import read_json_lines

MAX_REQUESTS = 50_000
MAX_ERRORS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request of a batch."""

    number: int
    custom_id: str
    body: Any

    @property
    def key(self) -> str:
        """Its prompt id in the sink; sorts in the order of the file."""
        return f"{self.number:09d}"


def check_input(path: Path, endpoint: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Number of requests in a batch's input file, a hash of its content, and its errors."""
    digest, seen, count = xxhash.xxh3_128(), set[str](), 0
    errors: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in read_json_lines(file):
            digest.update(b"%d:%b" % (number, line))
            if len(errors) >= MAX_ERRORS:
                continue
            count += 1
            message = _check_line(line, endpoint, seen)
            if message is not None:
                errors.append(batch_error(message, line=number + 1))
    if count == 0:
        errors.append(batch_error("The input file holds no request."))
    if count > MAX_REQUESTS:
        errors.append(batch_error(f"The input file holds {count} requests; at most {MAX_REQUESTS}."))
    return count, digest.hexdigest(), errors


def read_requests(path: Path) -> Iterator[BatchLine]:
    """Requests of a file that was checked."""
    with path.open("rb") as file:
        for number, line in read_json_lines(file):
            fields = orjson.loads(line)
            yield BatchLine(number=number, custom_id=fields["custom_id"], body=fields["body"])


def batch_error(message: str, *, line: int | None = None) -> dict[str, Any]:
    """One entry of a batch object's errors."""
    return {"code": "invalid_request", "message": message, "param": None, "line": line}


def _check_line(line: bytes, endpoint: str, seen: set[str]) -> str | None:
    """What is wrong with a line; None if nothing is."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    if not isinstance(fields, dict):
        return "not a JSON object"
    custom_id, method, url = (fields.get(name) for name in ("custom_id", "method", "url"))
    message = None
    if not isinstance(custom_id, str) or not custom_id:
        message = "custom_id: missing, or not a text"
    elif custom_id in seen:
        message = f"custom_id: {custom_id[:100]!r} was given before; each line needs its own"
    elif method != "POST":
        message = f"method: {str(method)[:50]!r}; expected POST"
    elif url != endpoint:
        message = f"url: {str(url)[:100]!r}; the batch is for {endpoint}"
    elif not isinstance(fields.get("body"), dict):
        message = "body: missing, or not an object"
    else:
        seen.add(custom_id)
    return message
