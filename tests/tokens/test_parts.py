"""Texts with marks -> ids and which are learned, by the byte tokenizer, where every character shows."""

from __future__ import annotations

from headrace.tokens import PartEncoder, PartMarks, load_tokenizer

BYTE = load_tokenizer("byte")


class WithSpecial:
    """The byte tokenizer with a special token, 256, which ends documents as well, and 300."""

    eos_id = 256
    encode_batch = BYTE.encode_batch

    def special_tokens(self):
        return {"</s>": 256, "<u>": 300}

    def token_bytes(self):
        return [*BYTE.token_bytes(), *[b""] * 44]


def encode(*documents, tokenizer=None):
    """Each text, what is learned in brackets, the end of document as $ and other special tokens as ^."""
    texts = [text for text, _ in documents]
    parts = PartEncoder(tokenizer or WithSpecial()).encode(texts, [marks for _, marks in documents])
    shown = []
    for i in range(len(texts)):
        span = slice(*parts.offsets[i : i + 2])
        ids, learned = (
            [*parts.ids[span].tolist(), 256],
            [*parts.learned[span].tolist(), parts.learned_ends[i]],
        )
        chars = [chr(c) if c < 256 else "$" if c == 256 else "^" for c in ids]
        text = "".join(f"[{c}]" if is_learned else c for c, is_learned in zip(chars, learned, strict=True))
        shown.append(text.replace("][", ""))
    return shown


def marks(*edges, cuts=(), special=True):
    return PartMarks(edges=edges, cuts=cuts, has_special=special)


def test_a_text_without_marks_is_learned_whole_and_its_special_tokens_are_text():
    assert encode((b"a</s>", None)) == ["[a</s>$]"]


def test_the_end_of_document_that_a_template_writes_is_not_written_twice():
    assert encode((b"<u>q</s>a</s>", marks(8, 13)), (b"<u>q</s>a</s>", marks(8, 9))) == ["^q$[a$]", "^q$[a]$"]


def test_the_end_is_learned_where_an_answer_reaches_it_and_nothing_else_ends_it():
    assert encode((b"q a", marks(2, 3))) == ["q [a$]"]
    assert encode((b"q a\n", marks(2, 3))) == ["q [a]\n$"]
    assert encode((b"q a</s>\n", marks(2, 8))) == ["q [a$\n]$"]
    assert encode((b"q a<u>", marks(2, 6))) == ["q [a^]$"]


def test_an_empty_answer_learns_the_end():
    assert encode((b"q", marks(1, 1, special=False))) == ["q[$]"]


def test_what_is_all_learned_ends_learned():
    assert encode((b"q</s>a\n", marks(0, 7))) == ["[q$a\n$]"]


def test_cuts_change_no_ids_of_bytes():
    assert encode((b"ab", marks(0, 2, cuts=(1,), special=False)), (b"", None)) == ["[ab$]", "[$]"]
    assert encode((b"ab", marks(1, 2, special=False)), tokenizer=BYTE) == ["a[b$]"]
