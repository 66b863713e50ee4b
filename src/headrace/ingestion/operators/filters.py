"""A text -> why it is not worth training on, or None. The rules know no language."""

from __future__ import annotations

import re

from headrace.ingestion.options import FilterOptions

_PLAIN = re.compile(r"[\w\s]+")


def filtered(text: bytes, filters: FilterOptions) -> str | None:
    """Name of the first rule that a text breaks, cheapest rules first; None for a good one."""
    string = text.decode()
    if filters.min_chars is not None and len(string) < filters.min_chars:
        return "short"
    if filters.max_chars is not None and len(string) > filters.max_chars:
        return "long"
    if filters.max_symbols is not None and symbol_share(string) > filters.max_symbols:
        return "symbols"
    if filters.max_repeated_lines is not None and repeated_line_share(string) > filters.max_repeated_lines:
        return "repeated_lines"
    if filters.max_repeated_words is not None and repeated_word_share(string) > filters.max_repeated_words:
        return "repeated_words"
    return None


def symbol_share(text: str) -> float:
    """Share of characters that are neither letters, digits, underscores nor blanks.

    >>> symbol_share("ab -- !")
    0.42857142857142855
    """
    return len(_PLAIN.sub("", text)) / max(len(text), 1)


def repeated_line_share(text: str) -> float:
    r"""Share of characters in lines that occurred earlier, blank lines not counted.

    >>> repeated_line_share("menu\ntext\nmenu\n")
    0.3333333333333333
    """
    seen: set[str] = set()
    repeated = total = 0
    for line in text.splitlines():
        line = line.strip()  # noqa: PLW2901 - blanks around a line do not make it another one
        total += len(line)
        if line in seen:
            repeated += len(line)
        else:
            seen.add(line)
    return repeated / max(total, 1)


def repeated_word_share(text: str, *, run: int = 5) -> float:
    """Share of runs of words that occurred earlier.

    >>> repeated_word_share("buy now " * 10)
    0.875
    """
    words = text.split()
    runs = len(words) - run + 1
    if runs < 1:
        return 0.0
    return 1 - len(set(zip(*(words[i:] for i in range(run)), strict=False))) / runs
