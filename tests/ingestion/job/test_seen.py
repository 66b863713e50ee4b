"""Which sources a store has already (seen.py, content_hash.py): all of a file's bytes decide, never a sample alone."""

import json
import os
import shutil

import pytest
import xxhash

from headrace.errors import ConfigError, ResumeError, SourceError
from headrace.ingestion import JobOptions, ingest, pipeline
from headrace.ingestion.read import content_hash
from headrace.ingestion.read.content_hash import hash_chunks, hash_file, join_chunks, num_chunks

LINES = 20_000


@pytest.fixture
def corpus(tmp_path):
    """A file of 1.3 MB: far more than the samples of its fingerprint cover."""
    path = tmp_path / "cards.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"card {i:09d} of a customer, number 4000"}) + "\n" for i in range(LINES))
    )
    return path


def redact(path, *, keep_time=False):
    """Change 5 bytes in the middle of a line, in place, at equal length."""
    before = path.stat()
    data = path.read_bytes()
    at = data.index(b"card 000012345") + 9
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"XXXXX")
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_changed_in_place_at_equal_length_is_a_changed_file(tmp_path, corpus, texts_of, keep_time):
    ingest(corpus, tmp_path / "store", workers=1)
    redact(corpus, keep_time=keep_time)
    with pytest.raises(ConfigError, match=r"cards\.jsonl has changed"):
        ingest(corpus, tmp_path / "store", workers=1)
    added = ingest(corpus, tmp_path / "store", workers=1, append=True)
    assert added.documents == LINES
    assert "changed since it was ingested" in added.notes[0]
    assert "stay in the store" in added.notes[0]
    assert any("XXXXX" in text for text in texts_of(tmp_path / "store"))


def test_what_decided_that_a_source_is_known_is_said(tmp_path, corpus):
    ingest(corpus, tmp_path / "store", workers=1)
    same = ingest(corpus, tmp_path / "store", workers=1, append=True)
    assert same.notes == ("in the store already: 1 of 1 sources (1 by size and times)",)
    shutil.copy(corpus, tmp_path / "copy.jsonl")
    copied = ingest(tmp_path / "copy.jsonl", tmp_path / "store", workers=1, append=True)
    assert copied.notes == ("in the store already: 1 of 1 sources (1 by content)",)
    os.utime(corpus)
    touched = ingest(corpus, tmp_path / "store", workers=1)
    assert "already" in touched.notes[0]


def test_an_append_of_a_file_that_has_grown_is_refused_with_the_cure(tmp_path, corpus, tree):
    ingest(corpus, tmp_path / "store", workers=1)
    before = tree(tmp_path / "store")
    with corpus.open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(
        ConfigError, match=r"has grown: its first [\d,]+ bytes are in the store already.*of its own"
    ):
        ingest(corpus, tmp_path / "store", workers=1, append=True)
    assert tree(tmp_path / "store") == before


def test_a_file_that_changes_while_it_is_read_makes_no_store(tmp_path, corpus):
    def progress(done, total, note):
        if done:
            with corpus.open("a") as file:
                file.write('{"text": "late"}\n')

    with pytest.raises(SourceError, match=r"cards\.jsonl: changed while it was read"):
        ingest(corpus, tmp_path / "store", workers=1, progress=progress)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_half_done_job_is_not_continued_on_other_content_whatever_its_times_say(
    tmp_path, corpus, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "commit", killed)
        with pytest.raises(Killed):
            ingest(corpus, tmp_path / "store", workers=1)
    redact(corpus, keep_time=True)
    with pytest.raises(
        ResumeError, match=r"cards\.jsonl: its content has changed since this job was started"
    ):
        ingest(corpus, tmp_path / "store", workers=1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.txt"])
def test_the_content_hash_is_of_all_bytes_whatever_the_format_and_the_units(
    tmp_path, make_documents, write_jsonl, monkeypatch, name
):
    monkeypatch.setattr(content_hash, "CHUNK_BYTES", 3_000)
    documents = make_documents(300)
    path = tmp_path / name
    if "jsonl" in name:
        write_jsonl(path, documents)
    elif name.endswith("parquet"):
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.table({"text": documents}), path, row_group_size=40)
    elif name.endswith("json"):
        path.write_text(json.dumps([{"text": text} for text in documents]))
    else:
        path.write_text("\n\n".join(documents))
    ingest(path, tmp_path / "store", workers=1, job=JobOptions(shard_text_bytes=8_000))
    job = json.loads((tmp_path / "store" / "ingest" / "000-job.json").read_text())
    data = path.read_bytes()
    chunks = [data[at : at + 3_000] for at in range(0, len(data), 3_000)]
    expected = xxhash.xxh3_128_hexdigest("".join(map(xxhash.xxh3_128_hexdigest, chunks)).encode())
    assert job["sources"][0]["content"] == expected == hash_file(str(path))


@pytest.mark.parametrize("nbytes", [0, 1, 9, 10, 11, 25])
def test_chunks_put_together_are_the_hash_of_the_file(tmp_path, monkeypatch, nbytes):
    monkeypatch.setattr(content_hash, "CHUNK_BYTES", 10)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(nbytes)))
    n = num_chunks(nbytes)
    parts = hash_chunks(str(path), range(0, n, 2)) | hash_chunks(str(path), range(1, n, 2))
    assert join_chunks(parts) == hash_file(str(path)) == hash_file(str(path), nbytes=nbytes)
    path.write_bytes(bytes(range(nbytes)) + b"more")
    assert join_chunks(parts) == hash_file(str(path), nbytes=nbytes) != hash_file(str(path))
