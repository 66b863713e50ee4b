"""Places for stores; makes `store_fakes` importable, as test files are no package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.store.blob import open_blob

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def url(request, tmp_path):
    """A fresh place: a local directory by default, memory where the test is parametrised with "memory"."""
    kind = getattr(request, "param", "local")
    return str(tmp_path / "store") if kind == "local" else f"memory://{request.node.nodeid}"


@pytest.fixture
def blob(url):
    return open_blob(url)
