"""A store of samples -> its counts, columns, shards and rows, as tables or JSON on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from headrace.cli.console import count, facts, plain, print_json, progress_bar, size, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from headrace.store import SampleReport, SampleStore

_SHOWN_CHARS = 120


def inspect_rows(store: str, *, verify: bool, samples: int, html: Path | None, json: bool) -> None:
    """Print a store's report; see `headrace inspect`."""
    from headrace.ingestion import verify_job_files
    from headrace.store import SampleStore, describe_feature, inspect_samples, verify_samples

    with SampleStore.open(store) as opened:
        if verify:
            with progress_bar("verify", unit="bytes", quiet=json) as progress:
                verify_samples(opened, progress=progress)
                verify_job_files(opened)
        report = inspect_samples(opened, samples=samples)
        features, tokenizer = opened.features, opened.tokenizer
        shown: list[dict[str, Any]] = [
            {"row": one.row, "values": _shown(_with_texts(one.values, opened))} for one in report.samples
        ]
    if html is not None:
        from headrace.profile import write_samples_page

        write_samples_page(html, report, features, decode=None if tokenizer is None else tokenizer.decode)
        stderr.print(f"page: {html}", soft_wrap=True, highlight=False)
    if json:
        print_json(plain(_without_values(report)) | {"samples": shown, "verified": verify})
        return
    rows = [
        ("rows", count(report.rows)),
        ("stored", f"{size(report.nbytes)}, {report.bytes_per_row:,.0f} bytes a row, codec {report.codec}"),
        *((f"column {name}", describe_feature(feature)) for name, feature in features.items()),
        *_sequence_rows(report),
        ("fingerprint", report.fingerprint),
        ("snapshot", str(report.snapshot)),
    ]
    if verify:
        rows.append(("verified", "every byte"))
    stdout.print(facts(report.url, rows))
    table = Table("shard", "rows", "blocks", "bytes", "codec", box=None, padding=(0, 2, 0, 0))
    for shard in report.shards:
        table.add_row(shard.name, count(shard.rows), count(shard.blocks), size(shard.nbytes), shard.codec)
    stdout.print(table)
    if report.num_shards > len(report.shards):
        stdout.print(f"... and {count(report.num_shards - len(report.shards))} more shards")
    for sample in shown:
        stdout.print(f"\nrow {count(sample['row'])}:", style="dim")
        for name, value in sample["values"].items():
            stdout.print(f"{name}: {value}", markup=False, highlight=False)


def _sequence_rows(report: SampleReport) -> list[tuple[str, str]]:
    lengths = report.sequences
    if lengths is None:
        return []
    tokens = "; ".join(
        f"{name} {mean:,.1f}, longest {count(lengths.longest[name])}"
        for name, mean in lengths.mean_tokens.items()
    )
    shares = f"{lengths.padding_share:.1%} in random order, {lengths.padding_share_by_length:.1%} by length"
    return [
        ("tokens a row", f"{tokens} (of {count(lengths.rows)} rows)"),
        ("padding", f"{shares}, in batches of 64"),
    ]


def _with_texts(values: Mapping[str, Any], store: SampleStore) -> dict[str, Any]:
    """A row's values with tokens as their text, where the store has a tokenizer."""
    from headrace.store import Tokens

    tokenizer = store.tokenizer
    if tokenizer is None:
        return dict(values)
    return {
        name: tokenizer.decode(value) if isinstance(store.features[name], Tokens) else value
        for name, value in values.items()
    }


def _shown(values: Any) -> dict[str, Any]:
    """A row's values as text or plain JSON values, cut where they are long."""
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, bytes):
            shown[name] = f"{len(value):,} bytes, {value[:8].hex(' ')}{' ...' if len(value) > 8 else ''}"
        elif isinstance(value, np.ndarray):
            text = str(value.tolist())
            shown[name] = (
                text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} ... {list(value.shape)}"
            )
        else:
            shown[name] = value
    return shown


def _without_values(report: SampleReport) -> SampleReport:
    from dataclasses import replace

    return replace(report, samples=())
