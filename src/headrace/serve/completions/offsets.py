"""Tokens of one sample, in order -> where each begins in the text, in characters."""

from __future__ import annotations

import codecs


class TextOffsets:
    """Counts the characters before each token, as a decoder of the tokens' bytes writes them.

    A special token has no characters, unless the prompt spells it out. A token that is a part of a character begins
    where that character stands.

    Args:
        prompt: the echoed text; empty without echo.
    """

    def __init__(self, prompt: str = "") -> None:
        self._prompt = prompt
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def next(self, data: bytes, name: str) -> int:
        r"""Offset of the next token.

        Args:
            data: bytes of its text; empty for a special token.
            name: how a special token is spelled.

        >>> offsets = TextOffsets()
        >>> [
        ...     offsets.next(data, name)
        ...     for data, name in [(b"", "<s>"), (b"a", "a"), (b"\xc3", ""), (b"\xa9", "")]
        ... ]
        [0, 0, 1, 1]
        >>> offsets.next(b"b", "b")
        2
        """
        offset = self._length
        if data:
            self._length += len(self._decoder.decode(data))
        elif name and self._prompt.startswith(name, offset):
            self._length += len(name)
        return offset

    def end_prompt(self) -> None:
        """The text of the sample begins behind the whole prompt, whatever a normaliser changed in its tokens."""
        self._decoder.reset()
        self._length = len(self._prompt)
