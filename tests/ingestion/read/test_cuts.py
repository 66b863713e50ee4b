"""Where records end, also behind damaged ones: one damaged record costs one record."""

import csv
import io
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ingestion.read.cuts import CsvRowEnds, json_object_ends

CSV = CsvRowEnds(b",", 1 << 16)


def pieces(data, find):
    ends = find(bytearray(data), 0, len(data), final=True)
    bounds = [0, *ends, *([] if ends and ends[-1] == len(data) else [len(data)])]
    return [data[i:j] for i, j in pairwise(bounds)]


def loaded(data):
    found = []
    for piece in pieces(data, json_object_ends):
        try:
            found.append(json.loads(piece.strip(b"[], \t\r\n")))
        except ValueError:
            continue
    return found


texts = st.text(alphabet='ab "{}[],:\\\n', max_size=12)
records = st.lists(
    st.fixed_dictionaries({"text": texts, "more": st.lists(st.fixed_dictionaries({"b": texts}), max_size=2)}),
    min_size=3,
    max_size=8,
)
layouts = {
    "one a line": lambda rs: [json.dumps(r) + "\n" for r in rs],
    "array, one a line": lambda rs: [
        ("[\n" if i == 0 else "") + json.dumps(r) + (",\n" if i < len(rs) - 1 else "\n]\n")
        for i, r in enumerate(rs)
    ],
    "array, indented": lambda rs: [
        ("[\n" if i == 0 else "")
        + "\n".join("  " + line for line in json.dumps(r, indent=2).split("\n"))
        + (",\n" if i < len(rs) - 1 else "\n]\n")
        for i, r in enumerate(rs)
    ],
}


@given(rs=records, layout=st.sampled_from(sorted(layouts)))
def test_whole_records_are_cut_as_they_are(rs, layout):
    assert loaded("".join(layouts[layout](rs)).encode()) == rs


@given(rs=records, layout=st.sampled_from(sorted(layouts)), data=st.data())
def test_a_record_cut_short_costs_no_other_record(rs, layout, data):
    """The kind: half-written records, whose open string or brackets swallow what follows."""
    written = layouts[layout](rs)
    which = data.draw(st.integers(0, len(rs) - 1))
    head = "[\n" if which == 0 and layout != "one a line" else ""
    body = written[which].removeprefix(head)
    # Cut inside the record's outermost braces; the line's end stays.
    inner = body.rstrip("\n],")
    length = data.draw(st.integers(1, len(inner) - 1))
    if "\n" in inner[length:]:  # of an indented record the rest of the lines is missing
        length = max(length, inner.index("\n"))
    written[which] = head + inner[:length].rstrip("\n") + "\n"
    found = loaded("".join(written).encode())
    for i, record in enumerate(rs):
        if i != which:
            assert record in found, (i, written)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('{"a": 1}\n}\n{"a": 2}\n', 2),  # one brace too many
        ('{"a": 1}\ngarbage\n{"a": 2}\n', 2),
        ('{"a": 1}\n"a": 5}\n{"a": 2}\n', 2),  # its first brace is missing
        ('{"a": [1}\n{"a": 2}\n', 1),  # brackets that do not match
        ('{"a": "x\n{"a": 2}\n', 1),
        ('{"a": "x\\"}\n{"a": 2}\n', 1),  # the quote is escaped
        ('{"a: "x"}\n{"a": 2}\n', 1),  # a quote is missing
        ('{"a":\n{"a": 2}\n', 1),
        ('[{"a": 1 {"b": 2}, {"a": 2}, {"a": 3}]', 2),  # all on one line
    ],
)
def test_damage_of_every_kind_ends_with_its_record(text, good):
    assert len(loaded(text.encode())) == good


@given(
    data=st.text(alphabet='{}[]",:\\ab \n', max_size=60).map(str.encode),
    size=st.integers(1, 60),
)
def test_ends_that_are_certain_stay_when_more_bytes_come(data, size):
    for find in (json_object_ends, CSV):
        some = find(bytearray(data[:size]), 0, min(size, len(data)), final=False)
        assert find(bytearray(data), 0, len(data), final=True)[: len(some)] == some


cells = st.text(alphabet='ab ,"\n', max_size=8)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_csv_rows_are_those_of_the_csv_module(rows):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(rows)
    cut = [
        next(csv.reader(io.StringIO(p.decode(), newline=""))) for p in pieces(file.getvalue().encode(), CSV)
    ]
    assert [tuple(row) for row in cut] == rows


@given(
    lines=st.lists(
        st.text(alphabet='a" ', min_size=1, max_size=6).map(lambda t: "x" + t), min_size=1, max_size=6
    )
)
def test_a_quote_inside_an_unquoted_field_is_a_character(lines):
    """`5" nail`: the csv module, pandas and pyarrow read it as it stands."""
    data = "".join(f"{i},{line}\n" for i, line in enumerate(lines)).encode()
    assert len(pieces(data, CSV)) == len(lines)


@pytest.mark.parametrize("bad", ['2,"stray', '"2,b', '2,"a \\"b\\" c"', '2,"a" b', '2,""x""y"'])
def test_a_stray_quote_costs_its_row_alone(bad):
    rows = [f"{i},text {i}" for i in range(10)]
    rows[2] = bad
    for last in ("9,text 9", '9,"quoted, text"', '9,"two\nlines"'):
        rows[9] = last
        found = pieces(("\n".join(rows) + "\n").encode(), CSV)
        assert len(found) == 10, found
        assert found[3] == b"3,text 3\n"


def test_a_quoted_field_beyond_the_limit_is_a_stray_quote():
    short = CsvRowEnds(b",", 16)
    data = b'1,"' + b"x" * 40 + b'\ny"\n2,b\n'
    assert [len(p) for p in pieces(data, short)] == [44, 3, 4]
