"""Vocabularies for tests: trained here, or real ones where HEADRACE_TEST_ASSETS names a directory with them."""

import os
from pathlib import Path

import pytest

SENTENCES = [
    "The river turns the wheel, and the wheel turns the stone.",
    "A headrace brings water to a turbine; a tailrace takes it away.",
    "Don't stop: it's 1,234.5 m³ per second — naïve, isn't it?",
    "def flow(head: float) -> float:\n    return (2 * 9.81 * head) ** 0.5\n",
    "水は流れる。 Река течёт. Ο ποταμός ρέει. النهر يجري 👍🏽",  # noqa: RUF001 - it is Greek
    "   indented   and    spaced\t\ttabs\r\n\r\nlines\n\n\n",
]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A byte-level vocabulary of 400 ids."""
    from headrace.tokens import train_tokenizer

    texts = [f"{a} {b}" for a in SENTENCES for b in SENTENCES]
    return train_tokenizer(texts, vocab_size=400, out=tmp_path_factory.mktemp("trained") / "tokenizer.json")


@pytest.fixture(scope="session")
def assets() -> Path:
    """A directory with tiktoken-cache/ and tokenizer-*/; tests of real vocabularies need it."""
    place = os.environ.get("HEADRACE_TEST_ASSETS")
    if not place or not Path(place).is_dir():
        pytest.skip("HEADRACE_TEST_ASSETS names no directory with real vocabularies")
    return Path(place)
