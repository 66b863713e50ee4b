"""A job's request -> its run id, and a refusal when the output directory holds another request's output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from headrace.errors import ResumeError, SinkError

JOB = "job.json"
JOB_FORMAT = 1
CURE = "Restore it from a copy, or give another output directory."


def run_id(request: Mapping[str, Any]) -> str:
    """32 hex digits over everything that determines a job's output: model, tokenizer, prompts, parameters.

    >>> run_id({"model": "a", "seed": 1}) == run_id({"seed": 1, "model": "a"})
    True
    """
    canonical = orjson.dumps(dict(request), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def job_bytes(request: Mapping[str, Any]) -> bytes:
    """The content of job.json."""
    return orjson.dumps(
        {"format": JOB_FORMAT, "run_id": run_id(request), "request": dict(request)},
        option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS,
    )


def parse_job(data: bytes, *, where: str) -> dict[str, Any]:
    """The content of job.json: format, run_id, request.

    Raises:
        SinkError: damaged, or written by a newer headrace.
    """
    try:
        stored: Any = orjson.loads(data)
    except ValueError as error:
        raise SinkError(f"{where}/{JOB}: damaged, not JSON ({error}). {CURE}") from error
    if not isinstance(stored, dict) or stored.get("format") != JOB_FORMAT or "run_id" not in stored:
        raise SinkError(
            f"{where}/{JOB}: format {stored.get('format') if isinstance(stored, dict) else None!r}; "
            f"this headrace reads {JOB_FORMAT}. Update headrace?"
        )
    request = stored.get("request")
    if not isinstance(request, dict) or stored["run_id"] != run_id(request):
        raise SinkError(f"{where}/{JOB}: damaged: its run id is not that of its request. {CURE}")
    return stored


def check_job(data: bytes, request: Mapping[str, Any], *, where: str) -> None:
    """Refuse a request that is not the stored one.

    Raises:
        ResumeError: naming each field that differs.
        SinkError: the stored one cannot be read.
    """
    stored = parse_job(data, where=where)
    if stored["run_id"] == run_id(request):
        return
    before, now = stored["request"], orjson.loads(orjson.dumps(dict(request)))
    differs = [f"{name}: stored {old!r}, requested {new!r}" for name, old, new in _differences(before, now)]
    raise ResumeError(
        f"{where}: holds the output of another request; {'; '.join(differs)}. "
        f"Give the stored options again, or another output directory."
    )


def _differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ; those of a nested object by their own names."""
    for name in sorted(stored.keys() | requested.keys()):
        old, new = stored.get(name), requested.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif old != new:
            yield name, old, new
