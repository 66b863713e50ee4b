"""A run or a model's directory -> a model of lm-eval, whose tasks run on it: `pip install lm-eval`.

    import lm_eval
    from headrace.interop.lm_eval import HeadraceLM
    lm_eval.simple_evaluate(model=HeadraceLM("run@best"), tasks=["hellaswag", "gsm8k"])

A run that goes on is evaluated by its checkpoints, RUN@STEP. Scores equal those of lm-eval's `hf` model on the
directory that `headrace export` writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from headrace.errors import ConfigError, HeadraceError
from headrace.generation import Prompt, SamplingOptions, load_prompts, predict
from headrace.model import fetch_model, load_model
from headrace.paths import split_checkpoint_name

_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
_MAX_GEN_TOKENS = 256
"""Of a task that does not say how many; lm-eval's default."""


@register_model("headrace")
class HeadraceLM(TemplateLM):
    """A model for lm-eval's tasks: loglikelihood, loglikelihood_rolling, generate_until.

    Args:
        model: a run (RUN, RUN@STEP, RUN@best), a Hugging Face directory or peft's adapter directory, or a URL of one.
        batch_size: rows at once.
        device: cpu, cuda, ...
        dtype: of the weights.
        max_length: tokens of a row; default the model's context.

    Raises:
        ConfigError, CheckpointError: see `load_model`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        batch_size: int | str = 8,
        device: str | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(ignored.keys() - {"max_batch_size"}):
            raise ConfigError(f"lm_eval: HeadraceLM has no argument {unknown[0]}.")
        path = fetch_model(model)
        self._directory, _ = split_checkpoint_name(path)
        self._model, _ = load_model(path, device=device or "cpu", dtype=getattr(torch, dtype))
        self._prompts = load_prompts(self._directory)
        self._batch_size = 8 if batch_size == "auto" else int(batch_size)
        self.max_length = max_length or self._model.config.max_position_embeddings
        self._place = torch.device(device or "cpu")

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text."""
        return next(iter(self._prompts.special_ids.eos))

    @property
    def prefix_token_id(self) -> int:
        """Id before a text that is scored from its first token."""
        start = self._prompts.special_ids.start
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; by default with what the model's tokenizer adds, once."""
        if add_special_tokens is None:
            begin = self._prompts.decode((self.prefix_token_id,))
            add_special_tokens = not (begin and string.startswith(begin))
        return self._prompts.encode(string, add_special_tokens=add_special_tokens) if string else []

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        # Rows of similar length together, longest first.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            for number, answer in zip(chosen, self._scores([requests[i] for i in chosen]), strict=True):
                answers[number] = answer
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
        return answers

    @torch.inference_mode()
    def _scores(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> list[tuple[float, bool]]:
        for _, _, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise ConfigError(
                    f"lm_eval: a continuation of {len(continuation)} tokens; the model has {self.max_length}."
                )
        rows = [(context + ids)[-(self.max_length + 1) :] for _, context, ids in requests]
        ids_BT = torch.zeros(len(rows), max(map(len, rows)) - 1, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids_BT[number, : len(row) - 1] = torch.tensor(row[:-1])  # padded behind: attention is causal
        logits_BTV = self._model(ids_BT.to(self._place))
        answers = []
        for row, logits_TV, (_, _, continuation) in zip(rows, logits_BTV, requests, strict=True):
            end = len(row) - 1
            scores_CV = F.log_softmax(logits_TV[end - len(continuation) : end].float(), dim=-1)
            target_C = torch.tensor(continuation, device=scores_CV.device)
            total = float(scores_CV.gather(1, target_C[:, None]).sum())
            answers.append((total, bool((scores_CV.argmax(-1) == target_C).all())))
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Log-probability of whole texts, in windows of the model's length."""
        windows, sources = [], []
        for number, request in enumerate(requests):
            pieces = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, pieces):
                windows.append((None, context, continuation))
                sources.append(number)
        totals = [0.0] * len(requests)
        for source, (score, _is_greedy) in zip(sources, self._loglikelihood_tokens(windows), strict=True):
            totals[source] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Texts up to a stop string, the end of text, or max_gen_toks tokens."""
        prompts = [self._prompt(number, *request.args) for number, request in enumerate(requests)]
        rows = predict(
            self._model, self._directory, prompts, sampling=SamplingOptions(), batch_size=self._batch_size
        )
        for row in rows:
            if row.error is not None:
                raise HeadraceError(f"lm_eval: request {row.prompt_id}: {row.error['message']}")
        for request, row in zip(requests, rows, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, row.text)
        return [row.text for row in rows]

    def _prompt(self, number: int, context: str, given: dict[str, Any]) -> Prompt:
        options: dict[str, Any] = dict(normalize_gen_kwargs(given, _MAX_GEN_TOKENS))
        until, samples = options.pop("until", None) or [], options.pop("do_sample", False)
        max_new_tokens = int(options.pop("max_gen_toks"))
        if unknown := sorted(options.keys() - _SAMPLING):
            raise ConfigError(f"lm_eval: generate_until with {unknown[0]} is not supported. Leave it out.")
        if max_new_tokens >= self.max_length:
            raise ConfigError(
                f"lm_eval: max_gen_toks is {max_new_tokens}, and the model has {self.max_length} tokens in all."
            )
        chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if not samples:
            chosen = {"temperature": 0.0}
        stop = (until,) if isinstance(until, str) else tuple(until)
        return Prompt(
            prompt_id=str(number),
            token_ids=tuple(self.tok_encode(context)[-(self.max_length - max_new_tokens) :]),
            sampling={**chosen, "max_new_tokens": max_new_tokens, "stop": tuple(s for s in stop if s)},
        )

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        """Refuse: texts are scored as they are.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "lm_eval: HeadraceLM applies no chat template. Leave apply_chat_template out, or export the model and use "
            "lm-eval's model hf."
        )
