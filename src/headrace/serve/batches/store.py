"""Batch objects and their working files <-> the directory of the batches.

STATE/batches/<id>.json          OpenAI's batch object, replaced as a whole
STATE/batches/<id>.input.jsonl   until the batch is finished, its input: a second name of the uploaded file
STATE/batches/<id>/              until the batch is finished, its responses: an exactly-once sink, one row a line
"""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from pathlib import Path
from typing import Any, Literal

import orjson

from headrace.serve.batches.results import result_lines
from headrace.serve.files import ID, FileStore, newest_first, remove_tree, write_durably
from headrace.serve.protocol import APIError, BatchBody, bad_request

WINDOW = re.compile(r"([1-9][0-9]{0,4})([smhd])\Z")
WINDOW_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
FINISHED = ("completed", "cancelled", "expired")
EndStatus = Literal["completed", "cancelled", "expired", "failed"]


class BatchStore:
    """The batches of a server, as they are on disk.

    Args:
        files: uploaded files, and the directory of the batches.
    """

    def __init__(self, files: FileStore) -> None:
        self._files, self._folder = files, files.batches

    def create(self, batch: dict[str, Any]) -> None:
        """Keep a new batch and its input.

        Raises:
            APIError: 404, the input file does not exist.
        """
        requests = self.requests(batch)
        self._files.link(batch["input_file_id"], requests)
        try:
            self.write(batch)
        except BaseException:
            requests.unlink(missing_ok=True)
            raise

    def get(self, identity: str) -> dict[str, Any]:
        """A batch's object.

        Raises:
            APIError: 404.
        """
        if ID.match(identity) and identity.startswith("batch-"):
            with contextlib.suppress(FileNotFoundError):
                batch: dict[str, Any] = orjson.loads((self._folder / f"{identity}.json").read_bytes())
                return batch
        raise APIError(404, f"No batch with id {identity[:100]!r}.", param="id", code="batch_not_found")

    def write(self, batch: dict[str, Any]) -> None:
        """Replace a batch's object."""
        write_durably(self._folder / f"{batch['id']}.json", [orjson.dumps(batch)])

    def all(self) -> list[dict[str, Any]]:
        """All batches, the newest first."""
        return newest_first(self._folder, "batch-*.json")

    def unfinished(self) -> list[dict[str, Any]]:
        """Batches that are to be run, or whose results are to be written, the oldest first."""
        return [
            batch
            for batch in reversed(self.all())
            if batch["status"] in UNFINISHED
            or (batch["status"] == "failed" and self.requests(batch).exists())
        ]

    def requests(self, batch: dict[str, Any]) -> Path:
        """A batch's input."""
        return self._folder / f"{batch['id']}.input.jsonl"

    def rows(self, batch: dict[str, Any]) -> Path:
        """The directory of a batch's committed rows."""
        return self._folder / str(batch["id"])

    def write_results(self, batch: dict[str, Any], end: EndStatus) -> None:
        """Write the files of responses and of errors; a batch without a row has neither."""
        out, counts = self.rows(batch), batch["request_counts"]
        if not out.is_dir() and end != "expired":
            return
        stem = batch["id"].removeprefix("batch-")
        which: Literal["output", "error"]
        for which in ("output", "error"):
            lines = result_lines(self.requests(batch), out, batch=stem, which=which, expired=end == "expired")
            first = next(lines, None)
            if first is None and which == "error":
                continue
            file = self._files.add(
                itertools.chain([] if first is None else [first], lines),
                name=f"{batch['id']}_{which}.jsonl",
                purpose="batch_output",
                identity=f"file-{stem}-{which}",
            )
            batch[f"{which}_file_id"] = file["id"]
        if end == "expired":
            counts["failed"] = counts["total"] - counts["completed"]

    def remove_working_files(self, batch: dict[str, Any]) -> None:
        """Delete a finished batch's rows and input."""
        remove_tree(self.rows(batch))
        self.requests(batch).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete working files of batches that ended, or that were never created, just before a kill."""
        for path in self._folder.glob("*.input.jsonl"):
            try:
                batch = self.get(path.name.removesuffix(".input.jsonl"))
            except APIError:
                path.unlink(missing_ok=True)
                continue
            if batch["status"] in FINISHED:
                self.remove_working_files(batch)


def new_batch(body: BatchBody, *, now: int) -> dict[str, Any]:
    """OpenAI's batch object, just created.

    Raises:
        APIError: the completion window has no meaning.
    """
    window = WINDOW.match(body.completion_window)
    if window is None:
        raise bad_request(
            f"completion_window: {body.completion_window[:50]!r}; expected a number and s, m, h or d, "
            "for example '24h'.",
            "completion_window",
        )
    times = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": f"batch-{secrets.token_hex(12)}",
        "object": "batch",
        "endpoint": body.endpoint,
        "errors": None,
        "input_file_id": body.input_file_id,
        "completion_window": body.completion_window,
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": now + int(window[1]) * WINDOW_UNITS_S[window[2]],
        **{f"{name}_at": None for name in times},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.metadata,
    }
