"""What a client did wrong -> OpenAI's error object with the right status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class Refusal(Exception):
    """A request that gets an error as its answer.

    Args:
        status: HTTP status.
        message: what, got, wanted, cure.
        param: the field at fault.
        code: for programs.
        headers: of the answer, for example Retry-After.
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
        """The answer."""
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


def invalid(message: str, param: str | None = None, *, code: str | None = None) -> Refusal:
    """A request whose content is at fault."""
    return Refusal(400, message, param=param, code=code)
