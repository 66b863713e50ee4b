"""Held-out documents -> prompts: beginnings that a reader can judge the model's endings by."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

LINES_BEFORE = 12
MAX_CHARACTERS = 400
_HEADS = ("def ", "class ", "async def ")


def choose_prompts(documents: Iterable[tuple[str, str]], *, count: int) -> list[dict[str, str]]:
    """Prompts in a fixed order, the same for the same documents.

    A prompt ends with the head of a function or class where a document has one,
    and at a line's end elsewhere; a dozen lines stand before it.

    Args:
        documents: (source, text).
        count: wanted; fewer come out of little text.

    Returns:
        {"id", "prompt"}, ids unique: source and line.
    """
    heads: list[tuple[int, str, str]] = []
    plain: list[tuple[int, str, str]] = []
    for source, text in documents:
        lines = text.splitlines()
        for number, line in enumerate(lines, start=1):
            if number < 3 or not line.strip():
                continue
            end = line.rstrip()
            prompt = _tail("\n".join([*lines[max(0, number - 1 - LINES_BEFORE) : number - 1], end]))
            is_head = end.lstrip().startswith(_HEADS) and end.endswith(":")
            name = f"{source}:{number}"
            entry = (xxhash.xxh3_64_intdigest(name.encode()), name, prompt)
            (heads if is_head else plain).append(entry)
    chosen = sorted(heads)[:count]
    chosen += sorted(plain)[: count - len(chosen)]
    return [{"id": name, "prompt": prompt} for _, name, prompt in chosen]


def _tail(text: str) -> str:
    """The last lines that fit, or the last characters of one long line."""
    tail = text[-MAX_CHARACTERS:]
    if len(tail) < len(text):
        tail = tail.partition("\n")[2] or tail
    return tail.lstrip("\n")
