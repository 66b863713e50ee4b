"""A corpus holds every document once, in the same bytes every time, or is not there."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.demo import corpus as corpus_module
from headrace.demo.corpus import HELD_OUT, read_corpus_file, training_parts, write_corpus
from headrace.errors import DocumentError, SourceError
from headrace.ingestion import find_sources


def write_texts(path, texts):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return find_sources([path])


def texts_in(folder, files):
    return [text for path in files for _, text in read_corpus_file(folder / path)]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(texts=st.lists(TEXT, min_size=2, max_size=130))
def test_every_document_is_either_trained_on_or_held_out(tmp_path, texts):
    sources = write_texts(tmp_path / "in.jsonl.gz", texts)
    found = write_corpus(sources, tmp_path / "corpus")
    train = texts_in(tmp_path / "corpus", [path.name for path in training_parts(tmp_path / "corpus")])
    held_out = texts_in(tmp_path / "corpus", [HELD_OUT])
    assert found.documents == len(train) >= 1
    assert found.held_out_documents == len(held_out) >= 1
    if len(texts) >= 50:
        assert held_out == texts[49::50]
        assert train == [text for i, text in enumerate(texts, start=1) if i % 50]
    else:
        assert [*train[:-1], train[-1] + held_out[0]] == texts


def test_the_same_text_makes_the_same_bytes(tmp_path):
    sources = write_texts(tmp_path / "in.jsonl.gz", [f"document {i}\n" * 50 for i in range(120)])
    write_corpus(sources, tmp_path / "one")
    write_corpus(sources, tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["held-out.jsonl.gz", "part-0000.jsonl.gz"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_large_corpus_is_cut_into_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "PART_BYTES", 1000)
    sources = write_texts(tmp_path / "in.jsonl.gz", ["x" * 400] * 30)
    assert write_corpus(sources, tmp_path / "corpus").parts == 10
    assert len(training_parts(tmp_path / "corpus")) == 10


def test_the_text_may_be_in_any_field(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("content,text\nthe words,the title\nmore words,a title\n")
    write_corpus(find_sources([path]), tmp_path / "corpus", text_field="content")
    parts = [part.name for part in training_parts(tmp_path / "corpus")]
    texts = "".join(texts_in(tmp_path / "corpus", [*parts, HELD_OUT]))
    assert "words" in texts
    assert "title" not in texts


def test_more_text_than_a_demo_can_use_is_left_out_and_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "MAX_BYTES", 1 << 20)
    sources = write_texts(tmp_path / "in.jsonl.gz", ["x" * 100_000] * 30)
    found = write_corpus(sources, tmp_path / "corpus")
    assert found.capped
    assert found.text_bytes + found.held_out_bytes == 1_000_000
    assert "(the first 1 MiB of more)" in found.sentence()


def test_the_rest_of_a_killed_run_is_cleared(tmp_path):
    sources = write_texts(tmp_path / "in.jsonl.gz", ["text"] * 3)
    for name in ("corpus", "corpus.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-0099.jsonl.gz").write_bytes(b"half")
    write_corpus(sources, tmp_path / "corpus")
    assert [path.name for path in training_parts(tmp_path / "corpus")] == ["part-0000.jsonl.gz"]
    assert not (tmp_path / "corpus.partial").exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        (
            "truncated.jsonl.gz",
            gzip.compress(b'{"text": "' + bytes(range(48, 122)) * 999)[:-20],
            SourceError,
            "truncated",
        ),
        ("not.jsonl.gz", b'{"text": "plain"}\n', SourceError, "not.jsonl.gz"),
        ("bad.jsonl", b'{"text": "good"}\n{"text": "b\xff"}\n', DocumentError, "line 2"),
        ("fieldless.jsonl", b'{"text": "good"}\n{"other": 1}\n', DocumentError, "line 2"),
        ("empty.txt", b"", SourceError, "empty.txt"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name_and_place(tmp_path, name, content, error, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words):
        write_corpus(find_sources([tmp_path / name]), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
