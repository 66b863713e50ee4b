"""A model, a file of prompts, a directory -> the whole job: load, resume, generate, store."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from headrace.generation.distributed import load_workers
from headrace.generation.job import GenerateSummary, Progress, run_job
from headrace.generation.loading import LoadedEngine, load_engine
from headrace.generation.options import EngineOptions, OutputOptions, PromptOptions, SamplingOptions
from headrace.generation.prompts import ChatEncoder, PromptSource, PromptSurvey, read_prompts, survey_prompts
from headrace.model import fetch_model
from headrace.paths import given_path, model_name
from headrace.sink import open_sink
from headrace.stats import Stats


def generate(
    model: str | os.PathLike[str],
    prompts: PromptSource,
    out: str | os.PathLike[str],
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    num_samples: int | None = None,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008  # frozen
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    prompt_options: PromptOptions = PromptOptions(),  # noqa: B008
    output: OutputOptions = OutputOptions(),  # noqa: B008
    progress: Progress | None = None,
    load_progress: Progress | None = None,
) -> GenerateSummary:
    """Generate for every prompt and store each prediction exactly once.

    If the process is stopped, by any signal at any moment, the same call resumes: it generates what is missing, and
    the result holds each key once. Read it with `read_predictions(out)`.

    Args:
        model: a run directory or a Hugging Face directory, local or by its s3://, gs://, az:// or http(s):// URL, or
            hf://OWNER/NAME[@REVISION].
        prompts: path of a .txt, .jsonl, .csv or .parquet file, plain or compressed, or a sequence
            of texts or mappings; a row is a text, token ids, or messages for the model's chat template.
        out: directory of the predictions, or an s3://, gs:// or az:// URL.
        max_new_tokens: replaces `sampling.max_new_tokens`.
        temperature: replaces `sampling.temperature`.
        num_samples: replaces `prompt_options.num_samples`.
        sampling: how tokens are chosen and when a sample ends.
        engine: what runs the model, and on how many processes.
        prompt_options: how prompts become token ids.
        output: how predictions are stored.
        progress: called as progress(done, total, note).
        load_progress: the same in bytes, while the model is fetched and read.

    Raises:
        ConfigError: an option is invalid, or the engine does not support it.
        SourceError: the prompts cannot be read.
        ResumeError: `out` holds the output of another request.
        SinkError: another process writes to `out`.
        SpaceError: no space left on the device; stored predictions are kept.
    """
    sampling = replace(sampling, **_given(max_new_tokens=max_new_tokens, temperature=temperature))
    prompt_options = replace(prompt_options, **_given(num_samples=num_samples))
    return _generate(model, prompts, out, sampling, engine, prompt_options, output, progress, load_progress)


def _generate(
    model: str | os.PathLike[str],
    prompts: PromptSource,
    out: str | os.PathLike[str],
    sampling: SamplingOptions,
    engine: EngineOptions,
    prompt_options: PromptOptions,
    output: OutputOptions,
    progress: Progress | None,
    load_progress: Progress | None,
) -> GenerateSummary:
    started = time.perf_counter()
    out = given_path(out, name="out", expected="a path or a URL")
    survey = survey_prompts(prompts)
    stats = Stats()
    path = fetch_model(model, progress=load_progress)
    with ExitStack() as stack:
        # Actors of a cluster fetch for themselves, each machine once.
        source = path if engine.distribute == "local" else model
        loaded = _load(source, engine, stats, stack, load_progress)
        loaded.check_supported(sampling)
        request = _request(loaded, survey, sampling, engine, prompt_options, output)
        load_s = time.perf_counter() - started
        with open_sink(
            out,
            request=request,
            format=output.format,
            retry_errors=output.retry_errors,
            rebuild=output.rebuild_commits,
        ) as sink:
            started = time.perf_counter()
            num_new, prompt_tokens, completion_tokens = run_job(
                read_prompts(prompts),
                loaded.engine,
                sink,
                tokenizer=loaded.prompt_tokenizer,
                sampling=sampling,
                chat=ChatEncoder(path),
                prompt_options=prompt_options,
                model=model_name(model),
                num_prompts=survey.num_prompts,
                progress=progress,
                stats=stats,
            )
            num_predictions, num_errors = sink.counts()
            wall_s = time.perf_counter() - started
            counts: dict[str, Any] = {
                "run_id": sink.run_id,
                "num_predictions": num_predictions,
                "num_new": num_new,
                "num_errors": num_errors,
                "prompt_tokens": prompt_tokens,
                "cached_tokens": loaded.engine.cached_tokens,
                "completion_tokens": completion_tokens,
                "wall_s": wall_s,
                "tokens_per_s": completion_tokens / wall_s if wall_s > 0 else 0.0,
            }
    return GenerateSummary(
        **counts,
        out=out,
        engine=engine.name,
        num_prompts=survey.num_prompts,
        load_s=load_s,
        stages=stats.snapshot(),
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _load(
    model: str | os.PathLike[str],
    engine: EngineOptions,
    stats: Stats,
    stack: ExitStack,
    progress: Progress | None,
) -> LoadedEngine:
    options: dict[str, Any] = {
        "engine": engine.name,
        "dtype": engine.dtype,
        "device": engine.device,
        "batch_size": engine.batch_size,
        "prefix_cache": engine.prefix_cache,
    }
    if engine.workers > 1 or engine.distribute != "local":
        return stack.enter_context(
            load_workers(model, workers=engine.workers, distribute=engine.distribute, **options)
        )
    return load_engine(model, stats=stats, progress=progress, **options)


def _request(
    loaded: LoadedEngine,
    survey: PromptSurvey,
    sampling: SamplingOptions,
    engine: EngineOptions,
    prompt_options: PromptOptions,
    output: OutputOptions,
) -> dict[str, Any]:
    """Everything that determines the predictions; its hash is the run id."""
    return {
        "engine": engine.name,
        "model": loaded.fingerprint,
        "dtype": loaded.dtype,
        "tokenizer": loaded.tokenizer_fingerprint,
        "prompts": survey.digest,
        "num_prompts": survey.num_prompts,
        "num_samples": prompt_options.num_samples,
        "add_special_tokens": prompt_options.add_special_tokens,
        "split_special_tokens": prompt_options.split_special_tokens,
        "sampling": sampling.to_json(),
        "format": output.format,
    }
