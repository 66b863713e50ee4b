"""Ids that come twice are found, however far apart they stand, in the memory of one buffer."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from headrace.generation.prompts import duplicate_ids
from headrace.generation.prompts.duplicate_ids import DuplicateIds, hash_of


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(duplicate_ids, "BUFFER", 4)


@given(names=some.lists(some.one_of(some.integers(0, 30).map(str), some.text(max_size=4)), max_size=60))
def test_exactly_the_ids_that_come_twice_are_found(names):
    with DuplicateIds() as seen:
        for name in names:
            seen.add(name)
        assert seen.hashes() == {hash_of(name) for name, count in Counter(names).items() if count > 1}


def test_ids_that_are_no_unicode_have_a_hash_too():
    """A JSON string may hold half of a surrogate pair."""
    with DuplicateIds() as seen:
        seen.add("\ud800")
        seen.add("\ud800")
        assert seen.hashes() == {hash_of("\ud800")}


def test_its_file_goes_with_it():
    with DuplicateIds() as seen:
        for number in range(9):
            seen.add(str(number))
        file = seen._file
    assert file.closed
