"""A model in memory and prompts -> predictions, in the order of the prompts: those of `generate` for its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace.generation.engines.native import NativeEngine
from headrace.generation.job import run_job
from headrace.generation.loading import load_prompts, runner_of_model
from headrace.generation.options import SamplingOptions
from headrace.generation.prompts import ChatEncoder, Prompt
from headrace.model import Model
from headrace.types import Prediction


class _Predictions(dict[tuple[str, int], Prediction]):
    """A sink in memory."""

    def done(self, prompt_id: str, sample_index: int) -> bool:
        return (prompt_id, sample_index) in self

    def put(self, row: Prediction) -> bool:
        return self.setdefault((row.prompt_id, row.sample_index), row) is row

    def commit(self) -> None:
        """Nothing to store."""


def predict(
    model: Model,
    directory: Path,
    prompts: Sequence[Prompt],
    *,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008  # frozen
    batch_size: int = 32,
) -> list[Prediction]:
    """Generate for prompts; one that cannot be generated from is an error row.

    Args:
        model: its weights are read, and not changed.
        directory: of the run that the model belongs to: its tokenizer and chat template are used.
        prompts: with ids that differ.
        sampling: of all prompts; a prompt's own fields replace these.
        batch_size: rows that are generated at once.

    Raises:
        ConfigError: a model of Llama's family, and transformers is not installed.
    """
    tokens = load_prompts(directory)
    engine = NativeEngine(
        runner_of_model(model, directory),
        tokens.tokenizer.token_bytes(),
        eos_ids=tokens.special_ids.eos,
        batch_size=batch_size,
    )
    rows = _Predictions()
    run_job(prompts, engine, rows, tokenizer=tokens, sampling=sampling, chat=ChatEncoder(directory))
    order = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
    return sorted(rows.values(), key=lambda row: (order[row.prompt_id], row.sample_index))
