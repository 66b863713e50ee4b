"""A loader's batches -> a tf.data.Dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.load import Loader


def tf_dataset(loader: Loader) -> Any:
    """Inputs and labels of each batch as a tf.data.Dataset of {"input_ids", "labels", "position"}.

    Each iteration over the dataset goes on at the loader's position. tf.data may take batches ahead of your step
    (a `prefetch` behind the dataset does): save the position after the last batch that you used,
    `position + its global rows`, rather than `loader.state_dict()` at that moment. TensorFlow never lets go of what a
    dataset was made from: close the loader when you are done, and its threads end.

    Args:
        loader: any; framework="numpy" spares torch's import.

    Returns:
        A dataset of dicts: int64 [B, T] input_ids and labels, and the int64 position of the global batch.
    """
    shape = tf.TensorShape([None, None])
    spec = {name: tf.TensorSpec(shape, tf.int64) for name in ("input_ids", "labels")}
    spec["position"] = tf.TensorSpec((), tf.int64)

    def batches() -> Iterator[dict[str, Any]]:
        for batch in loader:
            yield {
                "input_ids": np.asarray(batch.input_ids),
                "labels": np.asarray(batch.labels),
                "position": batch.position,
            }

    found = tf.data.Dataset.from_generator(batches, output_signature=spec)
    return (
        found if loader.epochs is None else found.apply(tf.data.experimental.assert_cardinality(len(loader)))
    )
