"""A server on loopback that speaks the part of the Hugging Face hub's protocol by which a snapshot is fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        path = unquote(urlsplit(self.path).path)
        hub = self.server.hub
        hub.requests.append(f"{self.command} {path}")
        api, repository = f"/api/models/{hub.name}", f"/{hub.name}/resolve/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in hub.files]
            self._json({"id": hub.name, "sha": COMMIT, "siblings": siblings, "private": False})
        elif path.startswith(f"{api}/tree/"):
            self._json([self._entry(name) for name in hub.files])
        elif path.startswith(repository) and path.removeprefix(repository).partition("/")[2] in hub.files:
            self._file(path.removeprefix(repository).partition("/")[2], body=body)
        else:
            code = "RevisionNotFound" if path.startswith((api, repository)) else "RepoNotFound"
            self._json({"error": "not found"}, status=404, headers={"X-Error-Code": code})

    def _entry(self, name):
        data = self.server.hub.files[name]
        entry = {"type": "file", "path": name, "size": len(data), "oid": _git(data)}
        return entry | (
            {"lfs": {"oid": _sha(data), "size": len(data), "pointerSize": 134}} if _large(name) else {}
        )

    def _file(self, name, *, body):
        data = self.server.hub.files[name]
        sent = self.server.hub.damaged.get(name, data)
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_sha(data) if _large(name) else _git(data)}"')
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if body:
            self.wfile.write(sent)

    def _json(self, value, *, status=200, headers=()):
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in dict(headers).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


def _large(name):
    return name.endswith(".safetensors")


def _sha(data):
    return hashlib.sha256(data).hexdigest()


def _git(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """A hub with one repository; `damaged` has other bytes for a name than its hash says."""

    def __init__(self, name, files):
        self.name, self.files, self.damaged, self.requests = name, files, {}, []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
