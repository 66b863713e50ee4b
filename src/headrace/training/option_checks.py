"""Values of options -> nothing, or an error that says what was expected."""

from __future__ import annotations

import math
from typing import Any, Final, get_args

from headrace.errors import ConfigError

LARGEST: Final = 2**63 - 1
"""JSON and tensors hold no larger integer."""


def check_integer(name: str, value: object, low: int, high: int = LARGEST) -> None:
    """Refuse what is no whole number in a range; None is an option that was not given."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"train: {name} is {value!r}; expected a whole number.")
    if value < low and high == LARGEST:
        raise ConfigError(f"train: {name} is {value}; expected at least {low}.")
    check_number(name, value, low, high)


def check_number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Refuse what is no number in a range; None is an option that was not given."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"train: {name} is {value!r}; expected a number.")
    if not low <= value <= high or value == math.inf:  # not a number is in no range
        expected = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ConfigError(f"train: {name} is {value}; expected {expected}.")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse what is none of the names of a Literal."""
    if value not in get_args(choices):
        raise ConfigError(f"train: {name} is {value!r}; expected one of {', '.join(get_args(choices))}.")
