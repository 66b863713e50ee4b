"""Batch objects -> their result files, one batch at a time; a killed server continues when it starts again.

The key of a line's row is its number in the input, so that a restart knows what is missing. The result files have names
that follow from the batch: writing them twice is writing them once. A quarter of the engine's rows stays free for
clients that wait for a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError, WorkerError
from headrace.serve.batches.input_file import BatchLine, batch_error, check_input, read_requests
from headrace.serve.batches.store import UNFINISHED, BatchStore, EndStatus, new_batch
from headrace.serve.completions import ResponseFormatter, ServedModel, collect, parse_request, submitted
from headrace.serve.engine_thread import EngineThread
from headrace.serve.files import FileStore, list_page
from headrace.serve.protocol import (
    APIError,
    BatchBody,
    ChatBody,
    CompletionBody,
    bad_request,
    json_response,
    parse_fields,
    read_body,
)
from headrace.serve.redaction import os_error_message
from headrace.sink import Sink
from headrace.types import Prediction

ENDPOINTS: dict[str, type[CompletionBody | ChatBody]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
}
MAX_UNFINISHED = 1000
WRITE_EVERY_S = 1.0
EXPIRE_EVERY_S = 1.0


class BatchQueue:
    """All batches of a server; one runs at a time, in the order of their creation.

    Args:
        files: uploaded files, and the directory of the batches.
        redact: removes the server's paths from error messages.
        share_prefixes: use prefixes that were computed for other requests; else those of the same batch only.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        files: FileStore,
        *,
        redact: Callable[[str], str] = str,
        share_prefixes: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._share_prefixes = share_prefixes
        self._store, self._redact, self._clock = BatchStore(files), redact, clock
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._store.sweep()  # before the first batch can be created: its input is there before its object
        self._deadlines: dict[str, int] = {
            batch["id"]: batch["expires_at"] for batch in self._store.unfinished()
        }
        """Of batches that wait."""
        self._running: set[str] = set()
        self._engine: EngineThread
        self._model: ServedModel
        self._cancelled: set[str] = set()
        self._unwritten: set[str] = set()
        """Failed batches whose committed responses could not be written; tried again at the next start."""

    def start(self, engine: EngineThread, model: ServedModel) -> None:
        """Continue what a former server left, and wait for more; batches that were made before wait for this."""
        self._engine, self._model = engine, model
        loop = asyncio.get_running_loop()
        # SQLite's connection belongs to one thread, and an fsync must not block the event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._tasks = [loop.create_task(self._work()), loop.create_task(self._expire_waiting())]

    async def stop(self) -> None:
        """Pause: committed rows stay, lines that run are run again after the next start."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if tasks:
            self._thread.shutdown()

    # ---- OpenAI's paths ----

    def routes(self, check_accepting: Callable[[], None]) -> list[Route]:
        """Routes of /v1/batches.

        Args:
            check_accepting: raises while the server takes no new requests.
        """

        async def create(request: Request) -> Response:
            check_accepting()
            body = await read_body(request, BatchBody)
            if body.endpoint not in ENDPOINTS:
                raise bad_request(
                    f"endpoint: {body.endpoint[:100]!r}; there are {', '.join(ENDPOINTS)}.", "endpoint"
                )
            if len(self._store.unfinished()) >= MAX_UNFINISHED:
                raise APIError(429, f"{MAX_UNFINISHED} batches wait already.", code="queue_full")
            batch = new_batch(body, now=int(self._clock()))
            await anyio.to_thread.run_sync(self._store.create, batch)
            self._deadlines[batch["id"]] = batch["expires_at"]
            self._wake.set()
            return json_response(batch)

        async def list_batches(request: Request) -> Response:
            return json_response(list_page(self._store.all(), request, 20))

        async def get(request: Request) -> Response:
            return json_response(self._store.get(request.path_params["identity"]))

        async def cancel(request: Request) -> Response:
            batch = self._store.get(request.path_params["identity"])
            if batch["status"] not in UNFINISHED[:2]:
                raise bad_request(f"The batch is {batch['status']}; it cannot be cancelled.", "id")
            batch |= {"status": "cancelling", "cancelling_at": int(self._clock())}
            self._store.write(batch)
            self._cancelled.add(batch["id"])
            self._wake.set()
            return json_response(batch)

        return [
            Route("/v1/batches", create, methods=["POST"]),
            Route("/v1/batches", list_batches, methods=["GET"]),
            Route("/v1/batches/{identity}", get, methods=["GET"]),
            Route("/v1/batches/{identity}/cancel", cancel, methods=["POST"]),
        ]

    # ---- the worker ----

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            skipped = self._running | self._unwritten
            batch = next((one for one in self._store.unfinished() if one["id"] not in skipped), None)
            if batch is None:
                await self._wake.wait()
                continue
            try:
                await self._run(batch)
            except WorkerError:
                return  # the engine has failed; the next server continues

    async def _expire_waiting(self) -> None:
        """End batches whose time is over while another one runs."""
        while True:
            await asyncio.sleep(EXPIRE_EVERY_S)
            for identity, expires_at in list(self._deadlines.items()):
                if identity not in self._running and self._clock() >= expires_at:
                    with contextlib.suppress(WorkerError):
                        await self._run(self._store.get(identity))

    async def _run(self, batch: dict[str, Any]) -> None:
        """Take one batch to its end, and forget it."""
        self._running.add(batch["id"])
        try:
            await self._finish(batch)
        finally:
            self._running.discard(batch["id"])
        self._deadlines.pop(batch["id"], None)
        self._cancelled.discard(batch["id"])

    async def _finish(self, batch: dict[str, Any]) -> None:
        """Take one batch to its end, whatever fails on the way."""
        loop, thread = asyncio.get_running_loop(), self._thread
        end: EndStatus = "failed"
        try:
            end = "failed" if batch["status"] == "failed" else await self._generate_all(batch)
        except WorkerError:
            raise
        except (HeadraceError, OSError, APIError) as error:
            self._add_errors(batch, [batch_error(self._message(error))])
        try:
            if end in ("completed", "expired"):
                batch |= {"status": "finalizing", "finalizing_at": int(self._clock())}
                self._store.write(batch)
            await loop.run_in_executor(thread, self._store.write_results, batch, end)
        except (HeadraceError, OSError) as error:
            end = "failed"
            self._add_errors(batch, [batch_error(self._message(error))])
            self._unwritten.add(batch["id"])
        batch |= {"status": end, f"{end}_at": batch[f"{end}_at"] or int(self._clock())}
        try:
            self._store.write(batch)
        except OSError:
            self._unwritten.add(batch["id"])
            return
        if batch["id"] not in self._unwritten:
            await loop.run_in_executor(thread, self._store.remove_working_files, batch)

    async def _generate_all(self, batch: dict[str, Any]) -> EndStatus:
        """Run every line that has no row yet, and commit; the status that the batch ends with."""
        loop, thread = asyncio.get_running_loop(), self._thread
        requests = self._store.requests(batch)
        total, digest, errors = await loop.run_in_executor(thread, check_input, requests, batch["endpoint"])
        if errors:
            self._add_errors(batch, errors)
            return "failed"
        batch["request_counts"]["total"] = total
        if batch["status"] == "validating":
            batch |= {"status": "in_progress", "in_progress_at": int(self._clock())}
        self._store.write(batch)
        identity = {
            "model": self._model.fingerprint,
            "dtype": self._model.dtype,
            "tokenizer": self._model.tokenizer_fingerprint,
            "prompts": digest,
            "endpoint": batch["endpoint"],
        }
        out = self._store.rows(batch)
        sink = await loop.run_in_executor(thread, lambda: Sink(out, request=identity, format="jsonl"))
        try:
            if batch["status"] == "in_progress":
                try:
                    await self._generate(batch, requests, sink)
                except (HeadraceError, OSError):
                    with contextlib.suppress(HeadraceError, OSError):  # what is there can still be fetched
                        await loop.run_in_executor(thread, sink.commit)
                    raise
            await loop.run_in_executor(thread, sink.commit)
            rows, failed = await loop.run_in_executor(thread, sink.counts)
            batch["request_counts"] |= {"completed": rows - failed, "failed": failed}
        finally:
            await asyncio.shield(loop.run_in_executor(thread, sink.abandon))
        if batch["status"] == "cancelling" or batch["id"] in self._cancelled:
            batch["cancelling_at"] = batch["cancelling_at"] or int(self._clock())
            return "cancelled"
        return "expired" if rows < total else "completed"

    async def _generate(self, batch: dict[str, Any], requests: Path, sink: Sink) -> None:
        """Run lines until none is missing, the batch is cancelled or its time is over."""
        loop, thread = asyncio.get_running_loop(), self._thread
        rows = max(1, self._model.batch_size * 3 // 4)
        free = asyncio.Semaphore(rows)
        counts = batch["request_counts"]
        scope = "" if self._share_prefixes else f"batch {batch['id']}"
        written = time.monotonic()

        async def generate(line: BatchLine) -> None:
            nonlocal written
            try:
                row = await self._generate_line(line, ENDPOINTS[batch["endpoint"]], scope=scope)
                await loop.run_in_executor(thread, sink.put, row)
                counts["failed" if row.error else "completed"] += 1
                if time.monotonic() - written > WRITE_EVERY_S and batch["id"] not in self._cancelled:
                    written = time.monotonic()
                    self._store.write(batch)
            finally:
                free.release()

        committed, errors = await loop.run_in_executor(thread, sink.counts)
        counts |= {"completed": committed - errors, "failed": errors}
        lines = read_requests(requests)
        try:
            async with asyncio.TaskGroup() as group:
                while missing := await loop.run_in_executor(thread, _missing, lines, sink, rows):
                    for line in missing:
                        await free.acquire()
                        if batch["id"] in self._cancelled or self._clock() >= batch["expires_at"]:
                            return
                        group.create_task(generate(line))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _generate_line(
        self, line: BatchLine, schema: type[CompletionBody | ChatBody], *, scope: str
    ) -> Prediction:
        """One line's response, or its error, as a row."""
        try:
            request = parse_request(parse_fields(line.body, schema), self._model, cache_scope=scope)
            async with submitted(request, self._engine):
                response = await collect(request, ResponseFormatter(request, self._model))
        except APIError as refused:
            error = APIError(
                refused.status, self._redact(str(refused)), param=refused.param, code=refused.code
            )
            return Prediction(
                prompt_id=line.key,
                sample_index=0,
                prompt="",
                text="",
                token_ids=(),
                finish_reason="error",
                error={"type": str(error.status), "message": error.body.decode()},
            )
        usage: Any = response["usage"]
        return Prediction(
            prompt_id=line.key,
            sample_index=0,
            prompt="",
            text=orjson.dumps(response).decode(),
            token_ids=(),
            finish_reason="stop",
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )

    # ---- the end of a batch ----

    def _message(self, error: Exception) -> str:
        return os_error_message(error) if isinstance(error, OSError) else self._redact(str(error))

    @staticmethod
    def _add_errors(batch: dict[str, Any], errors: list[dict[str, Any]]) -> None:
        known = (batch["errors"] or {"data": []})["data"]
        batch["errors"] = {"object": "list", "data": [*known, *errors]}


def _missing(lines: Iterator[BatchLine], sink: Sink, most: int) -> list[BatchLine]:
    """The next lines that have no row, at most so many."""
    missing: list[BatchLine] = []
    for line in lines:
        if not sink.done(line.key, 0):
            missing.append(line)
            if len(missing) == most:
                break
    return missing
