"""The running Python's standard library -> its sources and documentation topics as documents.

Real text that stands on every computer that runs headrace: tens of megabytes, nothing to download.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from headrace.errors import SourceError
from headrace.types import Document

# What pip or a distribution put there is not the standard library.
_NOT_OURS = {"site-packages", "dist-packages", "__pycache__"}


def standard_library() -> Path:
    """The directory of the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def python_documents(root: Path | None = None) -> Iterator[Document]:
    """Sources in the order of their paths, then the documentation topics in the order of their names.

    A test file that is not UTF-8 on purpose is passed over, and so are empty files.

    Args:
        root: a directory of Python sources; default the standard library.

    Raises:
        SourceError: there are no sources (a Python that was installed as bytecode only).
    """
    root = standard_library() if root is None else root
    found = 0
    for path in python_files(root):
        text = path.read_bytes()
        if text and _is_utf8(text):
            found += 1
            yield Document(text=text, source=path.relative_to(root).as_posix(), offset=0)
    if not found:
        raise SourceError(
            f"{root}: this Python has no readable sources of its standard library. "
            "Give text of your own: headrace demo FILE..."
        )
    yield from topics()


def python_files(root: Path) -> list[Path]:
    """Every source below a directory, sorted, without what was installed on top."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if not _NOT_OURS.intersection(path.relative_to(root).parts) and path.is_file()
    )


def topics() -> Iterator[Document]:
    """What `help("topics")` lists: the language reference, in prose."""
    try:
        from pydoc_data.topics import topics as found
    except ImportError:  # some distributions leave it out
        return
    for name in sorted(found):
        yield Document(text=found[name].encode(), source=f"topics/{name}", offset=0)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
