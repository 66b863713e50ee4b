"""Texts of raw files, one by one, without a store."""

from __future__ import annotations

import gzip

import orjson
import pytest

from headrace.errors import DocumentError, SourceError
from headrace.ingestion.texts import read_texts


def test_documents_come_in_the_order_of_their_files_and_lines(tmp_path):
    for name, texts in (("b.jsonl.gz", ["three", "vier"]), ("a.jsonl", ["one", "zwei"])):
        data = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(read_texts([tmp_path])) == ["one", "zwei", "three", "vier"]


def test_a_bad_document_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"body": "no text"}\n')
    with pytest.raises(DocumentError, match=r"a\.jsonl: line 2: .*text"):
        list(read_texts([path], strict=True))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        list(read_texts([tmp_path / "nowhere.jsonl"]))
