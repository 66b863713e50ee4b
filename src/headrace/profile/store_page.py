"""A store's report -> one HTML page of its rows: pictures with boxes, conversations as turns; no network."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DocumentError
from headrace.formatting import nbytes
from headrace.images import decode_mask, decode_rgb, mask_of_rle, read_header, thumbnail
from headrace.profile.page import render_document
from headrace.storage import write_file
from headrace.store import (
    Array,
    ClassLabel,
    DocumentSample,
    Feature,
    Features,
    Image,
    List,
    SampleReport,
    StoreReport,
    TextPiece,
    Tokens,
    Value,
    describe_feature,
)

_LONGEST = 512
"""Pixels of a picture's longer side."""
_SHOWN_VALUES = 64
_LABELS = 24
"""Boxes of a picture beside which the class is written; with more it is shown where the pointer is."""
_STYLE = """<style>
.turn { margin: 0 0 10px; padding: 10px 14px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); white-space: pre-wrap; overflow-wrap: anywhere; }
.turn.learned { margin-left: 24px; }
.special { color: var(--quiet); font: 0.75rem ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  border: 1px solid var(--line); border-radius: 4px; padding: 0 3px; }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; margin: 0 0 8px; }
.pictures svg { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; }
.pictures text { paint-order: stroke; stroke: #000; }
.pictures rect, .pictures circle { fill: none; stroke-width: 2; }
.rows { display: grid; gap: 28px; }
</style>
"""


def write_tokens_page(file: Path, report: StoreReport) -> None:
    """Write the page of a store of tokens, whole or not at all.

    Args:
        file: to write.
        report: with the documents, or the rows of text, to show.
    """
    tiles = [
        ("documents", f"{report.documents:,}"),
        ("tokens", f"{report.tokens:,}"),
        ("stored", nbytes(report.nbytes)),
        ("tokens a document", f"{report.tokens_per_document:,.1f}"),
    ]
    if report.given_tokens:
        tiles.append(("learned", f"{1 - report.given_tokens / report.tokens:.1%}"))
    facts = [
        ("tokenizer", f"{report.tokenizer or 'none'}, {report.vocab_size:,} ids of {report.dtype}"),
        ("codec", report.codec),
        ("snapshot", str(report.snapshot)),
        ("fingerprint", report.fingerprint),
    ]
    shown = [_document(one) for one in report.documents_shown]
    shown += [
        f"<article><h3>row {one.row:,} of length {one.seq_len:,}</h3><pre>{escape(one.text)}</pre></article>"
        for one in report.samples
    ]
    note = '<p class="note">Marked tokens are learned.</p>' if report.documents_shown else ""
    _write(file, report.url, tiles, facts, note, shown)


def write_samples_page(
    file: Path, report: SampleReport, features: Features, *, decode: Callable[[Any], str] | None = None
) -> None:
    """Write the page of a store of samples, whole or not at all.

    Args:
        file: to write.
        report: with the rows to show.
        features: the store's columns.
        decode: token ids -> text; None where the store has no tokenizer.
    """
    tiles = [
        ("rows", f"{report.rows:,}"),
        ("stored", nbytes(report.nbytes)),
        ("bytes a row", f"{report.bytes_per_row:,.0f}"),
        ("columns", f"{len(features):,}"),
    ]
    facts = [(f"column {name}", describe_feature(feature)) for name, feature in features.items()]
    facts += [
        ("codec", report.codec),
        ("snapshot", str(report.snapshot)),
        ("fingerprint", report.fingerprint),
    ]
    shown = [
        f"<article><h3>row {one.row:,}</h3>{_row(one.values, features, decode)}</article>"
        for one in report.samples
    ]
    _write(file, report.url, tiles, facts, "", shown)


def _write(
    file: Path,
    url: str,
    tiles: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    note: str,
    shown: Sequence[str],
) -> None:
    from headrace.version import VERSION

    cards = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)
    name = url.rstrip("/").rsplit("/", 1)[-1]
    today = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = (
        f'{_STYLE}<header><p class="kicker">headrace inspect</p><h1>{escape(name)}</h1><p class="sub">{escape(url)}</p>'
        f'<dl class="tiles" style="--columns:{len(tiles)}">{cards}</dl></header>\n<main>\n'
        f'<section><h2>Rows</h2>{note}<div class="rows">{"".join(shown)}</div></section>\n'
        f"<section><h2>The store</h2>{_facts(facts)}</section>\n</main>\n"
        f"<footer>Made by headrace {VERSION} on {today}. Rows are spread over the store.</footer>"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, render_document(name, body).encode())


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<dl class="facts">{lines}</dl>' if facts else ""


def _document(document: DocumentSample) -> str:
    turns = "".join(
        f'<div class="turn{" learned" if any(piece.is_learned for piece in turn) else ""}">'
        f"{''.join(map(_piece, turn))}</div>"
        for turn in document.turns
    )
    more = '<p class="note">It has more tokens than are shown.</p>' if document.is_cut else ""
    title = f"document {document.document:,} of shard {document.shard}"
    return f"<article><h3>{escape(title)}</h3>{turns}{more}</article>"


def _piece(piece: TextPiece) -> str:
    text = escape(piece.text)
    if piece.is_special:
        text = f'<span class="special">{text}</span>'
    return f"<ins>{text}</ins>" if piece.is_learned else text


def _row(values: Mapping[str, Any], features: Features, decode: Callable[[Any], str] | None) -> str:
    pictures, facts = [], []
    drawn: set[str] = set()
    has_photo = False
    for name, feature in features.items():
        pixels, reason = _pixels(name, values[name], feature)
        if pixels is None:
            if reason is not None:
                facts.append((name, reason))
                drawn.add(name)
            continue
        drawn.add(name)
        if has_photo or _is_mask(name):
            pictures.append(_picture(name, pixels, ""))
            continue
        has_photo = True  # boxes, points and masks of objects are of the first picture
        marks = "".join(_marks(values, features, pixels.shape[:2]))
        pictures.append(_picture(name, pixels, marks))
        if objects := _objects(values, features, pixels.shape[:2]):
            pictures.append(objects)
            drawn.add("masks")
        boxes = [one for one in features if marks and _is_boxes(one, features[one])]
        facts += [(one, f"{len(values[one]):,}, drawn") for one in boxes]
        drawn.update(boxes)
    facts += [
        (name, _text(values[name], feature, decode))
        for name, feature in features.items()
        if name not in drawn
    ]
    figures = f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""
    return figures + _facts(facts)


def _pixels(name: str, value: Any, feature: Feature) -> tuple[NDArray[np.uint8] | None, str | None]:
    """The picture of a column, or why there is none; neither where the column is no picture."""
    if isinstance(feature, Image):
        data = bytes(value)
        if not data:
            return None, "no image"
        try:
            if _is_mask(name):
                return _colored(decode_mask(data)), None
            return decode_rgb(data, read_header(data)), None
        except DocumentError as error:
            return None, f"{len(data):,} bytes that are not shown: {error}"
    if isinstance(feature, Array) and feature.dtype == "uint8" and min(feature.shape[:2]) >= 8:
        height, width, channels = (*feature.shape, 1)[:3]
        if len(feature.shape) <= 3 and channels in (1, 3):
            return value.reshape((height, width) if channels == 1 else (height, width, 3)), None
    return None, None


def _objects(values: Mapping[str, Any], features: Features, size: tuple[int, int]) -> str:
    """The picture of the objects' masks, a colour each; empty where there are none, or they are of another picture."""
    if features.get("masks") != List(Value("string")):
        return ""
    numbers = np.zeros(size, np.int32)
    try:
        for number, counts in enumerate(filter(None, values["masks"]), 1):
            numbers[mask_of_rle({"size": size, "counts": counts}) != 0] = number + (number >= 255)
    except DocumentError:
        return ""
    return _picture("masks", _colored(numbers), "") if numbers.any() else ""


def _is_mask(name: str) -> bool:
    return name == "mask" or name.endswith("_mask")


def _colored(mask: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Numbers -> colours that differ; 0 is dark, 255 (no class) grey."""
    steps = np.array([97, 57, 151])
    colors: NDArray[np.uint8] = (64 + (mask[:, :, None] * steps) % 192).astype(np.uint8)
    colors[mask == 0] = 24
    colors[mask == 255] = 128
    return colors


def _picture(name: str, pixels: NDArray[np.uint8], marks: str) -> str:
    height, width = pixels.shape[:2]
    data, media = thumbnail(pixels, _LONGEST)
    url = f"data:{media};base64,{base64.b64encode(data).decode()}"
    shown = min(_LONGEST, max(height, width) if max(height, width) > 64 else 140)
    scale = shown / max(height, width)
    sharp = ' style="image-rendering:pixelated"' if max(height, width) <= 64 else ""
    caption = f"{escape(name)}, {width} x {height}"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width * scale:.0f}" height="{height * scale:.0f}" '
        f'role="img" aria-label="{caption} pixels"><image href="{url}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"{sharp}/>{marks}</svg><figcaption>{caption}</figcaption></figure>'
    )


def _marks(values: Mapping[str, Any], features: Features, size: tuple[int, int]) -> Iterator[str]:
    """Boxes with their classes, and points."""
    unit = max(size) / 40
    for name, feature in features.items():
        if _is_boxes(name, feature):
            names = _class_names(values, features, len(values[name]))
            has_labels = len(names) <= _LABELS
            for i, (x0, y0, x1, y1) in enumerate(np.asarray(values[name], np.float64).tolist()):
                number, label = names[i] if names else (0, "")
                color = f"hsl({number * 47 % 360} 95% 60%)"
                yield (
                    f'<rect x="{x0:g}" y="{y0:g}" width="{max(0, x1 - x0):g}" height="{max(0, y1 - y0):g}" '
                    f'style="stroke:{color}" vector-effect="non-scaling-stroke"><title>{escape(label)}</title></rect>'
                )
                style = f"font-size:{unit:g}px;fill:{color};stroke-width:{unit / 6:g}px"
                if label and has_labels:
                    place = f'x="{x0 + unit / 4:g}" y="{max(y0, 0) + unit:g}"'
                    yield f'<text {place} style="{style}">{escape(label)}</text>'
        elif name == "keypoints" and isinstance(feature, List) and _is_point(feature.feature):
            points = np.asarray(values[name], np.float64)
            for x, y, *seen in points.reshape(-1, points.shape[-1]).tolist():
                if seen == [0.0]:  # not labelled
                    continue
                yield (
                    f'<circle cx="{x:g}" cy="{y:g}" r="{unit / 3:g}" style="stroke:hsl(140 95% 55%)" '
                    'vector-effect="non-scaling-stroke"/>'
                )


def _is_boxes(name: str, feature: Feature) -> bool:
    of = feature.feature if isinstance(feature, List) else None
    return (name == "boxes" or name.endswith("_boxes")) and isinstance(of, Array) and of.shape == (4,)


def _is_point(feature: Any) -> bool:
    """[2] or [3]: a point; [K, 2] or [K, 3]: the points of an object. A third number is COCO's visibility."""
    return isinstance(feature, Array) and len(feature.shape) <= 2 and feature.shape[-1] in (2, 3)


def _class_names(values: Mapping[str, Any], features: Features, boxes: int) -> list[tuple[int, str]]:
    """Number and name of each box's class, from the column `classes`."""
    feature = features.get("classes")
    if not isinstance(feature, List) or len(values["classes"]) != boxes:
        return []
    return [
        (int(one), _class_name(int(one), feature.feature)) for one in np.asarray(values["classes"]).tolist()
    ]


def _class_name(number: int, feature: Any) -> str:
    if isinstance(feature, ClassLabel) and 0 <= number < len(feature.names):
        return str(feature.names[number])
    return str(number)


def _text(value: Any, feature: Feature, decode: Callable[[Any], str] | None) -> str:
    if isinstance(feature, ClassLabel):
        return f"{_class_name(int(value), feature)} ({int(value)})"
    if isinstance(feature, Tokens) and decode is not None:
        return decode(value)
    if isinstance(feature, List) and isinstance(feature.feature, ClassLabel):
        numbers, counts = np.unique(value, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_SHOWN_VALUES]
        return (
            ", ".join(f"{counts[i]:,} {_class_name(int(numbers[i]), feature.feature)}" for i in most)
            or "none"
        )
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, np.ndarray):
        cut = f" ... {list(value.shape)}" if value.size > _SHOWN_VALUES else ""
        return f"{value[: max(1, _SHOWN_VALUES // max(1, value[:1].size))].tolist()}{cut}"
    return str(value)
