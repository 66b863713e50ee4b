"""Kept fields as metadata: nothing is lost, whatever they hold."""

import json

import pytest

from headrace.ingestion.fields import as_metadata, lookup


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, None),
        (5, "5"),
        (True, "true"),
        ([1, None], "[1,null]"),
        ({"a": "é"}, '{"a":"é"}'),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        ([float("nan")], "[NaN]"),
        (b"plain", "plain"),
        (b"\xff\x00", "base64:/wA="),
        (2**70, str(2**70)),
    ],
)
def test_a_kept_value_becomes_a_string(value, text):
    assert as_metadata(value) == text


def test_a_value_nested_deeper_than_orjson_writes_is_kept():
    nested = value = []
    for _ in range(300):
        nested.append([])
        nested = nested[0]
    assert json.loads(as_metadata(value)) == value


def test_a_dotted_name_looks_inside_objects():
    assert lookup({"a": {"b": 1}}, "a.b") == 1
    assert lookup({"a.b": 2, "a": {"b": 1}}, "a.b") == 2
    assert lookup({"a": 1}, "a.b") is None
