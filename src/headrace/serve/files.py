"""Uploaded files <-> a directory: OpenAI's /v1/files, kept over restarts.

STATE/files/<id>            the content
STATE/files/<id>.json       OpenAI's file object; written after the content, so a file without it does not exist
STATE/batches/<id>.json     see batches.py
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import orjson
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from headrace.errors import ConfigError, SinkError
from headrace.serve.refusal import Refusal, invalid
from headrace.serve.wire import json_response

PURPOSES = ("batch",)
ID = re.compile(r"(file|batch)-[0-9a-z_-]{8,80}\Z")
MAX_LIST = 10_000
COPY_BYTES = 1 << 20


class Shelf:
    """The files of a server; the directory is locked while this lives.

    Args:
        state: directory; made when missing.

    Raises:
        SinkError: another server uses it.
        ConfigError: it cannot be made.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.files, self.batches = state / "files", state / "batches"
        try:
            for folder in (self.files, self.batches):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{state}: {error.strerror}. Give another --state directory.") from error
        self._lock = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise SinkError(
                f"{state}: another server keeps its files and batches here. Give this one its own --state directory."
            ) from error
        for folder in (self.files, self.batches):
            for left in folder.glob(".*.tmp"):  # of a server that was killed while it wrote
                left.unlink()

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def add(
        self, source: BinaryIO | Iterable[bytes], *, name: str, purpose: str, identity: str
    ) -> dict[str, Any]:
        """Store a file; the same identity again replaces it."""
        path = self.files / identity
        size = write_durably(
            path, iter(lambda: source.read(COPY_BYTES), b"") if hasattr(source, "read") else source
        )
        about = {
            "id": identity,
            "object": "file",
            "bytes": size,
            "created_at": int(time.time()),
            "expires_at": None,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
        }
        write_durably(path.with_name(f"{identity}.json"), [orjson.dumps(about)])
        return about

    def get(self, identity: str) -> dict[str, Any]:
        """A file's object.

        Raises:
            Refusal: 404.
        """
        # The pattern keeps an id inside its folder, whatever a client sends.
        if ID.match(identity) and identity.startswith("file-"):
            try:
                about: dict[str, Any] = orjson.loads((self.files / f"{identity}.json").read_bytes())
            except FileNotFoundError:
                pass
            else:
                return about
        raise Refusal(404, f"No such File object: {identity[:100]}.", param="id", code="file_not_found")

    def path(self, identity: str) -> Path:
        """Where a file's content lies; 404 as `get`."""
        return self.files / str(self.get(identity)["id"])

    def routes(self, refuse: Callable[[], None]) -> list[Route]:
        """OpenAI's paths; refuse() raises while nothing new is taken."""

        async def create(request: Request) -> Response:
            refuse()
            if not request.headers.get("content-type", "").startswith("multipart/form-data"):
                raise Refusal(415, "Send the file as multipart/form-data.", code="unsupported_media_type")
            async with request.form(max_files=1, max_fields=16) as form:
                upload, purpose = form.get("file"), form.get("purpose")
                if not isinstance(upload, UploadFile):
                    raise invalid("file: missing; send it as a part with a file name.", "file")
                if purpose not in PURPOSES:
                    raise invalid(
                        f"purpose: {str(purpose)[:50]!r}; this server takes files for {', '.join(PURPOSES)}.",
                        "purpose",
                    )
                name = (upload.filename or "upload.jsonl")[:255]
                identity = f"file-{secrets.token_hex(12)}"
                return json_response(
                    await anyio.to_thread.run_sync(
                        lambda: self.add(upload.file, name=name, purpose=str(purpose), identity=identity)
                    )
                )

        async def listed(request: Request) -> Response:
            purpose = request.query_params.get("purpose")
            found = await anyio.to_thread.run_sync(lambda: newest_first(self.files, "file-*.json"))
            return json_response(
                page_of([one for one in found if purpose in (None, one["purpose"])], request, MAX_LIST)
            )

        async def one(request: Request) -> Response:
            identity = request.path_params["identity"]
            about = self.get(identity)
            if request.method != "DELETE":
                return json_response(about)
            (self.files / f"{identity}.json").unlink(missing_ok=True)
            (self.files / identity).unlink(missing_ok=True)
            return json_response({"id": identity, "object": "file", "deleted": True})

        async def content(request: Request) -> Response:
            path = self.path(request.path_params["identity"])
            return FileResponse(path, media_type="application/octet-stream")

        return [
            Route("/v1/files", create, methods=["POST"]),
            Route("/v1/files", listed, methods=["GET"]),
            Route("/v1/files/{identity}", one, methods=["GET", "DELETE"]),
            Route("/v1/files/{identity}/content", content, methods=["GET"]),
        ]


def write_durably(path: Path, chunks: Iterable[bytes]) -> int:
    """Write a file as a whole or not at all; bytes written."""
    part = path.with_name(f".{path.name}.tmp")
    size = 0
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return size


def remove_tree(path: Path) -> None:
    """Delete a folder that nobody reads any more."""
    shutil.rmtree(path, ignore_errors=True)


def newest_first(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """JSON objects of a folder by their creation."""
    found = [orjson.loads(path.read_bytes()) for path in folder.glob(pattern)]
    return sorted(found, key=lambda one: (one["created_at"], one["id"]), reverse=True)


def page_of(found: list[dict[str, Any]], request: Request, default: int) -> dict[str, Any]:
    """OpenAI's list object, by `after` and `limit`.

    Raises:
        Refusal: a parameter without meaning.
    """
    query = request.query_params
    limit = query.get("limit", str(default))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MAX_LIST:
        raise invalid(f"limit: {limit[:50]!r}; wanted 1 to {MAX_LIST}.", "limit")
    after = query.get("after")
    if after is not None:
        places = [i for i, one in enumerate(found) if one["id"] == after]
        if not places:
            raise invalid(f"after: no object with id {after[:100]!r}.", "after")
        found = found[places[0] + 1 :]
    data = found[: int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > len(data),
    }
