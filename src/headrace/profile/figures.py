"""The files of a run -> the report's title, its key figures, and the list of what ran, as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import HeadraceError
from headrace.formatting import approximate, count, duration, nbytes, percent, ratio
from headrace.profile.charts import loss_chart, overall_tokens_per_s
from headrace.profile.run_files import RunFiles
from headrace.profile.stage_times import run_stage_times, wall_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One key figure."""

    name: str
    value: str
    unit: str = ""


def run_title(run: RunFiles) -> str:
    """The report's title: the one in about.json, or model and directory."""
    given = run.about.get("title")
    if given:
        return str(given)
    model = _model_name(run)
    return f"{model}: {run.path.resolve().name}" if model else run.path.resolve().name


def run_subtitle(run: RunFiles) -> str:
    """Model, corpus and machine in one line."""
    parts = (_model(run), str(run.about.get("corpus", "")), _machine(run), str(run.about.get("started", "")))
    return " · ".join(part for part in parts if part)


def run_tiles(run: RunFiles) -> list[Tile]:
    """The figures that a reader looks for first; those that were not measured are left out."""
    tiles: list[Tile] = []
    chart = loss_chart(run.steps)
    main = [series for series in chart.series if series.role == "main"] if chart else []
    if chart and main:
        first, last = chart.series[0].points[0][1], main[-1].points[-1][1]
        smoothed = main[-1] is not chart.series[0]
        tiles.append(
            Tile(
                name="training loss",
                value=f"{first:.2f} → {last:.2f}",
                unit="nats (median)" if smoothed else "nats",
            )
        )
    best = _mapping(run.run, "best")
    if best.get("eval_loss") is not None:
        unit = f"nats, at step {count(best['step'])}"
        tiles.append(Tile(name="best held-out loss", value=f"{best['eval_loss']:.2f}", unit=unit))
    bits = [step.eval_bits_per_byte for step in run.steps if step.eval_bits_per_byte is not None]
    if bits:
        tiles.append(Tile(name="lowest held-out bits", value=f"{min(bits):.3f}", unit="per byte of text"))
    speed = overall_tokens_per_s(run.steps)
    if speed is not None:
        tiles.append(Tile(name="training speed", value=count(speed), unit="tokens/s, over the whole run"))
    tokens = run.steps[-1].tokens if run.steps else 0
    if tokens:
        tiles.append(Tile(name="trained on", value=approximate(tokens), unit="tokens"))
    stages = run_stage_times(run)
    wall = wall_seconds(stages)
    if wall and run.steps:
        waiting = sum(stage.seconds for stage in stages if stage.name == "waiting")
        tiles.append(Tile(name="time waiting for data", value=percent(waiting / wall)))
    naive, ours = run.naive.get("naive") or {}, run.naive.get("headrace") or {}
    if naive.get("tokens_per_s") and ours.get("tokens_per_s"):
        gain = ratio(ours["tokens_per_s"] / naive["tokens_per_s"], "", "slower")
        tiles.append(Tile(name="loading speed against the naive loader", value=gain))
    if run.predictions.get("predictions"):
        tiles.append(
            Tile(name="predictions stored", value=count(run.predictions["predictions"]), unit="each once")
        )
    return tiles


def run_facts(run: RunFiles) -> list[tuple[str, str]]:
    """Names and values of what ran; unknown ones are left out."""
    about = run.about
    facts = [
        ("model", _model(run)),
        ("corpus", str(about.get("corpus", ""))),
        ("tokenizer", _tokenizer(run)),
        ("store", _store(run)),
        ("ingest", _ingest(run.ingest)),
        ("training", _training(run)),
        ("layout", _layout(run)),
        ("plan", _plan(run)),
        ("device", _device(run)),
        ("optimizer", _optimizer(run)),
        ("learning rate", _learning_rate(run)),
        ("gradient norm", _gradient_norm(run)),
        ("MFU", _mfu(run)),
        ("predictions", _predictions(run.predictions)),
        ("machine", _machine(run)),
        ("software", str(about.get("software", ""))),
        ("started", str(about.get("started", ""))),
        ("command", str(about.get("command") or run.run.get("command") or "")),
        ("directory", str(run.path.resolve())),
    ]
    return [(name, value) for name, value in facts if value]


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}


def _recipe(run: RunFiles) -> Mapping[str, Any]:
    return _mapping(run.run, "recipe")


def _model_name(run: RunFiles) -> str:
    return str(_recipe(run).get("model_name") or "")


def _family(shape: Mapping[str, Any]) -> str:
    """Name of the architecture: only a GPT's shape has no model_type.

    >>> _family({"model_type": "llama"}), _family({"model_type": "gemma3_text"}), _family({})
    ('Llama', 'Gemma3', 'GPT')
    """
    kind = str(shape.get("model_type") or "")
    return kind.removesuffix("_text").capitalize().replace("Olmo", "OLMo") if kind else "GPT"


def _model(run: RunFiles) -> str:
    shape = _mapping(_recipe(run), "model")
    name = _model_name(run)
    parts = [f"{name} {_family(shape)}" if name else ""]
    parameters = run.run.get("parameters")
    if isinstance(parameters, (int, float)) and parameters:
        parts.append(f"{approximate(parameters)} parameters")
        trainable = run.run.get("trainable_parameters")
        if isinstance(trainable, int) and trainable != parameters:
            rank = _mapping(_recipe(run), "lora").get("r")
            parts.append(f"{approximate(trainable)} of them learn by LoRA of rank {rank}")
    if shape.get("num_hidden_layers") and shape.get("hidden_size"):
        parts.append(f"{shape['num_hidden_layers']} layers of width {shape['hidden_size']}")
    if shape.get("num_attention_heads"):
        parts.append(f"{shape['num_attention_heads']} heads")
    if shape.get("max_position_embeddings"):
        parts.append(f"context {shape['max_position_embeddings']}")
    return ", ".join(part for part in parts if part)


def _tokenizer(run: RunFiles) -> str:
    """The tokenizer's own size: the model's vocab_size may be padded."""
    given = run.about.get("tokenizer")
    if given:
        return str(given)
    directory = run.path / "tokenizer"
    if not directory.is_dir():
        return ""
    from headrace.tokens import load_tokenizer

    try:
        tokenizer = load_tokenizer(directory)
    except HeadraceError as error:
        return f"cannot be read: {error}"
    padded = _mapping(_recipe(run), "model").get("vocab_size")
    text = f"{count(tokenizer.vocab_size)} ids"
    if isinstance(padded, int) and padded > tokenizer.vocab_size:
        text += f" (the model's table is padded to {count(padded)})"
    return text


def _store(run: RunFiles) -> str:
    given = run.about.get("store")
    stores = run.run.get("stores") or ()
    return str(given) if given else ", ".join(str(_url(store)) for store in stores)


def _url(store: object) -> object:
    return store.get("url", store) if isinstance(store, Mapping) else store


def _ingest(ingest: Mapping[str, Any]) -> str:
    parts = []
    if ingest.get("documents"):
        parts.append(f"{count(ingest['documents'])} documents")
    if ingest.get("bytes_in"):
        parts.append(f"{nbytes(ingest['bytes_in'])} of text")
    if ingest.get("tokens"):
        parts.append(f"{count(ingest['tokens'])} tokens")
    if ingest.get("wall_s"):
        parts.append(duration(ingest["wall_s"]))
    return ", ".join(parts)


def _training(run: RunFiles) -> str:
    if not run.steps:
        return ""
    parts = [f"{count(len(run.steps))} steps"]
    if run.steps[-1].tokens:
        parts.append(f"{count(run.steps[-1].tokens)} tokens")
    seconds = sum(step.step_s for step in run.steps)
    if seconds:
        parts.append(duration(seconds))
    recipe = _recipe(run)
    if recipe.get("batch_size") and recipe.get("seq_len"):
        parts.append(f"batches of {count(recipe['batch_size'])} rows of {count(recipe['seq_len'])} tokens")
    return ", ".join(parts)


_DEGREES = {"dp": "data parallel", "tp": "tensor parallel", "pp": "pipeline parallel"}


def _layout(run: RunFiles) -> str:
    layout, processes = _mapping(run.run, "layout"), run.run.get("processes")
    parts = []
    if isinstance(processes, int):
        parts.append("1 process" if processes == 1 else f"{count(processes)} processes")
    parts += [
        f"{name} {layout[key]}"
        for key, name in _DEGREES.items()
        if isinstance(layout.get(key), int) and layout[key] > 1
    ]
    if layout.get("shard") not in (None, "none"):
        parts.append(f"sharding {layout['shard']}")
    return ", ".join(parts)


def _plan(run: RunFiles) -> str:
    """What `--layout auto` predicted for a step, beside what the steps took."""
    plan = _mapping(run.run, "plan")
    names = ("step_s", "step_s_low", "step_s_high")
    if not all(isinstance(plan.get(name), (int, float)) for name in names):
        return ""
    step_s, low, high = (float(plan[name]) for name in names)
    text = f"predicted {duration(step_s)} a step, {duration(low)} to {duration(high)} at 90 %"
    # Without the first step, which warms up, where there are others.
    took = [step.compute_s for step in run.steps[1:] or run.steps if step.compute_s]
    if took:
        measured = statistics.median(took)
        text += f"; measured {duration(measured)}, {percent(abs(measured / step_s - 1))} "
        text += "more" if measured > step_s else "less"
    trials = plan.get("measured")
    if isinstance(trials, list) and trials:
        text += f"; the fastest of {count(len(trials))} layouts that were measured"
    return text


def _device(run: RunFiles) -> str:
    parts = [str(run.run.get("device") or "")]
    if run.run.get("threads") and parts[0].startswith("cpu"):
        parts.append(f"{run.run['threads']} threads")
    if _recipe(run).get("dtype"):
        parts.append(f"matrix products in {_recipe(run)['dtype']}")
    if run.run.get("torch"):
        parts.append(f"torch {run.run['torch']}")
    return ", ".join(part for part in parts if part)


def _optimizer(run: RunFiles) -> str:
    return "; ".join(
        f"{group['optimizer']} with decay {group['weight_decay']:g} on {count(group['parameters'])} parameters "
        f"({', '.join(group['names'])})"
        for group in run.run.get("parameter_groups", ())
    )


def _learning_rate(run: RunFiles) -> str:
    rates = [step.lr for step in run.steps if step.lr is not None]
    return f"at most {max(rates):.3g}, {rates[-1]:.3g} in the last step" if rates else ""


def _gradient_norm(run: RunFiles) -> str:
    norms = [step.grad_norm for step in run.steps if step.grad_norm is not None]
    if not norms:
        return ""
    return f"median {statistics.median(norms):.3g}, largest {max(norms):.3g}, before clipping"


def _mfu(run: RunFiles) -> str:
    known = [step.mfu for step in run.steps if step.mfu is not None]
    if known:
        share = 100 * statistics.median(known)
        return f"{share:.1f} % of the devices' peak, the median of {count(len(known))} steps"
    return "unknown hardware; its peak is not guessed" if run.steps else ""


def _predictions(predictions: Mapping[str, Any]) -> str:
    if not predictions.get("predictions"):
        return ""
    parts = [f"{count(predictions['predictions'])} stored"]
    if predictions.get("new_tokens"):
        parts.append(f"{count(predictions['new_tokens'])} new tokens")
    if predictions.get("wall_s"):
        parts.append(duration(predictions["wall_s"]))
    if predictions.get("tokens_per_s"):
        parts.append(f"{count(predictions['tokens_per_s'])} tokens/s")
    return ", ".join(parts)


def _machine(run: RunFiles) -> str:
    machine = run.about.get("machine") or run.run.get("machine")
    if not isinstance(machine, Mapping):
        return ""
    parts = [str(machine.get("processor", ""))]
    if machine.get("cores"):
        parts.append(f"{machine['cores']} cores")
    if machine.get("memory_bytes"):
        parts.append(f"{machine['memory_bytes'] / 2**30:.0f} GiB")
    return ", ".join(part for part in parts if part)
