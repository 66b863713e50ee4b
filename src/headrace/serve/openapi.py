"""What the server takes and gives -> its OpenAPI 3.1 document, bodies by the very types that check them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.serve.bodies import schemas

ID = {"name": "identity", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        name: {"type": "integer", "minimum": 0}
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
}


def document(*, title: str, version: str) -> dict[str, Any]:
    """The whole document."""
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000})
    after = _query("after", {"type": "string"})
    answer = _object(
        {
            "id": {"type": "string"},
            "object": {"type": "string"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object"}},
            "usage": USAGE,
        }
    )
    listing = _object({"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}})
    file = _object({"id": {"type": "string"}, "object": {"const": "file"}, "bytes": {"type": "integer"}})
    batch = _object({"id": {"type": "string"}, "object": {"const": "batch"}, "status": {"type": "string"}})
    anything = {"type": "object"}
    upload = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"const": "batch"},
                    },
                }
            }
        },
    }
    paths: dict[str, dict[str, Any]] = {
        "/v1/completions": {
            "post": _operation(
                "Continue a text", answer, body="CompletionBody", stream=True, errors=(404, 429)
            )
        },
        "/v1/chat/completions": {
            "post": _operation("Answer messages", answer, body="ChatBody", stream=True, errors=(404, 429))
        },
        "/v1/models": {"get": _operation("The model", listing)},
        "/v1/models/{identity}": {"get": _operation("One model", anything, parameters=[ID], errors=(404,))},
        "/v1/files": {
            "post": _operation("Upload a file", file, errors=(400, 413, 415, 503)) | {"requestBody": upload},
            "get": _operation(
                "All files",
                listing,
                parameters=[limit, after, _query("purpose", {"type": "string"})],
                errors=(400,),
            ),
        },
        "/v1/files/{identity}": {
            "get": _operation("One file", file, parameters=[ID], errors=(404,)),
            "delete": _operation("Delete a file", anything, parameters=[ID], errors=(404,)),
        },
        "/v1/files/{identity}/content": {
            "get": _operation(
                "A file's content", None, media="application/octet-stream", parameters=[ID], errors=(404,)
            )
        },
        "/v1/batches": {
            "post": _operation("Start a batch", batch, body="BatchBody", errors=(404,)),
            "get": _operation("All batches", listing, parameters=[limit, after], errors=(400,)),
        },
        "/v1/batches/{identity}": {"get": _operation("One batch", batch, parameters=[ID], errors=(404,))},
        "/v1/batches/{identity}/cancel": {
            "post": _operation("Cancel a batch", batch, parameters=[ID], errors=(400, 404))
        },
        "/tokenize": {"post": _operation("Text to ids", anything, body="TokenizeBody")},
        "/detokenize": {"post": _operation("Ids to text", anything, body="DetokenizeBody")},
        "/tokenizer_info": {"get": _operation("About the tokenizer", anything)},
        "/health": {"get": _operation("Whether it works", anything, errors=(503,)) | {"security": []}},
        "/metrics": {"get": _operation("Prometheus metrics", None, media="text/plain")},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {**schemas(), "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(
    summary: str,
    schema: dict[str, Any] | None,
    *,
    body: str | None = None,
    stream: bool = False,
    media: str = "application/json",
    parameters: Sequence[dict[str, Any]] = (),
    errors: Sequence[int] = (),
) -> dict[str, Any]:
    content: dict[str, Any] = {media: {} if schema is None else {"schema": schema}}
    if stream:
        content["text/event-stream"] = {}  # OpenAPI 3.1 has no schema for a sequence of events
    statuses = {401, *errors, *((400, 413, 415, 500, 503) if body else ())}
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": content},
            **{str(status): {"description": "Refused", "content": refusal} for status in sorted(statuses)},
        },
    }
    if parameters:
        found["parameters"] = list(parameters)
    if body:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
        }
    return found


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}
