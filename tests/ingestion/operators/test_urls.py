"""urls.py: which URLs are one; documents with the URL of an earlier one are left out."""

import json

import pytest

from headrace.errors import ConfigError
from headrace.ingestion import FieldOptions, OperatorOptions, ingest
from headrace.ingestion.operators.urls import normal_url, repeats, sketch


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://example.org", "example.org"),
        ("https://www.Example.org:443/", "example.org"),
        ("<http://example.org/a/#b>", "example.org/a"),
        ("http://example.org:8080/A?b=1&a=2#c", "example.org:8080/A?b=1&a=2"),
        ("http://user:pw@example.org./x", "example.org/x"),
        ("http://[::1", "http://[::1"),
        ("http://example.org:port/", "http://example.org:port/"),
        ("no url#a", "no url"),
    ],
)
def test_urls_of_one_page_are_one(url, normal):
    assert normal_url(url) == normal


def test_documents_without_a_url_are_no_repeats():
    urls = ["http://a.b/", None, "", "https://www.a.b", " ", None]
    assert repeats([sketch(urls[:2]), sketch(urls[2:])]).tolist() == [False, False, False, True, False, False]


def test_the_first_document_of_a_url_is_kept(tmp_path, texts_of):
    rows = [
        ("one", "http://a.b/x"),
        ("two", None),
        ("three", "https://a.b/x/"),
        ("four", "http://a.b/y"),
        ("five", None),
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "source_url": url}) + "\n" for text, url in rows))
    operators = OperatorOptions(dedup="url", dedup_field="source_url")
    fields = FieldOptions(keep="source_url")
    summary = ingest(path, tmp_path / "store", workers=1, operators=operators, fields=fields)
    assert texts_of(tmp_path / "store") == ["one", "two", "four", "five"]
    assert summary.dropped == {"repeated": 1}
    more = tmp_path / "b.jsonl"
    more.write_text(
        '{"text": "six", "source_url": "http://www.a.b/y"}\n{"text": "seven", "source_url": "http://c"}\n'
    )
    ingest(more, tmp_path / "store", workers=1, operators=operators, fields=fields, append=True)
    assert texts_of(tmp_path / "store")[4:] == ["seven"]
    with pytest.raises(ConfigError, match="is not kept"):
        ingest(path, tmp_path / "other", workers=1, operators=operators)
