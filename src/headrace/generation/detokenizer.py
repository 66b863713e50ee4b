"""Token ids, one at a time -> text that is final: whole characters only, and nothing after a stop string.

O(1) a token: a table of each id's bytes and Python's incremental UTF-8 decoder; text is never decoded twice.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """The text of one row while it is generated.

    >>> stream = Detokenizer([b"a", "é".encode()[:1], "é".encode()[1:], b"ST", b"OP!"], stop=("STOP",))
    >>> [stream.push(i) for i in (0, 1, 2, 3, 4)], stream.stopped
    (['a', '', 'é', '', ''], 'STOP')
    """

    def __init__(self, table: Sequence[bytes], *, stop: Sequence[str] = (), skip_space: bool = False) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._skip_space = skip_space
        """Whether a space that the whole text begins with is left out."""
        self._held = ""
        """Text that may be the beginning of a stop string."""
        self.stopped: str | None = None
        """The stop string that ended the row."""
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All text released so far."""
        return "".join(self._pieces)

    def push(self, token_id: int) -> str:
        """Add a token; return the text that became final."""
        if self.stopped is not None:
            return ""
        piece = self._table[token_id] if token_id < len(self._table) else b""
        if self._skip_space and piece:
            self._skip_space, piece = False, piece.removeprefix(b" ")
        return self._release(self._decoder.decode(piece), last=False)

    def finish(self) -> str:
        """End the row; return the text that was held back. An incomplete character becomes U+FFFD."""
        if self.stopped is not None:
            return ""
        return self._release(self._decoder.decode(b"", final=True), last=True)

    def _release(self, text: str, *, last: bool) -> str:
        if self._stop:
            text = self._held + text
            found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
            if found:
                at, self.stopped = min(found, key=lambda hit: (hit[0], -len(hit[1])))
                text, self._held = text[:at], ""
            else:
                keep = 0 if last else max(_overlap(text, stop) for stop in self._stop)
                text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if text:
            self._pieces.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of the text that is a prefix of the stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
