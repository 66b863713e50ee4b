"""Prompts of one's own and a model that trains -> a line of samples.jsonl for each step and prompt."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.generation import Prompt, SamplingOptions, predict, read_prompts, survey_prompts
from headrace.model import GPTConfig, ModelConfig
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.evaluation_options import EvaluationOptions
from headrace.training.step.trainable import TrainableModel
from headrace.training.step.whole_model import whole_model
from headrace.types import Prediction

SHOWN = 4
"""Samples of a step that the log shows."""
_SHOWN_CHARACTERS = 80


class Sampler:
    """Continues the same prompts at steps of a run.

    Args:
        prompts: see `open_prompts`.
        options: how many tokens, at which temperature.
        every: steps between samples.
        out: the run directory, which has the tokenizer.
        seed: of the run; a prompt's random stream is the same at every step.
    """

    def __init__(
        self, prompts: Sequence[Prompt], options: EvaluationOptions, *, every: int, out: Path, seed: int
    ) -> None:
        self._prompts, self._every, self._out = prompts, every, out
        self._sampling = SamplingOptions(
            max_new_tokens=options.sample_max_new_tokens, temperature=options.sample_temperature, seed=seed
        )

    def is_due(self, step: int, *, ends: bool) -> bool:
        """Whether a step has samples."""
        return ends or step % self._every == 0

    def __call__(self, model: TrainableModel, step: int, *, group: ProcessGroup) -> list[dict[str, Any]]:
        """The samples of a step; none on other ranks than 0. Every rank calls.

        Tokens are those that `generate` gives for the checkpoint of the step, in float32.
        """
        whole = whole_model(model, group)

        def generate() -> list[dict[str, Any]]:
            assert whole is not None
            rows = predict(whole, self._out, self._prompts, sampling=self._sampling)
            return [_line(step, row) for row in rows]

        lines = group.on_rank0(generate)
        return lines if group.is_rank0 else []


def _line(step: int, row: Prediction) -> dict[str, Any]:
    values = {"step": step, **asdict(row), "token_ids": list(row.token_ids)}
    return {name: value for name, value in values.items() if value is not None}


def open_prompts(source: Any, config: ModelConfig) -> tuple[Prompt, ...]:
    """Read the prompts of a run before its first step.

    Args:
        source: path of a file, or a sequence of texts, mappings or prompts, as `generate` takes them.
        config: of the model.

    Raises:
        SourceError, ConfigError: they cannot be read, an id is given twice, there is none, or transformers, with
            which a decoder of Llama's family generates, is not installed.
    """
    survey_prompts(source)
    prompts = tuple(read_prompts(source))
    for prompt in prompts:
        if prompt.error is not None:
            raise ConfigError(f"train: sample_prompts: prompt {prompt.prompt_id}: {prompt.error['message']}")
    if not isinstance(config, GPTConfig) and importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"train: samples of a {config.model_type} model need transformers. Install headrace[hf], or leave "
            "sample_prompts out."
        )
    return prompts


def sample_note(line: Mapping[str, Any]) -> str:
    """A sample on one line of a log.

    >>> sample_note({"step": 20, "prompt_id": "0", "prompt": "Once", "text": " upon a time"})
    "step 20: sample 0: 'Once' -> ' upon a time'"
    """
    if line.get("error"):
        return f"step {line['step']:,}: sample {line['prompt_id']}: failed: {line['error']['message']}"
    prompt, text = (_short(str(line[name])) for name in ("prompt", "text"))
    return f"step {line['step']:,}: sample {line['prompt_id']}: {prompt} -> {text}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
