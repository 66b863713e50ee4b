"""Paths and body schemas -> the OpenAPI 3.1 document; the schemas are those that check the bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.serve.protocol.schemas import json_schemas

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
    }
    | {
        "prompt_tokens_details": {
            "type": "object",
            "required": ["cached_tokens"],
            "properties": {"cached_tokens": {"type": "integer", "minimum": 0}},
        }
    },
}
ANY_OBJECT = {"type": "object"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000})
AFTER = _query("after", {"type": "string"})
LIST = _object({"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}})


def openapi_document(*, title: str, version: str) -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": {**_completion_paths(), **_file_paths(), **_batch_paths(), **_other_paths()},
        "components": {
            "schemas": {**json_schemas(), "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _completion_paths() -> dict[str, Any]:
    completion = _object(
        {
            "id": {"type": "string"},
            "object": {"type": "string"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object"}},
            "usage": USAGE,
        }
    )
    paths = {
        "/v1/completions": ("Continue a text", "CompletionBody"),
        "/v1/chat/completions": ("Answer messages", "ChatBody"),
    }
    return {
        path: {"post": _operation(summary, completion, body=body, stream=True, errors=(404, 429))}
        for path, (summary, body) in paths.items()
    }


def _file_paths() -> dict[str, Any]:
    file = _object({"id": {"type": "string"}, "object": {"const": "file"}, "bytes": {"type": "integer"}})
    upload = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"const": "batch"},
                    },
                }
            }
        },
    }
    content = _operation(
        "A file's content", None, media="application/octet-stream", parameters=[ID], errors=(404,)
    )
    return {
        "/v1/files": {
            "post": _operation("Upload a file", file, errors=(400, 413, 415, 503)) | {"requestBody": upload},
            "get": _operation(
                "All files",
                LIST,
                parameters=[LIMIT, AFTER, _query("purpose", {"type": "string"})],
                errors=(400,),
            ),
        },
        "/v1/files/{identity}": {
            "get": _operation("One file", file, parameters=[ID], errors=(404,)),
            "delete": _operation("Delete a file", ANY_OBJECT, parameters=[ID], errors=(404,)),
        },
        "/v1/files/{identity}/content": {"get": content},
    }


def _batch_paths() -> dict[str, Any]:
    batch = _object({"id": {"type": "string"}, "object": {"const": "batch"}, "status": {"type": "string"}})
    return {
        "/v1/batches": {
            "post": _operation("Start a batch", batch, body="BatchBody", errors=(404, 429)),
            "get": _operation("All batches", LIST, parameters=[LIMIT, AFTER], errors=(400,)),
        },
        "/v1/batches/{identity}": {"get": _operation("One batch", batch, parameters=[ID], errors=(404,))},
        "/v1/batches/{identity}/cancel": {
            "post": _operation("Cancel a batch", batch, parameters=[ID], errors=(400, 404))
        },
    }


def _other_paths() -> dict[str, Any]:
    after = _query("after", {"type": "number"})
    return {
        "/v1/models": {"get": _operation("The model", LIST)},
        "/v1/models/{identity}": {"get": _operation("One model", ANY_OBJECT, parameters=[ID], errors=(404,))},
        "/tokenize": {"post": _operation("Text to token ids", ANY_OBJECT, body="TokenizeBody")},
        "/detokenize": {"post": _operation("Token ids to text", ANY_OBJECT, body="DetokenizeBody")},
        "/tokenizer_info": {"get": _operation("The tokenizer", ANY_OBJECT)},
        "/health": {"get": _operation("Whether it works", ANY_OBJECT, errors=(503,)) | {"security": []}},
        "/metrics": {"get": _operation("Prometheus metrics", None, media="text/plain")},
        "/metrics/history": {
            "get": _operation("The last 15 minutes, for plots", LIST, parameters=[after], errors=(400,))
        },
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
    statuses = {400, 401, 403, *errors, *((413, 415, 500, 503) if body else ())}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": content},
            **{str(status): {"description": "Error", "content": error} for status in sorted(statuses)},
        },
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
        }
    return operation
