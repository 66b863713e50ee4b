"""The running Python's standard library -> its sources and documentation topics as documents.

Real text that every computer with headrace has: tens of megabytes, nothing to download.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from headrace.errors import SourceError
from headrace.types import Document

# Installed packages and compiled files are not the standard library's sources.
_EXCLUDED = {"site-packages", "dist-packages", "__pycache__"}


def standard_library() -> Path:
    """The directory of the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def python_documents(root: Path | None = None) -> Iterator[Document]:
    """Yield sources in the order of their paths, then documentation topics in the order of their names.

    Empty files and test files that are not UTF-8 on purpose are skipped.

    Args:
        root: a directory of Python sources; default the standard library.

    Raises:
        SourceError: there are no sources (this Python was installed as bytecode only).
    """
    root = standard_library() if root is None else root
    number = 0
    for path in python_files(root):
        text = path.read_bytes()
        if text and _is_utf8(text):
            number += 1
            yield Document(text=text, source=path.relative_to(root).as_posix(), offset=0)
    if not number:
        raise SourceError(
            f"{root}: this Python has no readable sources of its standard library. "
            "Give text of your own: headrace demo FILE..."
        )
    yield from documentation_topics()


def python_files(root: Path) -> list[Path]:
    """Every source file below a directory, sorted, without installed packages."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if not _EXCLUDED.intersection(path.relative_to(root).parts) and path.is_file()
    )


def documentation_topics() -> Iterator[Document]:
    """Yield the texts that `help("topics")` lists: the language reference in prose."""
    try:
        from pydoc_data.topics import topics as texts
    except ImportError:  # some distributions leave it out
        return
    for name in sorted(texts):
        yield Document(text=texts[name].encode(), source=f"topics/{name}", offset=0)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
