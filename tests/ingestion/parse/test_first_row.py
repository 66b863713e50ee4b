"""first_row.py and delimited.py: which delimiter a CSV file has, and files without a header."""

import csv
import io

import pytest

from headrace.errors import ConfigError, SourceError
from headrace.ingestion import FieldOptions, ingest

ROWS = [("id", "text"), ("1", "plain"), ("2", 'quoted "x"; a, b | c\td'), ("3", "two\nlines"), ("4", "last")]


def _csv(path, rows, delimiter):
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, lineterminator="\n").writerows(rows)
    path.write_text(sink.getvalue())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_delimiter_is_recognised(tmp_path, texts_of, delimiter):
    ingest(_csv(tmp_path / "a.csv", ROWS, delimiter), tmp_path / "store", workers=1)
    assert texts_of(tmp_path / "store") == [text for _, text in ROWS[1:]]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_file_without_a_header_has_numbered_columns(tmp_path, texts_of, delimiter):
    path = _csv(tmp_path / "a.csv", ROWS[1:], delimiter)
    fields = FieldOptions(csv_header=False, text_field="2", keep=["1"])
    summary = ingest(path, tmp_path / "store", workers=1, fields=fields)
    assert (summary.documents, texts_of(tmp_path / "store")) == (4, [text for _, text in ROWS[1:]])
    with pytest.raises(SourceError, match=r"no column '3'; the columns are: 1, 2\."):
        ingest(path, tmp_path / "other", fields=FieldOptions(csv_header=False, text_field="3"))


def test_tsv_without_a_header(tmp_path, texts_of):
    (tmp_path / "a.tsv").write_text('1\ta "b\n2\tc\n')
    ingest(tmp_path / "a.tsv", tmp_path / "store", fields=FieldOptions(csv_header=False, text_field="2"))
    assert texts_of(tmp_path / "store") == ['a "b', "c"]


def test_another_delimiter_is_named(tmp_path, texts_of):
    path = _csv(tmp_path / "a.csv", ROWS, "^")
    with pytest.raises(SourceError, match=r"no column 'text'; the columns are: id\^text.*--no-csv-header"):
        ingest(path, tmp_path / "store", workers=1)
    ingest(path, tmp_path / "store", workers=1, fields=FieldOptions(csv_delimiter="^"))
    assert texts_of(tmp_path / "store") == [text for _, text in ROWS[1:]]


def test_quoted_tsv_is_csv_with_tabs(tmp_path, texts_of):
    (tmp_path / "a.tsv").write_text('"id"\t"text"\n1\t"a\tb"\n')
    with pytest.raises(SourceError, match="--format csv --csv-delimiter tab"):
        ingest(tmp_path / "a.tsv", tmp_path / "store")
    ingest(tmp_path / "a.tsv", tmp_path / "store", fields=FieldOptions(format="csv", csv_delimiter="tab"))
    assert texts_of(tmp_path / "store") == ["a\tb"]


def test_a_delimiter_that_cannot_be_told_is_refused(tmp_path, texts_of):
    (tmp_path / "a.csv").write_text("text,a;text\n1,2;3\n")
    with pytest.raises(SourceError, match=r"delimiter cannot be told: with ',' and ';'.*--csv-delimiter"):
        ingest(tmp_path / "a.csv", tmp_path / "store")
    ingest(tmp_path / "a.csv", tmp_path / "store", fields=FieldOptions(csv_delimiter=";"))
    assert texts_of(tmp_path / "store") == ["3"]


def test_one_column_needs_no_delimiter(tmp_path, texts_of):
    (tmp_path / "a.csv").write_text("text\na;b | c\n")
    ingest(tmp_path / "a.csv", tmp_path / "store")
    assert texts_of(tmp_path / "store") == ["a;b | c"]


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n", "é"])
def test_what_cannot_be_a_delimiter_is_refused(delimiter):
    with pytest.raises(ConfigError, match="csv_delimiter is"):
        FieldOptions(csv_delimiter=delimiter)
