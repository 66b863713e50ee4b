"""Stores and weights -> a mixture: at each position a row of one of them, by weight."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import ConfigError
from headrace.order import QuotaTable, Segment, quotas_from_weights
from headrace.store import SampleStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.store import Store


def mix(weights: Mapping[Store, float]) -> Mixture:
    """A mixture of stores: at every position of the order a row of one of them, chosen by weight.

    Args:
        weights: store -> weight, finite and >= 0; they need not add up to 1. Stores share one tokenizer.

    Returns:
        A mixture, which `Loader` takes as it takes a store.

    Raises:
        ConfigError: no store, the same content twice, or different tokenizers.
        OrderError: a weight that is negative or not finite, or all are 0.
    """
    return Mixture(tuple(weights), ((0, tuple(weights.values())),))


class Mixture:
    """Several stores read as one; immutable. `then` returns a mixture whose weights change at a position."""

    def __init__(self, stores: tuple[Store, ...], weights: tuple[tuple[int, tuple[float, ...]], ...]) -> None:
        if not stores:
            raise ConfigError("a mixture of no stores: give at least one, as in mix({store: 1.0})")
        first = stores[0]
        given: tuple[object, ...] = stores  # whatever a user passes
        for source in given:
            if isinstance(source, SampleStore):
                raise ConfigError(f"{source.url} is a store of samples: a mixture is of stores of tokens")
        for store in stores[1:]:
            if store.tokenizer_fingerprint != first.tokenizer_fingerprint:
                raise ConfigError(
                    f"{store.url} has tokenizer {store.tokenizer_fingerprint}, {first.url} has "
                    f"{first.tokenizer_fingerprint}: a mixture needs one tokenizer. Ingest one of them again"
                )
        fingerprints = [store.fingerprint for store in stores]
        if len(set(fingerprints)) != len(fingerprints):
            raise ConfigError(
                f"the same content twice in a mixture ({', '.join(s.url for s in stores)}): its rows would "
                "be read twice in an epoch. Give it once, with the sum of the weights"
            )
        self.stores = stores
        self._weights = weights
        self._segments = tuple(
            Segment(start=start, quotas=quotas_from_weights(values)) for start, values in weights
        )
        QuotaTable(segments=self._segments, seed=0)  # raises where starts do not ascend

    def then(self, position: int, weights: Mapping[Store, float]) -> Mixture:
        """The same mixture with other weights from a position on (a curriculum).

        A run that is at or before `position` resumes with the result; its past does not change.

        Args:
            position: rows of the global order; > the start of the last change.
            weights: store -> weight; a store that is left out gets 0, a new one is refused.
        """
        unknown = [store.url for store in weights if store not in self.stores]
        if unknown:
            raise ConfigError(
                f"{', '.join(unknown)}: not in the mixture from its start. Give it there with weight 0"
            )
        values = tuple(float(weights.get(store, 0.0)) for store in self.stores)
        return Mixture(self.stores, (*self._weights, (position, values)))

    def quota_table(self, seed: int) -> QuotaTable:
        """Which source is at which position, for one seed."""
        return QuotaTable(segments=self._segments, seed=seed)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each store in the last segment, as its integer quotas give it; in the stores' order."""
        quotas = self._segments[-1].quotas
        return tuple(quota / sum(quotas) for quota in quotas)

    @property
    def url(self) -> str:
        """The stores' urls, for messages."""
        return "mix(" + ", ".join(store.url for store in self.stores) + ")"

    @property
    def fingerprint(self) -> str:
        """32 hex digits of the stores' fingerprints, in order, without the weights."""
        text = ",".join(store.fingerprint for store in self.stores)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def num_tokens(self) -> int:
        """Tokens of all stores."""
        return sum(store.num_tokens for store in self.stores)

    @property
    def num_documents(self) -> int:
        """Documents of all stores."""
        return sum(store.num_documents for store in self.stores)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The widest of the stores' types."""
        return np.result_type(*(store.dtype for store in self.stores))

    @property
    def vocab_size(self) -> int:
        """Ids are in [0, vocab_size)."""
        return self.stores[0].vocab_size

    @property
    def eos_id(self) -> int:
        """The id that ends a document."""
        return self.stores[0].eos_id

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that the stores share."""
        return self.stores[0].tokenizer

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer that the stores share."""
        return self.stores[0].tokenizer_fingerprint

    def num_rows(self, seq_len: int) -> int:
        """Rows of all stores."""
        return sum(store.num_rows(seq_len) for store in self.stores)

    def __repr__(self) -> str:
        """The stores and their shares."""
        parts = ", ".join(f"{s.url}: {share:.3f}" for s, share in zip(self.stores, self.shares, strict=True))
        return f"Mixture({parts})"
