"""A CSV of measured training runs -> set-ups with step seconds and memory; rows that cannot be read, by reason."""

from __future__ import annotations

import csv
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.errors import ConfigError, SourceError
from headrace.paths import local_path
from headrace.plan.hardware import gpu_by_name
from headrace.plan.points import Column, Points, points
from headrace.plan.shapes import ModelShape

REQUIRED = (
    "source",
    "gpu",
    "n_gpus",
    "layers",
    "hidden",
    "heads",
    "seq",
    "global_batch_seqs",
    "dp",
    "tp",
    "pp",
)
"""Columns that a table must have; `micro_batch`, `fsdp`, `cp`, `precision`, `activation_ckpt`, `ffn`, `gated`,
`kv_heads`, `vocab`, `interleave`, `params_b`, `mfu_pct`, `tflops_per_gpu`, `tokens_per_s_per_gpu`, `mem_gib`, `note`
and `model` are read where they are."""

_MIXTURE = re.compile(
    r"mixtral|\bmoe\b|-moe|moe-|\d+x\d+b|\ba\d+(\.\d+)?b\b|deepseek[-_ ]?v[23]|gpt[-_ ]?oss|qwen3[-_ ]next|kimi|"
    r"grok|dbrx|switch|glam|arctic|glm[-_ ]?4\.5|llama[-_ ]?4|mixture",
    re.IGNORECASE,
)
_PARAMETERS_APART = 0.3
_PARAMETERS_ROUNDED = 0.02
"""How far params_b may be from the columns' parameters and still mean the same model."""
_WIDTH_STEP = 256
"""Published feed-forward widths are multiples of it."""
_RANK_0 = re.compile("nanotron", re.IGNORECASE)
"""Sources whose mem_gib is that of rank 0, the first stage (nanotron/helpers.py and logging: create_table_log)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTable:
    """Rows of a table that could be read, in its order."""

    rows: tuple[int, ...]
    """0-based data rows of the file; parallel to the arrays."""
    systems: tuple[str, ...]
    """Source family and GPU: what shares constants."""
    points: Points
    step_s: Column
    """Measured seconds of a step; NaN where the row does not say."""
    memory_bytes: Column
    """Measured bytes of device memory; NaN where the row does not say."""
    unread: dict[int, str]
    """Rows that could not be read, and why."""


def read_table(path: str | Path) -> MeasuredTable:
    """Read measured points from a CSV file with a header.

    Raises:
        SourceError: no such file, not CSV in UTF-8, or without the needed columns.
    """
    try:
        with local_path(path, name="plan: table").open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: cannot be read as CSV in UTF-8: {reason}") from error
    _check_header(path, list(columns))
    rows, systems, parts, steps, memories, unread = [], [], [], [], [], {}
    for number, line in enumerate(lines):
        try:
            point = _point(line, len(columns))
            step_s, used = _step_s(line, point), _number(line, "mem_gib", 0.0) * 2**30
        except ConfigError as error:
            unread[number] = str(error)
            continue
        rows.append(number)
        systems.append(system_of(line["source"] or "", line["gpu"]))
        parts.append(point)
        steps.append(step_s)
        memories.append(used or np.nan)
    if not parts:
        why = (
            f"none of {len(lines)} rows can be read: row 0: {unread[0]}" if unread else "a header and no rows"
        )
        raise SourceError(f"{path}: {why}")
    return MeasuredTable(
        rows=tuple(rows),
        systems=tuple(systems),
        points=Points.concatenate(parts),
        step_s=np.array(steps),
        memory_bytes=np.array(memories),
        unread=unread,
    )


def _check_header(path: str | Path, columns: list[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise SourceError(f"{path}: column {twice[0]} is there twice; expected each name once")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        got = ", ".join(columns[:12]) or "nothing"
        cure = " Separate the columns by commas." if len(columns) == 1 and re.search(r"[;\t|]", got) else ""
        raise SourceError(
            f"{path}: no column {', '.join(missing)}; expected a header with {', '.join(REQUIRED)}; got {got}.{cure}"
        )


def system_of(source: str, gpu: str) -> str:
    """The system of a row: the source's project without file, table or commit, and the GPU.

    >>> system_of("vTrain (MICRO 2024, MIT) data/ground_truth_single.csv - measured", "A100")
    'vTrain A100'
    >>> system_of("Megatron-Bridge docs/performance-summary.md@945a4d9ca", "H100-80GB")
    'Megatron-Bridge H100-80GB'
    """
    words = source.strip().split()
    name = words[0] if words else "unnamed"
    return f"{name.split('@')[0].rstrip(',:')} {gpu.strip()}"


def _number(line: dict[str, str], name: str, default: float | None) -> float:
    text = (line.get(name) or "").strip()
    if not text:
        if default is None:
            raise ConfigError(f"{name} is empty")
        return default
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; expected a number") from None
    if not np.isfinite(value) or value < 0:
        raise ConfigError(f"{name} is {text}; expected a number of 0 or more")
    return value


def _whole(line: dict[str, str], name: str, default: float | None) -> int:
    value = _number(line, name, default)
    if value < 1 or value != int(value):
        raise ConfigError(f"{name} is {value:g}; expected a whole number above 0")
    return int(value)


def _point(line: dict[str, str], columns: int) -> Points:
    if None in line:  # where DictReader keeps cells without a column
        raise ConfigError(f"more cells than the header's {columns}: a comma without quotes?")
    name = (line.get("model") or "").strip()
    experts = _number(line, "experts", 0) if "experts" in line else _number(line, "num_experts", 0)
    if experts > 1 or _MIXTURE.search(name):
        raise ConfigError(f"model {name!r} is a mixture of experts: plan knows dense decoders only")
    shape = _shape(line, name)
    dp, fsdp, tp, pp, cp = (_whole(line, column, 1) for column in ("dp", "fsdp", "tp", "pp", "cp"))
    gpus = _whole(line, "n_gpus", None)
    if dp * fsdp * tp * pp * cp != gpus:
        raise ConfigError(f"dp {dp} x fsdp {fsdp} x tp {tp} x pp {pp} x cp {cp} is not n_gpus {gpus}")
    micro_batch = _whole(line, "micro_batch", 1)
    if pp > 1 and "local batch" in (line.get("note") or ""):
        micro_batch = 1  # the column holds the rows of a whole step, which the pipeline splits
    precision = (line.get("precision") or "bf16").strip().lower()
    dtype = next(
        (
            d
            for key, d in (
                ("fp4", "fp4"),
                ("fp8", "fp8"),
                ("fp32", "float32"),
                ("float32", "float32"),
                ("16", "bf16"),
            )
            if key in precision
        ),
        None,
    )
    if dtype is None:
        raise ConfigError(f"precision is {precision!r}; expected fp32, fp16, bf16, fp8 or fp4 in it")
    saving = (line.get("activation_ckpt") or "").strip().lower()
    recompute = 2 if saving.startswith("full") else 1 if saving.startswith("selective") else 0
    return points(
        shape,
        gpu_by_name(line["gpu"] or ""),
        seq_len=_whole(line, "seq", None),
        global_batch=_whole(line, "global_batch_seqs", None),
        dtype=dtype,
        # Published fp16 results are from before flash attention; bfloat16 and less from after it.
        flash=not precision.startswith("fp16"),
        first_stage=_RANK_0.search(line["source"] or "") is not None,
        layout={
            "micro_batch": micro_batch,
            "dp": dp,
            "fsdp": fsdp,
            "zero": 3 if fsdp > 1 or (cp > 1 and dp == 1) else _zero_stage(line),
            "tp": tp,
            "pp": pp,
            "cp": cp,
            "interleave": _whole(line, "interleave", 1),
            "recompute": recompute,
        },
    )


def _zero_stage(line: dict[str, str]) -> int:
    found = re.search(r"zero-?([0123])", (line.get("note") or ""), re.IGNORECASE)
    return int(found.group(1)) if found else 0


def _shape(line: dict[str, str], name: str) -> ModelShape:
    hidden, heads = _whole(line, "hidden", None), _whole(line, "heads", None)
    ffn = _number(line, "ffn", 0)
    is_multiple = 0 < ffn < 64  # of the width
    shape = ModelShape(
        name=name or "unnamed",
        num_layers=_whole(line, "layers", None),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=int(_number(line, "kv_heads", 0)),
        ffn_size=int(ffn * hidden if is_multiple else ffn),
        gated=_number(line, "gated", 0) > 0,
        vocab_size=int(_number(line, "vocab", 0)) or _known_vocabulary(name),
    )
    stated = _number(line, "params_b", 0) * 1e9
    if not stated:
        return shape
    untied = dataclasses.replace(shape, tied=False)
    low, high = shape.num_parameters, untied.num_parameters
    if not (1 - _PARAMETERS_APART) * low <= stated <= (1 + _PARAMETERS_APART) * high:
        raise ConfigError(
            f"model {name!r}: layers, hidden, ffn, gated, kv_heads and vocab make {low / 1e9:.2f} G "
            f"parameters, params_b says {stated / 1e9:.2f} G: a mixture of experts, or a column is missing or wrong"
        )
    if is_multiple and min(abs(low / stated - 1), abs(high / stated - 1)) > _PARAMETERS_ROUNDED:
        return _of_parameters(shape, stated)
    return min(shape, untied, key=lambda s: abs(s.num_parameters - stated))


def _of_parameters(shape: ModelShape, parameters: float) -> ModelShape:
    """The shape with the feed-forward width that makes so many parameters.

    For tables that round the width to a multiple of the hidden size ("4 h" where it is 3.5). The head is the token
    table or not, whichever width is nearer to a multiple of _WIDTH_STEP.
    """
    found = []
    for tied in (True, False):
        bare = dataclasses.replace(shape, tied=tied, ffn_size=1)
        a_unit = shape.hidden_size * (3 if shape.gated else 2)
        width = 1 + (parameters - bare.num_parameters) / (shape.num_layers * a_unit)
        width = max(1.0, width)
        rounded = max(1, round(width / _WIDTH_STEP)) * _WIDTH_STEP
        found.append((abs(rounded / width - 1), dataclasses.replace(bare, ffn_size=rounded)))
    return min(found, key=lambda pair: pair[0])[1]


_VOCABULARIES = (
    (re.compile(r"llama[-_ ]?(v?3|3\.)", re.IGNORECASE), 128256),
    (re.compile(r"llama|mistral", re.IGNORECASE), 32000),
    (re.compile(r"mpt", re.IGNORECASE), 50368),
    (re.compile(r"nemotron|gemma", re.IGNORECASE), 256000),
    (re.compile(r"qwen", re.IGNORECASE), 151936),
)


def _known_vocabulary(name: str) -> int:
    return next((size for pattern, size in _VOCABULARIES if pattern.search(name)), 51200)


def _step_s(line: dict[str, str], point: Points) -> float:
    """From tokens/s where the row says it, else from TFLOP/s, else from MFU."""
    tokens = float(point.global_batch[0] * point.seq_len[0])
    gpus = float(point.gpus[0])
    rate = _number(line, "tokens_per_s_per_gpu", 0)
    if rate:
        return tokens / (rate * gpus)
    flops = _number(line, "tflops_per_gpu", 0) * 1e12
    if not flops:
        flops = _number(line, "mfu_pct", 0) / 100 * float(point.peak[0])
    return tokens * float(point.flops_per_token[0]) / (flops * gpus) if flops else np.nan
