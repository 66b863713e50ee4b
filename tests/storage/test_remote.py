"""remote.py and event_loop.py: HTTP and S3 as servers misbehave, time limits, hedged requests, cancelled requests."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading

import numpy as np
import pytest
from storage_fakes import BlobServer, FakeClock
from store_fakes import make_store, sample_tokens

from headrace.errors import StorageError, StoreError
from headrace.storage import MemoryBlob, Retry, RetryingBlob, Unavailable, event_loop, open_blob
from headrace.storage.remote import HEDGE_MIN_S, UPLOAD_S, HedgeDelay, RemoteBlob, summarize_error
from headrace.store import Store


@pytest.fixture
def http(request):
    """A server of a store of 20 blocks: URL, server, tokens."""
    tokens, ends = sample_tokens(1280)
    blob = open_blob(f"memory://{request.node.nodeid}")
    make_store(blob, tokens, ends, codec="zstd")
    with BlobServer(blob) as server:
        yield server.url, server, tokens


def test_plain_http_is_refused_with_the_variable_that_allows_it(monkeypatch):
    for name in ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StoreError, match="Plain HTTP is allowed by AWS_ALLOW_HTTP=true"):
        RemoteBlob("s3://bucket/store").get("manifest.json")
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    with pytest.raises(Unavailable):  # now it is sent, and no server is there
        RemoteBlob("s3://bucket/store").get("manifest.json")


def test_errors_of_azure_for_a_missing_object_and_a_range_past_the_end_are_understood(monkeypatch):
    """Its delete raises FileNotFoundError, and its client refuses such a range itself: both observed with Azurite."""
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


@pytest.mark.parametrize("trouble", [None, 503, 429, 500, "cut", "flip"])
def test_a_store_is_read_over_http_whatever_the_server_does(http, monkeypatch, trouble):
    url, server, tokens = http
    clock = FakeClock()
    monkeypatch.setattr(
        "headrace.store.store.open_blob", lambda u: RetryingBlob(RemoteBlob(u), Retry(sleep=clock.sleep))
    )
    seen = {}

    def once(number, path):
        # The manifest and the table have a checksum but no second try: they are small, and requested once.
        if trouble == "flip" and not path.startswith("/data/s0.arrow"):
            return None
        seen[path] = seen.get(path, 0) + 1
        return trouble if seen[path] == 1 else None

    server.trouble = once
    with Store.open(url) as store:
        starts = np.arange(0, 1200, 64)
        assert np.array_equal(store.gather(starts, 64), tokens[starts[:, None] + np.arange(64)])
    assert bool(clock.sleeps) == (trouble not in (None, "flip"))


def test_a_throttled_request_is_distinguished_from_other_failures(http):
    url, server, _ = http
    blob = RemoteBlob(url)
    for status, throttled in [(503, True), (429, True), (500, False)]:
        server.trouble = lambda number, path, status=status: status
        with pytest.raises(Unavailable) as caught:
            blob.get("manifest.json")
        assert caught.value.throttled == throttled


def test_an_address_at_which_nothing_answers_is_one_line_with_the_reason_and_soon_final():
    with pytest.raises(Unavailable, match=r"error sending request: Connection refused$") as caught:
        RemoteBlob("http://127.0.0.1:1/store").get("manifest.json")
    assert caught.value.unreachable
    waits = []
    blob = RetryingBlob(RemoteBlob("http://127.0.0.1:1/store"), Retry(sleep=waits.append))
    with pytest.raises(StorageError, match="Nothing answers at this address") as final:
        blob.get("manifest.json")
    assert final.value.exit_code == 2
    assert "\n" not in str(final.value)
    assert len(waits) == Retry().first_connection_attempts - 1


def test_a_server_that_has_answered_and_is_down_now_is_waited_for():
    """A server that is restarted: the run that uses it lasts longer than the first connection may take."""
    with BlobServer(MemoryBlob("restarted")) as server, pytest.raises(FileNotFoundError):
        RemoteBlob(server.url).get("manifest.json")
    with pytest.raises(Unavailable) as caught:
        RemoteBlob(server.url).get("manifest.json")
    assert not caught.value.unreachable


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_request_that_the_server_rejects_is_not_retried(http, status):
    url, server, _ = http
    server.trouble = lambda number, path: status
    with pytest.raises(StoreError, match=r"refuses|denied"):
        open_blob(url).get("manifest.json")
    assert len(server.requests) == 1


def test_a_message_has_the_code_and_text_of_the_server(http):
    """An HTTP server has no create-if-absent; an object store says what it refuses in XML."""
    url, _, _ = http
    with pytest.raises(StoreError, match="the server cannot do this"):
        open_blob(url).put_if_absent("job.json", b"{}")
    text = "PUT http://x/b - 400 Bad Request: <?xml version='1.0'?>\n<Error><Code>InvalidBucketName</Code>"
    assert summarize_error(f"{text}<Message>Too short.</Message></Error>") == (
        "PUT http://x/b - 400 Bad Request: InvalidBucketName: Too short."
    )
    assert summarize_error("plain\nDebug source: many lines") == "plain"
    dns = "failed to lookup address information: Name or service not known"
    assert (
        summarize_error(f'sent\nDebug source: "dns error", error: "{dns}"')
        == "sent: Name or service not known"
    )


@pytest.mark.parametrize(
    "trouble", [(400, "RequestTimeout"), (409, "OperationAborted"), (409, "ConditionalRequestConflict")]
)
@pytest.mark.parametrize("operation", ["get", "put"])
def test_a_4xx_that_is_worth_another_try_is_retried(request, trouble, operation):
    with BlobServer(MemoryBlob(request.node.nodeid)) as server:
        server._server.blob.put("x", b"1")
        server.trouble = lambda number, path: trouble if number < 3 else None
        clock = FakeClock()
        blob = RetryingBlob(RemoteBlob(server.url), Retry(sleep=clock.sleep))
        blob.put("x", b"2") if operation == "put" else blob.get("x")
        # The client itself asks again after a 409 of a PUT: for the parent collection.
        assert len(clock.sleeps) == (1 if (operation, trouble[0]) == ("put", 409) else 2)


def test_one_hanging_request_of_many_is_requested_a_second_time(http):
    """The epoch takes as long as its other requests and a hedge, not a time limit."""
    url, server, tokens = http
    hung = []

    def hang_once(number, path):
        if path.startswith("/data/s0.arrow") and not hung:
            hung.append(path)
            return "hang"
        return None

    server.trouble = hang_once
    with Store.open(url) as store:
        starts = np.arange(0, 1200, 64)
        assert np.array_equal(store.gather(starts, 64), tokens[starts[:, None] + np.arange(64)])
    assert hung


def test_a_download_may_last_longer_than_its_limit_of_silence_and_silence_ends_it(http):
    url, server, _ = http
    blob = RemoteBlob(url, silence_s=0.5)
    server._server.blob.put("x", bytes(60))
    server.trouble = lambda number, path: "trickle"  # 60 bytes in 1.2 s
    assert len(blob.get("x")) == 60
    server.trouble = lambda number, path: "hang"
    with pytest.raises(Unavailable) as caught:
        blob.get("x")
    assert caught.value.timed_out


def test_an_upload_that_was_too_slow_gets_twice_the_time_at_its_next_try(request):
    with BlobServer(MemoryBlob(request.node.nodeid)) as server:
        server.trouble = lambda number, path: "hang" if number < 3 else None
        blob = RemoteBlob(server.url, upload_s=0.2)
        RetryingBlob(blob, Retry(sleep=FakeClock().sleep)).put("x", b"1")
        assert blob._upload_s == 0.8
        assert bytes(server._server.blob.get("x")) == b"1"


def test_a_part_that_was_too_slow_gets_the_whole_line_and_twice_the_time_at_its_next_try(monkeypatch):
    """The writer is a fake, whose parts take 100 s of a line that they have alone."""
    blob = RemoteBlob("memory://")
    limits, flights, written = [], [], []

    def connect(*, retries=0, **seconds):
        limits.append(seconds["timeout"])
        return limits[-1]

    class Writer:
        def __init__(self, store, name, *, buffer_size, max_concurrency):
            flights.append(max_concurrency)
            self.late = 100.0 * max_concurrency > store

        async def write(self, part):
            if self.late:
                raise blob._obstore.exceptions.GenericError("error sending request: operation timed out")
            written.append(bytes(part))

        async def close(self):
            pass

    monkeypatch.setattr(blob, "_connect", connect)
    monkeypatch.setattr(blob._obstore, "open_writer_async", Writer)
    Retry(sleep=FakeClock().sleep).run(
        lambda: blob.put_parts("x", iter([b"1", b"2"]), part_bytes=1), what="x"
    )
    assert written == [b"1", b"2"]
    assert flights == [4, 1]
    assert limits == [4 * UPLOAD_S, 2 * UPLOAD_S, 2 * UPLOAD_S]  # of parts; of whole objects; of parts


def test_a_whole_object_whose_answer_does_not_begin_is_requested_a_second_time(http):
    url, server, _ = http
    blob = RemoteBlob(url)
    blob._hedge.add(0.0)
    troubles = ["hang", None]
    server.trouble = lambda number, path: troubles.pop(0)
    assert blob.get("manifest.json")
    assert len(server.requests) == 2


def test_ctrl_c_ends_a_call_of_the_main_thread_that_hangs(http):
    url, server, _ = http
    blob = RemoteBlob(url)
    main = threading.main_thread().ident

    def hang(number, path):
        signal.pthread_kill(main, signal.SIGINT)
        return "hang"

    server.trouble = hang
    with pytest.raises(KeyboardInterrupt):
        blob.get("manifest.json")
    server.trouble = lambda number, path: None
    assert blob.get("manifest.json")


def test_a_second_request_waits_for_some_times_the_slowest_of_the_last():
    delay = HedgeDelay()
    assert delay.seconds() == 5.0
    delay.add(0.01)
    assert delay.seconds() == HEDGE_MIN_S
    delay.add(2.0)
    assert delay.seconds() == 8.0
    for _ in range(64):
        delay.add(0.5)
    assert delay.seconds() == 2.0


@pytest.mark.parametrize("first", ["hangs", "fails"])
def test_the_first_success_of_two_requests_is_taken_and_the_other_cancelled(first):
    calls, cancelled, begun = [], threading.Event(), asyncio.Event()

    async def request():
        calls.append(1)
        if len(calls) == 2:
            begun.set()
            return "second"
        try:
            await (asyncio.Event() if first == "hangs" else begun).wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise ValueError("first")

    assert event_loop.run(request, hedge_s=0.001) == "second"
    assert first == "fails" or cancelled.wait(60)


def test_the_error_of_the_first_is_raised_if_both_fail():
    begun, calls = asyncio.Event(), []

    async def request():
        calls.append(1)
        number = len(calls)
        if number == 2:
            begun.set()
        await begun.wait()
        raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 1"):
        event_loop.run(request, hedge_s=0.001)


def test_a_request_that_fails_before_its_hedge_is_not_repeated():
    calls = []

    async def request():
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        event_loop.run(request, hedge_s=60.0)
    assert len(calls) == 1


def test_a_remote_used_before_a_fork_is_refused_in_the_child_instead_of_hanging(http):
    url, _, _ = http
    blob = RemoteBlob(url)
    blob.get("manifest.json")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child():
        try:
            RemoteBlob(url).get("manifest.json")
        except StoreError as error:
            theirs.send(str(error))

    process = context.Process(target=child)
    process.start()
    assert ours.poll(60)
    assert "do not survive a fork" in ours.recv()
    process.join()
