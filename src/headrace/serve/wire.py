"""A request -> its JSON body, checked; content -> a JSON answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import orjson
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from headrace.serve.bodies import parse
from headrace.serve.refusal import Refusal

T = TypeVar("T", bound=Struct)


async def read_body(request: Request, kind: type[T]) -> T:
    """A request's JSON body.

    Raises:
        Refusal: 415, it is not said to be JSON (a page of another origin cannot say that); 400, it is not.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refusal(
            415,
            f"The body's content type is {media[:100] or 'not given'!r}; send content-type: application/json.",
            code="unsupported_media_type",
        )
    return parse(await request.body(), kind)


def json_response(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer with JSON in it."""
    return Response(
        orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )
