"""A position and the values that determine its order <-> a small JSON state; a state of another order is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from headrace.errors import ResumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_VERSION = 1
MAX_STATE_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSpec:
    """All values that determine which row is at a position. Batch size and ranks are not among them."""

    store: str
    """Fingerprint of the content: of the store, or of all stores of a mixture."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    seq_len: int
    seed: int
    shuffle: str
    """none, global, or blocks:ROWSxWINDOW."""
    packing: str
    """none or best_fit."""
    mixture: str = ""
    """Fingerprint of the weights up to the position; empty for one store."""
    lengths: str = ""
    """Window, group and columns of rows that are grouped by length; empty, and not in the state, where they are not."""


_CURES = {
    "store": "resume with the store (and snapshot) that the run was started on",
    "tokenizer": "resume with a store of the same tokenizer",
    "seq_len": "pass the seq_len that the run was started with",
    "seed": "pass the seed that the run was started with",
    "shuffle": "pass the shuffle and window that the run was started with",
    "packing": "pass the packing that the run was started with",
    "mixture": "change weights with Mixture.then(position, ...) from a position that is not read yet",
    "lengths": (
        "pass the columns, max_length, group_by_length and group_rows (by default the batch_size) that the run was "
        "started with"
    ),
}


def state_from_position(position: int, spec: OrderSpec) -> dict[str, int | str]:
    """The whole state of a loader: at most 256 bytes of JSON.

    Args:
        position: rows of the global order taken so far.
        spec: determines the order.

    Returns:
        A flat dict of ints and short strings.
    """
    state: dict[str, int | str] = {"headrace": STATE_VERSION, "position": position}
    state.update({field.name: _short(getattr(spec, field.name)) for field in fields(spec)})
    if not spec.lengths:
        del state["lengths"]
    return state


def position_from_state(state: Mapping[str, object], spec: OrderSpec) -> int:
    """The position of a state of this order.

    Raises:
        ResumeError: not a state, of an unknown version, or of another order; names each difference and its cure.
    """
    version = state.get("headrace")
    if version != STATE_VERSION:
        raise ResumeError(
            f"loader state: version {version!r}, expected {STATE_VERSION}. Was it saved by headrace's "
            "loader.state_dict()? Its keys: " + ", ".join(sorted(map(str, state))[:12])
        )
    position = state.get("position")
    if not isinstance(position, int) or isinstance(position, bool) or position < 0:
        raise ResumeError(f"loader state: position is {position!r}, expected an integer >= 0")
    differing = []
    for field in fields(spec):
        expected = _short(getattr(spec, field.name))
        saved = state.get(field.name, "" if field.name == "lengths" else None)
        if saved != expected:
            differing.append(
                f"{field.name}: saved {saved!r}, this loader has {expected!r}; {_CURES[field.name]}"
            )
    if differing:
        raise ResumeError(
            f"loader state at position {position} belongs to another order. " + ". ".join(differing)
        )
    return position


def _short(value: int | str) -> int | str:
    """A short value itself, a long one's hash: the size of a state is bounded."""
    if isinstance(value, int):
        return value if abs(value) < 2**63 else _short(str(value))
    if len(value) <= 20:
        return value
    return hashlib.blake2b(value.encode(), digest_size=8).hexdigest()
