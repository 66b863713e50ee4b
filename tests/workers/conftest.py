"""Fixtures for tests of workers."""

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def importable():
    """`workers_for_tests` can be imported by its name; the fork server inherits the path."""
    sys.path.insert(0, str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture
def make_tasks(importable):
    """Tasks -> a queue of them for a pool."""
    from workers_for_tests import Tasks

    return Tasks
