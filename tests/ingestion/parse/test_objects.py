"""objects.py: what stands between and behind the objects of a .json file is read as JSON has it, or named."""

from __future__ import annotations

import json

import pytest

from headrace.errors import SourceError
from headrace.ingestion import JobOptions, ingest

ROWS = [{"text": f"text {i}", "id": i} for i in range(5)]
ARRAY = json.dumps(ROWS)
FIRST, SECOND = json.dumps(ROWS[0]), json.dumps(ROWS[1])


def ingested(tmp_path, text: str, **job):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    return ingest(path, tmp_path / "store", workers=1, job=JobOptions(max_reject_share=1.0, **job))


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        (ARRAY, 5),
        ("\ufeff" + ARRAY, 5),
        (f"  {json.dumps(ROWS, indent=2)}\n \n", 5),
        (ARRAY + ARRAY, 10),
        (f"[]\n{ARRAY}\n[ ]\n", 5),
        (FIRST + SECOND, 2),
        (f"{FIRST}\n\n{SECOND}\n", 2),
        (f"{FIRST}, {SECOND}", 2),
    ],
)
def test_arrays_and_objects_one_after_the_other_are_read(tmp_path, text, documents):
    summary = ingested(tmp_path, text)
    assert (summary.documents, summary.rejects) == (documents, {})


@pytest.mark.parametrize(
    ("text", "byte", "got"),
    [
        (ARRAY + "]", len(ARRAY) - 1, "]]"),
        (ARRAY + "\n]", len(ARRAY) - 1, "]"),
        (ARRAY + ",", len(ARRAY) - 1, "],"),
        (ARRAY + "}", len(ARRAY), "}"),
        (ARRAY + " x", len(ARRAY) + 1, "x"),
        (ARRAY + "5", len(ARRAY), "5"),
        (ARRAY + FIRST, len(ARRAY), '{"text'),
        (ARRAY + "\0" * 100, len(ARRAY), r"\x00"),
        (f"[{FIRST},]", len(FIRST) + 1, ",]"),
        (f"[{ARRAY}]", len(ARRAY), "]]"),
        (FIRST + "]", len(FIRST), "]"),
        (FIRST + ",", len(FIRST), ","),
        ("[]]", 0, "[]]"),
    ],
)
def test_what_follows_the_records_is_an_error_with_its_byte(tmp_path, text, byte, got):
    with pytest.raises(SourceError) as caught:
        ingested(tmp_path, text)
    assert f"byte {byte} of its text: got b'{got}" in str(caught.value)
    assert "the end of the file" in str(caught.value)


@pytest.mark.parametrize("text", [ARRAY[:-1], ARRAY[:-1] + ",", ARRAY[:-1] + "x"])
def test_an_array_without_its_bracket_is_an_error(tmp_path, text):
    with pytest.raises(SourceError, match="no closing bracket"):
        ingested(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (f"[{FIRST}{SECOND}]", len(FIRST) + 1),
        (f"[{FIRST},,{SECOND}]", len(FIRST) + 1),
        (f"[,{FIRST},{SECOND}]", 0),
        (f"{FIRST},,{SECOND}", len(FIRST)),
        (f"{FIRST}\n] [{SECOND}", len(FIRST) + 1),
    ],
)
def test_what_json_does_not_have_between_two_records_is_listed_and_costs_none(tmp_path, text, at):
    summary = ingested(tmp_path, text)
    assert (summary.documents, summary.rejects) == (2, {"broken_json": 1})
    reject = json.loads((tmp_path / "store/rejects.jsonl").read_text())
    assert reject["offset"] == at
    assert "between records" in reject["detail"]


def test_a_file_of_many_units_and_blocks_with_damaged_records_has_no_other_rejects(tmp_path):
    """Wherever it is cut, and also behind a record whose end is not known."""
    lines = [json.dumps({"text": f"{i} " * 40}) for i in range(400)]
    for i in range(7, 400, 50):
        lines[i] = lines[i][:30]
    summary = ingested(tmp_path, "[" + ",\n".join(lines) + "]\n", shard_text_bytes=3000)
    assert (summary.documents, summary.rejects) == (392, {"broken_json": 8})
