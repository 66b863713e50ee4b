"""A batch's file of requests -> its lines, or what is wrong with it; answers in a sink -> the lines of its output.

Source: OpenAI's batch format, one JSON object a line: custom_id, method, url, body; and of the answers: id, custom_id,
response (status_code, request_id, body), error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from headrace.sink import scan_predictions

MAX_REQUESTS = 50_000
MAX_ERRORS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request of a batch."""

    number: int
    custom_id: str
    body: Any

    @property
    def key(self) -> str:
        """Its prompt id in the sink; sorts as the file does."""
        return f"{self.number:09d}"


def survey(path: Path, endpoint: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Lines of a batch file, a digest of its content, and what is wrong with it."""
    digest, seen, count = xxhash.xxh3_128(), set[str](), 0
    faults: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file):
            digest.update(raw)
            if not raw.strip() or len(faults) >= MAX_ERRORS:
                continue
            count += 1
            wrong = _wrong(raw, endpoint, seen)
            if wrong is not None:
                faults.append(fault(wrong, line=number + 1))
    if count == 0:
        faults.append(fault("The input file holds no request."))
    if count > MAX_REQUESTS:
        faults.append(fault(f"The input file holds {count} requests; at most {MAX_REQUESTS}."))
    return count, digest.hexdigest(), faults


def read_lines(path: Path) -> Iterator[Line]:
    """Requests of a file that was surveyed."""
    with path.open("rb") as file:
        for number, raw in enumerate(file):
            if raw.strip():
                fields = orjson.loads(raw)
                yield Line(number=number, custom_id=fields["custom_id"], body=fields["body"])


def fault(message: str, *, line: int | None = None) -> dict[str, Any]:
    """One entry of a batch object's errors."""
    return {"code": "invalid_request", "message": message, "param": None, "line": line}


def results(path: Path, out: Path, *, batch: str, failed: bool) -> Iterator[bytes]:
    """Lines of the file of answers, or of errors, in the order of the input."""
    lines = read_lines(path)
    columns = ["prompt_id", "text", "error"]
    for rows in scan_predictions(out, columns=columns, sort=True):
        for row in rows.to_pylist():
            line = next(line for line in lines if line.key == row["prompt_id"])
            if (row["error"] is not None) is not failed:
                continue
            status = int(row["error"]["type"]) if failed else 200
            body = row["error"]["message"] if failed else row["text"]
            name = f"{batch}_{line.number}"
            answer = b'{"status_code":%d,"request_id":"%b","body":%b}' % (
                status,
                name.encode(),
                body.encode(),
            )
            yield b'{"id":"batch_req_%b","custom_id":%b,"response":%b,"error":null}\n' % (
                name.encode(), orjson.dumps(line.custom_id), answer,
            )  # fmt: skip


def _wrong(raw: bytes, endpoint: str, seen: set[str]) -> str | None:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    if not isinstance(fields, dict):
        return "not a JSON object"
    custom_id, method, url = (fields.get(name) for name in ("custom_id", "method", "url"))
    wrong = None
    if not isinstance(custom_id, str) or not custom_id:
        wrong = "custom_id: missing, or not a text"
    elif custom_id in seen:
        wrong = f"custom_id: {custom_id[:100]!r} was given before; each line needs its own"
    elif method != "POST":
        wrong = f"method: {str(method)[:50]!r}; wanted POST"
    elif url != endpoint:
        wrong = f"url: {str(url)[:100]!r}; the batch is for {endpoint}"
    elif not isinstance(fields.get("body"), dict):
        wrong = "body: missing, or not an object"
    else:
        seen.add(custom_id)
    return wrong
