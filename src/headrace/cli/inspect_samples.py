"""A store of samples -> its counts, columns, shards and rows, as tables or JSON on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from headrace.cli.console import count, facts, plain, print_json, progress_bar, size, stdout

if TYPE_CHECKING:
    from headrace.store import SampleReport

_SHOWN_CHARS = 120


def inspect_rows(store: str, *, verify: bool, samples: int, json: bool) -> None:
    """Print a store's report; see `headrace inspect`."""
    from headrace.ingestion import verify_job_files
    from headrace.store import SampleStore, inspect_samples, verify_samples

    with SampleStore.open(store) as opened:
        if verify:
            with progress_bar("verify", unit="bytes", quiet=json) as progress:
                verify_samples(opened, progress=progress)
                verify_job_files(opened)
        report = inspect_samples(opened, samples=samples)
    if json:
        shown = [{"row": one.row, "values": _shown(one.values)} for one in report.samples]
        print_json(plain(_without_values(report)) | {"samples": shown, "verified": verify})
        return
    rows = [
        ("rows", count(report.rows)),
        ("stored", f"{size(report.nbytes)}, {report.bytes_per_row:,.0f} bytes a row, codec {report.codec}"),
        *((f"column {name}", describe_type(value)) for name, value in report.features.items()),
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
    for one in report.samples:
        stdout.print(f"\nrow {count(one.row)}:", style="dim")
        for name, value in _shown(one.values).items():
            stdout.print(f"{name}: {value}", markup=False, highlight=False)


def describe_type(feature: dict[str, Any]) -> str:
    """A column's type in words.

    >>> describe_type({"_type": "List", "feature": {"_type": "Array", "shape": [4], "dtype": "float32"}})
    'List of Array float32 [4]'
    """
    kind = str(feature["_type"])
    if kind == "List":
        return f"List of {describe_type(feature['feature'])}"
    if kind == "ClassLabel":
        names = feature["names"]
        more = f", ... ({len(names)} classes)" if len(names) > 8 else ""
        return f"ClassLabel {', '.join(names[:8])}{more}"
    shape = f" {feature['shape']}" if "shape" in feature else ""
    return f"{kind} {feature.get('dtype', '')}{shape}".rstrip()


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
