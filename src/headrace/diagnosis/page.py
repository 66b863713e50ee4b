"""A sentence, a step's parts and lines of text -> a directory with one page, a picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import orjson

from headrace.diagnosis.limiter import PHRASES
from headrace.diagnosis.result import Diagnosis
from headrace.profile import StepPart, draw_step_bar, render_document, standalone, step_bar_section


def diagnosis_parts(found: Diagnosis) -> tuple[StepPart, ...]:
    """The parts of a loop's step: compute, and the wait by its cause."""
    wait_s = found.step_s * found.stall.value
    cause = PHRASES[found.finding.limiter] if found.finding.limiter not in ("model", "unclear") else "data"
    return tuple(
        part
        for part in (
            StepPart(name="compute", seconds=found.step_s - wait_s, kind="compute"),
            StepPart(name=f"wait: {cause}", seconds=wait_s, kind="wait"),
        )
        if part.seconds > 0
    )


def write_page(
    out: Path,
    *,
    title: str,
    sentence: str,
    parts: Sequence[StepPart],
    details: Sequence[str],
    values: Mapping[str, Any],
) -> Path:
    """Write diagnosis.html, step.svg where there are parts, and diagnosis.json.

    Args:
        out: a directory; it is made.
        title: what was measured.
        sentence: the verdict.
        parts: of a mean step; empty for a loader alone.
        details: lines below the picture.
        values: for the JSON file.
    """
    out.mkdir(parents=True, exist_ok=True)
    shown = step_bar_section(sentence, parts) if parts else f'<p class="verdict">{escape(sentence)}</p>'
    lines = "".join(f"<li>{escape(line.strip())}</li>" for line in details)
    body = (
        f'<header><p class="kicker">headrace diagnose</p><h1>{escape(title)}</h1></header>\n<main>'
        f'<section aria-labelledby="step"><h2 id="step">Is it I/O or the model?</h2>{shown}</section>'
        + (f'<section><h2>What was measured</h2><ul class="note">{lines}</ul></section>' if lines else "")
        + "</main>"
    )
    page = out / "diagnosis.html"
    page.write_text(render_document(title, body), encoding="utf-8")
    if parts:
        (out / "step.svg").write_text(standalone(draw_step_bar(parts)), encoding="utf-8")
    text = orjson.dumps(dict(values), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    (out / "diagnosis.json").write_bytes(text)
    return page
