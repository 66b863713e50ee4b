"""Error message -> the same without paths of the server's machine, for clients."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path


class Redactor:
    """Replaces known directories, and what follows them, by a label.

    Args:
        roots: label -> directory.

    >>> Redactor({"model": "/srv/models/a"})("/srv/models/a/config.json: not JSON")
    '<model>: not JSON'
    """

    def __init__(self, roots: Mapping[str, str | os.PathLike[str]]) -> None:
        spellings: dict[str, str] = {}
        for label, root in roots.items():
            given = os.fspath(root).rstrip("/")
            if "://" not in given:
                spellings[str(Path(given).absolute())] = spellings[str(Path(given).resolve())] = label
            spellings[given] = label
        self._labels = spellings
        # The longest first; a relative name only where a path or a message goes on.
        patterns = [
            rf"(?<![\w/.-]){re.escape(root)}(?:/[^\s:,;'\"]*)?" + ("" if "/" in root else r"(?=[/:])")
            for root in sorted(spellings, key=len, reverse=True)
            if root and root != "/"
        ]
        self._pattern = re.compile("|".join(f"({pattern})" for pattern in patterns)) if patterns else None
        self._order = [
            spellings[root] for root in sorted(spellings, key=len, reverse=True) if root and root != "/"
        ]

    def __call__(self, message: str) -> str:
        """The message without those paths."""
        if self._pattern is None:
            return message
        return self._pattern.sub(lambda match: f"<{self._order[(match.lastindex or 1) - 1]}>", message)


def os_error_message(error: OSError) -> str:
    """What the system says, without the file's name."""
    return error.strerror or type(error).__name__
