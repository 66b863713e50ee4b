# ruff: noqa: RUF001 - look-alike characters are what this file is about
"""Two engines and some text -> the first document on which they disagree, or None.

An engine is used only while it gives the reference's ids; this is where that is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.tokens.protocol import Encodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A text to which two engines give different ids."""

    text: bytes
    """The text, cut to 200 bytes around the first difference where it is longer."""
    position: int
    """First id that differs."""
    got: tuple[int, ...]
    """Up to 8 ids of the engine under test, from `position` on."""
    expected: tuple[int, ...]
    """The reference's."""


def tricky_texts(extra: Iterable[str] = ()) -> list[bytes]:
    """Texts on which tokenizer engines are known to part: white space, contractions, scripts, added tokens.

    Args:
        extra: contents of a tokenizer's added tokens; each is tried bare, in a word, and among blanks.
    """
    texts = [*_TRICKY]
    for token in extra:
        texts += [
            token,
            f"a{token}b",
            f" {token} ",
            f"{token}{token}",
            f"{token[:-1]} {token}.",
            token.upper(),
        ]
    return [text.encode() for text in texts]


def first_mismatch(fast: Encodes, reference: Encodes, texts: Sequence[bytes]) -> Mismatch | None:
    """First text to which `fast` gives other ids than `reference`; None when all are equal."""
    got_ids, got_offsets = fast.encode_batch(texts)
    want_ids, want_offsets = reference.encode_batch(texts)
    if np.array_equal(got_offsets, want_offsets) and np.array_equal(got_ids, want_ids):
        return None
    for i, text in enumerate(texts):
        got = got_ids[got_offsets[i] : got_offsets[i + 1]]
        want = want_ids[want_offsets[i] : want_offsets[i + 1]]
        if not np.array_equal(got, want):
            n = min(len(got), len(want))
            differs = np.flatnonzero(got[:n] != want[:n])
            at = int(differs[0]) if len(differs) else n
            return Mismatch(
                text=text[:200],
                position=at,
                got=tuple(got[at : at + 8].tolist()),
                expected=tuple(want[at : at + 8].tolist()),
            )
    raise AssertionError("offsets differ, yet no text does")


_TRICKY = (
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t\t\n \n\n",
    "Hello world",
    " Hello  world ",
    "It's we'll THEY'VE I'D don't 'tis o'clock ''s 's",
    "x" * 300,
    "ab" * 200,
    "a b  c   d    e\tf\ng\r\nh\n\ni \n j",
    "trailing blanks   ",
    "   leading blanks",
    "12345678901234567890 1,234.56 3.14e-10 0xDEADBEEF ½ ٣٤٥ Ⅷ ²",
    "def f(x):\n    return x**2 + 1  # comment\n\n\nclass A:\n\tpass\n",
    "!!! ??? ... --- === ###   ***\n***",
    "https://example.org/a?b=c&d=%20e#f user@example.org",
    "naïve café résumé Ångström — “quoted” ‘single’ …",
    "e\u0301 A\u030a \u1e69 s\u0323\u0307 ﬁ \u212b \u00c5",
    "Привет мир. Καλημέρα κόσμε. שלום עולם. مرحبا بالعالم",
    "你好，世界。こんにちは世界！안녕하세요 세계",
    "नमस्ते दुनिया สวัสดีชาวโลก ជំរាបសួរ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 \U0001f9ff",
    "\u00a0nbsp\u2003em\u2009thin\u200bzero\u3000wide\u2028line\u2029par\u0085nel",
    "\x00\x01\x02\x1f\x7f\u0080\u009f\ufeff\ufffd\uffff",
    "\U00010000\U0001d54f\U0010ffff",
    "<|endoftext|>",
    "a<|endoftext|>b <|im_start|>user\n<s></s><unk><pad>[CLS][SEP][MASK]",
    "▁under ▁▁ bars <0x0A> Ġword Ċline ##ing @@ </w>",
    "ǅ ǈ ß ẞ İ ı ﬀ ŉ ſ K",
    "camelCaseHTTPServer snake_case_name SCREAMING_CASE kebab-case",
    "fooBAR'S 'LL I'M i'm I’m can’t",
    "\u200d\u200c\u2060 \u0300\u0301 \u20dd",
    "line one\n\n\n   \n\t\nline two\n ",
    "1a2b3c 100000000 1000 10 1",
)
