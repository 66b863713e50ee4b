"""Prompts, an engine and a sink -> every wanted sample stored once; stopped anywhere, it goes on.

Reading is lazy: the engine asks for requests as its rows become free, the sink makes the engine wait while a
part is being closed. Memory holds one batch and one part, however many prompts there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from headrace.errors import ConfigError, HeadraceError
from headrace.generation.options import SamplingOptions
from headrace.generation.prompts.prompt import Prompt
from headrace.generation.request import Request, error_prediction
from headrace.native import Target, native_target
from headrace.sink import RemoteSink, Sink
from headrace.stats import StageCount, Stats
from headrace.types import Prediction

Progress = Callable[[int, int | None, str], None]
PROGRESS_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSummary:
    """What a job did."""

    out: str
    run_id: str
    engine: str
    num_prompts: int
    num_predictions: int
    """Stored in all, error rows included."""
    num_new: int
    """Made by this call; the others were there already."""
    num_errors: int
    """Error rows stored in all."""
    prompt_tokens: int
    """Of the samples made by this call."""
    completion_tokens: int
    """Made by this call."""
    wall_s: float
    """From the first request to the commit."""
    load_s: float
    """Before that: model, tokenizer, first look at the prompts."""
    tokens_per_s: float
    """completion_tokens / wall_s."""
    stages: dict[str, StageCount] = field(default_factory=dict)
    native: Target = field(default_factory=native_target)
    """Instruction set of headrace's extension in C that ran, or "off": Python did the same work."""


class BatchEngine(Protocol):
    """Anything that turns a stream of requests into a stream of finished rows."""

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Rows in the order in which they end; a request that cannot be made is an error row."""


class Encode(Protocol):
    """Text to ids and back, for prompts."""

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt."""

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of a prompt that came as ids."""


def run_job(
    prompts: Iterable[Prompt],
    engine: BatchEngine,
    sink: Sink | RemoteSink,
    *,
    tokenizer: Encode,
    sampling: SamplingOptions,
    chat: Callable[[tuple[Any, ...]], list[int]] | None = None,
    num_samples: int = 1,
    num_prompts: int | None = None,
    progress: Progress | None = None,
    stats: Stats | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, int, int]:
    """Make every sample that the sink does not have yet.

    Args:
        prompts: read once, lazily.
        engine: makes the rows.
        sink: open; it is not closed here.
        tokenizer: for the prompts.
        sampling: for all prompts; a prompt's own fields come first.
        chat: messages to ids; without it a prompt of messages is an error row.
        num_samples: of each prompt that does not say itself.
        num_prompts: for progress only.
        progress: progress(done, total, note), samples that are stored.
        stats: gets the stages "prompts" and "sink".
        clock: seconds.

    Returns:
        Samples made now, their prompt tokens, their completion tokens.
    """
    stats = stats or Stats()
    done = skipped = made = prompt_tokens = completion_tokens = 0
    started = shown = clock()

    def requests() -> Iterator[Request]:
        nonlocal skipped, made
        for prompt in prompts:
            wanted = prompt.num_samples or num_samples
            missing = [i for i in range(wanted) if not sink.done(prompt.prompt_id, i)]
            skipped += wanted - len(missing)
            if not missing:
                continue
            with stats.busy("prompts", items=1):
                first = _request(prompt, tokenizer, sampling, chat)
            for i in missing:
                if isinstance(first, Prediction):
                    sink.put(replace(first, sample_index=i))
                    made += 1
                else:
                    yield replace(first, sample_index=i)

    for row in engine.run(requests()):
        with stats.busy("sink", items=1):
            sink.put(row)
        made += 1
        prompt_tokens += row.prompt_tokens
        completion_tokens += row.completion_tokens
        done = skipped + made
        now = clock()
        if progress is not None and now - shown >= PROGRESS_S:
            shown = now
            rate = completion_tokens / max(now - started, 1e-9)
            total = None if num_prompts is None else num_prompts * num_samples
            progress(done, total, f"{rate:,.0f} tokens/s")
    with stats.busy("sink"):
        sink.commit()
    if progress is not None:
        rate = completion_tokens / max(clock() - started, 1e-9)
        progress(skipped + made, skipped + made, f"{rate:,.0f} tokens/s")
    return made, prompt_tokens, completion_tokens


def _request(
    prompt: Prompt,
    tokenizer: Encode,
    sampling: SamplingOptions,
    chat: Callable[[tuple[Any, ...]], list[int]] | None,
) -> Request | Prediction:
    """The prompt's first sample as a request, or as the error row that stands for all its samples."""
    bare = Request(prompt_id=prompt.prompt_id, token_ids=(), prompt=prompt.text or "")
    if prompt.error is not None:
        return error_prediction(bare, prompt.error["message"], kind=prompt.error["type"])
    try:
        own: dict[str, Any] = dict(prompt.sampling)
        merged = replace(sampling, **own) if own else sampling
        ids = prompt.token_ids
        if prompt.messages is not None:
            if chat is None:
                raise ConfigError("messages: not taken here; give prompt instead.")
            ids = tuple(chat(prompt.messages))
        if ids is not None:
            return replace(bare, token_ids=ids, prompt=_text_of(ids, tokenizer), sampling=merged)
        return replace(bare, token_ids=tuple(tokenizer.encode(prompt.text or "")), sampling=merged)
    except (HeadraceError, TypeError, ValueError, IndexError, OverflowError) as error:
        # One bad prompt is one error row; nothing else of the job is touched.
        return error_prediction(bare, error)


def _text_of(ids: tuple[int, ...], tokenizer: Encode) -> str:
    try:
        return tokenizer.decode(ids)
    except (IndexError, OverflowError) as error:
        raise ConfigError(
            f"prompt: token ids from {min(ids)} to {max(ids)}; the tokenizer does not have all of them."
        ) from error
