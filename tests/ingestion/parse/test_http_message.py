"""http_message.py: bodies by their transfer and content codings, also where an archive has removed them."""

import gzip
import zlib

import pytest
import zstandard

from headrace.ingestion.parse.http_message import HttpError, TooLongError, decoded_body, parse_response

brotli = pytest.importorskip("brotli")
PAGE = b"<html><body>" + b"a page " * 300 + b"</body></html>"


def _deflated(data, window):
    stream = zlib.compressobj(wbits=window)
    return stream.compress(data) + stream.flush()


def _chunked(data, size=700):
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    return (
        b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: 1\r\n\r\n"
    )


CODED = {
    "gzip": gzip.compress(PAGE),
    "x-gzip": gzip.compress(PAGE[:100]) + gzip.compress(PAGE[100:]),
    "deflate": _deflated(PAGE, 15),
    "Deflate": _deflated(PAGE, -15),
    "br": brotli.compress(PAGE),
    "zstd": zstandard.compress(PAGE),
    "identity": PAGE,
    "deflate, gzip": gzip.compress(_deflated(PAGE, 15)),
}


def _response(body, **headers):
    lines = [b"HTTP/1.1 200 OK", *(f"{n.replace('_', '-')}: {v}".encode() for n, v in headers.items())]
    return parse_response(b"\r\n".join(lines) + b"\r\n\r\n" + body)


def _decoded(body, *, limit=1 << 20, is_cut=False, **headers):
    return decoded_body(_response(body, **headers), limit=limit, is_cut=is_cut)


@pytest.mark.parametrize("coding", CODED)
def test_a_coded_body_is_decoded(coding):
    assert _decoded(CODED[coding], Content_Encoding=coding) == PAGE
    assert _decoded(_chunked(CODED[coding]), Content_Encoding=coding, Transfer_Encoding="chunked") == PAGE


@pytest.mark.parametrize("coding", CODED)
def test_a_body_that_the_crawler_has_decoded_is_taken_as_it_is(coding):
    assert _decoded(PAGE, Content_Encoding=coding, Transfer_Encoding="chunked") == PAGE


@pytest.mark.parametrize("coding", [coding for coding in CODED if coding != "identity"])
def test_a_coded_body_that_ends_early_is_an_error_unless_the_crawler_says_so(coding):
    cut = CODED[coding][: len(CODED[coding]) - 7]
    with pytest.raises(HttpError, match="body"):
        _decoded(cut, Content_Encoding=coding)
    assert PAGE.startswith(_decoded(cut, Content_Encoding=coding, is_cut=True))


def test_a_chunked_body_that_ends_early_is_an_error_unless_the_crawler_says_so():
    body = _chunked(PAGE)
    for cut in (body[:1000], body[: body.index(b"0\r\nTrailer")], body.replace(b"2bc;", b"2bd;", 1)):
        with pytest.raises(HttpError, match="chunked body"):
            _decoded(cut, Transfer_Encoding="chunked")
    part = _decoded(body[:1000], Transfer_Encoding="chunked", is_cut=True)
    assert PAGE.startswith(part)
    assert len(part) > 950


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_a_body_that_grows_beyond_the_limit_is_refused(coding):
    zeros = bytes(5 << 20)
    pack = {"gzip": gzip.compress, "br": lambda b: brotli.compress(b, quality=1), "zstd": zstandard.compress}
    body = pack.get(coding, zlib.compress)(zeros)
    with pytest.raises(TooLongError):
        _decoded(body, Content_Encoding=coding)


def test_damage_and_codings_that_are_not_known_are_named():
    with pytest.raises(HttpError, match="damaged"):
        _decoded(CODED["gzip"][:30] + b"\x00\xff" * 20, Content_Encoding="gzip")
    with pytest.raises(HttpError, match="content coding is 'compress'"):
        _decoded(PAGE, Content_Encoding="compress")


@pytest.mark.parametrize(
    ("message", "status", "media_type", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: Text/HTML; x\r\n\r\nbody", 200, "text/html", b"body"),
        (b"HTTP/1.0 404\r\n\r\n", 404, "", b""),
        (b"HTTP/2 204 \nA: b\n\nbody", 204, "", b"body"),
        (b"HTTP/1.1 301 Moved\r\nLocation: x", 301, "", b""),
    ],
)
def test_responses_are_read(message, status, media_type, body):
    response = parse_response(message)
    assert (response.status, response.media_type, response.body) == (status, media_type, body)


@pytest.mark.parametrize("message", [b"", b"<html>", b"HTTP/1.1 OK\r\n\r\n", b"ICY 200 OK\r\n\r\n"])
def test_what_is_no_response_is_an_error(message):
    with pytest.raises(HttpError, match="no HTTP response"):
        parse_response(message)
