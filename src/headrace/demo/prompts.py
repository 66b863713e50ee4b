"""Held-out documents -> prompts: the lines before and including the head of a function or class."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import xxhash

LINES_BEFORE = 12
_HEADS = ("def ", "class ", "async def ")


def choose_prompts(
    documents: Iterable[tuple[str, str]], *, count: int, num_tokens: Callable[[str], int], limit: int
) -> list[dict[str, str]]:
    """Choose prompts; the same documents give the same prompts in the same order.

    A prompt ends with the head of a function or class where a document has one, elsewhere with any line, after
    a dozen lines of context.

    Args:
        documents: pairs of source and text.
        count: prompts to choose; little text gives fewer.
        num_tokens: counts the tokens of a text.
        limit: most tokens of a prompt; a longer one loses lines at its beginning.

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
    return [{"id": name, "prompt": _fit(lines, num_tokens, limit)} for _, name, lines in chosen]


def _fit(lines: list[str], num_tokens: Callable[[str], int], limit: int) -> str:
    """Join the last lines that fit into the limit; of one line that is too long, keep its end."""
    text = _joined(lines)
    while len(lines) > 1 and num_tokens(text) > limit:
        lines = lines[1:]
        text = _joined(lines)
    while num_tokens(text) > limit:
        text = text[len(text) // 4 + 1 :]
    return text


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).lstrip("\n")
