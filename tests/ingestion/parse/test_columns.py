"""columns.py and tables.py: a dotted name finds in Parquet and Arrow what it finds in JSON lines."""

import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SourceError
from headrace.ingestion import FieldOptions, ingest
from headrace.ingestion.fields import lookup
from headrace.ingestion.parse.columns import column_of, type_of

ROWS = [
    {
        "id": 1,
        "a": {"b": "x", "l": ["p", "q"]},
        "turns": [{"role": "u", "text": "hi"}, {"role": "a", "text": "yo"}],
    },
    {"id": 2, "a": {"b": "y", "l": []}, "turns": [{"role": "u", "text": "hey"}]},
]


def _write(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    table = pa.Table.from_pylist(ROWS)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.feather.write_feather(table, path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "feather"])
def test_dotted_names_are_the_same_in_every_format(tmp_path, kind, texts_of):
    fields = FieldOptions(text_field="turns.0.text", keep=["turns.1.text", "a.l.0", "id"])
    ingest(_write(tmp_path, kind), tmp_path / "store", fields=fields, workers=1)
    assert texts_of(tmp_path / "store") == ["hi", "hey"]
    (path,) = (tmp_path / "store" / "data").glob("*.docs.arrow")
    kept = pa.ipc.open_file(path).read_all()
    assert kept["turns.1.text"].to_pylist() == ["yo", None]
    assert kept["a.l.0"].to_pylist() == ["p", None]
    assert kept["id"].to_pylist() == ["1", "2"]


@pytest.mark.parametrize("kind", ["parquet", "feather"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (FieldOptions(text_field="a.z"), r"no column 'a\.z' inside the column 'a' .*text_field"),
        (FieldOptions(text_field="a.b.c"), r"no column 'a\.b\.c'"),
        (FieldOptions(text_field="a"), "the column 'a' is struct"),
        (FieldOptions(text_field="a.l"), r"the column 'a\.l' is list"),
        (FieldOptions(text_field="a.b", keep=["turns.x"]), r"no column 'turns\.x' .*keep \(--keep\)"),
    ],
)
def test_a_name_that_is_not_inside_is_refused(tmp_path, kind, fields, says):
    with pytest.raises(SourceError, match=says):
        ingest(_write(tmp_path, kind), tmp_path / "store", fields=fields, workers=1)


def test_a_column_of_the_whole_name_comes_first():
    batch = pa.record_batch({"a.b": pa.array(["whole"]), "a": pa.array([{"b": "inside"}])})
    assert column_of(batch, "a.b").to_pylist() == ["whole"]


_values = st.one_of(st.none(), st.text(max_size=3))


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "s": st.one_of(st.none(), st.fixed_dictionaries({"x": _values})),
                "l": st.one_of(st.none(), st.lists(st.fixed_dictionaries({"y": _values}), max_size=3)),
                "m": st.one_of(st.none(), st.dictionaries(st.sampled_from(["k", "z"]), _values)),
                "f": st.one_of(st.none(), st.tuples(_values, _values).map(list)),
            }
        ),
        max_size=8,
    ),
    skip=st.integers(0, 3),
)
def test_columns_give_what_lookup_gives(rows, skip):
    """Nulls at every level, short lists, missing keys, and slices of a batch."""
    schema = pa.schema(
        {
            "s": pa.struct({"x": pa.string()}),
            "l": pa.list_(pa.struct({"y": pa.string()})),
            "m": pa.map_(pa.string(), pa.string()),
            "f": pa.list_(pa.string(), 2),
        }
    )
    tables = [{**row, "m": None if row["m"] is None else list(row["m"].items())} for row in rows]
    batch = pa.RecordBatch.from_pylist(tables, schema=schema).slice(min(skip, len(rows)))
    for name in ("s.x", "l.0.y", "l.2.y", "m.k", "f.1"):
        assert type_of(schema, name) == pa.string()
        assert column_of(batch, name).to_pylist() == [
            lookup(row, name) for row in rows[min(skip, len(rows)) :]
        ]
