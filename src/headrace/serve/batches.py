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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import xxhash
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError, WorkerError
from headrace.serve.answer import Answer
from headrace.serve.ask import ask
from headrace.serve.bodies import BatchBody, ChatBody, CompletionBody, parse_fields
from headrace.serve.files import ID, Shelf, newest_first, page_of, remove_tree, write_durably
from headrace.serve.refusal import Refusal, invalid
from headrace.serve.respond import collect, submitted
from headrace.serve.wire import json_response, read_body
from headrace.sink import Sink, scan_predictions
from headrace.types import Prediction

if TYPE_CHECKING:
    from headrace.serve.drive import Driver
    from headrace.serve.served import Served

ENDPOINTS: dict[str, type[CompletionBody | ChatBody]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
}
MAX_REQUESTS = 50_000
MAX_ERRORS = 100
WINDOW_S = 24 * 3600
UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
WRITE_EVERY_S = 1.0


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
                batch["errors"] = {"object": "list", "data": [_fault(str(error))]}
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
            sink = await loop.run_in_executor(hand, lambda: Sink(out, request=request, form="jsonl"))
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
                _results(path, out, batch=stem, failed=failed),
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
            fault = _fault_of(raw, endpoint, seen)
            if fault is not None:
                faults.append(_fault(fault, line=number + 1))
    if count == 0:
        faults.append(_fault("The input file holds no request."))
    if count > MAX_REQUESTS:
        faults.append(_fault(f"The input file holds {count} requests; at most {MAX_REQUESTS}."))
    return count, digest.hexdigest(), faults


def read_lines(path: Path) -> Iterator[Line]:
    """Requests of a file that was surveyed."""
    with path.open("rb") as file:
        for number, raw in enumerate(file):
            if raw.strip():
                fields = orjson.loads(raw)
                yield Line(number=number, custom_id=fields["custom_id"], body=fields["body"])


def _missing(lines: Iterator[Line], sink: Sink, most: int) -> list[Line]:
    found: list[Line] = []
    for line in lines:
        if not sink.done(line.key, 0):
            found.append(line)
            if len(found) == most:
                break
    return found


def _fault_of(raw: bytes, endpoint: str, seen: set[str]) -> str | None:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    if not isinstance(fields, dict):
        return "not a JSON object"
    custom_id, method, url = (fields.get(name) for name in ("custom_id", "method", "url"))
    fault = None
    if not isinstance(custom_id, str) or not custom_id:
        fault = "custom_id: missing, or not a text"
    elif custom_id in seen:
        fault = f"custom_id: {custom_id[:100]!r} was given before; each line needs its own"
    elif method != "POST":
        fault = f"method: {str(method)[:50]!r}; wanted POST"
    elif url != endpoint:
        fault = f"url: {str(url)[:100]!r}; the batch is for {endpoint}"
    elif not isinstance(fields.get("body"), dict):
        fault = "body: missing, or not an object"
    else:
        seen.add(custom_id)
    return fault


def _fault(message: str, *, line: int | None = None) -> dict[str, Any]:
    return {"code": "invalid_request", "message": message, "param": None, "line": line}


def _results(path: Path, out: Path, *, batch: str, failed: bool) -> Iterator[bytes]:
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
