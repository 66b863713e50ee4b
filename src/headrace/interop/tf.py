"""A loader's batches -> a tf.data.Dataset; each iteration over it is a pass of the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from headrace.load import SampleLoader
from headrace.store import Array, Image

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
        Of samples: a dataset of dicts of the batch's columns, [B, ...] as tensors, ragged ones as tf.RaggedTensor
        [B, None, ...] (with deduplicated histories one row for each distinct history), texts as strings; `position`
        as below. Types that TensorFlow has only in part become the next larger one (uint16: int32, uint32: int64).

        Of text: a dataset of dicts: int64 [B, T] `input_ids` and `labels`; `position_ids` and `document_ids` [B, T] and
        `cu_seqlens` where the loader's options ask for them; `position`, int64 [B]: rows of the global order before
        the global batch, once for each row, so that `.unbatch()` works (without cu_seqlens).
    """
    if isinstance(loader, SampleLoader):
        return _with_cardinality(_sample_dataset(loader), loader)
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

    return _with_cardinality(tf.data.Dataset.from_generator(batches, output_signature=signature), loader)


def _with_cardinality(dataset: Any, loader: Loader[Any]) -> Any:
    if loader.epochs is not None:
        # Not assert_cardinality: after a seek the first iteration is shorter than the next ones.
        dataset.cardinality = lambda: tf.constant(len(loader), tf.int64)
    return dataset


_WIDER = {"uint16": np.int32, "uint32": np.int64}


def _sample_dataset(loader: SampleLoader) -> Any:
    """The batches of samples; their types are those of a batch without rows."""
    empty = loader.empty_batch()
    features = loader.source.features
    signature = {}
    for name, column in empty.items():
        # Rows of padded tokens are as long as the longest one of the batch.
        is_fixed = isinstance(features.get(name), Array | Image)
        signature[name] = _spec(column, is_fixed=is_fixed, is_nested=name in loader.nested_texts)
    signature["position"] = tf.TensorSpec([None], tf.int64)

    def batches() -> Iterator[dict[str, Any]]:
        for batch in loader:
            columns = {name: _tensor(column, signature[name]) for name, column in batch.items()}
            columns["position"] = np.full(batch.num_rows, batch.position, np.int64)
            yield columns

    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def _spec(column: Any, *, is_fixed: bool, is_nested: bool) -> Any:
    if isinstance(column, list):
        text: Any = tf.string
        return tf.RaggedTensorSpec([None, None], text, 1) if is_nested else tf.TensorSpec([None], text)
    if isinstance(column, tuple):
        values = _widened(column[0])
        return tf.RaggedTensorSpec([None, None, *values.shape[1:]], values.dtype, 1, tf.int64)
    array = _widened(column)
    return tf.TensorSpec([None, *(array.shape[1:] if is_fixed else [None] * (array.ndim - 1))], array.dtype)


def _tensor(column: Any, spec: Any) -> Any:
    if isinstance(column, list):
        return tf.ragged.constant(column, tf.string, 1) if isinstance(spec, tf.RaggedTensorSpec) else column
    if isinstance(column, tuple):
        values, offsets = (_widened(one) for one in column)
        return tf.RaggedTensor.from_row_splits(values, offsets, validate=False)
    return _widened(column)


def _widened(values: Any) -> Any:
    array = np.asarray(values)
    wider = _WIDER.get(array.dtype.name)
    return array if wider is None else array.astype(wider)
