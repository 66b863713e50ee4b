"""The running Python is a corpus: the same documents every time, only text."""

from __future__ import annotations

import pytest

from headrace.demo.standard_library import documentation_topics, python_documents
from headrace.errors import SourceError


def write(root, name, content: bytes):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_sources_come_in_the_order_of_their_paths_and_topics_after_them(tmp_path):
    for name in ("b.py", "a/z.py", "a/b.py", "a.py"):
        write(tmp_path, name, b"x = 1\n")
    found = [document.source for document in python_documents(tmp_path)]
    assert found[:4] == ["a/b.py", "a/z.py", "a.py", "b.py"]
    assert found[4:] == [document.source for document in documentation_topics()]


def test_what_is_not_text_or_not_the_standard_library_is_passed_over(tmp_path):
    write(tmp_path, "good.py", "naïve = 'ü'\n".encode())
    write(tmp_path, "latin1.py", "# -*- coding: latin-1 -*-\n'ü'\n".encode("latin-1"))
    write(tmp_path, "empty.py", b"")
    write(tmp_path, "notes.txt", b"not a source")
    write(tmp_path, "site-packages/other.py", b"x = 1\n")
    found = [document.source for document in python_documents(tmp_path)]
    assert [name for name in found if not name.startswith("topics/")] == ["good.py"]


def test_a_python_without_sources_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(SourceError, match="headrace demo FILE"):
        list(python_documents(tmp_path))


def test_this_python_has_its_own_sources():
    first = {document.source for document, _ in zip(python_documents(), range(600), strict=False)}
    assert {"argparse.py", "asyncio/tasks.py"} <= first
