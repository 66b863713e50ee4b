"""Uploaded files <-> a directory: OpenAI's /v1/files, kept over restarts.

STATE/files/<id>                  the content
STATE/files/<id>.json             OpenAI's file object; written after the content: a file without it does not exist
STATE/batches/<id>.json           batch objects, see batches/
STATE/batches/<id>.input.jsonl    the input of a batch that is not finished
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import orjson
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from headrace.errors import ConfigError, SinkError
from headrace.platform import lock_file, open_directory
from headrace.serve.middleware import MAX_FILE_BYTES
from headrace.serve.protocol import APIError, bad_request, json_response
from headrace.storage import fsync_directory, make_directory

PURPOSES = ("batch",)
ID = re.compile(r"(file|batch)-[0-9a-z_-]{8,80}\Z")
MAX_LIST = 10_000
MAX_FILES = 10_000
COPY_BYTES = 1 << 20
UPLOAD = re.compile(r"file-[0-9a-f]{24}\Z")


class FileStore:
    """The files of a server. The directory is locked until `close`.

    Args:
        state: directory; created when missing.
        max_upload_bytes: largest total of uploaded files.

    Raises:
        SinkError: another server uses the directory.
        ConfigError: the directory cannot be created.
    """

    def __init__(self, state: Path, *, max_upload_bytes: int) -> None:
        self.state = state
        self.files, self.batches = state / "files", state / "batches"
        self._max_upload_bytes, self._reserved = max_upload_bytes, 0
        try:
            for folder in (self.files, self.batches):
                make_directory(folder)
            lock = open_directory(state)
        except OSError as error:
            raise ConfigError(f"{state}: {error.strerror}. Give another --state directory.") from error
        self._lock = -1 if lock is None else lock
        if lock is not None and not lock_file(lock, wait=False):
            os.close(lock)
            raise SinkError(
                f"{state}: another server keeps its files and batches here. Give this one its own --state directory."
            )
        for folder in (self.files, self.batches):
            for partial in folder.glob(".*.tmp"):  # of a server that was killed while it wrote
                partial.unlink()

    def close(self) -> None:
        """Release the directory."""
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
        file = {
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
        write_durably(path.with_name(f"{identity}.json"), [orjson.dumps(file)])
        return file

    def get(self, identity: str) -> dict[str, Any]:
        """A file's object.

        Raises:
            APIError: 404.
        """
        # The pattern keeps an id inside its folder, whatever a client sends.
        if ID.match(identity) and identity.startswith("file-"):
            with contextlib.suppress(FileNotFoundError):
                file: dict[str, Any] = orjson.loads((self.files / f"{identity}.json").read_bytes())
                return file
        raise _no_such_file(identity)

    def path(self, identity: str) -> Path:
        """Path of a file's content.

        Raises:
            APIError: 404.
        """
        path = self.files / str(self.get(identity)["id"])
        if not path.is_file():
            raise _no_such_file(identity)
        return path

    def link(self, identity: str, target: Path) -> None:
        """Give a file's content a second name, which stays when the file is deleted.

        Raises:
            APIError: 404.
        """
        source = self.path(identity)
        try:
            os.link(source, target)
        except FileNotFoundError as error:
            raise _no_such_file(identity) from error
        except OSError:  # a file system without hard links
            with source.open("rb") as file:
                write_durably(target, iter(lambda: file.read(COPY_BYTES), b""))

    @contextlib.contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Reserve space for an upload while it is received; called on the event loop's thread.

        Raises:
            APIError: 413, the uploads together would be too large.
        """
        used, count = self._usage()
        if used + self._reserved + nbytes > self._max_upload_bytes or count >= MAX_FILES:
            raise APIError(
                413,
                f"The uploaded files have {used} bytes in {count} files; with this one they would pass the server's "
                f"limit of {self._max_upload_bytes} bytes or {MAX_FILES} files. Delete files (DELETE /v1/files/ID).",
                code="storage_full",
                headers={"connection": "close"},
            )
        self._reserved += nbytes
        try:
            yield
        finally:
            self._reserved -= nbytes

    def _usage(self) -> tuple[int, int]:
        """Bytes and number of uploads, and of inputs of batches whose file was deleted."""
        sizes: dict[int, int] = {}
        for folder in (self.files, self.batches):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if UPLOAD.match(entry.name) or entry.name.endswith(".input.jsonl"):
                        with contextlib.suppress(FileNotFoundError):
                            stat = entry.stat()
                            sizes[stat.st_ino] = stat.st_size
        return sum(sizes.values()), len(sizes)

    # ---- OpenAI's paths ----

    def routes(self, check_accepting: Callable[[], None]) -> list[Route]:
        """Routes of /v1/files.

        Args:
            check_accepting: raises while the server takes no new requests.
        """

        async def create(request: Request) -> Response:
            check_accepting()
            return json_response(await self._create(request))

        async def list_files(request: Request) -> Response:
            purpose = request.query_params.get("purpose")
            files = await anyio.to_thread.run_sync(lambda: newest_first(self.files, "file-*.json"))
            return json_response(
                list_page([one for one in files if purpose in (None, one["purpose"])], request, MAX_LIST)
            )

        async def get_or_delete(request: Request) -> Response:
            identity = request.path_params["identity"]
            file = self.get(identity)
            if request.method != "DELETE":
                return json_response(file)
            (self.files / f"{identity}.json").unlink(missing_ok=True)
            (self.files / identity).unlink(missing_ok=True)
            return json_response({"id": identity, "object": "file", "deleted": True})

        async def content(request: Request) -> Response:
            path = self.path(request.path_params["identity"])
            return FileResponse(path, media_type="application/octet-stream")

        return [
            Route("/v1/files", create, methods=["POST"]),
            Route("/v1/files", list_files, methods=["GET"]),
            Route("/v1/files/{identity}", get_or_delete, methods=["GET", "DELETE"]),
            Route("/v1/files/{identity}/content", content, methods=["GET"]),
        ]

    async def _create(self, request: Request) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise APIError(415, "Send the file as multipart/form-data.", code="unsupported_media_type")
        length = request.headers.get("content-length", "")
        with self.reserve(int(length) if length.isascii() and length.isdigit() else MAX_FILE_BYTES):
            async with request.form(max_files=1, max_fields=16) as form:
                upload = _upload_from(form)
                name = (upload.filename or "upload.jsonl")[:255]
                identity = f"file-{secrets.token_hex(12)}"
                return await anyio.to_thread.run_sync(
                    lambda: self.add(upload.file, name=name, purpose=str(form["purpose"]), identity=identity)
                )


def _upload_from(form: FormData) -> UploadFile:
    upload, purpose = form.get("file"), form.get("purpose")
    if not isinstance(upload, UploadFile):
        raise bad_request("file: missing; send it as a part with a file name.", "file")
    if purpose not in PURPOSES:
        raise bad_request(
            f"purpose: {str(purpose)[:50]!r}; this server takes files for {', '.join(PURPOSES)}.", "purpose"
        )
    for name in form:
        if name not in ("file", "purpose"):
            raise bad_request(
                f"{name[:50]}: not supported here; leave it out.", name[:50], code="unknown_parameter"
            )
    return upload


def _no_such_file(identity: str) -> APIError:
    return APIError(404, f"No such File object: {identity[:100]}.", param="id", code="file_not_found")


def write_durably(path: Path, chunks: Iterable[bytes]) -> int:
    """Write a whole file or nothing; return the bytes written."""
    partial = path.with_name(f".{path.name}.tmp")
    size = 0
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)
    return size


def remove_tree(path: Path) -> None:
    """Delete a directory that nobody reads any more."""
    shutil.rmtree(path, ignore_errors=True)


def newest_first(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """JSON objects in a directory, the newest first."""
    objects = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
            objects.append(orjson.loads(path.read_bytes()))
    return sorted(objects, key=lambda one: (one["created_at"], one["id"]), reverse=True)


def list_page(objects: list[dict[str, Any]], request: Request, default: int) -> dict[str, Any]:
    """OpenAI's list object, by the query parameters `after` and `limit`.

    Raises:
        APIError: a parameter has no meaning.
    """
    query = request.query_params
    limit = query.get("limit", str(default))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MAX_LIST:
        raise bad_request(f"limit: {limit[:50]!r}; expected 1 to {MAX_LIST}.", "limit")
    after = query.get("after")
    if after is not None:
        places = [i for i, one in enumerate(objects) if one["id"] == after]
        if not places:
            raise bad_request(f"after: no object with id {after[:100]!r}.", "after")
        objects = objects[places[0] + 1 :]
    data = objects[: int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(objects) > len(data),
    }
