"""Stores as the user names them -> an opened source, its identity for run.json, and a loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Self, TypeAlias

from headrace.errors import ConfigError
from headrace.load import Loader, Mixture, mix
from headrace.store import Store, is_megatron
from headrace.tokens import load_tokenizer
from headrace.training.options import DataOptions

NamedStore: TypeAlias = Store | str | PathLike[str]
"""An opened store, or the path or URL of one."""
TrainingStores: TypeAlias = NamedStore | Mixture | Sequence[NamedStore] | Mapping[Any, float]
"""One store, several (mixed in proportion to their tokens), {store: weight}, or a mixture."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The rows of one run: of a store, or of a mixture of several."""

    source: Store | Mixture
    options: DataOptions
    _opened: ExitStack

    @property
    def stores(self) -> tuple[Store, ...]:
        """The store, or the mixture's stores."""
        return self.source.stores if isinstance(self.source, Mixture) else (self.source,)

    @property
    def weights(self) -> list[float]:
        """Share of each store in the rows."""
        return [float(share) for share in self.source.shares] if isinstance(self.source, Mixture) else [1.0]

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        """URL and snapshot of each store: a run keeps its rows when a store is appended to."""
        return [{"url": str(store.url), "snapshot": store.snapshot} for store in self.stores]

    def identity(self) -> dict[str, Any]:
        """What the rows are made of; a resumed run must have the same. A store may be moved, not changed."""
        return {
            "source": self.source.fingerprint,
            "shares": self.weights,
            "tokenizer": self.source.tokenizer_fingerprint,
            "loader_options": self.options.identity(),
        }

    def loader(self, *, seq_len: int, batch_size: int, seed: int, rank: int, world_size: int) -> Loader:
        """An endless loader of this data-parallel rank's batches."""
        return Loader(
            self.source,
            seq_len=seq_len,
            batch_size=batch_size,
            seed=seed,
            epochs=None,
            rank=rank,
            world_size=world_size,
            **self.row_options(),
            shuffle=self.options.shuffle,
            reading=self.options.reading,
        )

    def row_options(self) -> dict[str, Any]:
        """Options of the Loader that say what a row holds."""
        output = self.options.output
        if self.options.separate_documents:
            output = replace(output, document_ids=True, position_ids=True)
        return {"packing": self.options.packing, "output": output}

    @property
    def cuts_conversations(self) -> bool:
        """Whether rows begin and end inside documents of which a part is given."""
        return self.options.packing == "none" and any(store.has_spans for store in self.stores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def open_data(
    stores: TrainingStores, *, options: DataOptions, snapshots: Sequence[Mapping[str, Any]] = ()
) -> TrainingData:
    """Open a store, a path, several of them, {store: weight}, or take a mixture as it is.

    Several without weights are mixed in proportion to their tokens. Stores that are opened here are closed
    with the result.

    Args:
        stores: see above.
        options: of the rows.
        snapshots: of an earlier start of this run: the same snapshots are opened again.

    Raises:
        ConfigError: none given, or stores of different tokenizers.
        StoreError: one cannot be opened.
    """
    if isinstance(stores, Store | Mixture):
        return TrainingData(source=stores, options=options, _opened=ExitStack())
    named: list[Any] = list(stores) if isinstance(stores, Mapping | list | tuple) else [stores]
    if not named:
        raise ConfigError("train: no store given.")
    numbers = [None] * len(named)
    if len(snapshots) == len(named):
        numbers = [snapshot["snapshot"] for snapshot in snapshots]
    with ExitStack() as stack:
        opened = [
            one
            if isinstance(one, Store)
            else stack.enter_context(_open_store(_path(one), snapshot=number, tokenizer=options.tokenizer))
            for one, number in zip(named, numbers, strict=True)
        ]
        source: Store | Mixture = opened[0]
        if len(opened) > 1:
            weights = stores.values() if isinstance(stores, Mapping) else [s.num_tokens for s in opened]
            source = mix(dict(zip(opened, map(float, weights), strict=True)))
        return TrainingData(source=source, options=options, _opened=stack.pop_all())


def _open_store(path: str, *, snapshot: int | None, tokenizer: str | None) -> Store:
    """Open a store; `tokenizer` is for Megatron files, and must be a store's own."""
    if tokenizer is None or is_megatron(path):
        return Store.open(path, snapshot=snapshot, tokenizer=tokenizer)
    store = Store.open(path, snapshot=snapshot)
    if load_tokenizer(tokenizer).fingerprint != store.tokenizer_fingerprint:
        store.close()
        raise ConfigError(
            f"train: --tokenizer {tokenizer} is not the tokenizer of {path}, which is "
            f"{store.manifest.tokenizer_name}. Leave it out: only Megatron files need it."
        )
    return store


def _path(store: Any) -> str:
    if isinstance(store, str | PathLike):
        return str(fspath(store))
    raise ConfigError(f"train: a store is a path, a URL or an opened Store, not {type(store).__name__}.")
