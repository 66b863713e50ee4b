"""HEADRACE_NATIVE and this processor -> the extension module and the instruction set that runs, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, Literal, TypeAlias, cast

from headrace.errors import ConfigError

Target: TypeAlias = Literal["off", "baseline", "avx2", "avx512"]
"""What runs: Python (off), or the extension's functions for an instruction set."""

VARIABLE: Final = "HEADRACE_NATIVE"
SETTINGS: Final = ("auto", "require", "off", "baseline", "avx2", "avx512")
_CURE: Final = (
    "Install a wheel that has it, or install a C compiler and Python's headers and run: "
    "pip install --force-reinstall --no-deps --no-cache-dir --no-binary headrace headrace. "
    "In a checkout: python setup.py build_ext --inplace"
)


class NativeUnavailableError(Exception):
    """A function in C cannot be used here; the message says why."""


class _State:
    """What was chosen, once in a process."""

    target: Target | None = None
    """None until first use."""
    kernels: Any = None
    """The module headrace.native._kernels; None where Python does the work."""


def kernels() -> Any:
    """The extension's functions, or None where Python does the work.

    Raises:
        ConfigError: HEADRACE_NATIVE requires what is not there.
    """
    if _State.target is None:
        _choose(os.environ.get(VARIABLE, "auto").lower() or "auto")
    return _State.kernels


def native_target() -> Target:
    """The instruction set whose functions run; "off" where Python does the work.

    Raises:
        ConfigError: HEADRACE_NATIVE requires what is not there.
    """
    kernels()
    assert _State.target is not None
    return _State.target


def available_targets() -> tuple[Target, ...]:
    """Everything that can run here, slowest first: "off", and what the extension has for this processor."""
    try:
        found = extension("_kernels").targets()
    except NativeUnavailableError:
        found = ()
    return ("off", *found)


@contextmanager
def use_target(target: Target) -> Iterator[None]:
    """Run this instruction set in the whole process until the block ends; for tests and benchmarks.

    Raises:
        ConfigError: it cannot run here.
    """
    before = native_target()
    _choose(target)
    try:
        yield
    finally:
        _choose(before)


def extension(name: Literal["_kernels", "_decoder"]) -> Any:
    """A module of C.

    Raises:
        NativeUnavailableError: it was not built, or cannot be loaded.
    """
    try:
        return import_module(f"headrace.native.{name}")
    except ModuleNotFoundError:
        raise NativeUnavailableError("headrace was installed without its extension in C") from None
    except ImportError as error:
        raise NativeUnavailableError(f"headrace.native.{name} cannot be loaded: {error}") from error


def _choose(setting: str) -> None:
    if setting not in SETTINGS:
        raise ConfigError(f"{VARIABLE} is {setting!r}; expected one of {', '.join(SETTINGS)}")
    chosen: Any = None
    target = "off"
    if setting != "off":
        try:
            chosen = extension("_kernels")
        except NativeUnavailableError as error:
            if setting != "auto":
                raise ConfigError(f"{VARIABLE}={setting}, but {error}. {_CURE}") from error
        else:
            found = chosen.targets()
            target = found[-1] if setting in ("auto", "require") else setting
            if target not in found:
                raise ConfigError(
                    f"{VARIABLE}={setting}, but this processor does not have it. It has: {', '.join(found)}"
                )
            chosen.use_target(target)
    _State.kernels, _State.target = chosen, cast("Target", target)
