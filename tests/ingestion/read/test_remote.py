"""Sources behind a URL: a real HTTP server, with ranges and without."""

from __future__ import annotations

import gzip
import http.server
import json
import re
import threading

import pytest

from headrace.errors import SourceError
from headrace.ingestion import ingest

BODY = gzip.compress(b"".join(json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(500)))


class _Server(http.server.BaseHTTPRequestHandler):
    ranges = True

    def do_HEAD(self):
        self._answer(b"")

    def do_GET(self):
        self._answer(BODY)

    def _answer(self, body):
        if not self.path.endswith("/corpus.jsonl.gz"):
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        size = len(BODY)
        if asked and self.ranges and body:
            start, last = int(asked[1]), min(int(asked[2]), size - 1)
            body, size = BODY[start : last + 1], last + 1 - start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(BODY)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(params=[True], ids=["ranges"])
def server(request):
    """Its address."""
    handler = type("Handler", (_Server,), {"ranges": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_file_behind_http_is_the_file(server, tmp_path, tree):
    (tmp_path / "corpus.jsonl.gz").write_bytes(BODY)
    assert ingest(f"{server}/data/corpus.jsonl.gz", tmp_path / "store").documents == 500
    ingest(tmp_path / "corpus.jsonl.gz", tmp_path / "local")
    data = [{k: v for k, v in tree(tmp_path / name).items() if "data/" in k} for name in ("store", "local")]
    assert data[0] == data[1] != {}


@pytest.mark.parametrize("server", [False], indirect=True, ids=["none"])
def test_a_server_without_ranges_is_one_clear_line_at_once(server, tmp_path):
    with pytest.raises(SourceError, match=r"corpus\.jsonl\.gz: the server cannot do this.*fetch the file"):
        ingest(f"{server}/corpus.jsonl.gz", tmp_path / "store")


def test_a_file_that_the_server_does_not_have_is_named(server, tmp_path):
    with pytest.raises(SourceError, match=r"missing\.jsonl: the server has no such file"):
        ingest(f"{server}/missing.jsonl", tmp_path / "store")
    with pytest.raises(SourceError, match=r"cannot be listed.*Name the files themselves"):
        ingest(f"{server}/data/*.jsonl.gz", tmp_path / "store")
