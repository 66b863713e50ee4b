"""A page of C -> its functions, compiled for this machine's processor by this machine's compiler.

Nothing is kept on disk: compiling takes half a second, and a stale or foreign library can then not be loaded.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

# Fast math on the objects only: at the link it would change how the whole process rounds tiny numbers.
FLAGS = ("-std=c11", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
TIMEOUT_S = 60


class NotCompiledError(Exception):
    """There is no compiler, or it cannot build this for torch's OpenMP; the message says why."""


def compile_c(source: Path, *defines: str) -> ctypes.CDLL:
    """Compile a file and load it; $CC names the compiler, `cc` where it does not.

    The result is linked to no OpenMP library: torch's, which is loaded already, is found by name, so that both
    share one pool of threads.

    Raises:
        NotCompiledError: it cannot be done here.
    """
    import torch  # noqa: F401  # its OpenMP must be there before the library is loaded

    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise NotCompiledError(f"no C compiler ({compiler[0]})")
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        made, library = Path(folder) / "made.o", Path(folder) / "made.so"
        _run([*compiler, *FLAGS, *(f"-D{name}" for name in defines), "-c", str(source), "-o", str(made)])
        _run([*compiler, "-shared", str(made), "-lm", "-o", str(library)])
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            raise NotCompiledError(f"{compiler[0]}: what it made cannot be loaded: {error}") from error


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiledError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise NotCompiledError(f"{command[0]}: exit {done.returncode}: {said}")
