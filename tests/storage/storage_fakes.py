"""Blobs that are slow, busy, cut off, damaged or silent, and a clock that only moves when somebody sleeps."""

from __future__ import annotations

import http.client
import os
import stat
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from headrace.storage import Unavailable


class FakeClock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self):
        self.now, self.sleeps = 0.0, []
        self._lock = threading.Lock()

    def sleep(self, seconds):
        with self._lock:
            self.now += seconds
            self.sleeps.append(seconds)


class FlakyBlob:
    """A blob of which each call is first handed to `trouble(call number, operation, path)`.

    What that returns decides: None lets the call pass, an exception is raised, a function is applied to the bytes.
    Counts calls and how many were under way at once.
    """

    def __init__(self, inner, trouble=lambda number, operation, path: None):
        self.inner, self.trouble = inner, trouble
        self.calls, self.running, self.most_running = [], 0, 0
        self._lock = threading.Lock()

    @property
    def url(self):
        return self.inner.url

    def _call(self, operation, path, *args):
        with self._lock:
            number = len(self.calls)
            self.calls.append((operation, path, *args))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            happens = self.trouble(number, operation, path)
            if isinstance(happens, Exception):
                raise happens
            got = getattr(self.inner, operation)(path, *args)
            return got if happens is None else happens(bytes(got))
        finally:
            with self._lock:
                self.running -= 1

    def size(self, path):
        return self._call("size", path)

    def info(self, path):
        return self._call("info", path)

    def get(self, path):
        return self._call("get", path)

    def get_range(self, path, start, stop):
        return self._call("get_range", path, start, stop)

    def put(self, path, data):
        return self._call("put", path, data)

    def put_if_absent(self, path, data):
        return self._call("put_if_absent", path, data)

    def list(self, prefix=""):
        return self._call("list", prefix)

    def delete(self, path):
        return self._call("delete", path)


def busy():
    return Unavailable("503 SlowDown", throttled=True)


def cut():
    return Unavailable("connection reset by peer")


class LateBlob:
    """A blob of which every other call waits for the next one to begin, for a moment at most."""

    def __init__(self, inner):
        self._inner = inner
        self._begun = threading.Condition()
        self._calls = 0

    @property
    def url(self):
        return self._inner.url

    def __getattr__(self, operation):
        def call(*args):
            with self._begun:
                self._calls += 1
                number = self._calls
                self._begun.notify_all()
                if number % 2:
                    self._begun.wait_for(lambda: self._calls > number, timeout=0.01)
            return getattr(self._inner, operation)(*args)

        return call


class _Handler(BaseHTTPRequestHandler):
    """Serves the names of a blob with ranges; `server.trouble` decides what happens instead."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def _answer(self, *, body):
        self.server.requests.append(self.path)
        trouble = self.server.trouble(len(self.server.requests), self.path)
        if trouble == "hang":
            self.server.ended.wait()
            return
        if isinstance(trouble, int | tuple):
            status, code = trouble if isinstance(trouble, tuple) else (trouble, "")
            text = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
            self._respond(status, text if body else b"", len(text))
            return
        try:
            data = bytes(self.server.blob.get(self.path.lstrip("/")))
        except FileNotFoundError:
            self._respond(404, b"", 0)
            return
        status, whole, etag = 200, len(data), f'"{zlib.crc32(data):08x}"'
        if requested := self.headers.get("Range"):
            first, last = requested.removeprefix("bytes=").split("-")
            first, last = int(first), min(int(last or whole - 1), whole - 1)
            status, data = 206, data[first : last + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("ETag", etag)
        self.end_headers()
        if body:
            if trouble == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            if trouble == "trickle":  # a byte at a time, for longer than a request may be silent
                for at in range(len(data)):
                    self.wfile.write(data[at : at + 1])
                    self.server.ended.wait(0.02)
                return
            self.wfile.write(bytes([data[0] ^ 1]) + data[1:] if trouble == "flip" else data)

    def do_PUT(self):
        self.server.requests.append(self.path)
        trouble = self.server.trouble(len(self.server.requests), self.path)
        nbytes = int(self.headers["Content-Length"])
        data = self.rfile.read(nbytes)
        if trouble == "hang":
            self.server.ended.wait()
            return
        if trouble is not None:
            status, code = trouble
            text = f"<Error><Code>{code}</Code></Error>".encode()
            self._respond(status, text, len(text))
            return
        self.server.blob.put(self.path.lstrip("/"), data)
        self._respond(201, b"", 0)

    def _respond(self, status, text, nbytes):
        self.send_response(status)
        self.send_header("Content-Length", str(nbytes))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


class LoopbackServer:
    """A server in a thread of this process; in a `with` block it answers. `requests` are those that it got."""

    def __init__(self, server, **values):
        self._server = server
        server.daemon_threads = True
        server.requests, server.ended = [], threading.Event()
        for name, value in values.items():
            setattr(server, name, value)
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def requests(self):
        return self._server.requests

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class BlobServer(LoopbackServer):
    """An HTTP server on loopback that serves a blob; `trouble(request number, path)` decides what goes wrong.

    None serves the request; a status, or a status and an S3 error code, is sent instead; "cut" closes the connection
    halfway, "flip" changes a byte, "trickle" sends a byte at a time, and "hang" sends nothing until the server ends.
    """

    def __init__(self, blob):
        self.trouble = lambda number, path: None
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        super().__init__(server, blob=blob, trouble=self._decide)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def _decide(self, number, path):
        return self.trouble(number, path)


class _ProxyHandler(BaseHTTPRequestHandler):
    """Forwards every request to another server, as it is; `server.trouble` decides what happens instead."""

    protocol_version = "HTTP/1.1"

    def _forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.requests.append((self.command, self.path))
            number = len(self.server.requests)
        trouble = self.server.trouble(number, self.command, self.path)
        if trouble == "hang":
            self.server.ended.wait()
            return
        if trouble == 503:
            self._send(
                503, [], b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
            )
            return
        connection = http.client.HTTPConnection(*self.server.target)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if trouble == "lose":  # it was done, and the client cannot know
            self.close_connection = True
            self.connection.close()
            return
        names = ("Connection", "Transfer-Encoding", "Content-Length")
        headers = [(name, value) for name, value in response.getheaders() if name.title() not in names]
        if trouble == "flip" and answer:
            answer = bytes([answer[0] ^ 1]) + answer[1:]
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        self._send(response.status, headers, answer, nbytes=length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def _send(self, status, headers, body, nbytes=None):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", nbytes or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class FaultyProxy(LoopbackServer):
    """A proxy on loopback before a server of HTTP; `trouble(request number, method, path)` decides what goes wrong.

    None forwards the request; 503 refuses it; "hang" never answers; "lose" forwards it and closes the connection
    instead of the answer; "flip" changes the answer's first byte.
    """

    def __init__(self, port):
        self.trouble = lambda number, method, path: None
        server = _QuietServer(("127.0.0.1", 0), _ProxyHandler)
        super().__init__(server, target=("127.0.0.1", port), lock=threading.Lock(), trouble=self._decide)

    def _decide(self, number, method, path):
        return self.trouble(number, method, path)

    @property
    def port(self):
        return self._server.server_port


class _QuietServer(ThreadingHTTPServer):
    """Clients that were killed, or that gave up, are no errors of the server."""

    def handle_error(self, request, client_address):
        pass


class PowerCut:
    """Records what is durable on a local disk: contents that were synced, names whose directory was synced.

    Use `patch(monkeypatch)`; then `survivors(root, target)` copies to `target` what a power cut now would leave of
    `root`, and each call of fsync hands the same to `at_sync`.
    """

    def __init__(self, root, at_sync=lambda: None):
        self.root, self.at_sync = root, at_sync
        self._contents, self._directories = {}, {}
        self._directories[root.stat().st_ino] = {}

    def patch(self, monkeypatch):
        fsync, open_, mkdir = os.fsync, os.open, os.mkdir

        def recorded_fsync(handle):
            fsync(handle)
            status = os.fstat(handle)
            if not Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(self.root):
                return
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(f"/proc/self/fd/{handle}") as entries:
                    self._directories[status.st_ino] = {entry.name: entry.stat().st_ino for entry in entries}
            else:
                self._contents[status.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()
            self.at_sync()

        def recorded_open(path, flags, *args, **options):
            new = not Path(path).exists()
            handle = open_(path, flags, *args, **options)
            if new and flags & os.O_CREAT:
                self._contents.pop(os.fstat(handle).st_ino, None)  # the number of a file that was removed
            return handle

        def recorded_mkdir(path, *args, **options):
            mkdir(path, *args, **options)
            if not Path(path).is_relative_to(self.root):
                return  # such as what `survivors` writes: it may have the number of a file that was removed
            self._directories[Path(path).stat().st_ino] = {}

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "open", recorded_open)
        monkeypatch.setattr(os, "mkdir", recorded_mkdir)

    def survivors(self, target):
        """Write what is durable below the root to a new directory; contents never synced are empty files."""
        self._copy(self.root.stat().st_ino, target)
        return target

    def _copy(self, directory, target):
        target.mkdir()
        for name, inode in self._directories[directory].items():
            if inode in self._directories:
                self._copy(inode, target / name)
            else:
                (target / name).write_bytes(self._contents.get(inode, b""))
