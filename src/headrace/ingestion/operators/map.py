"""A text and a function of the user -> another text, or None to leave the document out.

The function is named as "module:function", so that worker processes can import it, and a job records the hash of the
module's source: a half-done job is not continued with another version of it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, cast

import xxhash

from headrace.errors import ConfigError, DocumentError

TextFunction: TypeAlias = Callable[[str], str | None]


class _WorkingDirectory(MetaPathFinder):
    """Finds modules in a directory that is not on the import path: one of them by name, or any."""

    def __init__(self, directory: Path, only: str | None = None) -> None:
        self._directory = str(directory)
        self._only = only

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - the signature of the protocol
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is not None or self._only not in (None, fullname):
            return None
        spec = PathFinder.find_spec(fullname, [self._directory])
        # A folder without __init__.py is most often data, and would hide a module that is found later.
        return spec if spec is not None and (spec.origin is not None or fullname == self._only) else None


@contextmanager
def _import_from_working_directory(module_name: str) -> Iterator[None]:
    """Let the working directory have the named module first, and what it imports last, while it is imported.

    On sys.path a `json.py` there would take the place of the library that other libraries look for.
    """
    first = _WorkingDirectory(Path.cwd(), only=module_name.partition(".")[0])
    last = _WorkingDirectory(Path.cwd())
    sys.meta_path.insert(0, first)
    sys.meta_path.append(last)
    try:
        yield
    finally:
        sys.meta_path.remove(first)
        sys.meta_path.remove(last)


def _import(module_name: str) -> ModuleType:
    """The module; one in the working directory comes before an installed one of its name.

    Raises:
        ImportError: there is none, or a library of that name is in use already.
    """
    top = module_name.partition(".")[0]
    before = sys.modules.get(top)
    with _import_from_working_directory(module_name):
        module = import_module(module_name)
    here = PathFinder.find_spec(top, [str(Path.cwd())]) if before is not None else None
    if here is not None and here.origin is not None:
        there = getattr(before, "__file__", None)
        if there is None or Path(here.origin).resolve() != Path(there).resolve():
            raise ImportError(
                f"{here.origin} has the name of a module that is in use already ({there or 'built in'}): rename it"
            )
    return module


def load_function(name: str) -> TextFunction:
    """The function of a name.

    >>> load_function("textwrap:dedent")("  a")
    'a'

    Raises:
        ConfigError: there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function: Any = _import(module_name)
        for part in function_name.split("."):
            function = getattr(function, part)
    except Exception as error:
        words = (
            str(error)
            if isinstance(error, ImportError | AttributeError)
            else f"{type(error).__name__}: {error}"
        )
        raise ConfigError(
            f"map is {name!r}: {words}. Give module:function, of a module that can be imported from here "
            f"(the working directory, PYTHONPATH, or installed)"
        ) from error
    if not callable(function):
        raise ConfigError(f"map is {name!r}: is a {type(function).__name__}, expected a function")
    return cast("TextFunction", function)


def fingerprint(name: str) -> str:
    """Hash of the source of the function's module; of its name alone where there is no source.

    Raises:
        ConfigError: there is no such module or function.
    """
    load_function(name)
    file = inspect.getsourcefile(_import(name.partition(":")[0])) if ":" in name else None
    source = Path(file).read_bytes() if file is not None else name.encode()
    return xxhash.xxh3_128_hexdigest(source)


def map_text(function: TextFunction, name: str, text: bytes) -> bytes | None:
    """The mapped text, or None.

    Raises:
        DocumentError: the function raised an error, or returned something else.
    """
    string = text.decode()
    try:
        mapped = function(string)
    except Exception as error:
        raise DocumentError(
            f"map {name}: {type(error).__name__}: {error}; on the text {string[:80]!r}. Return None to leave a "
            f"document out"
        ) from error
    if mapped is None:
        return None
    if not isinstance(mapped, str):
        raise DocumentError(
            f"map {name}: returned a {type(mapped).__name__}, expected str or None; on the text {string[:80]!r}"
        )
    try:
        return mapped.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"map {name}: returned text that is not valid Unicode ({error}); on {string[:80]!r}"
        ) from error
