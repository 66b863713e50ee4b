"""A loader's batches -> a tf.data.Dataset; each iteration over it is a pass of the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.load import Loader


def tf_dataset(loader: Loader[Any]) -> Any:
    """The loader's batches as a tf.data.Dataset of dicts.

    Each iteration is what a `for` loop over the loader reads: the next pass, so that the epochs of `fit`, validation
    and `.repeat()` each read all rows; after `loader.seek` the rest of the pass. tf.data may take batches ahead of the
    step (a `prefetch` behind the dataset does): save `position` of the last batch that was used plus its rows, rather
    than `loader.state_dict()`. TensorFlow never frees what a dataset was made from: close the loader when it is no
    longer needed, and its threads end.

    Labels are -100 where there is no loss: `SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)`.

    Args:
        loader: any; BatchOptions(framework="numpy") spares torch's import.

    Returns:
        A dataset of dicts: int64 [B, T] `input_ids` and `labels`; `position_ids` and `document_ids` [B, T] and
        `cu_seqlens` where the loader's options ask for them; `position`, int64 [B]: rows of the global order before
        the global batch, once for each row, so that `.unbatch()` works (without cu_seqlens).
    """
    rows = tf.TensorShape([None, None])
    output = loader.output
    signature = {name: tf.TensorSpec(rows, tf.int64) for name in ("input_ids", "labels")}
    if output.position_ids:
        signature["position_ids"] = tf.TensorSpec(rows, tf.int64)
    if output.document_ids:
        signature["document_ids"] = tf.TensorSpec(rows, tf.int32)
    if output.cu_seqlens or output.padding_free:
        signature["cu_seqlens"] = tf.TensorSpec(tf.TensorShape([None]), tf.int32)
    signature["position"] = tf.TensorSpec(tf.TensorShape([None]), tf.int64)

    def batches() -> Iterator[dict[str, Any]]:
        for batch in loader:
            arrays = {name: np.asarray(getattr(batch, name)) for name in signature if name != "position"}
            arrays["position"] = np.full(len(arrays["input_ids"]), batch.position, np.int64)
            yield arrays

    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    if loader.epochs is not None:
        # Not assert_cardinality: after a seek the first iteration is shorter than the next ones.
        dataset.cardinality = lambda: tf.constant(len(loader), tf.int64)
    return dataset
