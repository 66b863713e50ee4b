"""A run as a value -> its headline, its key figures, and what ran, as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.profile.charts import loss_chart, speed, stage_times
from headrace.profile.rivals import big, megabytes, times
from headrace.profile.rundir import RunFiles
from headrace.profile.where import duration, percent, wall_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One key figure."""

    name: str
    value: str
    unit: str = ""


def headline(run: RunFiles) -> str:
    """The page's title: the one given, or model and directory."""
    given = run.about.get("title")
    if given:
        return str(given)
    model = _model_name(run)
    return f"{model}: {run.path.resolve().name}" if model else run.path.resolve().name


def subtitle(run: RunFiles) -> str:
    """Model, corpus and machine in one line."""
    parts = [
        _model(run),
        _corpus(run),
        _machine(run),
        str(run.about.get("started", "")),
    ]
    return " · ".join(part for part in parts if part)


def tiles(run: RunFiles) -> list[Tile]:
    """The figures a reader looks for first; those that were not measured are left out."""
    found: list[Tile] = []
    chart = loss_chart(run.steps)
    if chart is not None:
        train = [series for series in chart.series if series.role == "main"]
        if train:
            first, last = chart.series[0].points[0][1], train[-1].points[-1][1]
            found.append(Tile(name="training loss", value=f"{first:.2f} → {last:.2f}", unit="nats"))
    rates = [rate for step in run.steps if (rate := speed(step)) is not None]
    if rates:
        found.append(Tile(name="training speed", value=f"{statistics.median(rates):,.0f}", unit="tokens/s"))
    tokens = run.steps[-1].tokens if run.steps else 0
    if tokens:
        found.append(Tile(name="trained on", value=big(tokens), unit="tokens"))
    stages = stage_times(run)
    wall = wall_seconds(stages)
    if wall:
        waiting = sum(stage.seconds for stage in stages if stage.name == "waiting")
        found.append(Tile(name="time waiting for data", value=percent(waiting / wall)))
    theirs, ours = run.naive.get("naive") or {}, run.naive.get("headrace") or {}
    if theirs.get("tokens_per_s") and ours.get("tokens_per_s"):
        ratio = times(ours["tokens_per_s"] / theirs["tokens_per_s"], "", "slower").strip()
        found.append(Tile(name="loading, against the naive way", value=ratio))
    if run.predictions.get("predictions"):
        found.append(
            Tile(name="predictions stored", value=f"{run.predictions['predictions']:,}", unit="each once")
        )
    return found


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """Names and values of what ran; what is not known is left out."""
    ingest, predictions, about = run.ingest, run.predictions, run.about
    pairs = [
        ("model", _model(run)),
        ("corpus", _corpus(run)),
        ("tokenizer", _tokenizer(run)),
        ("store", _store(run)),
        ("ingest", _ingest(ingest)),
        ("training", _training(run)),
        ("MFU", _mfu(run)),
        ("predictions", _predictions(predictions)),
        ("machine", _machine(run)),
        ("software", str(about.get("software", ""))),
        ("started", str(about.get("started", ""))),
        ("command", str(about.get("command") or run.run.get("command") or "")),
        ("directory", str(run.path.resolve())),
    ]
    return [(name, value) for name, value in pairs if value]


def _recipe(run: RunFiles) -> Mapping[str, Any]:
    recipe = run.run.get("recipe")
    return recipe if isinstance(recipe, Mapping) else {}


def _shape(run: RunFiles) -> Mapping[str, Any]:
    model = _recipe(run).get("model")
    return model if isinstance(model, Mapping) else {}


def _model_name(run: RunFiles) -> str:
    return str(_recipe(run).get("model_name") or "")


def _model(run: RunFiles) -> str:
    shape = _shape(run)
    name = _model_name(run)
    parts = [f"{name} GPT" if name else ""]
    parameters = run.run.get("parameters")
    if isinstance(parameters, (int, float)) and parameters:
        parts.append(f"{big(parameters)} parameters")
    if shape.get("num_hidden_layers") and shape.get("hidden_size"):
        parts.append(
            f"{shape['num_hidden_layers']} layers of width {shape['hidden_size']}"
            + (f", {shape['num_attention_heads']} heads" if shape.get("num_attention_heads") else "")
            + (
                f", context {shape['max_position_embeddings']}"
                if shape.get("max_position_embeddings")
                else ""
            )
        )
    return ", ".join(part for part in parts if part)


def _corpus(run: RunFiles) -> str:
    return str(run.about.get("corpus", ""))


def _tokenizer(run: RunFiles) -> str:
    given = run.about.get("tokenizer")
    if given:
        return str(given)
    vocabulary = _shape(run).get("vocab_size")
    return f"{vocabulary:,} ids" if isinstance(vocabulary, int) else ""


def _store(run: RunFiles) -> str:
    given = run.about.get("store")
    stores = run.run.get("stores") or ()
    return str(given) if given else ", ".join(str(_place(store)) for store in stores)


def _place(store: object) -> object:
    return store.get("url", store) if isinstance(store, Mapping) else store


def _mfu(run: RunFiles) -> str:
    known = [step.mfu for step in run.steps if step.mfu is not None]
    if known:
        return (
            f"{100 * statistics.median(known):.1f} % of the devices' peak, the median of {len(known):,} steps"
        )
    return "unknown hardware; its peak is not guessed" if run.steps else ""


def _ingest(ingest: Mapping[str, Any]) -> str:
    parts = []
    if ingest.get("documents"):
        parts.append(f"{ingest['documents']:,} documents")
    if ingest.get("bytes_in"):
        parts.append(f"{megabytes(ingest['bytes_in'])} of text")
    if ingest.get("tokens"):
        parts.append(f"{ingest['tokens']:,} tokens")
    if ingest.get("wall_s"):
        parts.append(duration(ingest["wall_s"]))
    return ", ".join(parts)


def _training(run: RunFiles) -> str:
    if not run.steps:
        return ""
    parts = [f"{len(run.steps):,} steps"]
    if run.steps[-1].tokens:
        parts.append(f"{run.steps[-1].tokens:,} tokens")
    seconds = sum(step.step_s for step in run.steps)
    if seconds:
        parts.append(duration(seconds))
    return ", ".join(parts)


def _predictions(predictions: Mapping[str, Any]) -> str:
    if not predictions.get("predictions"):
        return ""
    parts = [f"{predictions['predictions']:,} stored"]
    if predictions.get("new_tokens"):
        parts.append(f"{predictions['new_tokens']:,} new tokens")
    if predictions.get("wall_s"):
        parts.append(duration(predictions["wall_s"]))
    if predictions.get("tokens_per_s"):
        parts.append(f"{predictions['tokens_per_s']:,.0f} tokens/s")
    return ", ".join(parts)


def _machine(run: RunFiles) -> str:
    known = run.about.get("machine") or run.run.get("machine")
    if not isinstance(known, Mapping):
        return ""
    parts = [str(known.get("processor", ""))]
    if known.get("cores"):
        parts.append(f"{known['cores']} cores")
    if known.get("memory_bytes"):
        parts.append(f"{known['memory_bytes'] / 2**30:.0f} GiB")
    return ", ".join(part for part in parts if part)
