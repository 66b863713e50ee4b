"""A page of C that shares torch's threads -> its functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.compiled import NotCompiledError
from headrace.compiled import compile_c as compile_page

if TYPE_CHECKING:
    import ctypes
    from pathlib import Path

__all__ = ["NotCompiledError", "compile_c"]


def compile_c(source: Path, *defines: str) -> ctypes.CDLL:
    """Compile a file and load it; its OpenMP is torch's, which is loaded already and found by name.

    Raises:
        NotCompiledError: it cannot be done here.
    """
    import torch  # noqa: F401  # its OpenMP must be there before the library is loaded

    return compile_page(source, "-ffast-math", "-fopenmp", *(f"-D{name}" for name in defines))
