"""Held-out documents -> prompts: beginnings that a reader can judge the model's endings by."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import xxhash

LINES_BEFORE = 12
_HEADS = ("def ", "class ", "async def ")


def choose_prompts(
    documents: Iterable[tuple[str, str]], *, count: int, num_tokens: Callable[[str], int], limit: int
) -> list[dict[str, str]]:
    """Prompts in a fixed order, the same for the same documents.

    A prompt ends with the head of a function or class where a document has one,
    and at a line's end elsewhere; a dozen lines stand before it.

    Args:
        documents: (source, text).
        count: wanted; fewer come out of little text.
        num_tokens: of a text.
        limit: tokens of a prompt at most; lines are left out at its beginning.

    Returns:
        {"id", "prompt"}, ids unique: source and line.
    """
    heads: list[tuple[int, str, list[str]]] = []
    plain: list[tuple[int, str, list[str]]] = []
    for source, text in documents:
        lines = text.splitlines()
        for number, line in enumerate(lines, start=1):
            if number < 3 or not line.strip():
                continue
            end = line.rstrip()
            before = lines[max(0, number - 1 - LINES_BEFORE) : number - 1]
            is_head = end.lstrip().startswith(_HEADS) and end.endswith(":")
            name = f"{source}:{number}"
            entry = (xxhash.xxh3_64_intdigest(name.encode()), name, [*before, end])
            (heads if is_head else plain).append(entry)
    chosen = sorted(heads)[:count]
    chosen += sorted(plain)[: count - len(chosen)]
    return [{"id": name, "prompt": _fitting(lines, num_tokens, limit)} for _, name, lines in chosen]


def _fitting(lines: list[str], num_tokens: Callable[[str], int], limit: int) -> str:
    """The last lines that fit; of one line that is too long, its end."""
    text = _joined(lines)
    while len(lines) > 1 and num_tokens(text) > limit:
        lines = lines[1:]
        text = _joined(lines)
    while num_tokens(text) > limit:
        text = text[len(text) // 4 + 1 :]
    return text


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).lstrip("\n")
