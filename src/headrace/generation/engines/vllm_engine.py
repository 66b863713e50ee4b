"""Requests -> finished rows, by vLLM's LLMEngine: add_request, step, has_unfinished_requests.

Source: vLLM's API reference, vllm.LLMEngine, vllm.SamplingParams, vllm.outputs.RequestOutput.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.generation.engines.results import check_supported, make_prediction
from headrace.generation.request import Request, check_prompt, error_prediction
from headrace.generation.sampling.rng import stream_key
from headrace.types import Prediction

UNSUPPORTED: Mapping[str, str] = {"top_logprobs": "Use engine native."}


class VLLMEngine:
    """A Hugging Face model in vLLM, which this process steps.

    Args:
        directory: of the model.
        dtype: "auto", "float32", "bfloat16" or "float16".
        table: bytes of each id.
        eos_ids: ids that end a row.
        batch_size: rows in one step.

    Raises:
        ConfigError: vLLM is not installed.
    """

    cached_tokens = 0
    """See `BatchEngine`; the library does not report them here."""

    def __init__(
        self,
        directory: Path,
        *,
        dtype: str,
        table: Sequence[bytes],
        eos_ids: Collection[int],
        batch_size: int,
    ) -> None:
        try:
            self._vllm: Any = import_module("vllm")
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise ConfigError(
                "generate: engine vllm needs vLLM, which is not installed. "
                "Run: pip install 'headrace[vllm]', or use engine native."
            ) from error
        self._engine: Any = self._vllm.LLMEngine.from_engine_args(
            self._vllm.EngineArgs(model=str(directory), dtype=dtype, max_num_seqs=batch_size)
        )
        config = self._engine.model_config
        self.context, self.vocab_size = int(config.max_model_len), int(config.get_vocab_size())
        self.dtype = str(config.dtype).removeprefix("torch.")
        self._table, self._eos, self._batch_size = table, frozenset(eos_ids), batch_size

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be made; nothing is changed.

        Raises:
            ConfigError: an option that the adapter does not have, or a prompt that does not fit.
        """
        check_supported(request.sampling, UNSUPPORTED)
        check_prompt(request, vocab_size=self.vocab_size, context=self.context)
        if request.sampling.max_new_tokens < 1:
            raise ConfigError("generate: vLLM makes at least one token. Use engine native to score prompts.")

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Rows in the order in which they end; a request that cannot be made is an error row."""
        source = iter(requests)
        running: dict[str, Request] = {}
        more, serial = True, 0
        try:
            while more or running:
                while more and len(running) < 2 * self._batch_size:
                    request = next(source, None)
                    if request is None:
                        more = False
                        break
                    try:
                        self.check(request)
                        name = f"{serial}"
                        prompt = {"prompt_token_ids": list(request.token_ids)}
                        self._engine.add_request(name, prompt, self._params(request))
                    except (ConfigError, ValueError) as error:  # vLLM refuses with ValueError
                        yield error_prediction(request, error, kind=ConfigError.__name__)
                        continue
                    running[name] = request
                    serial += 1
                if not running:
                    continue
                for out in self._engine.step():
                    if out.finished:
                        yield self._row(running.pop(out.request_id), out)
        finally:
            if running:
                self._engine.abort_request(list(running))

    def _params(self, request: Request) -> Any:
        sampling = request.sampling
        return self._vllm.SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_k=sampling.top_k or 0,
            top_p=sampling.top_p or 1.0,
            min_p=sampling.min_p or 0.0,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            stop=list(sampling.stop),
            stop_token_ids=[] if sampling.ignore_eos else sorted(self._eos),
            ignore_eos=sampling.ignore_eos,
            max_tokens=min(sampling.max_new_tokens, self.context - len(request.token_ids)),
            logprobs=0 if sampling.logprobs else None,
            prompt_logprobs=0 if sampling.prompt_logprobs else None,
            # One stream a row, as in the native engine: neighbours in a batch do not matter. 63 bits fit vLLM.
            seed=stream_key(sampling.seed, request.stream or request.prompt_id, request.sample_index) >> 1,
        )

    def _row(self, request: Request, out: Any) -> Prediction:
        made = out.outputs[0]
        logprobs = prompt_logprobs = None
        try:
            if request.sampling.logprobs:
                logprobs = [
                    float(found[token].logprob)
                    for token, found in zip(made.token_ids, made.logprobs, strict=True)
                ]
            if request.sampling.prompt_logprobs:
                prompt_logprobs = [
                    None if found is None else float(found[token].logprob)
                    for token, found in zip(request.token_ids, out.prompt_logprobs, strict=True)
                ]
            if any(value is not None and math.isnan(value) for value in (logprobs or [])):
                return error_prediction(
                    request, "the model's logits are not finite numbers", kind="WorkerError"
                )
        except (TypeError, KeyError, ValueError) as error:
            return error_prediction(
                request, f"vLLM gave no log-probability for a token ({error!r})", kind="WorkerError"
            )
        return make_prediction(
            request,
            list(made.token_ids),
            table=self._table,
            eos_ids=self._eos,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
