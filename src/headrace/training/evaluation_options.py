"""Held-out stores, prompts of one's own -> what is measured and sampled while a run trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.training.option_checks import check_integer, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """Evaluation, free to change between starts."""

    eval_stores: Any = None
    """Held-out stores, in every form that the training stores can have; their loss is logged as eval_loss."""
    eval_rows: Annotated[int, Doc("Rows of the held-out stores, evenly spaced, the same every time.")] = 64
    eval_every: Annotated[int | None, Doc("Steps between evaluations. Default: a tenth of the run.")] = None

    keep_best: Annotated[
        bool,
        Doc("Save where the held-out loss is lowest, and keep that checkpoint beside the newest (RUN@best)."),
    ] = True
    patience: Annotated[
        int | None,
        Doc("End the run after so many evaluations without a lower held-out loss. Default: never."),
    ] = None

    sample_prompts: Any = None
    """Prompts that the model continues while it trains, in every form that `generate` takes: a file, or a sequence."""
    sample_every: Annotated[
        int | None,
        Doc(
            "Steps between samples of the prompts, which the last step has too. Default: a tenth of the run."
        ),
    ] = None
    sample_max_new_tokens: Annotated[int, Doc("Most tokens of a sample.")] = 64
    sample_temperature: Annotated[float, Doc("Of samples; 0 is greedy decoding.")] = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_integer("eval_rows", self.eval_rows, 1)
        check_integer("eval_every", self.eval_every, 1)
        check_integer("patience", self.patience, 1)
        check_integer("sample_every", self.sample_every, 1)
        check_integer("sample_max_new_tokens", self.sample_max_new_tokens, 1)
        check_number("sample_temperature", self.sample_temperature, 0)

    def check_whole(self) -> None:
        """Refuse options without what they are about; the command line fills stores and prompts in last.

        Raises:
            ConfigError: see above.
        """
        if self.patience is not None and self.eval_stores is None:
            raise ConfigError("train: patience counts evaluations. Give eval_stores, or leave it out.")
        if self.sample_every is not None and self.sample_prompts is None:
            raise ConfigError(
                "train: sample_every is given without prompts. Give sample_prompts (--sample-prompts FILE, or "
                "--sample-prompt TEXT), or leave it out."
            )
