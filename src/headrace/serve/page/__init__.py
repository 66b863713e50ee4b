"""GET / and /page/NAME -> the page: one HTML file, its style and its scripts, served from the package.

The policy allows scripts and styles from this server only, requests to this server only, and nothing that makes HTML
out of text.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.serve.protocol import APIError

__all__ = ["POLICY", "page_routes"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def page_routes() -> list[Route]:
    """Routes of the page and its files."""
    contents = {
        file.name: file.read_bytes()
        for file in files("headrace.serve.page").iterdir()
        if file.name.endswith(tuple(MEDIA_TYPES))
    }
    tags = {name: f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"' for name, data in contents.items()}

    def response(request: Request, name: str) -> Response:
        headers = {
            "cache-control": "no-cache",
            "content-security-policy": POLICY,
            "cross-origin-resource-policy": "same-origin",
            "etag": tags[name],
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        kind = MEDIA_TYPES[name[name.rindex(".") :]]
        return Response(contents[name], media_type=f"{kind}; charset=utf-8", headers=headers)

    async def index(request: Request) -> Response:
        return response(request, "index.html")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            raise APIError(404, f"The page has no file named {name[:100]!r}.", code="not_found")
        return response(request, name)

    return [Route("/", index), Route("/page/{name}", asset)]
