import secrets

import pytest

from headrace.errors import ConfigError, ResumeError, SinkError
from headrace.sink import RemoteSink, count_predictions, open_sink, read_predictions
from headrace.storage import MemoryBlob


@pytest.fixture
def url():
    return f"memory://{secrets.token_hex(8)}"


class Killed(BaseException):
    """Ends a writer at a step, as a kill would: nothing runs behind it that writes."""


def stop_at(sink, step, nth):
    seen = 0

    def stop(name):
        nonlocal seen
        seen += name == step
        if seen == nth:
            raise Killed

    sink._step = stop


def keys(out):
    table = read_predictions(out, columns=["prompt_id", "sample_index"])
    return sorted(zip(table["prompt_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True))


def expected(rows):
    return [(f"{i:09d}", 0) for i in range(rows)]


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_every_key_is_stored_once_and_reads_back_sorted(url, make_row, request_json, format):
    with RemoteSink(url, request=request_json, format=format, part_rows=4) as sink:
        assert [sink.put(make_row(i % 10)) for i in range(25)] == [True] * 10 + [False] * 15
        assert sink.counts() == (10, 0)
    assert keys(url) == expected(10)
    assert read_predictions(url, sort=True)["text"].to_pylist() == [f"t{i}" for i in range(10)]
    assert count_predictions(url) == (10, 0)
    assert MemoryBlob(url.partition("://")[2]).list("commits/") == [f"commits/{i:08d}.json" for i in range(3)]


@pytest.mark.parametrize(
    "moment", [("part written", 1), ("part written", 2), ("committed", 1), ("committed", 2)]
)
def test_a_writer_that_ends_between_two_steps_loses_no_commit_and_leaves_no_part_for_good(
    url, make_row, request_json, moment
):
    sink = RemoteSink(url, request=request_json, part_rows=4)
    stop_at(sink, *moment)

    def job():
        with sink:
            for i in range(10):
                sink.put(make_row(i))

    with pytest.raises(Killed):
        job()
    before = keys(url)
    with RemoteSink(url, request=request_json, part_rows=4) as sink:
        assert all(sink.done(*key) for key in before)
        for i in range(10):
            sink.put(make_row(i))
    assert keys(url) == expected(10)
    RemoteSink(url, request=request_json).close()
    assert len(MemoryBlob(url.partition("://")[2]).list("parts/")) == 3


def test_of_two_writers_the_second_to_commit_is_refused_and_nothing_is_stored_twice(
    url, make_row, request_json
):
    one = RemoteSink(url, request=request_json, part_rows=2)
    two = RemoteSink(url, request=request_json, part_rows=2)
    one.put(make_row(0))
    two.put(make_row(0))
    one.put(make_row(1))
    with pytest.raises(SinkError, match="another process is writing this job, its part 0 came first"):
        two.put(make_row(1))
    with pytest.raises(SinkError, match="closed"):
        two.put(make_row(2))
    one.put(make_row(2))
    one.close()
    assert keys(url) == expected(3)


class ForgetfulBlob(MemoryBlob):
    """Creates the object, but the answer is lost, and the repeated request finds the name taken."""

    def put_if_absent(self, path, data):
        super().put_if_absent(path, data)
        return False


def test_a_commit_whose_answer_was_lost_is_still_ours(url, make_row, request_json):
    blob = ForgetfulBlob(url.partition("://")[2])
    with RemoteSink(blob, request=request_json, part_rows=1) as sink:
        sink.put(make_row(0))
        sink.put(make_row(1))
    assert keys(url) == expected(2)


def test_a_part_closes_when_its_first_row_is_old(url, make_row, request_json):
    now = 0.0
    sink = RemoteSink(url, request=request_json, part_s=60.0, clock=lambda: now)
    sink.put(make_row(0))
    now = 59.0
    sink.put(make_row(1))
    assert keys(url) == []
    now = 61.0
    sink.put(make_row(2))
    assert keys(url) == expected(3)
    sink.close()


def test_a_retried_error_is_replaced(url, make_row, request_json):
    broken = {"type": "E", "message": "m"}
    with RemoteSink(url, request=request_json, part_rows=2) as sink:
        for i in range(4):
            sink.put(make_row(i, error=broken if i == 1 else None))
    assert count_predictions(url) == (4, 1)
    with RemoteSink(url, request=request_json, part_rows=2, retry_errors=True) as sink:
        assert [sink.put(make_row(i, text="new")) for i in range(4)] == [False, True, False, False]
        assert sink.counts() == (4, 0)
    assert read_predictions(url, sort=True)["text"].to_pylist() == ["t0", "new", "t2", "t3"]
    assert count_predictions(url) == (4, 0)


def test_another_request_is_refused_and_the_difference_is_named(url, request_json):
    RemoteSink(url, request=request_json).close()
    with pytest.raises(ResumeError, match="seed: stored 1, requested None"):
        RemoteSink(url, request=request_json | {"sampling": {}})


def test_damage_is_named(url, make_row, request_json):
    with RemoteSink(url, request=request_json, part_rows=1) as sink:
        for i in range(3):
            sink.put(make_row(i))
    blob = MemoryBlob(url.partition("://")[2])
    part = blob.list("parts/")[1]
    data = bytearray(blob.get(part))
    data[9] ^= 1
    blob.put(part, bytes(data))
    with pytest.raises(SinkError, match=rf"{part}.*crc32c 0x"):
        read_predictions(url)
    blob.delete(part)
    with pytest.raises(SinkError, match=rf"{part}: a committed part is missing"):
        read_predictions(url)
    blob.delete("commits/00000001.json")
    with pytest.raises(SinkError, match="commit 1 is missing"):
        RemoteSink(url, request=request_json)


def test_a_place_without_a_job_is_no_output(url):
    for read in (read_predictions, count_predictions):
        with pytest.raises(SinkError, match=r"no job\.json"):
            read(url)


def test_a_url_opens_a_remote_sink_and_a_path_a_local_one(url, tmp_path, request_json):
    with open_sink(url, request=request_json) as remote, open_sink(tmp_path, request=request_json) as local:
        assert (type(remote).__name__, type(local).__name__) == ("RemoteSink", "Sink")
    with pytest.raises(ConfigError, match="scheme"):
        open_sink("ftp://x/y", request=request_json)
