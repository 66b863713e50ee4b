"""Every kind of source, plain and packed -> the same documents.

Modules: document.py, read/open.py, parse/delimited.py, parse/json_text.py, parse/jsonl.py, parse/objects.py,
parse/plain.py, parse/reader.py, parse/tables.py, parse/tarfiles.py.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile

import lz4.frame
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from headrace.errors import DocumentError, SourceError
from headrace.ingestion import FieldOptions, JobOptions, ingest, read_texts
from headrace.ingestion.read.sources import describe, find_sources
from headrace.store import Store

PACK = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".lz4": lz4.frame.compress,
}
DOCUMENTS = [
    "plain text",
    'zwei  Wörter,\tmit "Anführung"',
    "水 river\r\nsecond line",
    "x" * 3000,
    "end <|endoftext|>",
]


def _table(documents):
    return pa.table({"id": list(range(len(documents))), "text": documents})


def _ipc_stream(table):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def _feather(table, **options):
    sink = io.BytesIO()
    pa.feather.write_feather(table, sink, **options)
    return sink.getvalue()


def _parquet(table):
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, row_group_size=2)
    return sink.getvalue()


def _csv_field(text):
    return '"' + text.replace('"', '""') + '"'


def _tar(documents):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i, text in enumerate(documents):
            members = (
                {"cls": b"7", "txt": text.encode()}
                if i % 2
                else {"json": json.dumps({"text": text}).encode()}
            )
            for extension, data in members.items():
                info = tarfile.TarInfo(f"train/sample{i:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


FORMATS = {
    "corpus.jsonl": lambda d: "".join(json.dumps({"id": 1, "text": t}) + "\n" for t in d).encode(),
    "corpus.json": lambda d: json.dumps([{"text": t, "meta": {"n": [1, {}]}} for t in d], indent=1).encode(),
    "corpus.csv": lambda d: ("id,text\r\n" + "".join(f"1,{_csv_field(t)}\r\n" for t in d)).encode(),
    "corpus.parquet": lambda d: _parquet(_table(d)),
    "corpus.feather": lambda d: _feather(_table(d), compression="lz4"),
    "corpus.arrow": lambda d: _ipc_stream(_table(d)),
    "corpus.tar": _tar,
}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_every_packing_gives_its_documents(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(PACK[suffix](FORMATS[name](DOCUMENTS)))
    assert list(read_texts(path, strict=True)) == DOCUMENTS


@pytest.mark.parametrize("name", FORMATS)
def test_the_content_decides_and_not_the_name_alone(tmp_path, name):
    """Packed though the name does not say so; Arrow, Parquet and tar under a text file's name."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(FORMATS[name](DOCUMENTS)))
    assert list(read_texts(path)) == DOCUMENTS
    if name.endswith((".parquet", ".feather", ".arrow", ".tar")):
        path = tmp_path / "corpus.jsonl"
        path.write_bytes(FORMATS[name](DOCUMENTS))
        assert list(read_texts(path)) == DOCUMENTS


@pytest.mark.parametrize("suffix", [suffix for suffix in PACK if suffix])
def test_a_name_that_says_packed_on_bytes_that_are_not_is_one_clear_line(tmp_path, suffix):
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(b'{"text": "not packed"}\n')
    with pytest.raises(SourceError, match=r"corpus\.jsonl.*named as .* first bytes are 7b 22 74 65"):
        ingest(path, tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


@pytest.mark.parametrize("suffix", [suffix for suffix in PACK if suffix])
def test_a_truncated_file_is_an_error_and_leaves_no_store(tmp_path, make_documents, suffix):
    path = tmp_path / f"corpus.jsonl{suffix}"
    data = PACK[suffix](FORMATS["corpus.jsonl"](make_documents(300)))
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SourceError, match=r"corpus\.jsonl.*truncated: the .* data ends too early, after \d+"):
        ingest(path, tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def _cut_stream():
    return _ipc_stream(_table(DOCUMENTS)).removesuffix(b"\xff\xff\xff\xff" + bytes(4))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (
            "x.tar",
            lambda: FORMATS["corpus.tar"](DOCUMENTS)[:2048],
            "truncated: the tar ends without the zeros",
        ),
        ("x.tar", lambda: FORMATS["corpus.tar"](DOCUMENTS) * 2, "something stands behind the tar's end"),
        ("x.arrow", _cut_stream, "no end mark: truncated"),
        ("x.csv", lambda: b"id,text\r1,old\r2,mac\r", "lone carriage returns"),
        ("x.tsv", lambda: b'"id"\t"text"\n"1"\t"a"\n', "in quotes, which TSV does not know"),
        ("x.csv", lambda: b"text,text\na,b\n", "2 columns are named 'text'"),
        ("x.txt", lambda: "text".encode("utf-16"), "its text is UTF-16; expected UTF-8.*iconv"),
        ("x.csv", lambda: "id,text\n1,a\n".encode("utf-16-le"), "its text is UTF-16LE"),
        ("x.jsonl", lambda: b'{"text": "a"}\n'.decode().encode("utf-16-be"), "its text is UTF-16BE"),
        ("x.txt", lambda: "text".encode("utf-32"), "its text is UTF-32"),
        ("bad\udcff.txt", lambda: b"text", "name is not UTF-8"),
    ],
)
def test_what_would_be_read_in_part_or_wrongly_is_refused(tmp_path, name, data, says):
    """Libraries take these for whole and fine."""
    (tmp_path / name).write_bytes(data())
    with pytest.raises(SourceError, match=says):
        ingest(tmp_path / name, tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_quote_left_open_is_a_bad_row_that_is_named(tmp_path):
    (tmp_path / "x.csv").write_bytes(b'id,text\n1,fine\n2,"never closed\n3,also fine\n')
    with pytest.raises(DocumentError, match="line 3: byte 15: broken row"):
        ingest(tmp_path / "x.csv", tmp_path / "strict", tokenizer="byte")
    summary = ingest(
        tmp_path / "x.csv", tmp_path / "store", tokenizer="byte", job=JobOptions(max_reject_share=0.5)
    )
    assert summary.documents == 2


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    (tmp_path / "x.parquet").write_bytes(_parquet(table))
    with pytest.raises(SourceError, match="2 columns are named 'text'"):
        ingest(tmp_path / "x.parquet", tmp_path / "store")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(SourceError, match=r"x\.jsonl: not a file but a pipe"):
        ingest(tmp_path, tmp_path / "store")


def test_a_folder_that_cannot_be_read_is_an_error_and_not_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        (tmp_path / "corpus" / name / "x.txt").write_text("text")

    def scandir(path, real=os.scandir):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match="/b: Permission denied"):
        find_sources([tmp_path / "corpus"])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"text": "first", "text": "last", "id": 1}', "last"),
        ('{"text": "", "text": "last", "id": 1}', "last"),
        ('{"text": null, "id": 1, "text": "last"}', "last"),
        ('{"id": {"text": "inner"}, "text": "last"}', "last"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_of_a_name_that_occurs_twice_the_last_value_counts_in_every_format(tmp_path, line, text, name):
    """As json, orjson, pandas and pyarrow have it; and whatever else is kept."""
    (tmp_path / name).write_text(f'{{"text": "before", "id": 0}}\n{line}\n')
    ingest(tmp_path / name, tmp_path / "plain")
    ingest(tmp_path / name, tmp_path / "kept", fields=FieldOptions(keep=["id"]))
    for store in ("plain", "kept"):
        with Store.open(tmp_path / store) as opened:
            assert opened.tokenizer.decode(opened.read(0, opened.num_tokens)).endswith(text)


def test_a_gzip_file_of_many_members_is_read_to_its_end(tmp_path):
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(json.dumps({"text": t}).encode() + b"\n") for t in DOCUMENTS))
    assert list(read_texts(path)) == DOCUMENTS


@pytest.mark.parametrize(
    ("mode", "documents"),
    [
        ("line", ["one", "two", "three", "four five"]),
        ("block", ["one\ntwo", "three\r\nfour five"]),
        ("file", ["one\ntwo\n\n \t\n\nthree\r\nfour five\n"]),
        ("auto", ["one\ntwo\n\n \t\n\nthree\r\nfour five\n"]),
    ],
)
def test_a_text_file_is_cut_as_it_is_asked_for(tmp_path, mode, documents):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"one\ntwo\n\n \t\n\nthree\r\nfour five\n")
    assert list(read_texts(path, fields=FieldOptions(text_mode=mode))) == documents


def test_a_long_text_file_is_cut_at_blank_lines_unless_told_otherwise(tmp_path):
    path = tmp_path / "book.txt.gz"
    paragraph = "word " * 199 + "word"
    path.write_bytes(gzip.compress(f"{paragraph}\n\n".encode() * 1200))
    assert list(read_texts(path)) == [paragraph] * 1200


def test_a_directory_is_walked_in_the_order_of_names(tmp_path, write_jsonl):
    for name in ("b/2.jsonl", "a/1.jsonl.gz", "b/10.jsonl"):
        write_jsonl(tmp_path / name, [name])
    (tmp_path / "b" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden").mkdir()
    write_jsonl(tmp_path / ".hidden" / "3.jsonl", ["hidden"])
    assert list(read_texts(tmp_path)) == ["a/1.jsonl.gz", "b/10.jsonl", "b/2.jsonl"]
    assert list(read_texts(str(tmp_path / "*" / "*.jsonl"))) == ["b/10.jsonl", "b/2.jsonl"]
    assert list(read_texts([tmp_path / "b" / "2.jsonl", tmp_path])) == [
        "b/2.jsonl",
        "a/1.jsonl.gz",
        "b/10.jsonl",
    ]


def test_what_datasets_saved_to_disk_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({"text": DOCUMENTS[:3]}),
            "test": datasets.Dataset.from_dict({"text": DOCUMENTS[3:]}),
        }
    )
    both.save_to_disk(tmp_path / "saved")
    assert list(read_texts(tmp_path / "saved")) == DOCUMENTS
    assert list(read_texts(tmp_path / "saved" / "test")) == DOCUMENTS[3:]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("missing.jsonl", "no such file"), ("*.parquet", "no file matches"), (".", "none of its 0 files")],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, pattern, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=says):
        ingest(pattern, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.csv", r"no column 'body'; the columns are: id, text"),
        ("x.parquet", r"no column 'body'; .*id, text"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, name, says):
    path = tmp_path / name
    path.write_bytes(FORMATS[f"corpus.{name[2:]}"](DOCUMENTS))
    with pytest.raises(SourceError, match=says):
        ingest(path, tmp_path / "store", fields=FieldOptions(text_field="body"))


def test_a_file_named_parquet_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR2 no")
    with pytest.raises(SourceError, match="named as parquet, but its first bytes are 50 41 52 32"):
        describe(str(tmp_path / "x.parquet"))


def test_a_fingerprint_is_of_the_content_and_not_of_the_name(tmp_path, write_jsonl):
    a = describe(str(write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)))
    b = describe(str(write_jsonl(tmp_path / "b.jsonl", DOCUMENTS)))
    c = describe(str(write_jsonl(tmp_path / "c.jsonl", DOCUMENTS[::-1])))
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_sources_in_memory_and_their_patterns(write_jsonl, tmp_path):
    """The same way as s3://, gs:// and az://: the blob seam is one."""
    from headrace.storage import open_blob

    blob = open_blob("memory://corpus-of-tests")
    for name in ("2024/a.jsonl.gz", "2024/b.jsonl", "2025/a.jsonl", "2025/_SUCCESS", "notes.pdf"):
        blob.put(name, write_jsonl(tmp_path / name, [name]).read_bytes() if "jsonl" in name else b"x")

    def names(pattern):
        found = find_sources([f"memory://corpus-of-tests{pattern}"])
        return [source.url.removeprefix("memory://corpus-of-tests/") for source in found]

    assert names("") == ["2024/a.jsonl.gz", "2024/b.jsonl", "2025/a.jsonl"]
    assert names("/2024/*") == ["2024/a.jsonl.gz", "2024/b.jsonl"]
    assert names("/**/a.*") == ["2024/a.jsonl.gz", "2025/a.jsonl"]
    assert list(read_texts("memory://corpus-of-tests/2024/a.jsonl.gz")) == ["2024/a.jsonl.gz"]
    with pytest.raises(SourceError, match="nothing matches"):
        find_sources(["memory://corpus-of-tests/*.csv"])


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        (b'{\n  "text": "a"\n}\n', "json"),
        (b"{}\n", "jsonl"),
        (b"{\\rtf1 text", "text"),
        (b"{this is no JSON} but text\n", "text"),
    ],
)
def test_a_brace_alone_makes_no_json_of_a_file_of_unknown_suffix(tmp_path, head, format):
    path = tmp_path / "file.xyz"
    path.write_bytes(head)
    assert describe(str(path)).format == format


def test_a_job_without_a_good_document_names_the_first_bad_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": NaN}\n{"text": 1}\n')
    with pytest.raises(
        SourceError, match=r"no documents in 1 files; 2 were bad, the first one at .*a\.jsonl: line 1"
    ):
        ingest(path, tmp_path / "store", workers=1, job=JobOptions(max_reject_share=1))
