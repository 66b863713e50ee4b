"""What a loader adds to a batch of interactions."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ConfigError

MAX_NEGATIVES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionOptions:
    """Negatives, and histories that are stored once in a batch.

    >>> InteractionOptions(num_negatives=4)
    InteractionOptions(num_negatives=4, deduplicate=False)
    """

    num_negatives: int = 0
    """Items that the user does not have, for each row: `batch["negatives"]`, int64 [B, num_negatives]. Uniform among
    the items that the user has no interaction with in the store's part and earlier ones; one may be drawn twice."""
    deduplicate: bool = False
    """Store each distinct history of a batch once: the columns `history` and `history_*` have one row for each, and row
    i of the batch has the history `batch["history_inverse"][i]` (int64 [B]).

    Source: Zhao et al. 2023, RecD: Deduplication for End-to-End Deep Learning Recommendation Model Training."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        if type(self.num_negatives) is not int or not 0 <= self.num_negatives <= MAX_NEGATIVES:
            raise ConfigError(f"num_negatives is {self.num_negatives!r}; expected 0 to {MAX_NEGATIVES}")
        if type(self.deduplicate) is not bool:
            raise ConfigError(f"deduplicate is {self.deduplicate!r}; expected True or False")
