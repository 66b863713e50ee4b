"""What a client did wrong -> OpenAI's error object with the right HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    507: "server_error",
}


class APIError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: what is wrong, the value got, the value expected, the cure.
        param: name of the field at fault.
        code: error code for programs.
        headers: additional response headers, for example Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The response body."""
        return orjson.dumps(self.content)

    @property
    def content(self) -> dict[str, Any]:
        """{"error": {message, type, param, code}}."""
        return {
            "error": {
                "message": str(self).encode(errors="replace").decode(),
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, param: str | None = None, *, code: str | None = None) -> APIError:
    """An error with status 400: a field of the request is at fault."""
    return APIError(400, message, param=param, code=code)
