"""A directory -> the same files behind a delay and a rate: an S3 server, and a disk whose reads take so long.

    python bench/slow_media.py DIR --delay-ms 20 --mb-per-s 250 [--mount EMPTY_DIR]

Prints the S3 server's port when both answer, and ends with its standard input. Objects are read by path-style
addresses, any bucket is DIR, and nobody is asked for credentials. The disk is a FUSE file system, read-only, made by
this process alone: it needs /dev/fuse and the right to mount. Every request waits for the delay, then for its share of
the rate; requests wait beside each other. The rates of the two media are separate.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import stat
import struct
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

CHUNK = 1 << 20
THREADS = 64
"""That answer the kernel: requests of the disk that wait beside each other."""
MAX_BACKGROUND = 64
INIT, LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 26, 1, 2, 3, 14, 15, 17, 18
FLUSH, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 25, 27, 28, 29, 36, 42
ASYNC_READ, MAX_PAGES = 1 << 0, 1 << 22
ROOT = 1


class Rate:
    """A line of so many bytes a second, shared by its callers in the order in which they come."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free = 0.0
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> None:
        """Wait until so many bytes have passed."""
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now) + nbytes / self._bytes_per_s
            until = self._free
        time.sleep(max(0.0, until - now))


class Handler(BaseHTTPRequestHandler):
    """HEAD, GET with ranges, and ListObjectsV2 of one page."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root: Path
    delay_s: float
    rate: Rate

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(self.delay_s)
        url = urlsplit(self.path)
        name = unquote(url.path).lstrip("/").partition("/")[2]
        query = parse_qs(url.query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
            return
        path = self.root / name
        if not name or not path.is_file():
            text = b"<Error><Code>NoSuchKey</Code></Error>"
            self._head(404, len(text))
            self.wfile.write(text if body else b"")
            return
        size = path.stat().st_size
        start, stop, status = 0, size, 200
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop, status = int(first), min(int(last or size - 1) + 1, size), 206
        more = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if status == 206 else {}
        self._head(status, stop - start, {"ETag": f'"{size:x}"', "Accept-Ranges": "bytes", **more})
        if body:
            self._send(path, start, stop)

    def _send(self, path: Path, start: int, stop: int) -> None:
        with path.open("rb") as file:
            while start < stop:
                self.rate.take(min(CHUNK, stop - start))
                want = min(CHUNK, stop - start)
                while want:
                    sent = os.sendfile(self.connection.fileno(), file.fileno(), start, want)
                    start, want = start + sent, want - sent

    def _list(self, prefix: str) -> None:
        files = sorted(p for p in self.root.rglob("*") if p.is_file())
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{path.stat().st_size:x}"</ETag><Size>{path.stat().st_size}</Size></Contents>'
            for path in files
            if (key := path.relative_to(self.root).as_posix()).startswith(prefix)
        )
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bench</Name>'
            f"<IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        ).encode()
        self._head(200, len(text), {"Content-Type": "application/xml"})
        self.wfile.write(text)

    def _head(self, status: int, nbytes: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(nbytes))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing."""


class QuietServer(ThreadingHTTPServer):
    """Clients that go away are no errors."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing."""


class Disk:
    """The files below a directory, read-only, by the kernel's FUSE protocol 7.31 (linux/fuse.h)."""

    def __init__(self, root: Path, delay_s: float, rate: Rate) -> None:
        self._delay_s, self._rate = delay_s, rate
        self._paths = {ROOT: root}
        self._numbers = {root: ROOT}
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    def mount(self, place: Path) -> None:
        """Mount it and answer the kernel, from now until the process ends or it is unmounted.

        Raises:
            OSError: this process may not mount.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        text = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
        flags = 1 | 2 | 4  # read-only, no setuid, no devices
        if libc.mount(b"slow", os.fsencode(place), b"fuse", flags, text.encode()):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        for _ in range(THREADS):
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 21)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # unmounted
            _, code, unique, node = struct.unpack_from("<IIQQ", request)
            if code in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            try:
                answer, failed = self._answer(code, node, request[40:]), 0
            except OSError as error:
                answer, failed = b"", error.errno or errno.EIO
            with_head = struct.pack("<IiQ", 16 + len(answer), -failed, unique)
            try:
                os.writev(self._device, [with_head, answer])
            except OSError as error:
                if error.errno != errno.ENOENT:  # the caller has gone
                    return

    def _answer(self, code: int, node: int, body: bytes) -> bytes:  # noqa: PLR0911  # one for each request
        if code in (OPEN, READ, RELEASE, FLUSH):
            return self._answer_of_file(code, node, body)
        if code == INIT:
            most = struct.unpack_from("<III", body)[2]
            return struct.pack(
                "<IIIIHHIIHHI28x",
                7, 31, most, ASYNC_READ | MAX_PAGES, MAX_BACKGROUND, MAX_BACKGROUND, 1 << 20, 1, 256, 0, 0,
            )  # fmt: skip
        if code == LOOKUP:
            path = self._paths[node] / os.fsdecode(body.rstrip(b"\0"))
            attributes = _attributes(path, self._number(path))
            return struct.pack("<QQQQII", self._number(path), 0, 3600, 3600, 0, 0) + attributes
        if code == GETATTR:
            return struct.pack("<QII", 3600, 0, 0) + _attributes(self._paths[node], node)
        if code == OPENDIR:
            return struct.pack("<QII", 0, 0, 0)
        if code == READDIR:
            return self._names(node, struct.unpack_from("<QQI", body)[1])
        if code == STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 30, 0, 0, 1 << 20, 0, 4096, 255, 4096, 0)
        if code == RELEASEDIR:
            return b""
        raise OSError(errno.ENOSYS, "")

    def _answer_of_file(self, code: int, node: int, body: bytes) -> bytes:
        if code == OPEN:
            handle = os.open(self._paths[node], os.O_RDONLY)
            return struct.pack("<QII", handle, 0, 0)  # what is cached of the file is dropped
        if code == READ:
            handle, start, nbytes = struct.unpack_from("<QQI", body)
            time.sleep(self._delay_s)
            self._rate.take(nbytes)
            return os.pread(handle, nbytes, start)
        if code == RELEASE:
            os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _number(self, path: Path) -> int:
        with self._lock:
            number = self._numbers.setdefault(path, len(self._numbers) + 1)
            self._paths[number] = path
            return number

    def _names(self, node: int, start: int) -> bytes:
        answer = b""
        for at, name in enumerate(
            sorted(path.name for path in self._paths[node].iterdir())[start:], start + 1
        ):
            text = os.fsencode(name)
            answer += struct.pack("<QQII", at + 1, at, len(text), 0) + text + bytes(-len(text) % 8)
        return answer


def _attributes(path: Path, number: int) -> bytes:
    status = path.stat()
    mode = stat.S_IFDIR | 0o755 if path.is_dir() else stat.S_IFREG | 0o444
    seconds = int(status.st_mtime)
    return struct.pack(
        "<QQQQQQIIIIIIIIII",
        number, status.st_size, status.st_blocks, seconds, seconds, seconds, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--mb-per-s", type=float, default=250.0)
    parser.add_argument("--mount", type=Path)
    chosen = parser.parse_args()
    root, delay_s = chosen.directory.resolve(), chosen.delay_ms / 1e3
    server = QuietServer(("127.0.0.1", 0), Handler)
    Handler.root, Handler.delay_s, Handler.rate = root, delay_s, Rate(chosen.mb_per_s * 1e6)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mounted = False
    if chosen.mount is not None:
        try:
            Disk(root, delay_s, Rate(chosen.mb_per_s * 1e6)).mount(chosen.mount)
            mounted = True
        except OSError as error:
            print(f"no slow disk: {error}", file=sys.stderr)
    print(server.server_port, int(mounted), flush=True)
    sys.stdin.read()
    if mounted:
        ctypes.CDLL(None).umount2(os.fsencode(chosen.mount), 2)


if __name__ == "__main__":
    main()
