"""Requests -> finished rows, by transformers' continuous batching.

A manager has one sampling configuration: a request with another one waits until the requests before it are finished.
The manager has no stop strings: they are detected here, and the request is then cancelled.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from headrace.errors import ConfigError, WorkerError
from headrace.generation.decoding.fingerprint import fingerprint_of
from headrace.generation.decoding.hf_runner import KNOWN_LAYERS, context_of
from headrace.generation.decoding.hf_weights import no_progress_bars
from headrace.generation.detokenizer import Detokenizer
from headrace.generation.engines.results import check_supported, make_prediction
from headrace.generation.options import SamplingOptions
from headrace.generation.request import Request, check_prompt, error_prediction
from headrace.types import Prediction

CURE = "Use engine native."
UNSUPPORTED: Mapping[str, str] = {
    "min_p": CURE,
    "repetition_penalty": CURE,
    "presence_penalty": CURE,
    "frequency_penalty": CURE,
    "prompt_logprobs": CURE,
    "top_logprobs": CURE,
    "seed": "Its samples are drawn from one stream for all rows, so no seed fixes a row. Use engine native.",
}
PAGE_TOKENS = 32
CACHE_TOKENS = 1 << 16
"""Tokens of the key/value cache on a CPU, where transformers would take most of the memory."""
STEP_TOKENS = 2048
POLL_S = 0.5

SamplingKey = tuple[float, int | None, float | None, bool]


@dataclass(slots=True)
class RunningRequest:
    """A request that was given to the manager."""

    request: Request
    stream: Detokenizer
    seen: int = 0
    """Tokens that the stream has received."""


class TransformersEngine:
    """A Hugging Face model under transformers' continuous batching.

    Args:
        directory: of the model.
        dtype: of weights and arithmetic.
        device: where it runs.
        table: bytes of each id.
        eos_ids: ids that end a row.
        batch_size: rows in one step.
    """

    cached_tokens = 0
    """See `BatchEngine`; the library does not report them here."""

    def __init__(
        self,
        directory: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        table: Sequence[bytes],
        eos_ids: Collection[int],
        batch_size: int,
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        refused = (
            f"{directory}: transformers has no continuous batching for this model: {{}}. "
            f"Use engine native, or vllm, which has code of its own for most families."
        )
        about = AutoConfig.from_pretrained(directory, local_files_only=True).get_text_config()
        if not set(getattr(about, "layer_types", None) or ()) <= KNOWN_LAYERS:
            raise ConfigError(refused.format("it has layers that are not plain or sliding attention"))
        try:
            with no_progress_bars():
                model: Any = AutoModelForCausalLM.from_pretrained(
                    directory, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
                )
        except ValueError as error:
            raise ConfigError(refused.format(error)) from error
        self.model: Any = model.to(device).eval()
        self.dtype, self.fingerprint = dtype, fingerprint_of(self.model.state_dict())
        config = self.model.config.get_text_config()
        self.vocab_size = int(self.model.get_output_embeddings().weight.shape[0])
        self.context = context_of(config)
        self._table, self._eos, self._batch_size = table, frozenset(eos_ids), batch_size

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be made; nothing is changed.

        Raises:
            ConfigError: an option that transformers' batching does not have, or a prompt that does not fit.
        """
        sampling = request.sampling
        check_supported(sampling, UNSUPPORTED)
        check_prompt(request, vocab_size=self.vocab_size, context=self.context)
        if sampling.max_new_tokens < 1:
            raise ConfigError(f"generate: this engine makes at least one token. {CURE}")
        plain = sampling.greedy or (sampling.temperature == 1.0 and not sampling.truncated)
        if sampling.logprobs and not plain:
            raise ConfigError(
                f"generate: this engine gives logprobs after temperature and truncation only. {CURE}"
            )

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Rows in the order in which they end; a request that cannot be made is an error row."""
        source = iter(requests)
        ahead: Request | None = None
        while True:
            while ahead is None:
                ahead = next(source, None)
                if ahead is None:
                    return
                error = self._error_of(ahead)
                if error is not None:
                    yield error
                    ahead = None
            with self._manager(_sampling_key(ahead.sampling)) as manager:
                ahead = yield from self._run_alike(manager, ahead, source)

    def _run_alike(
        self, manager: Any, first: Request, source: Iterator[Request]
    ) -> Generator[Prediction, None, Request | None]:
        """Rows of all requests with the sampling configuration of the first; returns the first request with another."""
        running: dict[str, RunningRequest] = {}
        key, serial = _sampling_key(first.sampling), 0
        ahead: Request | None = first
        more = True
        while True:
            while more and len(running) < 2 * self._batch_size:
                if ahead is None:
                    ahead = next(source, None)
                    if ahead is None:
                        more = False
                        break
                    error = self._error_of(ahead)
                    if error is not None:
                        yield error
                        ahead = None
                        continue
                if _sampling_key(ahead.sampling) != key:
                    more = False
                    break
                name = f"{serial}"
                serial += 1
                self._submit(manager, name, ahead)
                running[name] = RunningRequest(ahead, Detokenizer(self._table, stop=ahead.sampling.stop))
                ahead = None
            if not running:
                return ahead
            row = self._next_row(manager, running)
            if row is not None:
                yield row

    def _next_row(self, manager: Any, running: dict[str, RunningRequest]) -> Prediction | None:
        """The next result of the manager, when it ends a row."""
        out = manager.get_result(timeout=POLL_S)
        if out is None and not manager.is_running():
            raise WorkerError(
                "engine transformers: its batching thread ended before the rows were made. "
                "What is stored is kept: run the same command again."
            )
        if out is None or out.request_id not in running:  # results of a row after its stop string
            return None
        one = running[out.request_id]
        for token in out.generated_tokens[one.seen :] if one.request.sampling.stop else ():
            one.stream.push(token)
        one.seen = len(out.generated_tokens)
        if out.error is None and not out.is_finished():
            if one.stream.stopped is None:
                return None
            manager.cancel_request(out.request_id)
        del running[out.request_id]
        if out.error is not None:
            return error_prediction(one.request, out.error, kind=WorkerError.__name__)
        return make_prediction(
            one.request,
            out.generated_tokens,
            table=self._table,
            eos_ids=self._eos,
            logprobs=out.logprobs if one.request.sampling.logprobs else None,
        )

    def _error_of(self, request: Request) -> Prediction | None:
        try:
            self.check(request)
        except ConfigError as error:
            return error_prediction(request, error)
        return None

    def _submit(self, manager: Any, name: str, request: Request) -> None:
        sampling = request.sampling
        remaining = self.context - len(request.token_ids)
        if self.model.device.type == "cpu":
            remaining = min(remaining, CACHE_TOKENS - len(request.token_ids))
        taken = manager.add_request(
            list(request.token_ids),
            request_id=name,
            max_new_tokens=max(1, min(sampling.max_new_tokens, remaining)),
            streaming=bool(sampling.stop),
            eos_token_id=-1 if sampling.ignore_eos or not self._eos else sorted(self._eos),
        )
        if taken is None:
            raise WorkerError(
                "engine transformers: its batching thread takes no more requests. "
                "What is stored is kept: run the same command again."
            )

    @contextmanager
    def _manager(self, key: SamplingKey) -> Iterator[Any]:
        transformers: Any = import_module("transformers")

        temperature, top_k, top_p, logprobs = key
        sampled = {"temperature": temperature, "top_k": top_k or 0, "top_p": top_p or 1.0}
        how: Any = transformers.GenerationConfig(
            do_sample=temperature > 0,
            eos_token_id=sorted(self._eos) or -1,
            pad_token_id=0,
            **(sampled if temperature > 0 else {}),
        )
        bounds: dict[str, Any] = {"max_requests_per_batch": self._batch_size}
        if self.model.device.type == "cpu":
            bounds |= {
                "num_blocks": CACHE_TOKENS // PAGE_TOKENS,
                "page_size": PAGE_TOKENS,
                "max_batch_tokens": STEP_TOKENS,
            }
        config = transformers.ContinuousBatchingConfig(return_logprobs=logprobs, seed=0, **bounds)
        with (
            no_progress_bars(),
            self.model.continuous_batching_context_manager(
                generation_config=how, continuous_batching_config=config, warmup=False
            ) as manager,
        ):
            try:
                yield manager
            except BaseException:
                # A generator that is closed must not wait for the requests that still run.
                manager.stop(block=True, hard_stop=True)
                raise


def _sampling_key(sampling: SamplingOptions) -> SamplingKey:
    """The sampling configuration that all requests of a manager share."""
    if sampling.greedy:
        return 0.0, None, None, sampling.logprobs
    return sampling.temperature, sampling.top_k, sampling.top_p, sampling.logprobs
