"""A model, a file of prompts, a directory -> the whole job: load, resume, generate, store."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

from headrace.errors import ConfigError
from headrace.generation.job import GenerateSummary, Progress, run_job
from headrace.generation.loading import load_engine, load_workers
from headrace.generation.options import SamplingOptions
from headrace.generation.prompts.chat import ChatEncoder
from headrace.generation.prompts.reader import PromptSource, read_prompts, survey_prompts
from headrace.sink import open_sink
from headrace.stats import Stats


def generate(
    model: str | os.PathLike[str],
    prompts: PromptSource,
    out: str | os.PathLike[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    logprobs: bool = False,
    prompt_logprobs: bool = False,
    seed: int = 0,
    num_samples: int = 1,
    engine: Literal["native", "transformers", "vllm"] = "native",
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 1,
    distribute: Literal["local", "ray"] = "local",
    form: Literal["parquet", "jsonl"] = "parquet",
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> GenerateSummary:
    """Generate for every prompt and store each prediction exactly once.

    Stopped at any moment, by any signal, the same call again makes what is missing; the result
    has the same keys, each once. Read it with `read_predictions(out)`.

    Args:
        model: a run directory, or a Hugging Face directory.
        prompts: path of a .txt, .jsonl, .csv or .parquet file, plain or compressed, or a sequence
            of texts or mappings; a row is a text, token ids, or messages for the model's chat template.
        out: directory of the predictions, or an s3://, gs:// or az:// URL.
        max_new_tokens: tokens to generate at most for each sample.
        temperature: 0 is greedy.
        top_k: choose among the k likeliest tokens.
        top_p: choose among the likeliest tokens that together have this probability.
        min_p: leave out tokens less likely than this share of the likeliest.
        repetition_penalty: divides logits of tokens in prompt or output; 1 is none.
        presence_penalty: is subtracted from logits of tokens in the output; 0 is none.
        frequency_penalty: the same for each time a token is there; 0 is none.
        stop: texts that end a sample.
        ignore_eos: go on after the end-of-document id.
        logprobs: store the log-probability of each generated token.
        prompt_logprobs: store that of each prompt token.
        seed: with the prompt's id and the sample's index it fixes the sample.
        num_samples: of each prompt.
        engine: what runs the model: "native", "transformers" (its continuous batching) or "vllm".
        dtype: "float32", "bfloat16", or "auto": as the weights are stored, float32 on a CPU.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        batch_size: rows decoded at once by each worker; may change when a job goes on.
        workers: copies of the model that share the prompts; may change when a job goes on.
        distribute: where workers are: "local" processes, or "ray" actors.
        form: of the parts: "parquet" or "jsonl".
        retry_errors: make samples again whose stored row is an error.
        progress: progress(done, total, note).

    Raises:
        ConfigError: an option makes no sense, or the engine cannot do it.
        SourceError: the prompts cannot be read.
        ResumeError: `out` holds the output of another request.
        SinkError: another process writes to `out`.
        SpaceError: no room left; what was stored is kept.
    """
    started = time.perf_counter()
    if num_samples < 1:
        raise ConfigError(f"generate: num_samples is {num_samples}; it must be at least 1.")
    if batch_size < 1:
        raise ConfigError(f"generate: batch_size is {batch_size}; it must be at least 1.")
    if workers < 1:
        raise ConfigError(f"generate: workers is {workers}; it must be at least 1.")
    sampling = SamplingOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        ignore_eos=ignore_eos,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        seed=seed,
    )
    survey = survey_prompts(prompts)
    stats = Stats()
    with ExitStack() as stack:
        how: dict[str, Any] = {"engine": engine, "dtype": dtype, "device": device, "batch_size": batch_size}
        if workers > 1 or distribute != "local":
            loaded = stack.enter_context(load_workers(model, workers=workers, distribute=distribute, **how))
        else:
            loaded = load_engine(model, stats=stats, **how)
        loaded.check_supported(sampling)
        request: dict[str, Any] = {
            "engine": engine,
            "model": loaded.fingerprint,
            "dtype": loaded.dtype,
            "tokenizer": loaded.tokenizer_fingerprint,
            "prompts": survey.digest,
            "num_prompts": survey.num_prompts,
            "num_samples": num_samples,
            "sampling": sampling.to_json(),
            "form": form,
        }
        load_s = time.perf_counter() - started
        with open_sink(out, request=request, form=form, retry_errors=retry_errors) as sink:
            started = time.perf_counter()
            made, prompt_tokens, completion_tokens = run_job(
                read_prompts(prompts),
                loaded.engine,
                sink,
                tokenizer=loaded.prompt_tokenizer,
                sampling=sampling,
                chat=ChatEncoder(model),
                num_samples=num_samples,
                num_prompts=survey.num_prompts,
                progress=progress,
                stats=stats,
            )
            num_predictions, num_errors = sink.counts()
            wall_s = time.perf_counter() - started
            run_id = sink.run_id
    return GenerateSummary(
        out=os.fspath(out),
        run_id=run_id,
        engine=engine,
        num_prompts=survey.num_prompts,
        num_predictions=num_predictions,
        num_new=made,
        num_errors=num_errors,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        wall_s=wall_s,
        load_s=load_s,
        tokens_per_s=completion_tokens / wall_s if wall_s > 0 else 0.0,
        stages=stats.snapshot(),
    )
