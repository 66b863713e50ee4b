"""A position and what fixes its order -> a small JSON state, and back; refused where anything differs."""

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
    """Everything that fixes which row stands at a position. Batch size and ranks are not part of it."""

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


_CURES = {
    "store": "resume with the store (and snapshot) that the run was started on",
    "tokenizer": "resume with a store of the same tokenizer",
    "seq_len": "pass the seq_len that the run was started with",
    "seed": "pass the seed that the run was started with",
    "shuffle": "pass the shuffle and window that the run was started with",
    "packing": "pass the packing that the run was started with",
    "mixture": "change weights with Mixture.then(position, ...) from a position on that is not yet read",
}


def state_from_position(position: int, spec: OrderSpec) -> dict[str, int | str]:
    """A loader's whole state: at most 256 bytes as JSON.

    Args:
        position: rows of the global order taken so far.
        spec: what fixes the order.

    Returns:
        A flat dict of ints and short strings.
    """
    state: dict[str, int | str] = {"headrace": STATE_VERSION, "position": position}
    state.update({field.name: _short(getattr(spec, field.name)) for field in fields(spec)})
    return state


def position_from_state(state: Mapping[str, object], spec: OrderSpec) -> int:
    """The position in a state that belongs to this order.

    Raises:
        ResumeError: not a state, of an unknown version, or of another order; says what differs, and the cure.
    """
    version = state.get("headrace")
    if version != STATE_VERSION:
        raise ResumeError(
            f"loader state: version {version!r}, wanted {STATE_VERSION}. Was it saved by headrace's "
            "loader.state_dict()? Keys found: " + ", ".join(sorted(map(str, state))[:12])
        )
    position = state.get("position")
    if not isinstance(position, int) or isinstance(position, bool) or position < 0:
        raise ResumeError(f"loader state: position is {position!r}, wanted an integer >= 0")
    differing = []
    for field in fields(spec):
        want = _short(getattr(spec, field.name))
        got = state.get(field.name)
        if got != want:
            differing.append(f"{field.name}: saved {got!r}, this loader has {want!r}; {_CURES[field.name]}")
    if differing:
        raise ResumeError(
            f"loader state at position {position} belongs to another order. " + ". ".join(differing)
        )
    return position


def _short(value: int | str) -> int | str:
    """The value itself where it is short, else a hash of it: a state has a bounded size."""
    if isinstance(value, int):
        return value if abs(value) < 2**63 else _short(str(value))
    if len(value) <= 20:
        return value
    return hashlib.blake2b(value.encode(), digest_size=8).hexdigest()
