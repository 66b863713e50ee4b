"""Held-out stores and a model -> the mean loss over their rows, made as the training rows are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from headrace.errors import ConfigError
from headrace.load import Loader, Mixture, ReadOptions
from headrace.model import IGNORED
from headrace.order import rank_slice
from headrace.store import Store
from headrace.tokens import Tokenizer
from headrace.training.data import TrainingData, open_data
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.step.trainable import TrainableModel
from headrace.training.tokenizer_check import tokenizer_difference


@dataclass(frozen=True, kw_only=True)
class HeldOutRows:
    """Held-out rows, the same at every evaluation and in any layout."""

    ids_NT: Tensor
    labels_NT: Tensor
    positions_NT: Tensor | None
    documents_NT: Tensor | None
    """The last two where training has them."""
    rank: int
    world_size: int
    """Data-parallel."""
    bytes_per_token: float
    """Mean length of the text of a token that counts, in bytes of UTF-8; special tokens have none."""

    def bits_per_byte(self, loss: float) -> float | None:
        """A mean loss in nats per token -> bits per byte of text; None for rows without text.

        Comparable between tokenizers. What special tokens cost, such as ends of documents, counts too.
        """
        return None if self.bytes_per_token == 0 else loss / math.log(2) / self.bytes_per_token

    @property
    def fingerprint(self) -> str:
        """Hash of the rows: losses over other rows cannot be compared."""
        digest = xxhash.xxh3_128(self.ids_NT.numpy().tobytes())
        digest.update(self.labels_NT.numpy().tobytes())
        return digest.hexdigest()

    def batches(self, rows: int) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor | None]]]:
        """This rank's part of batches of so many rows: ids, labels, and the masks of `TrainableModel.loss`."""
        begin, end = rank_slice(rows, rank=self.rank, world_size=self.world_size)
        for start in range(0, len(self.ids_NT), rows):

            def part(column: Tensor, filler: int, start: int = start) -> Tensor:
                own = column[start : start + rows]
                if (missing := rows - len(own)) > 0:  # pipelines and compiled blocks need one shape
                    own = torch.cat([own, torch.full((missing, own.shape[1]), filler, dtype=own.dtype)])
                return own[begin:end]

            masks = {"positions_BT": self.positions_NT, "documents_BT": self.documents_NT}
            yield (
                part(self.ids_NT, 0),
                part(self.labels_NT, IGNORED),
                {name: None if column is None else part(column, 0) for name, column in masks.items()},
            )


def open_held_out(
    stores: Any, training: TrainingData, *, seq_len: int, rows: int, rank: int = 0, world_size: int = 1
) -> HeldOutRows:
    """Read rows spread evenly over held-out stores, packed and masked as the training rows are.

    Of several stores each gives rows in proportion to its own, or to its weight.

    Args:
        stores: in every form that `open_data` takes.
        training: the training data: its tokenizer and loader options are used.
        seq_len: tokens of a row.
        rows: how many at most.
        rank: this data-parallel rank.
        world_size: data-parallel ranks.

    Raises:
        ConfigError: another tokenizer than the training stores', or not one row of this length.
        StoreError: one cannot be opened.
    """
    with open_data(stores, options=training.options) as data:
        for store in data.stores:
            difference = tokenizer_difference(training.source.tokenizer, store.tokenizer)
            if difference is not None:
                raise ConfigError(
                    f"train: the tokenizer of the held-out store {store.url} is not that of the training "
                    f"stores ({difference}); its loss would mean nothing. Ingest it with the same --tokenizer."
                )
        loaders = [_rows_in_order(store, training, seq_len) for store in data.stores]
        try:
            shares = _shares(
                [loader.num_rows for loader in loaders],
                data.weights,
                rows,
                weighted=isinstance(stores, Mapping | Mixture),
            )
            batches = [
                batch
                for loader, share in zip(loaders, shares, strict=True)
                for batch in _evenly_spaced(loader, share)
            ]
        finally:
            for loader in loaders:
                loader.close()
    labels_NT = torch.cat([batch.labels for batch in batches])
    return HeldOutRows(
        ids_NT=torch.cat([batch.input_ids for batch in batches]),
        labels_NT=labels_NT,
        positions_NT=_column([batch.position_ids for batch in batches]),
        documents_NT=_column([batch.document_ids for batch in batches]),
        rank=rank,
        world_size=world_size,
        bytes_per_token=_bytes_per_token(labels_NT, training.source.tokenizer),
    )


def _bytes_per_token(labels_NT: Tensor, tokenizer: Tokenizer) -> float:
    length_of = torch.tensor([len(text) for text in tokenizer.token_bytes()])
    counted = labels_NT[labels_NT != IGNORED].long()
    return float(length_of[counted].double().mean()) if len(counted) else 0.0


def _rows_in_order(store: Store, training: TrainingData, seq_len: int) -> Loader[Tensor]:
    return Loader(
        store,
        seq_len=seq_len,
        batch_size=1,
        rank=0,
        world_size=1,
        shuffle="none",
        reading=ReadOptions(threads=0),
        **training.row_options(),
    )


def _evenly_spaced(loader: Loader[Tensor], count: int) -> Iterator[Any]:
    for index in range(count):
        loader.seek(index * loader.num_rows // count)
        yield next(loader)


def _shares(available: Sequence[int], weights: Sequence[float], rows: int, *, weighted: bool) -> list[int]:
    """Rows of each store: at least one, at most what it has.

    >>> _shares([100, 300], [0.5, 0.5], 8, weighted=False), _shares([100, 300], [0.5, 0.5], 8, weighted=True)
    ([2, 6], [4, 4])
    """
    parts = weights if weighted else [float(number) for number in available]
    whole = sum(parts)
    return [
        max(1, min(number, round(rows * part / whole))) for number, part in zip(available, parts, strict=True)
    ]


def _column(columns: list[Any]) -> Tensor | None:
    return None if columns[0] is None else torch.cat([torch.as_tensor(column) for column in columns])


def evaluate(model: TrainableModel, held_out: HeldOutRows, *, group: ProcessGroup) -> float:
    """Mean loss over the held-out rows, nats per token."""
    total = counted = 0.0
    for ids_BT, labels_BT, masks in held_out.batches(model.recipe.schedule.micro_batch_size):
        total += float(model.loss(ids_BT, labels_BT, **masks))
        counted += float((labels_BT != IGNORED).sum())
    total_of_all, counted_in_all = (
        group.gather([total * model.counts_loss, counted * model.counts_loss]).sum(0).tolist()
    )
    return float(total_of_all / max(1.0, counted_in_all))
