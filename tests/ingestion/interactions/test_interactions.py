"""Logs of interactions become stores: log.py, histories.py, moments.py, rows.py, item_tokens.py, job.py, options.py."""

from __future__ import annotations

import csv
import gzip
import shutil
from itertools import pairwise

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import headrace as hr
from headrace.cli.app import app
from headrace.ingestion import verify_job_files
from headrace.ingestion.interactions.histories import histories_of
from headrace.ingestion.interactions.log import read_log
from headrace.ingestion.interactions.rows import column_pieces
from headrace.interactions import ITEMS_FILE, USERS_FILE, read_keys
from headrace.store import verify_samples

EVENTS = [  # user, item, time, rating
    ("ann", "tea", 5, 1), ("bob", "tea", 1, 4), ("ann", "ale", 2, 2), ("ann", "rum", 9, 3), ("bob", "rum", 3, 5),
    ("cat", "gin", 4, 2), ("ann", "gin", 7, 5), ("bob", "ale", 3, 1),
]  # fmt: skip


def write_log(path, events=EVENTS, header=("user", "item", "time", "rating")):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *events])
    return path


def ingest(source, out, **options):
    control = {name: options.pop(name) for name in ("job", "restart") if name in options}
    return hr.ingest(source, out, interactions=hr.Interactions(**options), **control)


def rows_of(out):
    """Rows with the log's names of users and items."""
    store = hr.SampleStore.open(out)
    items = read_keys(store.blob.get(ITEMS_FILE))
    users = read_keys(store.blob.get(USERS_FILE))
    lists = [name for name in ("items", "history", "targets") if name in store.features]
    rows = []
    for row in store:
        shown = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in row.items()}
        shown["user"] = users[row["user"]]
        shown |= {"item": items[row["item"]]} if "item" in row else {}
        shown |= {name: [items[i] for i in row[name]] for name in lists}
        rows.append(shown)
    return rows


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_row_has_the_users_history_before_its_time(tmp_path):
    summary = ingest(write_log(tmp_path / "log.csv"), tmp_path / "store", features=("rating",))
    rows = rows_of(tmp_path / "store")
    assert summary.documents == len(rows) == len(EVENTS)
    assert [(row["user"], row["item"], row["time"], row["rating"]) for row in rows] == [
        ("ann", "ale", 2, 2), ("ann", "tea", 5, 1), ("ann", "gin", 7, 5), ("ann", "rum", 9, 3), ("bob", "tea", 1, 4),
        ("bob", "rum", 3, 5), ("bob", "ale", 3, 1), ("cat", "gin", 4, 2),
    ]  # fmt: skip
    assert rows[3]["history"] == ["ale", "tea", "gin"]
    assert (rows[3]["history_times"], rows[3]["history_rating"]) == ([2, 5, 7], [2, 1, 5])
    # Bob's rum and ale have one time: neither is known to the other, and both have one history.
    assert rows[5]["history"] == rows[6]["history"] == ["tea"]
    assert rows[5]["history_id"] == rows[6]["history_id"]
    assert [row["user_events"] for row in rows] == [0, 1, 2, 3, 0, 1, 1, 0]
    assert [row["item_events"] for row in rows] == [0, 1, 1, 1, 0, 0, 1, 0]


EVENT = st.tuples(
    st.sampled_from("abc"), st.sampled_from("uvwxyz"), st.integers(0, 12), st.sampled_from("123")
)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(EVENT, min_size=1, max_size=25),
    changed=st.lists(EVENT, max_size=25),
    moment=st.integers(0, 12),
    gap=st.sampled_from([0.0, 1.0]),
)
def test_no_column_depends_on_what_is_later(tmp_path_factory, events, changed, moment, gap):
    """Rows before a moment, and histories and counts of rows at it, are equal whatever happens from that moment on."""
    folder = tmp_path_factory.mktemp("leak")
    past = [event for event in events if event[2] < moment]
    options = hr.Interactions(features=("rating",), session_gap=gap, keep_duplicates=True)
    known = []
    for name, future in (("a", events), ("b", changed)):
        log = past + [event for event in future if event[2] >= moment] + [("zoe", "z", 12, "1")]
        histories = histories_of(
            read_log([write_log(folder / f"{name}.csv", log)], options), options, notes := []
        )
        assert not notes
        (columns,) = column_pieces(histories, options)
        rows = set()
        for i, time in enumerate(columns["time"].tolist()):
            history = tuple(
                tuple(columns[column][i].tolist()) for column in ("history_times", "history_rating")
            )
            items = tuple(histories.item_keys[item] for item in columns["history"][i])
            user = histories.user_keys[columns["user"][i]]
            counts = (int(columns["user_events"][i]), int(columns["item_events"][i]))
            if time < moment:
                rows.add((user, histories.item_keys[columns["item"][i]], time, items, history, counts))
            assert all(earlier < time for earlier in history[0])
        known.append(rows)
    assert known[0] == known[1]


@given(
    events=st.lists(EVENT, min_size=1, max_size=30),
    moments=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    split=st.sampled_from(["last", "time"]),
)
@settings(max_examples=40, deadline=None)
def test_the_parts_of_a_split_are_each_interaction_once(tmp_path_factory, events, moments, split):
    log = write_log(tmp_path_factory.mktemp("split") / "log.csv", events)
    chosen = {"split": split, "keep_duplicates": True}
    if split == "time":
        chosen |= {"validation_from": str(min(moments)), "test_from": str(max(moments))}
    histories = histories_of(read_log([log], hr.Interactions()), hr.Interactions(**chosen), [])
    rows = {}
    for part in ("train", "validation", "test"):
        options = hr.Interactions(**chosen, part=part)
        pieces = list(column_pieces(histories, options))
        rows[part] = [
            (columns["user"][i], columns["time"][i])
            for columns in pieces
            for i in range(len(columns["user"]))
        ]
    every = [pair for part in rows.values() for pair in part]
    assert len(every) == len(events)
    for part, later in pairwise(("train", "validation", "test")):
        for user, time in rows[part]:
            assert all(time <= other for one, other in rows[later] if one == user)
    if split == "last":
        counts = {user: sum(event[0] == user for event in events) for user in "abc"}
        assert len(rows["test"]) == len(rows["validation"]) == sum(n >= 3 for n in counts.values())
    else:
        assert all(time >= max(moments) for _, time in rows["test"])
        assert all(min(moments) <= time < max(moments) for _, time in rows["validation"])


def test_users_as_rows_have_history_and_targets(tmp_path):
    log = write_log(tmp_path / "log.csv")
    for part in ("train", "validation", "test"):
        ingest(log, tmp_path / part, rows="users", split="last", part=part)
    train, validation, test = (rows_of(tmp_path / part) for part in ("train", "validation", "test"))
    assert {row["user"]: row["items"] for row in train} == {
        "ann": ["ale", "tea"], "bob": ["tea"], "cat": ["gin"],
    }  # fmt: skip
    assert [(row["items"], row["targets"]) for row in validation] == [
        (["ale", "tea"], ["gin"]), (["tea"], ["rum"]),
    ]  # fmt: skip
    assert [(row["items"], row["targets"]) for row in test] == [
        (["ale", "tea", "gin"], ["rum"]), (["tea", "rum"], ["ale"]),
    ]  # fmt: skip


def test_rare_users_and_items_go_until_none_is_left(tmp_path):
    """Without cat, gin has one interaction; without gin, ann has three."""
    log = write_log(tmp_path / "log.csv")
    summary = ingest(log, tmp_path / "store", rows="users", min_user_interactions=2, min_item_interactions=2)
    assert {row["user"]: row["items"] for row in rows_of(tmp_path / "store")} == {
        "ann": ["ale", "tea", "rum"], "bob": ["tea", "rum", "ale"],
    }  # fmt: skip
    assert any("2 interactions of users or items with fewer" in note for note in summary.notes)
    with pytest.raises(hr.DocumentError, match="no interaction is left of 8"):
        ingest(log, tmp_path / "none", min_user_interactions=9)


def test_repeated_interactions_are_left_out_and_counted(tmp_path):
    log = write_log(tmp_path / "log.csv", [*EVENTS, EVENTS[0], ("ann", "tea", 6, 1)])
    summary = ingest(log, tmp_path / "store")
    assert summary.documents == 9
    assert any("1 interactions of the same user, item and time were left out" in one for one in summary.notes)
    assert ingest(log, tmp_path / "all", keep_duplicates=True).documents == 10


def test_equal_times_have_the_logs_order(tmp_path):
    for name, items in (("a", "cab"), ("b", "abc")):
        log = write_log(tmp_path / f"{name}.csv", [("u", item, 1, 1) for item in items])
        ingest(log, tmp_path / name, rows="users")
        assert rows_of(tmp_path / name)[0]["items"] == list(items)


def test_a_session_has_the_history_at_its_beginning(tmp_path):
    events = [("u", item, time, 1) for item, time in zip("abcde", (0, 10, 12, 13, 30), strict=True)]
    ingest(write_log(tmp_path / "log.csv", events), tmp_path / "store", session_gap=2)
    assert [row["history"] for row in rows_of(tmp_path / "store")] == [[], ["a"], ["a"], ["a"], list("abcd")]


def test_max_history_keeps_the_latest(tmp_path):
    ingest(write_log(tmp_path / "log.csv"), tmp_path / "store", max_history=2)
    row = rows_of(tmp_path / "store")[3]
    assert (row["history"], row["user_events"]) == (["tea", "gin"], 3)


def written_as(kind, folder):
    """The same log in other formats."""
    names = ("user", "item", "time", "rating")
    folder.mkdir()
    if kind == "tsv with types":
        header = ("user_id:token", "item_id:token", "timestamp:float", "rating:float")
        text = "\n".join("\t".join(map(str, row)) for row in [header, *EVENTS])
        (folder / "log.inter").write_text(text)
    elif kind == "csv.gz":
        path = write_log(folder / "log.csv")
        (folder / "log.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    elif kind == "jsonl":
        lines = [orjson.dumps(dict(zip(names, row, strict=True))) for row in EVENTS]
        (folder / "log.jsonl").write_bytes(b"\n".join(lines))
    elif kind == "parquet":
        table = pa.table({name: [row[i] for row in EVENTS] for i, name in enumerate(names)})
        pq.write_table(table, folder / "log.parquet")
    else:
        write_log(folder / "part-0.csv", EVENTS[:3])
        write_log(folder / "part-1.csv", EVENTS[3:])
    return folder


@pytest.mark.parametrize("kind", ["tsv with types", "csv.gz", "jsonl", "parquet", "two files"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    ingest(write_log(tmp_path / "log.csv"), tmp_path / "expected", features=("rating",))
    ingest(written_as(kind, tmp_path / "in"), tmp_path / "store", features=("rating",))
    assert rows_of(tmp_path / "store") == rows_of(tmp_path / "expected")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["2024-01-02", "2024-01-02T00:00:01Z", "2024-01-02 02:00:02+02:00"], [0, 1_000_000, 2_000_000]),
        (["2024-01-02 00:00", "2024-01-02T00:00:00.5"], [0, 500_000]),
        (["7", "9.0"], [7, 9]),
        (["7.5", "9"], [7.5, 9.0]),
    ],
)
def test_times_are_numbers_or_dates(tmp_path, values, expected):
    events = [("u", f"i{n}", value, 1) for n, value in enumerate(values)]
    ingest(write_log(tmp_path / "log.csv", events), tmp_path / "store", rows="users")
    base = 1_704_153_600_000_000 if "2024" in values[0] else 0
    assert [time - base for time in rows_of(tmp_path / "store")[0]["times"]] == expected


def test_features_are_numbers_or_categories(tmp_path):
    header = ("user", "item", "time", "price", "place", "count")
    events = [("u", "a", 1, "1.5", "home", 3), ("u", "b", 2, "", "", 4), ("u", "c", 3, "2", "bus", 5)]
    log = write_log(tmp_path / "log.csv", events, header)
    ingest(log, tmp_path / "store", rows="users", features=("price", "place", "count"))
    store = hr.SampleStore.open(tmp_path / "store")
    row = store[0]
    assert np.array_equal(row["price"], np.array([1.5, np.nan, 2], np.float32), equal_nan=True)
    assert store.features["place"].feature.names == ("bus", "home")
    assert row["place"].tolist() == [1, -1, 0]
    assert row["count"].tolist() == [3, 4, 5]


def test_bad_rows_are_rejects_with_their_lines(tmp_path):
    bad = [("", "tea", 1, 1), ("ann", "", 1, 1), ("ann", "tea", "", 1), ("ann", "tea", "noon", 1)]
    log = write_log(tmp_path / "log.csv", [*EVENTS, *bad])
    with pytest.raises(
        hr.DocumentError, match=r"log.csv: line 10: no value for the user \[4 of 12 rows are bad"
    ):
        ingest(log, tmp_path / "store")
    summary = ingest(log, tmp_path / "store", job=hr.JobOptions(max_reject_share=0.5))
    assert summary.rejects == {"bad_time": 1, "no_item": 1, "no_time": 1, "no_user": 1}
    rejects = [orjson.loads(line) for line in (tmp_path / "store/rejects.jsonl").read_bytes().splitlines()]
    assert [(one["line"], one["reason"]) for one in rejects] == [
        (10, "no_user"), (11, "no_item"), (12, "no_time"), (13, "bad_time"),
    ]  # fmt: skip
    assert rejects[3]["detail"] == "time 'noon', expected a number"


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (
            ("who", "item", "time"),
            {},
            r"no column for the user is recognised; name it with --user-field .*who, item",
        ),
        (("user", "user_id", "time"), {"item_field": "time"}, "columns user and user_id could be the user"),
        (("user", "item", "time"), {"time_field": "at"}, r"no column 'at' \(--time-field"),
        (("user", "item", "time"), {"features": ("cost",)}, r"no column 'cost' \(--feature"),
        (
            ("user", "item", "time"),
            {"features": ("time",)},
            "the column 'time' has the name of one of the store's",
        ),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, header, options, message):
    log = write_log(tmp_path / "log.csv", [("1", "2", "3")], header)
    with pytest.raises(hr.ConfigError, match=message):
        ingest(log, tmp_path / "store", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "row"}, "rows is 'row'; expected events, users or tokens"),
        ({"part": "test"}, "part is 'test' without a split"),
        ({"split": "time"}, "expected test_from with split 'time'"),
        ({"split": "last", "test_from": "3"}, "expected test_from with split 'time'"),
        ({"validation_from": "3"}, "expected split 'time'"),
        ({"split": "time", "test_from": "3", "part": "validation"}, "expected validation_from as well"),
        ({"max_history": 0}, "max_history is 0; expected 1 or more"),
        ({"session_gap": -1}, "session_gap is -1; expected 0 or more"),
        ({"rows": "tokens", "features": ("a",)}, "a document has items only"),
        ({"features": ("a", "a")}, "expected each once"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(hr.ConfigError, match=message):
        hr.Interactions(**options)


def test_moments_are_written_as_the_log_writes_times(tmp_path):
    log = write_log(tmp_path / "log.csv")
    with pytest.raises(hr.ConfigError, match="test_from is '2024-01-01'; expected a number"):
        ingest(log, tmp_path / "store", split="time", test_from="2024-01-01")
    with pytest.raises(hr.ConfigError, match="validation_from is 8, after test_from 7"):
        ingest(log, tmp_path / "store", split="time", test_from="7", validation_from="8")


def test_sources_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(hr.SourceError, match=r"damaged.parquet: damaged Parquet file"):
        ingest(tmp_path / "damaged.parquet", tmp_path / "store")
    with pytest.raises(hr.SourceError, match=r"absent.csv: no such file"):
        ingest(tmp_path / "absent.csv", tmp_path / "store")
    (tmp_path / "log.xls").touch()
    with pytest.raises(hr.ConfigError, match=r"log.xls: expected .csv"):
        ingest(tmp_path / "log.xls", tmp_path / "store")
    write_log(tmp_path / "a.csv")
    dates = pa.table({"user": ["u"], "item": ["i"], "time": pa.array([1], pa.timestamp("us"))})
    pq.write_table(dates, tmp_path / "b.parquet")
    with pytest.raises(hr.SourceError, match=r"b.parquet: its times are dates, those of .*a.csv are numbers"):
        ingest([tmp_path / "a.csv", tmp_path / "b.parquet"], tmp_path / "store")
    assert not (tmp_path / "store/manifest.json").exists()


def test_the_same_command_gives_the_same_bytes_and_then_nothing_to_do(tmp_path):
    log = write_log(tmp_path / "log.csv")
    for name in ("a", "b"):
        ingest(log, tmp_path / name, features=("rating",), shard_bytes=400)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    store = hr.SampleStore.open(tmp_path / "a")
    assert store.num_shards > 1
    verify_samples(store)
    assert verify_job_files(store) == 2
    summary = ingest(log, tmp_path / "a", features=("rating",), shard_bytes=400)
    assert any("there already" in note for note in summary.notes)
    with pytest.raises(hr.ConfigError, match="made from other sources or with other options"):
        ingest(log, tmp_path / "a")
    ingest(log, tmp_path / "a", restart=True)


def test_a_job_that_was_killed_is_done_again(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log.csv")
    ingest(log, tmp_path / "expected", shard_bytes=400)
    with monkeypatch.context() as patch:
        patch.setattr("headrace.ingestion.interactions.job.commit_samples", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(log, tmp_path / "store", shard_bytes=400)
    with pytest.raises(hr.ManifestError):
        hr.SampleStore.open(tmp_path / "store")
    with pytest.raises(hr.ResumeError, match="half-done ingest with other sources or options"):
        ingest(log, tmp_path / "store", shard_bytes=300)
    ingest(log, tmp_path / "store", shard_bytes=400)
    assert files_of(tmp_path / "store") == files_of(tmp_path / "expected")


def test_a_users_history_is_a_document_of_item_tokens(tmp_path):
    log = write_log(tmp_path / "log.csv")
    summary = ingest(log, tmp_path / "store", rows="tokens", split="last", part="train")
    store = hr.Store.open(tmp_path / "store")
    assert (summary.documents, summary.tokens, store.num_tokens) == (3, 7, 7)
    tokenizer = hr.load_tokenizer(tmp_path / "store/tokenizer")
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (6, 4)
    assert tokenizer.encode("ale gin").tolist() == [0, 1]
    assert tokenizer.encode("wine").tolist() == [5]
    assert tokenizer.decode([3, 2]) == "tea rum"
    (batch,) = hr.Loader(store, seq_len=6, batch_size=1, epochs=1, shuffle="none")
    assert batch.tokens.tolist() == [[0, 3, 4, 3, 4, 1, 4]]
    again = ingest(log, tmp_path / "store", rows="tokens", split="last", part="train")
    assert (again.tokens, again.snapshot, again.notes) == (
        7, 1, ("the store was there already, made by the same command",),
    )  # fmt: skip
    with pytest.raises(hr.ConfigError, match="made from other sources or with other options"):
        ingest(log, tmp_path / "store", rows="tokens")
    assert ingest(log, tmp_path / "store", rows="tokens", restart=True).tokens == 11
    spaced = write_log(tmp_path / "spaced.csv", [("u", "black tea", 1, 1)])
    with pytest.raises(hr.ConfigError, match="item 'black tea': names of items with a space"):
        ingest(spaced, tmp_path / "spaced", rows="tokens")


def test_options_of_text_and_images_are_refused(tmp_path):
    log = write_log(tmp_path / "log.csv")
    for more, message in (
        ({"tokenizer": "gpt2"}, "options are of text: tokenizer"),
        ({"workers": 2}, "workers: not an option of interactions"),
        ({"append": True}, "append: not an option of interactions"),
        ({"samples": hr.Samples()}, "expected one of them"),
        ({"distribute": "ray"}, "interactions are ingested by processes of this machine"),
    ):
        with pytest.raises(hr.ConfigError, match=message):
            hr.ingest(log, tmp_path / "store", interactions=hr.Interactions(), **more)


def test_the_command_line_makes_the_same_store(tmp_path):
    log = write_log(tmp_path / "log.csv")
    ingest(log, tmp_path / "expected", features=("rating",), split="last", part="train")
    arguments = [
        "ingest",
        str(log),
        "--interactions",
        "--feature",
        "rating",
        "--split",
        "last",
        "--part",
        "train",
    ]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    assert files_of(tmp_path / "store") == files_of(tmp_path / "expected")
    shutil.rmtree(tmp_path / "store")
    done = CliRunner().invoke(app, [*arguments, "--samples", "--out", str(tmp_path / "store")])
    assert isinstance(done.exception, hr.ConfigError)
    done = CliRunner().invoke(app, ["ingest", str(log), "--split", "last", "--out", str(tmp_path / "store")])
    assert "split: only with --interactions" in str(done.exception)
