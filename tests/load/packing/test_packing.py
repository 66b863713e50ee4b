"""best_fit.py, plan.py, rows.py: packed rows hold every target of every document once, and keep the order."""

import re
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists

from headrace.errors import ConfigError, ShardError
from headrace.load import BatchOptions, Loader, ReadOptions
from headrace.load.options import MAX_SEQ_LEN
from headrace.load.packing import plan as planning
from headrace.load.packing.best_fit import best_fit
from headrace.load.packing.plan import PackingPlan, plan_name, write_plan


@given(capacity=integers(1, 50), lengths=lists(integers(1, 50), max_size=80))
def test_best_fit_puts_every_piece_into_one_row_that_holds_it(capacity, lengths):
    lengths = [min(length, capacity) for length in lengths]
    rows = best_fit(lengths, capacity)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    assert all(sum(lengths[piece] for piece in row) <= capacity for row in rows)
    # Best fit never has two rows that would fit into one.
    filled = sorted(sum(lengths[piece] for piece in row) for row in rows)
    assert len(filled) < 2 or filled[0] + filled[1] > capacity


def test_the_work_of_best_fit_does_not_follow_the_rows_length():
    """One bit a place would be 128 TiB."""
    assert best_fit([5, 3, 9], 2**50) == [[2, 0, 1]]


def reference_best_fit(lengths, capacity):
    """The same in a few lines and quadratic time."""
    rows = []
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        free = [capacity - sum(lengths[p] for p in row) for row in rows]
        fitting = [r for r in free if r >= lengths[piece]]
        if fitting:
            tightest = [row for row, r in zip(rows, free, strict=True) if r == min(fitting)]
            tightest[0].append(piece)
        else:
            rows.append([piece])
    return rows


@given(capacity=integers(1, 30), lengths=lists(integers(1, 30), max_size=40))
def test_best_fit_fills_rows_as_the_plain_method_does(capacity, lengths):
    lengths = [min(length, capacity) for length in lengths]
    ours, plain = best_fit(lengths, capacity), reference_best_fit(lengths, capacity)

    def fills(rows):
        return sorted(sum(lengths[piece] for piece in row) for row in rows)

    assert fills(ours) == fills(plain)


def targets(store, batches):
    """Position in the stream of every token that is a target, over all batches."""
    found = []
    for batch in batches:
        labels = np.asarray(batch.labels)
        starts, lengths, counts = batch_pieces(store, batch)
        row = 0
        for count in counts:
            place = 0
            for start, length in zip(starts[:count], lengths[:count], strict=True):
                assert (
                    batch.tokens[row, place : place + length] == store.tokens[start : start + length]
                ).all()
                inside = labels[row, place : place + length - 1]
                assert (inside == store.tokens[start + 1 : start + length]).all()
                found += range(start + 1, start + length)
                place += length
                # The piece's last token has no target here, nor has padding.
                assert place > labels.shape[1] or labels[row, place - 1] == -100
            assert (labels[row, place:] == -100).all()
            assert (batch.tokens[row, place:] == store.eos_id).all()
            starts, lengths, row = starts[count:], lengths[count:], row + 1
    return found


def batch_pieces(store, batch):
    return store.plan.pieces(batch.rows)


@settings(max_examples=40)
@given(
    num_tokens=integers(10, 3000), seq_len=integers(1, 80), mean_doc=integers(2, 200), seed=integers(0, 2**30)
)
def test_every_target_of_every_document_is_learnt_once(
    fake_store, tmp_path_factory, num_tokens, seq_len, mean_doc, seed
):
    store = fake_store(max(num_tokens, seq_len + 1), seed=seed, mean_doc=mean_doc)
    loader = Loader(
        store, seq_len=seq_len, batch_size=3, epochs=1, packing="best_fit", output=BatchOptions(framework="numpy"),
        reading=ReadOptions(packing_dir=tmp_path_factory.mktemp("plan")),
    )  # fmt: skip
    store.plan = loader._rows[0].plan
    firsts = {0, *store.ends[:-1].tolist()}
    assert sorted(targets(store, loader)) == [p for p in range(store.num_tokens) if p not in firsts]


def test_regions_hand_over_what_did_not_fit_and_lose_nothing(fake_store, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "region_rows", lambda seq_len: 8)
    monkeypatch.setattr(planning, "REGION_TOKENS", 300)
    store = fake_store(20_000, mean_doc=30)
    path = tmp_path / "plan.arrow"
    write_plan(store, 31, path)
    plan = PackingPlan(path, store=store, seq_len=31)
    starts, lengths, counts = plan.pieces(np.arange(plan.num_rows))
    assert pa.ipc.open_file(path).num_record_batches > 50
    covered = np.sort(np.concatenate([np.arange(s + 1, s + n) for s, n in zip(starts, lengths, strict=True)]))
    firsts = np.append(0, store.ends[:-1])
    assert (covered == np.setdiff1d(np.arange(20_000), firsts)).all()
    used = np.add.reduceat(lengths, np.cumsum(counts) - counts)
    assert used.max() <= 32
    assert used.mean() > 31


def test_rows_are_nearly_full_where_documents_are_of_all_lengths(fake_store, tmp_path):
    store = fake_store(400_000, mean_doc=300)
    loader = Loader(
        store, seq_len=512, batch_size=16, packing="best_fit", reading=ReadOptions(packing_dir=tmp_path)
    )
    assert loader.num_rows < 1.01 * (store.num_tokens - store.num_documents) / 512 + 1


@pytest.mark.parametrize("packing", [None, "best_fit"])
@pytest.mark.parametrize("seq_len", [1000, 4096, MAX_SEQ_LEN])
def test_rows_longer_than_the_store_are_refused_before_any_work(fake_store, tmp_path, packing, seq_len):
    reading = ReadOptions(packing_dir=tmp_path)
    message = (
        f"fake: no row of seq_len={seq_len} can be filled: the store has 1000 tokens, and a row needs {seq_len + 1}. "
        "Use seq_len=999 or less, or ingest more text"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        Loader(fake_store(1000), seq_len=seq_len, batch_size=1, packing=packing, reading=reading)
    assert list(tmp_path.iterdir()) == []
    assert Loader(fake_store(1000), seq_len=999, batch_size=1, packing=packing, reading=reading).num_rows >= 1


def test_a_plan_is_made_once_and_beside_the_store(make_store):
    store, _, _ = make_store(3000)
    first = Loader(store, seq_len=15, batch_size=4, packing="best_fit")
    files = list((type(first._rows[0].plan._path)(store.url) / "packing").iterdir())
    assert [file.name for file in files] == [plan_name(store, 15)]
    made = files[0].stat().st_mtime_ns
    again = Loader(store, seq_len=15, batch_size=4, packing="best_fit")
    assert files[0].stat().st_mtime_ns == made
    assert next(again).tokens.tolist() == next(first).tokens.tolist()


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_packed_rows_of_a_real_store_hold_its_documents(make_store, codec):
    store, tokens, ends = make_store(4000, codec=codec)
    loader = Loader(
        store, seq_len=31, batch_size=8, epochs=1, packing="best_fit", output=BatchOptions(document_ids=True)
    )
    documents = {tuple(part) for part in np.split(tokens, ends[:-1])}
    whole = 0
    for batch in loader:
        for row, ids in zip(batch.tokens, batch.document_ids.numpy(), strict=True):
            for number in range(ids.max() + 1):
                piece = tuple(row[:-1][ids == number])
                whole += piece in documents or (*piece, 256) in documents
    assert whole > 20


def test_writers_at_the_same_time_leave_one_whole_plan(fake_store, tmp_path):
    store = fake_store(30_000)
    path = tmp_path / plan_name(store, 31)
    threads = [threading.Thread(target=write_plan, args=(store, 31, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert PackingPlan(path, store=store, seq_len=31).num_rows > 900


def test_what_a_killed_writer_left_is_removed(fake_store, tmp_path):
    import socket

    store = fake_store(3000)
    name = plan_name(store, 31)
    dead = tmp_path / f".{name}.{socket.gethostname()}-999999999-1.tmp"
    other_machine = tmp_path / f".{name}.elsewhere-999999999-1.tmp"
    dead.touch()
    other_machine.touch()
    write_plan(store, 31, tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, other_machine.name])


def test_a_damaged_plan_is_refused_wherever_a_byte_is_flipped(fake_store, tmp_path):
    store = fake_store(400)
    path = tmp_path / plan_name(store, 15)
    write_plan(store, 15, path)
    good = path.read_bytes()
    whole = PackingPlan(path, store=store, seq_len=15)
    rows = np.arange(whole.num_rows)
    want = [column.tolist() for column in whole.pieces(rows)]
    del whole

    def read():
        try:
            plan = PackingPlan(path, store=store, seq_len=15)
            return [column.tolist() for column in plan.pieces(rows[: plan.num_rows])]
        except ShardError as error:
            return str(error)

    refused = 0
    for place in range(0, len(good), 3):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        got = read()
        # What is not refused is a byte between the columns, or one that nothing is read from.
        assert got == want or path.name in got
        refused += got != want
    assert refused > len(good) / 3 / 3
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ShardError, match="not a packing plan"):
        PackingPlan(path, store=store, seq_len=15)


def test_a_plan_of_another_store_or_length_is_refused(fake_store, tmp_path):
    store, other = fake_store(400), fake_store(400, seed=5)
    path = tmp_path / "plan.arrow"
    write_plan(store, 15, path)
    with pytest.raises(ShardError, match="expected"):
        PackingPlan(path, store=other, seq_len=15)
    with pytest.raises(ShardError, match="expected"):
        PackingPlan(path, store=store, seq_len=16)


def test_a_remote_store_needs_a_place_for_its_plan(fake_store, tmp_path):
    store = fake_store(900, remote=True)
    with pytest.raises(ConfigError, match="packing_dir"):
        Loader(store, seq_len=15, batch_size=4, packing="best_fit")
    with Loader(
        store, seq_len=15, batch_size=4, packing="best_fit", reading=ReadOptions(packing_dir=tmp_path)
    ) as loader:
        assert next(loader).num_rows == 4


def test_a_place_that_cannot_be_written_to_is_refused(fake_store, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="packing_dir"):
        Loader(
            fake_store(900),
            seq_len=15,
            batch_size=4,
            packing="best_fit",
            reading=ReadOptions(packing_dir=tmp_path / "file"),
        )


def test_a_store_of_single_tokens_has_nothing_to_pack(fake_store, tmp_path):
    store = fake_store(50)
    store.ends = np.arange(1, 51)
    with pytest.raises(ConfigError, match="two tokens"):
        Loader(store, seq_len=15, batch_size=4, packing="best_fit", reading=ReadOptions(packing_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []
