"""Numbers of classes, of pixels or images -> which were taken for which: accuracy, intersection over union."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError


class ConfusionMatrix:
    """Counts of pixels (or images) by class and predicted class; the counts of ranks add up.

    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 255]))
    >>> matrix.counts.tolist(), matrix.iou().tolist(), matrix.mean_iou()
    ([[1, 1], [0, 1]], [0.5, 0.5], 0.5)

    Args:
        num_classes: classes are 0 to num_classes - 1.
        ignore_index: the label of what is not counted: 255, as a mask has it where padding is.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ConfigError(f"ConfusionMatrix: num_classes={num_classes}: expected 1 or more")
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)
        """int64 [num_classes, num_classes]: rows are what is there, columns what was predicted."""

    def update(self, predicted: Any, label: Any) -> None:
        """Add predictions.

        Args:
            predicted: numbers of classes, an array or tensor of any shape.
            label: what is there, of the same shape.

        Raises:
            ConfigError: shapes differ, or a number is no class.
        """
        pair = (one.detach().cpu() if hasattr(one, "detach") else one for one in (predicted, label))
        guess, there = map(np.asarray, pair)
        if guess.shape != there.shape:
            raise ConfigError(f"ConfusionMatrix: predicted {list(guess.shape)}, labels {list(there.shape)}")
        counted = there != self.ignore_index
        guess, there = guess[counted].astype(np.int64), there[counted].astype(np.int64)
        classes = len(self.counts)
        for name, values in (("predicted", guess), ("label", there)):
            if values.size and not 0 <= int(values.min()) <= int(values.max()) < classes:
                raise ConfigError(
                    f"ConfusionMatrix: {name} has {values.min()} to {values.max()}, expected 0 to {classes - 1}"
                    + (f" or {self.ignore_index}, which is not counted" if name == "label" else "")
                )
        self.counts += np.bincount(there * classes + guess, minlength=classes * classes).reshape(
            classes, classes
        )

    def iou(self) -> NDArray[np.float64]:
        """float64 [num_classes]: intersection over union of each class; NaN for one that is nowhere."""
        both = np.diag(self.counts)
        either = self.counts.sum(axis=0) + self.counts.sum(axis=1) - both
        shares: NDArray[np.float64] = np.divide(
            both, either, out=np.full(len(both), np.nan), where=either > 0
        )
        return shares

    def mean_iou(self) -> float:
        """Mean over the classes that are somewhere; NaN without any pixel."""
        found = self.iou()
        found = found[~np.isnan(found)]
        return float(found.mean()) if len(found) else float("nan")

    def accuracy(self) -> float:
        """Share of what was predicted right; NaN without any pixel."""
        total = int(self.counts.sum())
        return int(np.diag(self.counts).sum()) / total if total else float("nan")
