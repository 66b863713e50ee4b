"""Committed rows of a batch -> the lines of its output file and of its error file, in the order of the input.

Source: OpenAI's batch format: id, custom_id, response (status_code, request_id, body), error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson

from headrace.serve.batches.input_file import BatchLine, read_requests
from headrace.sink import scan_predictions

EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


def result_lines(
    requests: Path, out: Path, *, batch: str, which: Literal["output", "error"], expired: bool = False
) -> Iterator[bytes]:
    """Lines of one result file.

    Args:
        requests: the batch's input.
        out: directory of the committed rows; it need not exist.
        batch: prefix of the lines' ids.
        which: responses, or errors.
        expired: write an error for each request without a row.
    """
    rows = _rows(out)
    row = next(rows, None)
    for line in read_requests(requests):
        if row is not None and row["prompt_id"] == line.key:
            if (row["error"] is not None) == (which == "error"):
                yield _result_line(line, row, batch)
            row = next(rows, None)
        elif expired and which == "error":
            yield orjson.dumps(
                {
                    "id": f"batch_req_{batch}_{line.number}",
                    "custom_id": line.custom_id,
                    "response": None,
                    "error": EXPIRED,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )


def _rows(out: Path) -> Iterator[dict[str, Any]]:
    if out.is_dir():
        for batch in scan_predictions(out, columns=["prompt_id", "text", "error"], sort=True):
            yield from batch.to_pylist()


def _result_line(line: BatchLine, row: dict[str, Any], batch: str) -> bytes:
    error = row["error"]
    status = 200 if error is None else int(error["type"])
    body = row["text"] if error is None else error["message"]
    name = f"{batch}_{line.number}"
    response = b'{"status_code":%d,"request_id":"%b","body":%b}' % (status, name.encode(), body.encode())
    return b'{"id":"batch_req_%b","custom_id":%b,"response":%b,"error":null}\n' % (
        name.encode(), orjson.dumps(line.custom_id), response,
    )  # fmt: skip
