"""A text and a function of the user -> another text, or None to leave the document out.

The function is named as "module:function", so that worker processes can import it, and a job records the hash of the
module's source: a half-done job is not continued with another version of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

import xxhash

from headrace.errors import ConfigError, DocumentError

TextFunction: TypeAlias = Callable[[str], str | None]


def load_function(name: str) -> TextFunction:
    """The function of a name.

    >>> load_function("textwrap:dedent")("  a")
    'a'

    Raises:
        ConfigError: there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function: Any = import_module(module_name)
        for part in function_name.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"map is {name!r}: {error}. Give module:function, of a module that can be imported from here "
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
    file = inspect.getsourcefile(import_module(name.partition(":")[0])) if ":" in name else None
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
