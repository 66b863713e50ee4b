"""A file of requests -> a file of answers, in the background; a killed server goes on with it when it starts again.

    STATE/batches/<id>.json     OpenAI's batch object, replaced as a whole
    STATE/batches/<id>/         until it is done, the answers so far: an exactly-once sink, one row a line

A line's row is its number in the input file, so a restart knows what is missing. The output files have names of
their own batch: writing them twice is writing them once. A quarter of the engine's places stays free for clients
who wait for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError, WorkerError
from headrace.serve.answer import Answer
from headrace.serve.ask import ask
from headrace.serve.batch_file import Line, fault, read_lines, results, survey
from headrace.serve.bodies import BatchBody, ChatBody, CompletionBody, parse_fields
from headrace.serve.files import ID, Shelf, newest_first, page_of, remove_tree, write_durably
from headrace.serve.refusal import Refusal, invalid
from headrace.serve.respond import collect, submitted
from headrace.serve.wire import json_response, read_body
from headrace.sink import Sink
from headrace.types import Prediction

if TYPE_CHECKING:
    from headrace.serve.drive import Driver
    from headrace.serve.served import Served

ENDPOINTS: dict[str, type[CompletionBody | ChatBody]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
}
WINDOW_S = 24 * 3600
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
WRITE_EVERY_S = 1.0


class Batches:
    """All batches of a server; one runs at a time, in the order in which they came.

    Args:
        shelf: files and state.
        served: the model.
    """

    def __init__(self, shelf: Shelf, *, served: Served) -> None:
        self._shelf, self._served = shelf, served
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._driver: Driver | None = None
        self._cancel: set[str] = set()

    def start(self, driver: Driver) -> None:
        """Go on with what a former server left, and wait for more."""
        self._driver = driver
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Pause: what is stored stays, what runs is made again after the next start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def routes(self, refuse: Callable[[], None]) -> list[Route]:
        """OpenAI's paths; refuse() raises while nothing new is taken."""

        async def create(request: Request) -> Response:
            refuse()
            body = await read_body(request, BatchBody)
            if body.endpoint not in ENDPOINTS:
                raise invalid(
                    f"endpoint: {body.endpoint[:100]!r}; there are {', '.join(ENDPOINTS)}.", "endpoint"
                )
            self._shelf.path(body.input_file_id)
            batch = new_batch(body)
            self._write(batch)
            self._news.set()
            return json_response(batch)

        async def listed(request: Request) -> Response:
            return json_response(page_of(newest_first(self._shelf.batches, "batch-*.json"), request, 20))

        async def one(request: Request) -> Response:
            return json_response(self._get(request.path_params["identity"]))

        async def cancel(request: Request) -> Response:
            batch = self._get(request.path_params["identity"])
            if batch["status"] not in UNFINISHED[:2]:
                raise invalid(f"The batch is {batch['status']}; it cannot be cancelled.", "id")
            batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
            self._write(batch)
            self._cancel.add(batch["id"])
            self._news.set()
            return json_response(batch)

        return [
            Route("/v1/batches", create, methods=["POST"]),
            Route("/v1/batches", listed, methods=["GET"]),
            Route("/v1/batches/{identity}", one, methods=["GET"]),
            Route("/v1/batches/{identity}/cancel", cancel, methods=["POST"]),
        ]

    def _get(self, identity: str) -> dict[str, Any]:
        if ID.match(identity) and identity.startswith("batch-"):
            with contextlib.suppress(FileNotFoundError):
                batch: dict[str, Any] = orjson.loads((self._shelf.batches / f"{identity}.json").read_bytes())
                return batch
        raise Refusal(404, f"No batch with id {identity[:100]!r}.", param="id", code="batch_not_found")

    def _write(self, batch: dict[str, Any]) -> None:
        write_durably(self._shelf.batches / f"{batch['id']}.json", [orjson.dumps(batch)])

    # ---- the worker ----

    async def _work(self) -> None:
        while True:
            self._news.clear()
            ahead = [
                one
                for one in reversed(newest_first(self._shelf.batches, "batch-*.json"))
                if one["status"] in UNFINISHED
            ]
            if not ahead:
                await self._news.wait()
                continue
            batch = ahead[0]
            try:
                await self._one(batch)
            except WorkerError:
                return  # the engine is gone; the next server goes on
            except (HeadraceError, OSError, Refusal) as error:
                batch |= {"status": "failed", "failed_at": int(time.time())}
                batch["errors"] = {"object": "list", "data": [fault(str(error))]}
                self._write(batch)
            self._cancel.discard(batch["id"])

    async def _one(self, batch: dict[str, Any]) -> None:
        """Take one batch to its end."""
        # SQLite's connection belongs to one thread, and an fsync must not hold up the loop.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch") as hand:
            loop = asyncio.get_running_loop()
            path = self._shelf.path(batch["input_file_id"])
            total, digest, faults = await loop.run_in_executor(hand, survey, path, batch["endpoint"])
            if faults:
                batch |= {"status": "failed", "failed_at": int(time.time())}
                batch["errors"] = {"object": "list", "data": faults}
                self._write(batch)
                return
            batch["request_counts"]["total"] = total
            if batch["status"] == "validating":
                batch |= {"status": "in_progress", "in_progress_at": int(time.time())}
            self._write(batch)
            request = {
                "model": self._served.fingerprint,
                "dtype": self._served.dtype,
                "tokenizer": self._served.tokenizer_fingerprint,
                "prompts": digest,
                "endpoint": batch["endpoint"],
            }
            out = self._shelf.batches / batch["id"]
            sink = await loop.run_in_executor(hand, lambda: Sink(out, request=request, format="jsonl"))
            try:
                if batch["status"] == "in_progress":
                    await self._make(batch, path, sink, hand)
                await loop.run_in_executor(hand, sink.commit)
            finally:
                await asyncio.shield(loop.run_in_executor(hand, sink.abandon))
            now = int(time.time())
            cancelled = batch["status"] == "cancelling" or batch["id"] in self._cancel
            batch |= (
                {"status": "finalizing", "finalizing_at": now} if not cancelled else {"status": "cancelling"}
            )
            self._write(batch)
            await loop.run_in_executor(hand, self._finish, batch, path, out)
            done = "cancelled" if cancelled else "completed"
            batch |= {"status": done, f"{done}_at": int(time.time())}
            self._write(batch)
            await loop.run_in_executor(hand, remove_tree, out)

    async def _make(self, batch: dict[str, Any], path: Path, sink: Sink, hand: ThreadPoolExecutor) -> None:
        """Make every line that the sink does not have; stops where the batch is cancelled."""
        loop = asyncio.get_running_loop()
        places = max(1, self._served.batch_size * 3 // 4)
        free = asyncio.Semaphore(places)
        counts = batch["request_counts"]
        written = time.monotonic()

        async def make(line: Line) -> None:
            nonlocal written
            try:
                row = await self._line(line, ENDPOINTS[batch["endpoint"]])
                await loop.run_in_executor(hand, sink.put, row)
                counts["failed" if row.error else "completed"] += 1
                if time.monotonic() - written > WRITE_EVERY_S and batch["id"] not in self._cancel:
                    written = time.monotonic()
                    self._write(batch)
            finally:
                free.release()

        rows, errors = await loop.run_in_executor(hand, sink.counts)
        counts |= {"completed": rows - errors, "failed": errors}
        lines = read_lines(path)
        try:
            async with asyncio.TaskGroup() as group:
                while some := await loop.run_in_executor(hand, _missing, lines, sink, places):
                    for line in some:
                        await free.acquire()
                        if batch["id"] in self._cancel:
                            return
                        group.create_task(make(line))
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def _line(self, line: Line, kind: type[CompletionBody | ChatBody]) -> Prediction:
        """One line's answer, or its error, as a row."""
        assert self._driver is not None
        try:
            asked = ask(parse_fields(line.body, kind), self._served)
            async with submitted(asked, self._driver):
                answer = await collect(asked, Answer(asked, self._served))
        except Refusal as refusal:
            error = {"type": str(refusal.status), "message": orjson.dumps(refusal.content).decode()}
            return Prediction(
                prompt_id=line.key,
                sample_index=0,
                prompt="",
                text="",
                token_ids=(),
                finish_reason="error",
                error=error,
            )
        usage: Any = answer["usage"]
        return Prediction(
            prompt_id=line.key,
            sample_index=0,
            prompt="",
            text=orjson.dumps(answer).decode(),
            token_ids=(),
            finish_reason="stop",
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )

    def _finish(self, batch: dict[str, Any], path: Path, out: Path) -> None:
        """Write the files of answers and of errors, in the order of the input."""
        stem = batch["id"].removeprefix("batch-")
        for which, failed in (("output", False), ("error", True)):
            counted = batch["request_counts"]["failed" if failed else "completed"]
            if not counted and failed:
                continue
            about = self._shelf.add(
                results(path, out, batch=stem, failed=failed),
                name=f"{batch['id']}_{which}.jsonl",
                purpose="batch_output",
                identity=f"file-{stem}-{which}",
            )
            batch[f"{which}_file_id"] = about["id"]


def new_batch(body: BatchBody) -> dict[str, Any]:
    """OpenAI's batch object, just made."""
    now = int(time.time())
    moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
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
        "expires_at": now + WINDOW_S,
        **{f"{moment}_at": None for moment in moments},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.metadata,
    }


def _missing(lines: Iterator[Line], sink: Sink, most: int) -> list[Line]:
    found: list[Line] = []
    for line in lines:
        if not sink.done(line.key, 0):
            found.append(line)
            if len(found) == most:
                break
    return found
