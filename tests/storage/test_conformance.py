"""One contract for every place that bytes can be; and HTTP as servers really misbehave."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from storage_fakes import FakeClock, FlakyBlob, cut
from store_fakes import make_store, sample_tokens

from headrace.errors import ConfigError, StoreError
from headrace.storage import LocalBlob, MemoryBlob, Retry, RetryingBlob, Unavailable, open_blob
from headrace.storage.remote import RemoteBlob, summarize_error
from headrace.store import Store, verify_store


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path):
    """A fresh blob of each kind."""
    if request.param == "local":
        return open_blob(tmp_path / "blob")
    if request.param == "memory":
        return open_blob(f"memory://{request.node.nodeid}")
    return open_blob(request.getfixturevalue("s3_url"))


def test_what_was_put_is_there(place):
    place.put("a/b/c.bin", b"one")
    place.put("a/b/c.bin", [b"tw", memoryview(b"o"), b""])
    place.put("d", b"")
    assert bytes(place.get("a/b/c.bin")) == b"two"
    assert bytes(place.get("d")) == b""
    assert (place.size("a/b/c.bin"), place.size("d")) == (3, 0)
    assert place.list() == ["a/b/c.bin", "d"]
    assert place.list("a/") == ["a/b/c.bin"]
    assert place.list("nothing/") == []


def test_ranges_end_where_the_bytes_end(place):
    place.put("x", bytes(range(100)))
    assert bytes(place.get_range("x", 10, 20)) == bytes(range(10, 20))
    assert bytes(place.get_range("x", 0, 100)) == bytes(range(100))
    assert bytes(place.get_range("x", 90, 200)) == bytes(range(90, 100))
    assert bytes(place.get_range("x", 5, 5)) == b""


def test_a_missing_name_is_file_not_found(place):
    for call in (place.get, place.size, lambda path: place.get_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            call("not/there")
    place.delete("not/there")


def test_of_two_who_create_a_name_one_wins(place):
    wins = []
    threads = [
        threading.Thread(target=lambda i=i: wins.append((place.put_if_absent("lock", b"%d" % i), i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = [i for won, i in wins if won]
    assert len(winner) == 1
    assert bytes(place.get("lock")) == b"%d" % winner[0]
    place.delete("lock")
    assert place.put_if_absent("lock", b"again")


def test_a_store_is_written_and_read(place):
    tokens, ends = sample_tokens(1000)
    make_store(place, tokens, ends, sizes=[400, 600], codec=["none", "zstd"])
    with Store.open(place.url) as store:
        starts = np.arange(0, 950, 50)
        assert np.array_equal(store.gather(starts, 50), tokens[starts[:, None] + np.arange(50)])
        assert store.document_ends(0, 1000).tolist() == ends.tolist()
        assert verify_store(store) == store.nbytes
        assert store.tokenizer.name == "byte"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
@pytest.mark.parametrize("kind", [LocalBlob, MemoryBlob])
def test_a_name_that_leaves_the_root_is_refused(tmp_path, kind, path):
    blob = kind(tmp_path if kind is LocalBlob else "names")
    for call in (blob.get, blob.delete, lambda name: blob.put(name, b"")):
        with pytest.raises(ConfigError, match="relative name without"):
            call(path)


def test_urls_find_their_place(tmp_path):
    assert open_blob(f"file://{tmp_path}").url == str(tmp_path)
    assert open_blob(tmp_path).url == str(tmp_path)
    assert open_blob("memory://a/b").url == "memory://a/b"
    with pytest.raises(ConfigError, match="scheme 'ftp' is not known"):
        open_blob("ftp://x")


def test_hidden_and_half_written_files_are_not_listed(tmp_path):
    blob = open_blob(tmp_path)
    blob.put("a", b"")
    (tmp_path / ".a.tmp").write_bytes(b"half")
    assert blob.list() == ["a"]
    blob.put("a", b"whole")
    assert not (tmp_path / ".a.tmp").exists()


def test_a_create_whose_answer_was_lost_counts_as_ours():
    """The first try arrives and its answer does not; the second finds the name taken, by our own bytes."""

    class LostAnswer(MemoryBlob):
        lost = False

        def put_if_absent(self, path, data):
            done = super().put_if_absent(path, data)
            if not self.lost:
                self.lost = True
                raise cut()
            return done

    clock = FakeClock()
    blob = RetryingBlob(LostAnswer("lost-answer"), Retry(sleep=clock.sleep))
    assert blob.put_if_absent("x", b"mine")
    assert not blob.put_if_absent("x", b"other")
    other = LostAnswer("lost-answer")
    assert not RetryingBlob(other, Retry(sleep=clock.sleep)).put_if_absent("x", b"theirs")


@pytest.mark.parametrize("operation", ["get", "size", "list", "delete", "put"])
def test_each_call_is_tried_again(operation):
    inner = open_blob(f"memory://again-{operation}")
    inner.put("x", b"1")
    clock = FakeClock()
    flaky = FlakyBlob(inner, lambda number, op, path: cut() if number < 3 else None)
    blob = RetryingBlob(flaky, Retry(sleep=clock.sleep))
    getattr(blob, operation)(*{"put": ("x", b"2"), "list": ("",)}.get(operation, ("x",)))
    assert len(clock.sleeps) == 3


def test_plain_http_that_was_not_allowed_is_refused_at_once_and_says_what_allows_it(monkeypatch):
    for name in ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StoreError, match="Plain HTTP is allowed by AWS_ALLOW_HTTP=true"):
        RemoteBlob("s3://bucket/store").get("manifest.json")
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    with pytest.raises(Unavailable):  # now it is asked, and nobody answers
        RemoteBlob("s3://bucket/store").get("manifest.json")


def test_what_azure_says_of_a_missing_object_and_of_a_range_past_the_end_is_understood(monkeypatch):
    """Its delete raises FileNotFoundError, and its client refuses such a range itself: both seen with Azurite."""
    blob = RemoteBlob("memory://")

    async def missing(store, path):
        raise FileNotFoundError(f"Object at location {path} not found: Bulk delete request failed")

    async def past(store, path, *, start, end):
        raise blob._obstore.exceptions.GenericError(
            f"Generic MicrosoftAzure error: Wanted range starting at {start}, but object was only {start} bytes long"
        )

    monkeypatch.setattr(blob._obstore, "delete_async", missing)
    monkeypatch.setattr(blob._obstore, "get_range_async", past)
    blob.delete("a")
    assert blob.get_range("a", 10, 20) == b""


# --- HTTP ---


class Handler(BaseHTTPRequestHandler):
    """Serves a blob's names with ranges; `server.trouble` may answer instead."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def _answer(self, *, body):
        self.server.requests.append(self.path)
        trouble = self.server.trouble(len(self.server.requests), self.path)
        if isinstance(trouble, int):
            self.send_response(trouble)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        try:
            data = bytes(self.server.blob.get(self.path.lstrip("/")))
        except FileNotFoundError:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status, whole = 200, len(data)
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            first, last = int(first), min(int(last or whole - 1), whole - 1)
            status, data = 206, data[first : last + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if body:
            if trouble == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(bytes([data[0] ^ 1]) + data[1:] if trouble == "flip" else data)

    def log_message(self, *args):
        pass


@pytest.fixture
def http(request):
    """A server of a store of 20 blocks: URL, server, tokens."""
    tokens, ends = sample_tokens(1280)
    blob = open_blob(f"memory://{request.node.nodeid}")
    make_store(blob, tokens, ends, codec="zstd")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.blob, server.requests, server.trouble = blob, [], lambda number, path: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server, tokens
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("trouble", [None, 503, 429, 500, "cut", "flip"])
def test_a_store_is_read_over_http_through_what_servers_do(http, monkeypatch, trouble):
    url, server, tokens = http
    clock = FakeClock()
    monkeypatch.setattr(
        "headrace.store.store.open_blob", lambda u: RetryingBlob(RemoteBlob(u), Retry(sleep=clock.sleep))
    )
    seen = {}

    def once(number, path):
        # The manifest and the table have a checksum but no second try: they are small, and asked for once.
        if trouble == "flip" and not path.startswith("/data/s0.arrow"):
            return None
        seen[path] = seen.get(path, 0) + 1
        return trouble if seen[path] == 1 else None

    server.trouble = once
    with Store.open(url) as store:
        starts = np.arange(0, 1200, 64)
        assert np.array_equal(store.gather(starts, 64), tokens[starts[:, None] + np.arange(64)])
    assert bool(clock.sleeps) == (trouble not in (None, "flip"))


def test_a_refusal_that_means_slow_down_is_told_from_others(http):
    url, server, _ = http
    blob = RemoteBlob(url)
    for status, throttled in [(503, True), (429, True), (500, False)]:
        server.trouble = lambda number, path, status=status: status
        with pytest.raises(Unavailable) as caught:
            blob.get("manifest.json")
        assert caught.value.throttled == throttled


def test_a_server_that_is_not_there_is_told_in_one_line():
    with pytest.raises(Unavailable, match="error sending request") as caught:
        RemoteBlob("http://127.0.0.1:1/store").get("manifest.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_request_that_is_wrong_is_not_asked_again(http, status):
    url, server, _ = http
    server.trouble = lambda number, path: status
    with pytest.raises(StoreError, match=r"refuses|denied"):
        open_blob(url).get("manifest.json")
    assert len(server.requests) == 1


def test_a_refusal_is_in_the_servers_own_words(http):
    """An HTTP server has no create-if-absent; an object store says what it refuses in XML."""
    url, _, _ = http
    with pytest.raises(StoreError, match="the server cannot do this"):
        open_blob(url).put_if_absent("job.json", b"{}")
    said = "PUT http://x/b - 400 Bad Request: <?xml version='1.0'?>\n<Error><Code>InvalidBucketName</Code>"
    assert summarize_error(f"{said}<Message>Too short.</Message></Error>") == (
        "PUT http://x/b - 400 Bad Request: InvalidBucketName: Too short."
    )
    assert summarize_error("plain\nDebug source: many lines") == "plain"
