"""What the user names as stores -> an opened source, its identity for run.json, a loader, held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from headrace.errors import ConfigError, StoreError
from headrace.load import Loader, mix
from headrace.store import Store


@dataclass(kw_only=True)
class Data:
    """Stores that one run reads, with their shares."""

    stores: list[Store]
    weights: list[float]
    loader_options: Mapping[str, Any]
    _opened: ExitStack

    @property
    def vocab_size(self) -> int:
        """Ids are in [0, vocab_size)."""
        return int(self.stores[0].vocab_size)

    @property
    def urls(self) -> list[str]:
        """Where the stores stand now; they may move without becoming others."""
        return [str(store.url) for store in self.stores]

    def describe(self) -> dict[str, Any]:
        """What the rows are made of; a resumed run must find the same."""
        return {
            "stores": [store.fingerprint for store in self.stores],
            "weights": self.weights,
            "tokenizer": self.stores[0].tokenizer_fingerprint,
            "loader_options": {key: value for key, value in sorted(self.loader_options.items())},
        }

    def save_tokenizer(self, directory: Path) -> None:
        """Copy the tokenizer's own files: a run can be used without its store."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.stores[0].tokenizer.files().items():
            (directory / name).write_bytes(content)

    def loader(self, *, seq_len: int, batch_size: int, seed: int, rank: int, world_size: int) -> Loader:
        """This rank's batches, without end."""
        source = (
            self.stores[0]
            if len(self.stores) == 1
            else mix(dict(zip(self.stores, self.weights, strict=True)))
        )
        return Loader(
            source,
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


def open_data(stores: Any, *, loader_options: Mapping[str, Any]) -> Data:
    """Open a store, a path, several of them, or {store: weight}.

    Several without weights are mixed in proportion to their tokens.

    Raises:
        ConfigError: none given, or stores of different tokenizers.
        StoreError: one cannot be opened.
    """
    weighted = stores if isinstance(stores, Mapping) else None
    named = list(stores) if isinstance(stores, Mapping | list | tuple) else [stores]
    if not named:
        raise ConfigError("train: no store given.")
    opened = ExitStack()
    try:
        found = [
            one if isinstance(one, Store) else opened.enter_context(Store.open(_path(one))) for one in named
        ]
    except BaseException:
        opened.close()
        raise
    tokenizers = {str(store.url): store.tokenizer_fingerprint for store in found}
    if len(set(tokenizers.values())) > 1:
        opened.close()
        raise ConfigError(f"train: stores of different tokenizers cannot train one model: {tokenizers}.")
    weights = (
        [float(weighted[one]) for one in named]
        if weighted is not None
        else [store.num_tokens / sum(other.num_tokens for other in found) for store in found]
    )
    return Data(stores=found, weights=weights, loader_options=loader_options, _opened=opened)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Held-out rows: the same at every evaluation, in any layout."""

    tokens: np.ndarray[Any, np.dtype[np.integer[Any]]]
    """[N, T + 1] in the stored type."""

    def batches(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(input ids, labels), int64 [rows, T]; the last may be smaller."""
        for start in range(0, len(self.tokens), rows):
            part = torch.from_numpy(self.tokens[start : start + rows].astype(np.int64))
            yield part[:, :-1], part[:, 1:]


def open_held(stores: Any, *, seq_len: int, rows: int) -> Held:
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
        return Held(tokens=np.array(store.gather(starts, seq_len + 1)))


def _path(one: Any) -> str:
    if isinstance(one, str | PathLike):
        return str(fspath(one))
    raise ConfigError(f"train: a store is a path, a URL or an opened Store, not {type(one).__name__}.")
