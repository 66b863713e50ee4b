"""A page of C -> its functions, compiled for this machine's processor by this machine's compiler.

Nothing is on disk at any time: objects and libraries are files in memory, so that a stale or foreign library
cannot be loaded, a killed process leaves nothing, and no directory need allow programs.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

_FLAGS: Final = ("-std=c11", "-O3", "-march=native", "-fPIC")
_TIMEOUT_S: Final = 60


class NotCompiledError(Exception):
    """There is no compiler, or it cannot build this here; the message says why."""


def compile_c(source: Path, *flags: str) -> ctypes.CDLL:
    """Compile a file and load it; $CC names the compiler, `cc` where it does not.

    Args:
        source: one file of C11.
        flags: further ones, for the compiler only: the linker gets none (with -ffast-math it would change how
            the whole process rounds tiny numbers, with -fopenmp it would bring an OpenMP library of its own).

    Raises:
        NotCompiledError: it cannot be done here.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise NotCompiledError(f"no C compiler ({compiler[0]})")
    if not hasattr(os, "memfd_create"):
        raise NotCompiledError("files in memory need Linux")
    # The library's file stays open: the loader knows libraries by their names, and this name is its number.
    made, library = os.memfd_create("headrace.o"), os.memfd_create("headrace.so")
    try:
        _run([*compiler, *_FLAGS, *flags, "-c", str(source), "-o", _name(made)], made)
        _run([*compiler, "-shared", _name(made), "-lm", "-o", _name(library)], made, library)
        return ctypes.CDLL(_name(library))
    except OSError as error:
        os.close(library)
        raise NotCompiledError(f"{compiler[0]}: what it made cannot be loaded: {error}") from error
    except NotCompiledError:
        os.close(library)
        raise
    finally:
        os.close(made)


class Beside:
    """One function of a page of C, compiled in a thread of its own while the work goes on without it.

    It begins when as much time was spent without it as compiling takes: nothing that is short shares its core with a
    compiler. Where it cannot be compiled the work goes on as it is.
    """

    def __init__(self, source: Path, name: str, types: Sequence[Any], *, after: int) -> None:
        """Nothing is compiled yet.

        Args:
            source: the page.
            name: of the function.
            types: ctypes of its arguments; it returns an int, or nothing.
            after: how much is to be `done` without it before it is compiled.
        """
        self.function: Callable[..., int] | None = None
        """None until it can be called."""
        self._source = source
        self._name = name
        self._types = types
        self._after = after
        self._done = 0

    def done(self, amount: int) -> None:
        """So much was done without it."""
        before, self._done = self._done, self._done + amount
        if before < self._after <= self._done:
            threading.Thread(target=self.compile, name=f"headrace-{self._name}", daemon=True).start()

    def compile(self) -> bool:
        """Compile it now; False where that cannot be done."""
        try:
            function = compile_c(self._source)[self._name]
        except NotCompiledError:
            return False
        function.argtypes = list(self._types)
        self.function = function
        return True


def _name(file: int) -> str:
    return f"/proc/self/fd/{file}"


def _run(command: list[str], *files: int) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, pass_fds=files
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiledError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise NotCompiledError(f"{command[0]}: exit {done.returncode}: {said}")
