"""Requests -> tokens of a model with an encoder and a decoder: prompts are encoded together, and decoded step by step.

Requests that enter in one step are a group: they are encoded at once, with a mask over the shorter ones, and have a
key/value cache of their own. A row that ends is removed at once, and a request that waits enters in the next step.
The models are transformers'; sampling, stop strings and finish reasons are headrace's, as with every engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from headrace.errors import ConfigError
from headrace.generation.decoding.fingerprint import fingerprint_of
from headrace.generation.decoding.hf_weights import no_progress_bars
from headrace.generation.detokenizer import Detokenizer
from headrace.generation.engines.request_loop import run_requests
from headrace.generation.engines.results import check_supported
from headrace.generation.engines.row import Row
from headrace.generation.request import Request, Token, check_token_ids
from headrace.generation.sampling.sampler import sample
from headrace.logs import logger
from headrace.stats import Stats
from headrace.tokens import Tokenizer
from headrace.types import Prediction

MODEL_TYPES: Final = ("bart", "marian", "mbart", "mt5", "t5")
"""Those whose output is compared with transformers' in the tests."""
UNSUPPORTED: Mapping[str, str] = {
    "prompt_logprobs": "An encoder reads the prompt and predicts none of it. Leave it out.",
}
_NOT_OBEYED: Final[Mapping[str, Any]] = {
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
}
"""Of generation_config.json, and the values by which they change nothing: what `generate` of transformers would do."""
_NO_LIMIT: Final = 1 << 16
"""Tokens of models without position embeddings of a fixed number (T5); bounds the memory of attention."""


@dataclass(slots=True)
class _Group:
    """Rows that were encoded together; tensors have one row for each, in this order."""

    rows: list[Row]
    encoded_NSW: Tensor
    mask_NS: Tensor
    cache: Any = None


class EncoderDecoderEngine:
    """A Hugging Face model with encoder and decoder that generates for many requests; not safe for threads.

    Args:
        directory: of the model.
        model_type: of its config.
        dtype: of weights and arithmetic.
        device: where it runs.
        tokenizer: of the model.
        eos_ids: ids that end a row.
        batch_size: rows decoded at once.
        stats: counts the engine's time.

    Raises:
        ConfigError: a model that is not one of `MODEL_TYPES`, or whose config has no token that begins the output.
    """

    cached_tokens = 0
    """See `BatchEngine`; an encoder reads each prompt as a whole."""
    prefix_cache = None

    def __init__(
        self,
        directory: Path,
        *,
        model_type: str,
        dtype: torch.dtype,
        device: torch.device,
        tokenizer: Tokenizer,
        eos_ids: Iterable[int],
        batch_size: int,
        stats: Stats | None = None,
    ) -> None:
        from transformers import AutoModelForSeq2SeqLM

        if model_type not in MODEL_TYPES:
            raise ConfigError(
                f"{directory}: a model with encoder and decoder of type {model_type!r}; headrace generates with "
                f"{', '.join(MODEL_TYPES)}. Use transformers itself."
            )
        with no_progress_bars():
            model: Any = AutoModelForSeq2SeqLM.from_pretrained(
                directory, dtype=dtype, local_files_only=True, attn_implementation="eager"
            )
        self.model: Any = model.to(device).eval()
        self.dtype, self.device = dtype, device
        self.fingerprint = fingerprint_of(self.model.state_dict())
        config, defaults = self.model.config, self.model.generation_config
        self.vocab_size = int(self.model.get_output_embeddings().weight.shape[0])
        self.context = int(getattr(config, "max_position_embeddings", None) or _NO_LIMIT)
        start = defaults.decoder_start_token_id
        self._start = config.decoder_start_token_id if start is None else start
        if self._start is None:
            raise ConfigError(
                f"{directory}: config.json has no decoder_start_token_id. Copy the model again."
            )
        self._first, self._last = defaults.forced_bos_token_id, defaults.forced_eos_token_id
        self._never = [ids[0] for ids in defaults.bad_words_ids or () if len(ids) == 1]
        self._never += list(defaults.suppress_tokens or ())
        _warn(directory, defaults)
        self._eos = frozenset(eos_ids)
        self._table = tokenizer.token_bytes()
        self._skip_space = _marks_words_by_spaces(tokenizer, self._table)
        self._batch_size = batch_size
        self.stats = stats or Stats()
        self._waiting: deque[Request] = deque()
        self._groups: list[_Group] = []

    @property
    def running(self) -> int:
        """Rows that decode."""
        return sum(len(group.rows) for group in self._groups)

    @property
    def waiting(self) -> int:
        """Requests that have not entered yet."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ConfigError: see `check`.
        """
        self.check(request)
        self._waiting.append(request)

    def check(self, request: Request) -> None:
        """Validate a request without queueing it.

        Raises:
            ConfigError: it has no tokens, ids outside the vocabulary, is too long for the encoder, or asks for the
                prompt's log-probabilities or for no token.
        """
        ids, sampling = request.token_ids, request.sampling
        check_token_ids(request, vocab_size=self.vocab_size)
        if len(ids) > self.context:
            # OpenAI's clients recognise a prompt that is too long by these words.
            raise ConfigError(
                f"prompt: {len(ids)} tokens; this model's maximum context length is {self.context} tokens. "
                "Shorten the prompt."
            )
        check_supported(sampling, UNSUPPORTED)
        if sampling.max_new_tokens < 1:
            raise ConfigError(
                "max_new_tokens: 0; a model with encoder and decoder scores no prompt. Give 1 or more."
            )

    def cancel(self, key: tuple[str, int]) -> bool:
        """Remove a request that waits or runs; False when there is none with this key."""
        for request in self._waiting:
            if request.key == key:
                self._waiting.remove(request)
                return True
        for group in self._groups:
            keep = [i for i, row in enumerate(group.rows) if row.request.key != key]
            if len(keep) < len(group.rows):
                self._keep(group, keep)
                return True
        return False

    def close(self) -> None:
        """Release nothing: this engine keeps nothing beside its memory."""

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Generate for a stream of requests, which is read only as far ahead as a batch needs.

        A request that cannot be generated becomes an error row. Rows come out in the order in which they end.
        """
        return run_requests(self, requests, batch_size=self._batch_size)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Make one token for every row, those that enter included; the rows that end leave."""
        self._admit()
        tokens: list[Token] = []
        for group in list(self._groups):
            made = self._decode(group)
            tokens += made
            keep = [i for i, token in enumerate(made) if token.prediction is None]
            if len(keep) < len(made):
                self._keep(group, keep)
        return tokens

    def _admit(self) -> None:
        """Encode the requests that enter now."""
        entering = [
            self._waiting.popleft() for _ in range(min(self.waiting, self._batch_size - self.running))
        ]
        if not entering:
            return
        lengths = [len(request.token_ids) for request in entering]
        ids_NS = torch.zeros(len(entering), max(lengths), dtype=torch.int64)
        mask_NS = torch.zeros_like(ids_NS)
        for i, request in enumerate(entering):
            ids_NS[i, : lengths[i]] = torch.tensor(request.token_ids)
            mask_NS[i, : lengths[i]] = 1
        mask_NS = mask_NS.to(self.device)
        with self.stats.busy("forward", items=sum(lengths)):
            encoded = self.model.get_encoder()(input_ids=ids_NS.to(self.device), attention_mask=mask_NS)
        self._groups.append(_Group([self._row(one) for one in entering], encoded.last_hidden_state, mask_NS))

    def _row(self, request: Request) -> Row:
        row = Row(request, self._table)
        # As in transformers, penalties are of what the decoder has, which begins with its start token.
        row.sampler.prompt_ids = (self._start,)
        row.stream = Detokenizer(self._table, stop=request.sampling.stop, skip_space=self._skip_space)
        return row

    def _decode(self, group: _Group) -> list[Token]:
        from transformers.modeling_outputs import BaseModelOutput

        step = len(group.rows[0].tokens)
        last = [row.tokens[-1] if row.tokens else self._start for row in group.rows]
        with self.stats.busy("forward", items=len(last)):
            out = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=group.encoded_NSW),
                attention_mask=group.mask_NS,
                decoder_input_ids=torch.tensor(last, device=self.device)[:, None],
                past_key_values=group.cache,
                use_cache=True,
            )
        group.cache = out.past_key_values
        logits_NV: Tensor = out.logits[:, -1].float().clone()
        logits_NV[:, self._never] = -torch.inf
        for i, row in enumerate(group.rows):
            row.cached = step + 1
            forced = self._forced(row, step)
            if forced is not None:
                logits_NV[i] = -torch.inf
                logits_NV[i, forced] = 0.0
        with self.stats.busy("sample", items=len(last)):
            sampled = sample(logits_NV, [row.sampler for row in group.rows])
            return [
                row.take(one, eos_ids=self._eos, max_length=self.context)
                for row, one in zip(group.rows, sampled, strict=True)
            ]

    def _forced(self, row: Row, step: int) -> int | None:
        """The id that the model's generation config demands at this step; None: any."""
        sampling = row.request.sampling
        if self._last is not None and step == sampling.max_new_tokens - 1 and not sampling.ignore_eos:
            return int(self._last[0] if isinstance(self._last, list) else self._last)
        return self._first if step == 0 else None

    def _keep(self, group: _Group, keep: Sequence[int]) -> None:
        """Remove the other rows of a group, and the group with its last row."""
        if not keep:
            self._groups.remove(group)
            return
        group.rows = [group.rows[i] for i in keep]
        rows = torch.tensor(keep, device=self.device)
        group.encoded_NSW, group.mask_NS = group.encoded_NSW[rows], group.mask_NS[rows]
        if group.cache is not None:
            group.cache.batch_select_indices(rows)


def _marks_words_by_spaces(tokenizer: Tokenizer, table: Sequence[bytes]) -> bool:
    """Whether decoding a text leaves out the space before its first word, as SentencePiece's tokenizers do."""
    words = (i for i, piece in enumerate(table) if len(piece) > 1 and piece[:1] == b" ")
    first = next(words, None)
    return first is not None and not tokenizer.decode([first]).startswith(" ")


def _warn(directory: Path, defaults: Any) -> None:
    """Say which defaults of the model are not obeyed: transformers writes other texts by them."""
    found = {name: getattr(defaults, name, None) for name in _NOT_OBEYED}
    named = [
        f"{name} {value}" for name, value in found.items() if value is not None and value != _NOT_OBEYED[name]
    ]
    named += [f"bad_words_ids of {len(ids)} tokens" for ids in defaults.bad_words_ids or () if len(ids) > 1][
        :1
    ]
    if named:
        logger.warning(
            f"{directory}: generation_config.json has {', '.join(named)}, which headrace does not obey: it decodes "
            "token by token. transformers' generate obeys, and writes other texts."
        )
