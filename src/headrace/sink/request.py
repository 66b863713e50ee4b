"""What was asked for -> a run's id, and the refusal of anything else in the same place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from headrace.errors import ResumeError, SinkError

JOB = "job.json"
JOB_FORMAT = 1


def run_id(request: Mapping[str, Any]) -> str:
    """32 hex digits of everything that fixes a job's output: model, tokenizer, prompts, parameters.

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
    """What a job was asked for: format, run_id, request.

    Raises:
        SinkError: damaged, or written by a newer headrace.
    """
    try:
        stored: dict[str, Any] = orjson.loads(data)
    except ValueError as error:
        raise SinkError(f"{where}/{JOB}: damaged, not JSON ({error}).") from error
    if not isinstance(stored, dict) or stored.get("format") != JOB_FORMAT or "run_id" not in stored:
        raise SinkError(
            f"{where}/{JOB}: format {stored.get('format') if isinstance(stored, dict) else None!r}; "
            f"this headrace reads {JOB_FORMAT}. Update headrace?"
        )
    return stored


def check_job(data: bytes, request: Mapping[str, Any], *, where: str) -> None:
    """Refuse a request that is not the one stored.

    Raises:
        ResumeError: naming each field that differs.
        SinkError: the stored one cannot be read.
    """
    stored = parse_job(data, where=where)
    if stored["run_id"] == run_id(request):
        return
    was, now = stored["request"], orjson.loads(orjson.dumps(dict(request)))
    differs = [
        f"{name}: stored {before!r}, asked for {after!r}" for name, before, after in _differences(was, now)
    ]
    raise ResumeError(
        f"{where}: holds the output of another request; {'; '.join(differs)}. "
        f"Ask for the same again, or give another output directory."
    )


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ, those of an object inside by their own names."""
    for name in sorted(was.keys() | now.keys()):
        before, after = was.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after)
        elif before != after:
            yield name, before, after
