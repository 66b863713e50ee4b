"""Requests -> tokens as they are generated: continuous batching over one preallocated key/value cache.

Each step decodes one token of every row in the cache and processes the prompts that fit in addition. A row that ends is
removed at once, the last row moves into its slot, and the next prompt enters in the next step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from headrace.errors import ConfigError
from headrace.generation.decoding.attention import StepPlan, plan_step
from headrace.generation.engines.request_loop import run_requests
from headrace.generation.engines.row import Row
from headrace.generation.prefix_cache import PrefixCache, PrefixMatch
from headrace.generation.request import Request, Token, check_prompt
from headrace.generation.sampling.sampler import sample
from headrace.model import KVCache
from headrace.stats import Stats
from headrace.types import Prediction

SLOT_STEP = 128
"""The cache grows in steps of this many tokens a row, so that it is not resized for every length."""
CLOSE_S = 10.0
CACHE_BYTES = 4 << 30
PREFILL_TOKENS = 2048
"""Prompt tokens that may enter in one step; bounds the step's memory and the time that decoded rows wait."""


class Runner(Protocol):
    """A model that runs one step at a time."""

    name: str
    vocab_size: int
    context: int
    device: torch.device
    fingerprint: str
    """32 hex digits of the weights."""
    dtype: torch.dtype
    kv_fingerprint: str
    """32 hex digits, equal where the keys and values of equal tokens are."""

    def new_cache(self, *, num_rows: int, capacity: int) -> KVCache:
        """An empty cache that fits the model."""

    def hidden(self, step: StepPlan, kv: KVCache) -> Tensor:
        """Hidden states of the step's requested tokens, [K, W]."""

    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits of hidden states, [K, V]."""


class NativeEngine:
    """A model that generates for many requests at the same time; not safe for threads.

    Args:
        runner: the model.
        token_bytes: bytes of each id.
        eos_ids: ids that end a row.
        batch_size: rows decoded at once.
        cache_bytes: limit of the key/value cache; fewer rows run at the same time where they are long.
        prefill_tokens: prompt tokens that enter in one step, at least one prompt.
        stats: counts the engine's time.
        prefix_cache: of the runner's model; None computes every prompt from its beginning.
    """

    def __init__(
        self,
        runner: Runner,
        token_bytes: Sequence[bytes],
        *,
        eos_ids: Iterable[int] = (),
        batch_size: int = 32,
        cache_bytes: int = CACHE_BYTES,
        prefill_tokens: int = PREFILL_TOKENS,
        stats: Stats | None = None,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        if batch_size < 1 or prefill_tokens < 1:
            raise ConfigError(
                f"engine: batch_size {batch_size}, prefill_tokens {prefill_tokens}; each must be >= 1."
            )
        self.runner = runner
        self.stats = stats or Stats()
        self.prefix_cache = prefix_cache
        self.cached_tokens = 0
        """Prompt tokens that were found in the prefix cache."""
        self._table = token_bytes
        self._eos = frozenset(eos_ids)
        self._batch_size, self._prefill_tokens = batch_size, prefill_tokens
        self._waiting: deque[Request] = deque()
        self._rows: list[Row] = []
        """In the order of their slots."""
        self._kv: KVCache | None = None
        probe = runner.new_cache(num_rows=1, capacity=1)
        self._slots = cache_bytes // probe.nbytes
        """Tokens that the cache may hold, summed over all rows."""
        self._max_length = min(runner.context, self._slots)
        """Maximum length of a row."""

    @property
    def vocab_size(self) -> int:
        """Ids of the model are below it."""
        return self.runner.vocab_size

    @property
    def context(self) -> int:
        """Tokens that a row can have."""
        return self.runner.context

    @property
    def running(self) -> int:
        """Rows in the cache."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Requests that have not entered yet."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ConfigError: it has no tokens, ids outside the vocabulary, or is too long.
        """
        self.check(request)
        self._waiting.append(request)

    def check(self, request: Request) -> None:
        """Validate a request without queueing it.

        Raises:
            ConfigError: the request cannot be generated; the message says why.
        """
        check_prompt(
            request, vocab_size=self.runner.vocab_size, context=self.runner.context, cache=self._slots
        )

    def close(self) -> None:
        """Write what the prefix cache still keeps in memory only, if it has a directory."""
        if self.prefix_cache is not None:
            self.prefix_cache.close(CLOSE_S)

    def cancel(self, key: tuple[str, int]) -> bool:
        """Remove a request that waits or runs; False when there is none with this key."""
        for request in self._waiting:
            if request.key == key:
                self._waiting.remove(request)
                return True
        for slot, row in enumerate(self._rows):
            if row.request.key == key:
                self._remove([slot])
                return True
        return False

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Generate for a stream of requests, which is read only as far ahead as a batch needs.

        A request that cannot be generated becomes an error row. Rows come out in the order in which they end.
        """
        yield from run_requests(self, requests, batch_size=self._batch_size)
        self.close()

    def step(self) -> list[Token]:
        """Make one token for every row, those that enter included; the rows that end leave."""
        admitted = self._admit()
        entering = [row for row, _ in admitted]
        if not self._rows and not entering:
            return []
        with self.stats.busy(
            "forward",
            items=len(self._rows)
            + sum(len(row.request.token_ids) - match.num_tokens for row, match in admitted),
        ):
            step = plan_step(
                [(row.tokens[-1], row.cached) for row in self._rows],
                [
                    (
                        len(self._rows) + i,
                        row.request.token_ids[match.num_tokens :],
                        row.request.sampling.prompt_logprobs,
                    )
                    for i, (row, match) in enumerate(admitted)
                ],
                cached=[match.num_tokens for _, match in admitted],
                device=self.runner.device,
            )
            assert self._kv is not None
            self._read_prefixes(admitted, self._kv)
            x_KW = self.runner.hidden(step, self._kv)
            if self.prefix_cache is not None:
                for i, (_, match) in enumerate(admitted):
                    self.prefix_cache.insert(match.keys, self._kv, len(self._rows) + i)
            for row in self._rows:
                row.cached += 1
            last = list(range(len(self._rows)))
            at = len(self._rows)
            for row in entering:
                row.cached = len(row.request.token_ids)
                if row.request.sampling.prompt_logprobs:
                    row.score_prompt(x_KW[at : at + row.cached], self.runner.logits)
                    at += row.cached
                else:
                    at += 1
                last.append(at - 1)
            self._rows += entering
            logits_NV = self.runner.logits(x_KW if len(last) == len(x_KW) else x_KW[last])
        with self.stats.busy("sample", items=len(self._rows)):
            sampled = sample(logits_NV, [row.sampler for row in self._rows])
            tokens = [
                row.take(one, eos_ids=self._eos, max_length=self._max_length)
                for row, one in zip(self._rows, sampled, strict=True)
            ]
        ended = [slot for slot, token in enumerate(tokens) if token.prediction is not None]
        self._keep_answers(ended)
        self._remove(ended)
        return tokens

    def _admit(self) -> list[tuple[Row, PrefixMatch]]:
        """Rows for the requests that enter now, as far as rows, cache and the step's budget reach.

        A request whose next block is computed by another one of this step waits for the next step, which finds it: a
        prefix that many prompts have in common is computed once.
        """
        entering: list[tuple[Row, PrefixMatch]] = []
        computed: set[str] = set()
        budget = self._prefill_tokens
        at = 0
        while at < min(len(self._waiting), self._batch_size):
            if len(self._rows) + len(entering) >= self._batch_size:
                break
            request = self._waiting[at]
            match = self._find_prefix(request)
            if match.next_key in computed:
                at += 1
                continue
            missing = len(request.token_ids) - match.num_tokens
            if entering and missing > budget:
                break
            if not self._reserve(request, [row for row, _ in entering]):
                break
            budget -= missing
            del self._waiting[at]
            if self.prefix_cache is not None:
                computed.update(match.keys[len(match.blocks) : self.prefix_cache.max_blocks])
            entering.append((Row(request, self._table, cached_tokens=match.num_tokens), match))
            self.cached_tokens += match.num_tokens
        return entering

    def _find_prefix(self, request: Request) -> PrefixMatch:
        """What the prefix cache has of a prompt; scores of a prompt's tokens need all of them computed."""
        if self.prefix_cache is None or len(request.token_ids) < self.prefix_cache.block_tokens:
            return PrefixMatch()
        if request.sampling.prompt_logprobs:
            keys = self.prefix_cache.keys_of(request.token_ids, scope=request.cache_scope)
            return PrefixMatch(keys=tuple(keys))
        return self.prefix_cache.find(request.token_ids, scope=request.cache_scope)

    def _read_prefixes(self, admitted: Sequence[tuple[Row, PrefixMatch]], kv: KVCache) -> None:
        """Copy the keys and values of known prefixes to the rows that enter."""
        for slot, (_, match) in enumerate(admitted, start=len(self._rows)):
            for number, block in enumerate(match.blocks):
                kv.paste_tokens(slot, number * block.shape[3], block)

    def _keep_answers(self, slots: Sequence[int]) -> None:
        """Give the prefix cache the rows that have ended, generated tokens included."""
        cache = self.prefix_cache
        if cache is None or not cache.keep_answers:
            return
        for slot in slots:
            row = self._rows[slot]
            ids = (*row.request.token_ids, *row.tokens)[: row.cached]
            if len(ids) // cache.block_tokens > len(row.request.token_ids) // cache.block_tokens:
                assert self._kv is not None
                cache.insert(cache.keys_of(ids, scope=row.request.cache_scope), self._kv, slot)

    def _reserve(self, request: Request, entering: Sequence[Row]) -> bool:
        """Resize the cache for one more row; False when the request must wait for other rows to end."""
        rows = [*(row.request for row in self._rows), *(row.request for row in entering), request]
        longest = max(self._length_of(one) for one in rows)
        if self._kv is not None and longest <= self._kv.capacity and len(rows) <= self._kv.num_rows:
            return True
        capacity = min(-(-longest // SLOT_STEP) * SLOT_STEP, self._max_length)
        num_rows = min(self._batch_size, self._slots // capacity)
        if num_rows < len(rows):
            return False
        if self._kv is None or not self._rows:
            self._kv = None  # free the old cache before the new one is allocated
            self._kv = self.runner.new_cache(num_rows=num_rows, capacity=capacity)
        else:
            cached = max(row.cached for row in self._rows)
            self._kv = self._kv.resized(
                num_rows=num_rows, capacity=capacity, keep_rows=len(self._rows), keep_tokens=cached
            )
        return True

    def _length_of(self, request: Request) -> int:
        """Maximum length of the row of a request."""
        length = len(request.token_ids) + request.sampling.max_new_tokens
        return max(1, min(length, self._max_length))

    def _remove(self, slots: Sequence[int]) -> None:
        """Remove rows; the last rows move into their slots, so that rows fill slots 0 to n - 1."""
        for slot in sorted(slots, reverse=True):
            last = self._rows.pop()
            if slot < len(self._rows):
                assert self._kv is not None
                self._kv.move(len(self._rows), slot, length=last.cached)
                self._rows[slot] = last
