"""HTTP request -> its JSON body, checked; value -> JSON response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import orjson
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from headrace.serve.protocol.errors import APIError
from headrace.serve.protocol.schemas import BYTE_ORDER_MARK, parse_body

T = TypeVar("T", bound=Struct)


async def read_body(request: Request, schema: type[T]) -> T:
    """Read and check the JSON body of a request.

    Raises:
        APIError: 415, the content type is not JSON (a page of another origin cannot send that type without asking
            first); 400, the body is not JSON or does not fit the schema.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise APIError(
            415,
            f"The body's content type is {media_type[:100] or 'not given'!r}; send content-type: application/json.",
            code="unsupported_media_type",
        )
    return parse_body(await request.body(), schema)


def json_response(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with JSON content."""
    return Response(
        orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def read_json_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank, from 0; a leading byte order mark is dropped."""
    for number, line in enumerate(lines):
        content = line.removeprefix(BYTE_ORDER_MARK) if number == 0 else line
        if content.strip():
            yield number, content
