"""warc.py: texts of .wet and pages of .warc become documents; all else is counted by what it is."""

import gzip
import json
import sys
from contextlib import closing

import pytest

from headrace.errors import ConfigError, SourceError
from headrace.ingestion import FieldOptions, JobOptions, ingest
from headrace.ingestion.parse.warc import WarcDocuments, block_digest

HTML = "<html><body><nav><a href=/>Home</a></nav><article><p>{}</p></article></body></html>"
TEXTS = [f"Document {i}: " + "the wheel turns in the river. " * 8 for i in range(12)]


def _ingest(path, out, **options):
    options = {"workers": 1, "job": JobOptions(max_reject_share=1)} | options
    return ingest(path, out, **options)


def _rejects(store):
    return [json.loads(line) for line in (store / "rejects.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["a.warc.wet.gz", "a.wet.gz", "a.wet", "a.warc", "a.warc.gz", "crawl"])
def test_conversion_records_are_documents(tmp_path, warc, texts_of, name):
    texts = ["  first\nline\r\n\r\n", "naïve café", "WARC/1.0\r\nWARC-Type: conversion\r\n\r\n"]
    (tmp_path / name).write_bytes(warc(gzip=name.endswith(".gz")).texts(texts).data)
    _ingest(tmp_path / name, tmp_path / "store")
    assert texts_of(tmp_path / "store") == texts


def test_a_directory_takes_archives_by_their_names(tmp_path, warc, texts_of):
    for name, text in (("a.warc.wet.gz", "one"), ("b.warc", "two"), ("c.wet", "three")):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(warc(gzip=name.endswith("gz")).texts([text]).data)
    _ingest(tmp_path / "in", tmp_path / "store")
    assert texts_of(tmp_path / "store") == ["one", "two", "three"]


def test_pages_become_their_main_text_and_all_else_is_counted(tmp_path, warc, texts_of):
    archive = warc()
    archive.add("warcinfo", b"software: x", content_type="application/warc-fields")
    archive.add("request", b"", http=[("Host", "example.org")], status="GET / HTTP/1.1")
    archive.page(HTML.format(TEXTS[0]))
    archive.page(HTML.format("gone"), status="404 Not Found")
    archive.page("", status="301 Moved", http=[("Location", "/b")])
    archive.page(b"\x89PNG", content_type="image/png")
    archive.page(HTML.format(TEXTS[1]).encode("koi8-r", "ignore"), content_type="text/html; charset=koi8-r")
    archive.page(gzip.compress(HTML.format(TEXTS[2]).encode()), http=[("Content-Encoding", "gzip")])
    archive.add("revisit", b"", http=[("Content-Type", "text/html")])
    archive.add("metadata", b"a: b", content_type="application/warc-fields")
    archive.add("resource", HTML.format(TEXTS[3]).encode(), content_type="text/html; charset=utf-8")
    archive.add("response", b"20260101", url="dns:example.org", content_type="text/dns")
    archive.add("unheard-of", b"x")
    archive.page(HTML.format(TEXTS[4]), content_type="")
    archive.page(HTML.format("cut"), WARC_Segment_Number="1")
    archive.page("")
    (tmp_path / "a.warc.gz").write_bytes(archive.data)
    summary = _ingest(tmp_path / "a.warc.gz", tmp_path / "store")
    assert [text.strip() for text in texts_of(tmp_path / "store")] == [text.strip() for text in TEXTS[:5]]
    assert summary.rejects == {}
    assert summary.dropped == {
        "warcinfo_record": 1,
        "request_record": 1,
        "http_4xx": 1,
        "http_3xx": 1,
        "not_html": 1,
        "revisit_record": 1,
        "metadata_record": 1,
        "not_http": 1,
        "record_of_another_type": 1,
        "segmented_record": 1,
        "empty": 1,
    }


def test_bad_records_are_named_with_their_offset(tmp_path, warc):
    archive = warc(gzip=False).texts(TEXTS[:1])
    archive.add("conversion", b"caf\xe9")
    archive.add("conversion", b"digest")
    archive.page(b"5\r\nhello\r\n", http=[("Transfer-Encoding", "chunked")])
    archive.page(b"", status="200 Fault")
    archive.page("<div>" * 5000)
    archive.add("conversion", b"x" * 200_000)
    archive.page("<p>" + "y" * 200_000)
    data = archive.data.replace(b"200 Fault", b"2OO Fault").replace(b"\r\n\r\ndigest", b"\r\n\r\ndamage")
    (tmp_path / "a.warc").write_bytes(data)
    summary = _ingest(tmp_path / "a.warc", tmp_path / "store", fields=FieldOptions(max_document_bytes=1000))
    rejects = _rejects(tmp_path / "store")
    reasons = [
        "invalid_utf8",
        "wrong_digest",
        "broken_http",
        "broken_http",
        "broken_html",
        "too_long",
        "too_long",
    ]
    assert [reject["reason"] for reject in rejects] == reasons
    assert [reject["offset"] for reject in rejects] == archive.offsets[1:]
    assert all("http://example.org/" in reject["detail"] for reject in rejects)
    assert summary.documents == 1


def test_kept_values_are_those_of_the_record(tmp_path, warc):
    archive = warc().texts(TEXTS[:1])
    archive.page(
        HTML.format(TEXTS[1]), url="http://b.example/x", http=[("Server", "mill")], WARC_Truncated="length"
    )
    path = tmp_path / "a.warc.gz"
    path.write_bytes(archive.data)
    keep = ["url", "content_type", "status", "WARC-Truncated", "http.server", "nothing"]
    with closing(WarcDocuments(str(path), "gzip", FieldOptions(keep=keep))) as reader:
        (parsed,) = reader.read()
    assert parsed.meta == {
        "url": ["http://example.org/0", "http://b.example/x"],
        "content_type": ["text/plain", "text/html; charset=utf-8"],
        "status": [None, "200"],
        "WARC-Truncated": [None, "length"],
        "http.server": [None, "mill"],
        "nothing": [None, None],
    }


@pytest.mark.parametrize("shape", ["member", "plain", "whole"])
@pytest.mark.parametrize("step", [1, 300, 1500, 10_000])
def test_ranges_cut_an_archive_without_losing_or_doubling_a_document(tmp_path, warc, shape, step):
    archive = warc(gzip=shape == "member").texts(TEXTS)
    path = tmp_path / "a.wet"
    path.write_bytes(gzip.compress(archive.data) if shape == "whole" else archive.data)
    found = []
    with closing(WarcDocuments(str(path), "none" if shape == "plain" else "gzip", FieldOptions())) as reader:
        starts = list(range(0, 12_000, step))[:20_000]
        ranges = starts if step > 1 else []
        for start in [*ranges[::2], *ranges[1::2]] if step > 1 else [0]:  # out of order, as workers take them
            for parsed in reader.read(start, start + step if step > 1 else None):
                found += list(parsed.texts)
    assert sorted(found) == sorted(text.encode() for text in TEXTS)


def test_the_bytes_are_the_same_for_any_number_of_workers(tmp_path, warc, tree):
    archive = warc()
    for i in range(60):
        archive.page(HTML.format(f"Page {i}. " + TEXTS[i % 12]), url=f"http://example.org/{i}")
    (tmp_path / "a.warc.gz").write_bytes(archive.data)
    (tmp_path / "b.warc").write_bytes(warc(gzip=False).texts(TEXTS).data)
    stores = []
    for workers in (1, 2):
        out = tmp_path / f"store-{workers}"
        job = JobOptions(shard_text_bytes=4000)
        summary = _ingest([tmp_path / "a.warc.gz", tmp_path / "b.warc"], out, workers=workers, job=job)
        assert summary.documents == 72
        assert summary.units > 4
        stores.append(tree(out))
    assert stores[0] == stores[1]


def test_a_truncated_archive_stops_the_job_or_is_listed(tmp_path, warc, texts_of):
    data = warc().texts(TEXTS).data
    (tmp_path / "a.warc.gz").write_bytes(data[:-30])
    with pytest.raises(SourceError, match="truncated"):
        _ingest(tmp_path / "a.warc.gz", tmp_path / "store")
    _ingest(
        tmp_path / "a.warc.gz",
        tmp_path / "other",
        job=JobOptions(skip_damaged=True, max_reject_share=1),
    )
    assert [reject["reason"] for reject in _rejects(tmp_path / "other")] == ["damaged_file"]
    assert texts_of(tmp_path / "other") == TEXTS[:-1]


def test_pages_without_the_library_name_the_extra_and_texts_need_none(tmp_path, warc, texts_of, monkeypatch):
    for name in ("resiliparse.extract.html2text", "resiliparse.parse.encoding"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.wet").write_bytes(warc(gzip=False).texts(TEXTS).data)
    _ingest(tmp_path / "a.wet", tmp_path / "texts")
    assert texts_of(tmp_path / "texts") == TEXTS
    (tmp_path / "a.warc").write_bytes(warc(gzip=False).page(HTML.format("text")).data)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[web\]'"):
        _ingest(tmp_path / "a.warc", tmp_path / "pages")


@pytest.mark.parametrize(("name", "data"), [("a.warc.gz", b"{}"), ("a.warc", b""), ("a.wet", b"text")])
def test_a_file_that_is_none_is_refused_by_its_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(SourceError, match="named as warc"):
        _ingest(tmp_path / name, tmp_path / "store")


@pytest.mark.parametrize(
    "declared",
    [
        "sha1:G4XKBDFLGPTRYAWGKHN4QOSHJUZMM5XK",
        "SHA-1:g4xkbdflgptryawgkhn4qoshjuzmm5xk",
        "sha1:372ea08cab33e71c02c651dbc83a474d32c676ea",
        "md5:1cb251ec0d568de6a929b520c4aed8d1",
        "crc:1",  # nothing that can be computed
        "sha1:",
    ],
)
def test_digests_are_compared_as_crawlers_write_them(declared):
    assert block_digest(b"text", declared) is None
    if "sha" in declared and declared != "sha1:":
        assert block_digest(b"other", declared) is not None
