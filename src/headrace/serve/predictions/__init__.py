"""GET /predictions -> what generation jobs have committed, as JSON, in bounded memory and bounded responses.

    GET /predictions           every store: rows, errors, bytes, request
    GET /predictions/NAME      rows in the order of their commits, filtered, page by page; also with another store's

Only committed rows are read, also while a job runs: a later call returns more. `position` is a row's place in the
order of the commits; it does not change while a job runs, only when `--retry-errors` replaces error rows before it.

query      URL parameters -> RowQuery
rows       a store and a query -> rows, each call looking at a bounded number
compare    two stores -> rows of one, each with the row of the other that has the same key
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError
from headrace.serve.predictions.query import BadParameterError, parse_query
from headrace.serve.predictions.rows import PredictionStore, describe, read_page
from headrace.serve.protocol import APIError
from headrace.serve.redaction import Redactor, os_error_message

__all__ = ["prediction_routes"]

MAX_READERS = 2
"""Calls that read parts at the same time; each holds one part, some tens of MB."""


def prediction_routes(
    stores: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic
) -> list[Route]:
    """Routes that show prediction stores.

    Args:
        stores: name -> output directory or URL of `headrace generate`; it need not exist yet.
        clock: seconds; decides when a snapshot of the commits is too old.
    """
    opened = {name: PredictionStore(name, out, clock=clock) for name, out in stores.items()}
    redact = Redactor(stores)
    limiter = anyio.CapacityLimiter(MAX_READERS)

    def message(error: HeadraceError | OSError) -> str:
        return os_error_message(error) if isinstance(error, OSError) else redact(str(error))

    def describe_all() -> list[dict[str, Any]]:
        stores = []
        for store in opened.values():
            try:
                stores.append(describe(store))
            except (HeadraceError, OSError) as error:  # the others are listed all the same
                stores.append(_unreadable(store.name, message(error)))
        return stores

    def store_named(name: str, param: str) -> PredictionStore:
        if name not in opened:
            names = ", ".join(opened) or "none"
            raise APIError(
                404,
                f"There is no prediction store named {name!r}; there are: {names}.",
                param=param,
                code="not_found",
            )
        return opened[name]

    async def list_stores(_: Request) -> Response:
        data = await anyio.to_thread.run_sync(describe_all, limiter=limiter)
        return _json({"object": "list", "data": data})

    async def list_rows(request: Request) -> Response:
        try:
            store = store_named(request.path_params["name"], "name")
            query = parse_query(request.query_params)
            other = store_named(query.compare, "compare") if query.compare is not None else None
            return _json(
                await anyio.to_thread.run_sync(lambda: read_page(store, query, other), limiter=limiter)
            )
        except BadParameterError as error:
            return _error(APIError(400, str(error), param=error.name))
        except APIError as error:
            return _error(error)
        except (HeadraceError, OSError) as error:
            return _error(APIError(500, message(error)))

    return [Route("/predictions", list_stores), Route("/predictions/{name}", list_rows)]


def _unreadable(name: str, message: str) -> dict[str, Any]:
    return {
        "object": "prediction_store",
        "name": name,
        "rows": 0,
        "errors": 0,
        "bytes": 0,
        "error": message,
    }


def _json(content: Any, status: int = 200) -> Response:
    return Response(
        orjson.dumps(content),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def _error(error: APIError) -> Response:
    return _json(error.content, error.status)
