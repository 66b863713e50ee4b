"""Tests read.py, and with it part.py, parquet.py, jsonl.py and schema.py."""

import random
import secrets
import typing
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import integers, lists, text

from headrace.errors import ConfigError, SinkError
from headrace.sink import SCHEMA, Sink, count_predictions, read_predictions, scan_predictions
from headrace.types import Prediction


@pytest.fixture(params=["parquet", "jsonl"])
def out(request, tmp_path, make_row, request_json):
    """25 rows in 4 parts, put in no order."""
    order = list(range(25))
    random.Random(0).shuffle(order)
    with Sink(tmp_path / "out", request=request_json, format=request.param, part_rows=7) as sink:
        for i in order:
            sink.put(make_row(i))
    return tmp_path / "out"


def test_every_field_comes_back_as_it_was_put(tmp_path, request_json):
    row = Prediction(
        prompt_id='id "quoted", 日本',
        sample_index=3,
        prompt="line\nbreak\0nul",
        text="\ufffd \U0001f600",
        token_ids=(0, 2**31 - 1),
        finish_reason="stop",
        logprobs=(-0.5, float("-inf")),
        prompt_logprobs=(None, -1.5),
        top_logprobs=(((0, -0.5), (7, -1.25)), ((2**31 - 1, float("-inf")),)),
        prompt_tokens=2,
        completion_tokens=2,
    )
    for name in ("parquet", "jsonl"):
        with Sink(tmp_path / name, request=request_json, format=name) as sink:
            sink.put(row)
        (got,) = read_predictions(tmp_path / name).to_pylist()
        assert got == {
            "prompt_id": row.prompt_id,
            "sample_index": 3,
            "prompt": row.prompt,
            "text": row.text,
            "token_ids": [0, 2**31 - 1],
            "finish_reason": "stop",
            "logprobs": [-0.5, -9999.0],
            "prompt_logprobs": [None, -1.5],
            "top_logprobs": [
                [{"token_id": 0, "logprob": -0.5}, {"token_id": 7, "logprob": -1.25}],
                [{"token_id": 2**31 - 1, "logprob": -9999.0}],
            ],
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "error": None,
        }


def test_the_schema_does_not_depend_on_the_rows(out, tmp_path, request_json):
    assert read_predictions(out).schema.equals(SCHEMA, check_metadata=True)
    Sink(tmp_path / "empty", request=request_json).close()
    empty = read_predictions(tmp_path / "empty")
    assert empty.num_rows == 0
    assert empty.schema.equals(SCHEMA, check_metadata=True)


def test_sorted_rows_come_in_the_order_of_their_keys(out):
    ids = read_predictions(out, sort=True)["prompt_id"].to_pylist()
    assert ids == [f"{i:09d}" for i in range(25)]
    assert read_predictions(out, sort=True, columns=["text"])["text"].to_pylist() == [
        f"t{i}" for i in range(25)
    ]


@given(
    ids=lists(text(alphabet="ab\u00e9\U0001f600", max_size=4), unique=True, max_size=60),
    part_rows=integers(1, 9),
    held=integers(1, 5),
    retried=integers(0, 9),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_parts_merge_in_the_order_of_their_keys(tmp_path, request_json, ids, part_rows, held, retried):
    """Overlapping or not, with replaced rows, in batches of any size: as sorting all of them."""
    out = tmp_path / f"{secrets.token_hex(8)}"
    for turn in (0, 1):
        with Sink(out, request=request_json, part_rows=part_rows, retry_errors=True) as sink:
            for i, name in enumerate(ids):
                error = {"type": "E", "message": "m"} if i < retried and turn == 0 else None
                row = {"prompt": "", "text": f"{i} {turn}", "token_ids": (i,), "finish_reason": "stop"}
                sink.put(Prediction(prompt_id=name, sample_index=i % 3, error=error, **row))
    with patch("headrace.sink.read.HELD_ROWS", held):
        got = read_predictions(out, sort=True)
    texts = {name: f"{i} {int(i < retried)}" for i, name in enumerate(ids)}
    assert got["prompt_id"].to_pylist() == sorted(ids)
    assert got["text"].to_pylist() == [texts[name] for name in sorted(ids)]


def test_a_sorted_scan_opens_a_part_only_when_its_rows_are_due(tmp_path, make_row, request_json):
    """Memory of a sorted scan does not grow with the number of parts that do not overlap."""
    with Sink(tmp_path, request=request_json, part_rows=5) as sink:
        for i in range(50):
            sink.put(make_row(i))
    reader = scan_predictions(tmp_path, sort=True)
    reader.read_next_batch()
    for name in range(3, 10):
        (tmp_path / "parts" / f"part-{name:05d}.parquet").unlink()
    reader.read_next_batch()
    with pytest.raises(SinkError, match=r"part-00003.parquet: a committed part is missing"):
        reader.read_all()


def test_columns_come_in_the_order_that_was_asked_for(out):
    assert read_predictions(out, columns=["text", "prompt_id"]).schema.names == ["text", "prompt_id"]
    with pytest.raises(ConfigError, match="no column named 'txt'"):
        read_predictions(out, columns=["txt"])


def test_a_scan_gives_batches_and_agrees_with_the_table(out):
    reader = scan_predictions(out)
    assert isinstance(reader, pa.RecordBatchReader)
    assert pa.Table.from_batches(reader).equals(read_predictions(out))


def test_a_scan_is_a_snapshot_and_later_parts_do_not_appear_in_it(tmp_path, make_row, request_json):
    sink = Sink(tmp_path, request=request_json, part_rows=1)
    sink.put(make_row(0))
    reader = scan_predictions(tmp_path)
    sink.put(make_row(1))
    assert reader.read_all().num_rows == 1
    sink.close()


def test_a_flipped_bit_in_a_part_is_an_error_that_names_it(out):
    part = next((out / "parts").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(SinkError, match=rf"{part.name}.*crc32c 0x"):
        read_predictions(out)


def test_a_missing_part_is_an_error_that_names_it(out):
    part = next((out / "parts").iterdir())
    part.unlink()
    with pytest.raises(SinkError, match=rf"{part.name}: a committed part is missing"):
        read_predictions(out)


def test_a_directory_without_a_job_is_no_output(tmp_path):
    for read in (read_predictions, count_predictions):
        with pytest.raises(SinkError, match=r"no job\.json"):
            read(tmp_path)


def test_a_job_of_a_newer_format_is_refused(out):
    (out / "job.json").write_text('{"format": 99, "run_id": "x", "request": {}}')
    with pytest.raises(SinkError, match="format 99; this headrace reads 1"):
        read_predictions(out)


def test_a_reader_that_may_not_write_still_reads(out):
    (out / "commits.sqlite").chmod(0o444)
    out.chmod(0o555)
    try:
        assert read_predictions(out).num_rows == 25
    finally:
        out.chmod(0o755)


def test_other_tools_open_the_parts(out):
    """A part is an ordinary Parquet file or zstd JSON lines: no lock-in."""
    import polars as pl

    part = next((out / "parts").iterdir())
    if part.suffix == ".parquet":
        frame = pl.read_parquet(part)
    else:
        import zstandard

        with zstandard.open(part) as lines:
            frame = pl.read_ndjson(lines.read())
    assert set(frame.columns) == set(SCHEMA.names)
    assert frame["prompt_id"].is_sorted()


def test_read_predictions_is_annotated_by_its_own_type():
    # pyarrow has no stubs: a type checker knows only the name.
    assert typing.get_type_hints(read_predictions)["return"] is pa.Table
