"""Limits of a connection hold before any key is looked at, and HTTP/1.0 clients get what they understand."""

import asyncio
import contextlib
import socket
import threading

import pytest
import uvicorn

from headrace.serve.connection import MAX_HEADER_BYTES, MAX_HEADERS, limited_protocol


async def app(scope, receive, send):
    """Answers the body's length at /, three pieces of unknown length at /stream."""
    if scope["type"] == "lifespan":
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    body = b"%d bytes" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(**limits):
    """The application on loopback, in a thread; yields a function that connects."""
    config = uvicorn.Config(
        app,
        port=0,
        log_level="critical",
        lifespan="off",
        http=limited_protocol(**({"max_connections": 50} | limits)),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    address = server.servers[0].sockets[0].getsockname()
    opened = []

    def connect():
        client = socket.create_connection(address, timeout=60)
        opened.append(client)
        return client

    try:
        yield connect
    finally:
        for client in opened:
            client.close()
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def connect():
    with serving() as made:
        yield made


def until_closed(client):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            data += piece
    return data


def status_of(data):
    return int(data.split(b" ", 2)[1])


def test_a_request_within_the_limits_is_answered(connect):
    client = connect()
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
    assert until_closed(client).endswith(b"5 bytes")


@pytest.mark.parametrize("cut", [1, 2000])
def test_a_header_that_is_too_large_is_431(connect, cut):
    """In one field or in many, in one piece or in several."""
    client = connect()
    fields = b"".join(b"x-%d: %b\r\n" % (i, b"y" * (2 * MAX_HEADER_BYTES // cut // 10)) for i in range(10))
    data = b"GET / HTTP/1.1\r\nhost: x\r\n" + fields * (1 if cut == 1 else 200)
    client.sendall(data + b"\r\n")
    answer = until_closed(client)
    assert status_of(answer) == 431
    assert b'"code":"header_too_large"' in answer


def test_too_many_header_fields_are_431(connect):
    client = connect()
    client.sendall(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n")
    assert status_of(until_closed(client)) == 431


def test_a_header_without_end_is_cut_off_after_little(connect):
    """What is read is bounded: the client cannot send on for long."""
    client, sent = connect(), 0
    client.sendall(b"GET / HTTP/1.1\r\nx: ")
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < 64 << 20:
            client.sendall(b"y" * (1 << 20))
            sent += 1 << 20
    assert sent < 64 << 20


def test_trailers_and_chunk_framing_without_end_are_cut_off(connect):
    client, sent = connect(), 0
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < 64 << 20:
            client.sendall(b"t: " + b"y" * (1 << 20))
            sent += 1 << 20
    assert sent < 64 << 20


def test_a_body_in_many_small_chunks_is_read(connect):
    client = connect()
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
    for _ in range(40):
        client.sendall(b"1\r\na\r\n" * 1000)
    client.sendall(b"0\r\n\r\n")
    assert until_closed(client).endswith(b"40000 bytes")


def test_what_is_no_http_is_an_openai_error(connect):
    client = connect()
    client.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
    answer = until_closed(client)
    assert status_of(answer) == 400
    assert b'"type":"invalid_request_error"' in answer


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"", None),
        (b"GET / HT", 408),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: ", 408),
        (b"\r\n", 408),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf", 408),
    ],
)
def test_a_client_that_sends_nothing_more_is_closed(first, status):
    with serving(header_s=0.1, body_s=0.1) as connect:
        client = connect()
        client.sendall(first)
        answer = until_closed(client)
        assert (status_of(answer) if answer else None) == status


def test_a_connection_is_kept_open_between_two_requests():
    """The limit for a header begins with its first byte."""
    with serving(header_s=0.1) as connect:
        client = connect()
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = client.recv(1 << 16)
            assert status_of(answer) == 200
            assert answer.endswith(b"0 bytes")
            assert not threading.Event().wait(0.25)  # longer than the limit


def test_a_connection_too_many_is_refused_and_the_others_work():
    with serving(max_connections=3) as connect:
        held = [connect() for _ in range(3)]
        for client in held:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert status_of(client.recv(1 << 16)) == 200
        answer = until_closed(connect())
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer
        held[0].sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert status_of(held[0].recv(1 << 16)) == 200


def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection(connect):
    client = connect()
    client.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
    header, _, body = until_closed(client).partition(b"\r\n\r\n")
    assert b"chunked" not in header
    assert b"connection: close" in header
    assert body == b"one two three"


def test_an_http_1_0_client_gets_the_length_where_it_is_known(connect):
    client = connect()
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    header, _, body = until_closed(client).partition(b"\r\n\r\n")
    assert b"content-length: 7" in header
    assert body == b"0 bytes"


def test_an_http_1_1_client_gets_chunks(connect):
    client = connect()
    client.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    header, _, body = until_closed(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in header
    assert body == b"4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n"


def test_two_requests_in_one_piece_are_both_answered(connect):
    client = connect()
    client.sendall(
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    assert until_closed(client).count(b"0 bytes") == 2


def test_asyncio_runs_the_protocol_without_uvloop():
    """The limits do not depend on uvloop's transport."""
    assert asyncio.Protocol in limited_protocol(max_connections=1).__mro__
