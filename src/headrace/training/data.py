"""What the user names as stores -> an opened source, its identity for run.json, a loader, held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.errors import ConfigError, StoreError
from headrace.load import Loader, Mixture, mix
from headrace.model.loss import IGNORED
from headrace.order.ranks import rank_slice
from headrace.store import Store


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What one run reads: a store, or a mixture of several."""

    source: Store | Mixture
    loader_options: Mapping[str, Any]
    _opened: ExitStack

    @property
    def stores(self) -> tuple[Store, ...]:
        """The store, or the mixture's stores."""
        return self.source.stores if isinstance(self.source, Mixture) else (self.source,)

    @property
    def places(self) -> list[dict[str, Any]]:
        """Where the stores stand and which snapshot of each is read: an appended store keeps a run's rows."""
        return [{"url": str(store.url), "snapshot": store.snapshot} for store in self.stores]

    def describe(self) -> dict[str, Any]:
        """What the rows are made of; a resumed run must find the same. A store may move, not change."""
        return {
            "source": self.source.fingerprint,
            "shares": [float(share) for share in self.source.shares]
            if isinstance(self.source, Mixture)
            else [1.0],
            "tokenizer": self.source.tokenizer_fingerprint,
            "loader_options": dict(sorted(self.loader_options.items())),
        }

    def loader(self, *, seq_len: int, batch_size: int, seed: int, rank: int, world_size: int) -> Loader:
        """This rank's batches, without end."""
        return Loader(
            self.source,
            seq_len=seq_len,
            batch_size=batch_size,
            seed=seed,
            epochs=None,
            rank=rank,
            world_size=world_size,
            **self.loader_options,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def open_data(
    stores: Any, *, loader_options: Mapping[str, Any], places: Sequence[Mapping[str, Any]] = ()
) -> TrainingData:
    """Open a store, a path, several of them, {store: weight}, or take a mixture as it is.

    Several without weights are mixed in proportion to their tokens. What is opened here is closed with
    the result.

    Args:
        stores: see above.
        loader_options: passed to the Loader.
        places: of an earlier start of this run: the same snapshots are opened again.

    Raises:
        ConfigError: none given, or stores of different tokenizers.
        StoreError: one cannot be opened.
    """
    if isinstance(stores, Store | Mixture):
        return TrainingData(source=stores, loader_options=loader_options, _opened=ExitStack())
    named = list(stores) if isinstance(stores, Mapping | list | tuple) else [stores]
    if not named:
        raise ConfigError("train: no store given.")
    snapshots = [place["snapshot"] for place in places] if len(places) == len(named) else [None] * len(named)
    with ExitStack() as opened:
        found = [
            one if isinstance(one, Store) else opened.enter_context(Store.open(_path(one), snapshot=snapshot))
            for one, snapshot in zip(named, snapshots, strict=True)
        ]
        source: Store | Mixture = found[0]
        if len(found) > 1:
            weights = (
                stores.values() if isinstance(stores, Mapping) else [store.num_tokens for store in found]
            )
            source = mix(dict(zip(found, map(float, weights), strict=True)))
        return TrainingData(source=source, loader_options=loader_options, _opened=opened.pop_all())


@dataclass(frozen=True, kw_only=True)
class HeldOutRows:
    """HeldOutRows-out rows: the same at every evaluation, in any layout."""

    tokens: NDArray[np.int64]
    """[N, T + 1]; a row of IGNORED fills up the last batch."""
    rank: int
    world_size: int
    """Data-parallel."""

    def batches(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's (input ids, labels) of batches of so many rows over all ranks, int64."""
        for start in range(0, len(self.tokens), rows):
            part = self.tokens[start : start + rows]
            if (missing := rows - len(part)) > 0:  # one shape always: pipelines and compiled blocks want it
                part = np.concatenate([part, np.full((missing, part.shape[1]), IGNORED)])
            begin, end = rank_slice(rows, rank=self.rank, world_size=self.world_size)
            mine = torch.from_numpy(part[begin:end])
            yield mine[:, :-1].clamp(min=0), mine[:, 1:]


def open_held_out(stores: Any, *, seq_len: int, rows: int, rank: int = 0, world_size: int = 1) -> HeldOutRows:
    """Read rows spread evenly over a held-out store.

    Raises:
        StoreError: it has not one row of this length.
    """
    with open_data(stores, loader_options={}) as data:
        store = data.stores[0]
        available = store.num_rows(seq_len)
        if available < 1:
            raise StoreError(
                f"{store.url}: {store.num_tokens} tokens are not one row of {seq_len} and its label."
            )
        count = min(rows, available)
        starts = (np.arange(count, dtype=np.int64) * available // count) * seq_len
        return HeldOutRows(
            tokens=store.gather(starts, seq_len + 1).astype(np.int64), rank=rank, world_size=world_size
        )


def _path(one: Any) -> str:
    if isinstance(one, str | PathLike):
        return str(fspath(one))
    raise ConfigError(f"train: a store is a path, a URL or an opened Store, not {type(one).__name__}.")
