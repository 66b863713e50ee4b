"""What another engine made of a request -> a finished row by our rules, and what it has no way to do.

Text, stop strings and reasons are decided here and not by the engine, so that rows of one job mean the same
whichever engine made them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from headrace.errors import ConfigError
from headrace.generation.detokenizer import Detokenizer
from headrace.generation.options import SamplingOptions
from headrace.generation.request import Request
from headrace.sink.schema import LOWEST_LOGPROB
from headrace.types import Prediction


def check_supported(sampling: SamplingOptions, unsupported: Mapping[str, str]) -> None:
    """Refuse an option that an engine would pass over in silence.

    Args:
        sampling: what is asked for.
        unsupported: fields of `SamplingOptions` that the engine does not have, each with what to do instead.

    Raises:
        ConfigError: naming the option.
    """
    default = SamplingOptions()
    for name, cure in unsupported.items():
        if getattr(sampling, name) != getattr(default, name):
            raise ConfigError(f"generate: this engine has no {name}. {cure}")


def make_prediction(
    request: Request,
    token_ids: Sequence[int],
    *,
    table: Sequence[bytes],
    eos_ids: Collection[int],
    logprobs: Sequence[float] | None = None,
    prompt_logprobs: Sequence[float | None] | None = None,
) -> Prediction:
    """The row of a request.

    Args:
        request: what was asked for.
        token_ids: what the engine generated; ids behind a stop string or an end are cut off.
        table: bytes of each id.
        eos_ids: ids that end a row.
        logprobs: of token_ids, where asked for.
        prompt_logprobs: of the prompt's, where asked for.
    """
    stream = Detokenizer(table, stop=request.sampling.stop)
    reason, kept = "length", 0
    for token in token_ids[: request.sampling.max_new_tokens]:
        kept += 1
        if token in eos_ids and not request.sampling.ignore_eos:
            reason = "stop"
            break
        stream.push(token)
        if stream.stopped is not None:
            reason = "stop"
            break
    stream.finish()
    return Prediction(
        prompt_id=request.prompt_id,
        sample_index=request.sample_index,
        prompt=request.prompt,
        text=stream.text,
        token_ids=tuple(token_ids[:kept]),
        finish_reason=reason,
        logprobs=None if logprobs is None else tuple(max(x, LOWEST_LOGPROB) for x in logprobs[:kept]),
        prompt_logprobs=None
        if prompt_logprobs is None
        else tuple(None if x is None else max(x, LOWEST_LOGPROB) for x in prompt_logprobs),
        prompt_tokens=len(request.token_ids),
        completion_tokens=kept,
    )
