"""A loader gives each rank its rows, each row once per epoch, and resumes at any position.

Holds loader.py, indices.py, rows.py, mixture.py, host.py, distributed.py and defaults.py.
"""

import json
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import booleans, integers, lists, sampled_from

from headrace.errors import ConfigError, OrderError, ResumeError
from headrace.load import BatchOptions, Loader, ReadOptions, mix
from headrace.order import rank_slice

SHUFFLES = sampled_from(["global", "blocks", "none"])


def rows_of(batches):
    """(source, row) of every row that was delivered."""
    found = []
    for batch in batches:
        sources = np.zeros(batch.num_rows, int) if batch.sources is None else batch.sources
        found += list(zip(sources.tolist(), batch.rows[: batch.num_rows].tolist(), strict=True))
    return found


def by_step(loaders):
    """What all ranks together deliver at each step; every rank must take the same steps."""
    return [rows_of(step) for step in zip(*loaders, strict=True)]


def test_a_batch_holds_the_rows_that_it_names(store):
    for batch in Loader(store, seq_len=7, batch_size=5, epochs=1):
        for row, tokens in zip(batch.rows, batch.tokens, strict=False):
            assert tokens.tolist() == store.tokens[row * 7 : row * 7 + 8].tolist()
        assert batch.tokens.dtype == np.uint16
        assert (batch.input_ids.numpy() == batch.tokens[:, :-1]).all()
        assert (batch.labels.numpy() == batch.tokens[:, 1:]).all()


@given(
    num_tokens=integers(2, 600),
    seq_len=integers(1, 40),
    batch_size=integers(1, 30),
    world_size=integers(1, 6),
    epochs=integers(1, 3),
    shuffle=SHUFFLES,
)
def test_each_epoch_delivers_every_row_once(
    fake_store, num_tokens, seq_len, batch_size, world_size, epochs, shuffle
):
    store = fake_store(max(num_tokens, seq_len + 1))
    batch_size = max(batch_size, world_size)
    loaders = [
        Loader(
            store, seq_len=seq_len, batch_size=batch_size, epochs=epochs, rank=r, world_size=world_size,
            shuffle=shuffle, seed=num_tokens,
        )
        for r in range(world_size)
    ]  # fmt: skip
    delivered = [row for step in by_step(loaders) for _, row in step]
    rows = loaders[0].num_rows
    assert len(delivered) == epochs * rows
    for epoch in range(epochs):
        assert sorted(delivered[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(batch_size=integers(1, 20), world_size=integers(1, 20), last=sampled_from(["keep", "drop", "repeat"]))
def test_every_rank_takes_the_same_steps_whatever_is_left_over(fake_store, batch_size, world_size, last):
    store = fake_store(300)
    batch_size = max(batch_size, world_size)
    loaders = [
        Loader(
            store,
            seq_len=7,
            batch_size=batch_size,
            epochs=1,
            rank=r,
            world_size=world_size,
            output=BatchOptions(last=last),
        )
        for r in range(world_size)
    ]
    steps = [list(loader) for loader in loaders]
    assert {len(taken) for taken in steps} == {len(loaders[0])}
    rows = loaders[0].num_rows
    sizes = {
        "keep": rows,
        "drop": rows // batch_size * batch_size,
        "repeat": -(-rows // batch_size) * batch_size,
    }
    delivered = sorted(row for taken in steps for _, row in rows_of(taken))
    assert len(delivered) == sizes[last]
    assert len(set(delivered)) == min(rows, sizes[last])
    assert all(len(batch.tokens) >= 1 for taken in steps for batch in taken)


def test_a_rank_without_a_row_in_the_last_batch_gets_a_filler_without_loss(fake_store):
    store = fake_store(71)  # 10 rows of 7, 8 + 2 on 8 ranks
    last = [
        list(Loader(store, seq_len=7, batch_size=8, epochs=1, rank=r, world_size=8))[-1] for r in range(8)
    ]
    assert sorted(batch.num_rows for batch in last) == [0] * 6 + [1] * 2
    filler = next(batch for batch in last if batch.num_rows == 0)
    assert filler.tokens.tolist() == [[store.eos_id] * 8]
    assert filler.labels.tolist() == [[-100] * 7]
    assert filler.global_rows == 2


@pytest.mark.parametrize("world_size", [1, 7, 512, 4096])
def test_slices_of_thousands_of_ranks_tile_every_global_batch(fake_store, world_size):
    store = fake_store(40_001)
    whole = Loader(store, seq_len=4, batch_size=4096, epochs=1)
    for batch in whole:
        slices = [rank_slice(batch.global_rows, rank=r, world_size=world_size) for r in range(world_size)]
        assert slices[0][0] == 0
        assert slices[-1][1] == batch.global_rows
        # Of thousands of ranks, each is one slice of the same arithmetic; some are looked at through a loader.
        for rank in {0, world_size // 3, world_size - 1}:
            loader = Loader(store, seq_len=4, batch_size=4096, epochs=1, rank=rank, world_size=world_size)
            loader.seek(batch.position)
            mine = next(loader)
            begin, end = slices[rank]
            assert mine.rows[: mine.num_rows].tolist() == batch.rows[begin:end].tolist()


@pytest.mark.parametrize("options", [{}, {"packing": "best_fit"}, {"shuffle": "blocks"}])
def test_restoring_at_every_step_equals_not_restoring(fake_store, tmp_path, options):
    store = fake_store(900)
    window = 2 if options.get("shuffle") == "blocks" else None

    def fresh():
        return Loader(
            store, seq_len=11, batch_size=6, epochs=2, seed=3, output=BatchOptions(framework="numpy"),
            reading=ReadOptions(packing_dir=tmp_path, window=window), **options,
        )  # fmt: skip

    plain = list(fresh())
    loader = fresh()
    for batch in plain:
        state = json.loads(json.dumps(loader.state_dict()))
        loader = fresh()
        loader.load_state_dict(state)
        got = next(loader)
        assert got.position == batch.position
        assert (got.tokens == batch.tokens).all()
        assert (got.labels == batch.labels).all()
    with pytest.raises(StopIteration):
        next(loader)


@settings(max_examples=30)
@given(
    walk=lists(integers(1, 7), min_size=10, max_size=10),
    steps=lists(integers(0, 9), min_size=10, max_size=10),
    packed=booleans(),
    ahead=booleans(),
    seed=integers(),
)
def test_ten_restarts_on_changing_ranks_equal_an_uninterrupted_run(
    fake_store, tmp_path_factory, walk, steps, packed, ahead, seed
):
    """With a mixture whose weights change on the way, with and without packing and threads."""
    folder = tmp_path_factory.mktemp("plans") if packed else None
    one, two = fake_store(700, seed=1, remote=ahead), fake_store(400, seed=2, name="two", remote=ahead)
    both = mix({one: 0.7, two: 0.3}).then(100, {one: 0.2, two: 0.8})
    options = {"seq_len": 9, "seed": seed, "output": BatchOptions(framework="numpy"), "shuffle": "global"}
    options |= {"packing": "best_fit", "reading": ReadOptions(packing_dir=folder)} if packed else {}

    whole = []
    run = Loader(both, batch_size=14, rank=0, world_size=1, **options)
    total = sum(steps)
    for _ in range(total):
        whole.append(next(run))
    run.close()
    state, taken = Loader(both, batch_size=14, rank=0, world_size=1, **options).state_dict(), []
    for world_size, count in zip(walk, steps, strict=True):
        ranks = [
            Loader(both, batch_size=14, rank=r, world_size=world_size, **options) for r in range(world_size)
        ]
        for loader in ranks:
            loader.load_state_dict(json.loads(json.dumps(state)))
        for _ in range(count):
            parts = [next(loader) for loader in ranks]
            taken.append(np.concatenate([part.tokens for part in parts]))
        states = [loader.state_dict() for loader in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
        for loader in ranks:
            loader.close()
    assert len(taken) == total
    for got, want in zip(taken, whole, strict=True):
        assert (got == want.tokens).all()


@given(sizes=lists(integers(1, 9), min_size=1, max_size=12), seed=integers())
def test_the_order_does_not_depend_on_batch_sizes(fake_store, sizes, seed):
    store = fake_store(700)
    loader = Loader(store, seq_len=9, batch_size=3, seed=seed, rank=0, world_size=1)
    got = []
    for size in sizes:
        loader.batch_size = size
        got += next(loader).rows.tolist()
    whole = Loader(store, seq_len=9, batch_size=sum(sizes), seed=seed, rank=0, world_size=1)
    assert got == next(whole).rows.tolist()
    assert loader.position == whole.position


def test_the_state_is_committed_when_a_batch_is_taken_not_when_it_is_made(fake_store):
    store = fake_store(900)
    with Loader(store, seq_len=9, batch_size=4, reading=ReadOptions(threads=2, prefetch=6)) as loader:
        for step in range(3):
            assert loader.position == 4 * step
            batch = next(loader)
            assert batch.position == 4 * step
            assert batch.step == step
        until = time.monotonic() + 30
        while store.gathered <= 3 and time.monotonic() < until:
            pass
    assert store.gathered > 3


def test_an_ended_pass_stays_ended_until_a_loop_or_seek_begins_another(store):
    loader = Loader(store, seq_len=50, batch_size=4, epochs=1)
    loop = iter(loader)
    first = [b.rows.tolist() for b in loop]
    assert list(loop) == []
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loader)
    loader.seek(0)
    assert [b.rows.tolist() for b in loader] == first


def test_an_endless_run_has_no_length_and_goes_on_into_the_next_epoch(store):
    loader = Loader(store, seq_len=50, batch_size=4)
    with pytest.raises(TypeError, match="endless"):
        len(loader)
    epochs = [next(loader).epoch for _ in range(12)]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 2


def test_mixed_stores_come_by_weight_each_row_once_per_epoch_of_its_own(fake_store):
    big, small = fake_store(4001, seed=1), fake_store(801, seed=2, name="small")
    loader = Loader(mix({big: 0.75, small: 0.25}), seq_len=4, batch_size=50, shuffle="global")
    delivered = rows_of(next(loader) for _ in range(160))
    for number, store, share in ((0, big, 0.75), (1, small, 0.25)):
        rows = [row for source, row in delivered if source == number]
        assert len(rows) == pytest.approx(8000 * share, abs=20)
        size = store.num_rows(4)
        for epoch in range(len(rows) // size):
            assert sorted(rows[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_a_mixture_delivers_what_its_stores_hold(fake_store):
    stores = [fake_store(600, seed=s, name=str(s), vocab_size=v) for s, v in ((1, 257), (2, 257), (3, 257))]
    for batch in Loader(mix(dict.fromkeys(stores, 1.0)), seq_len=7, batch_size=10, epochs=1):
        for source, row, tokens in zip(batch.sources, batch.rows, batch.tokens, strict=True):
            assert tokens.tolist() == stores[source].tokens[row * 7 : row * 7 + 8].tolist()


def test_weights_may_change_from_an_unread_position_on_and_not_before(fake_store):
    one, two = fake_store(900, seed=1), fake_store(900, seed=2, name="two")
    plan = mix({one: 1, two: 1})
    loader = Loader(plan, seq_len=9, batch_size=10)
    for _ in range(5):
        next(loader)
    state = loader.state_dict()
    later = Loader(plan.then(50, {two: 1.0}), seq_len=9, batch_size=10)
    later.load_state_dict(state)
    assert set(next(later).sources.tolist()) == {1}
    earlier = Loader(plan.then(49, {two: 1.0}), seq_len=9, batch_size=10)
    with pytest.raises(ResumeError, match="mixture"):
        earlier.load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"seq_len": 8}, "seq_len"), ({"seed": 1}, "seed"), ({"shuffle": "none"}, "shuffle"),
     ({"shuffle": "blocks"}, "shuffle"), ({"packing": "best_fit"}, "packing")],
)  # fmt: skip
def test_a_state_of_another_run_is_refused_by_name(store, tmp_path, changed, named):
    state = Loader(store, seq_len=9, batch_size=4).state_dict()
    other = Loader(
        store, **{"seq_len": 9, "batch_size": 4, "reading": ReadOptions(packing_dir=tmp_path), **changed}
    )
    with pytest.raises(ResumeError, match=named):
        other.load_state_dict(state)


def test_a_state_of_another_store_is_refused_by_name(fake_store):
    state = Loader(fake_store(seed=1), seq_len=9, batch_size=4).state_dict()
    with pytest.raises(ResumeError, match="store"):
        Loader(fake_store(seed=2), seq_len=9, batch_size=4).load_state_dict(state)


def test_a_pickled_loader_goes_on_where_it_stood(make_store):
    store, _, _ = make_store(2000)
    loader = Loader(store, seq_len=9, batch_size=4, epochs=2, rank=1, world_size=2)
    next(loader)
    other = pickle.loads(pickle.dumps(loader))
    assert [b.rows.tolist() for b in other] == [b.rows.tolist() for b in loader]


def test_batches_that_are_kept_are_not_written_over(fake_store):
    store = fake_store(4000)
    loader = Loader(store, seq_len=7, batch_size=4, epochs=1, output=BatchOptions(framework="torch"))
    kept = [(b.tokens.copy(), b.tokens, b.input_ids, b.labels[:, 2:], b.rows) for b in loader]
    for copy, tokens, ids, some, rows in kept:
        assert (tokens == copy).all()
        assert (ids.numpy() == copy[:, :-1]).all()
        assert (some.numpy() == copy[:, 3:]).all()
        assert (store.tokens[rows * 7] == copy[:, 0]).all()


def test_wide_buffers_are_used_again_when_nothing_of_them_is_alive(fake_store):
    loader = Loader(fake_store(4000), seq_len=7, batch_size=4, output=BatchOptions(framework="torch"))
    places = {next(loader).input_ids.data_ptr() for _ in range(50)}
    assert len(places) <= 2


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_ids_are_int64_and_contiguous_in_either_framework(store, framework):
    batch = next(Loader(store, seq_len=7, batch_size=4, output=BatchOptions(framework=framework)))
    assert str(batch.input_ids.dtype).endswith("int64")
    assert batch.labels.reshape(-1).shape == (28,)
    if framework == "torch":
        assert batch.labels.is_contiguous()
        assert batch.input_ids.view(-1).shape == (28,)


def test_large_vocabularies_keep_their_ids(fake_store):
    store = fake_store(500, vocab_size=100_000)
    batch = next(Loader(store, seq_len=7, batch_size=4))
    assert batch.tokens.dtype == np.uint32
    assert batch.input_ids.max() > 65_536


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seq_len": 0}, "seq_len"), ({"batch_size": 0}, "batch_size"), ({"epochs": 0}, "epochs"),
        ({"seq_len": 5000}, "5001"), ({"shuffle": "some"}, "shuffle"), ({"packing": "worst"}, "packing"),
        ({"rank": 0}, "both"), ({"reading": ReadOptions(window=3), "shuffle": "global"}, "window"),
        ({"batch_size": 2, "rank": 0, "world_size": 3}, "every rank"),
        ({"output": BatchOptions(device="nowhere")}, "nowhere"),
        ({"output": {"last": "drop"}}, "headrace.BatchOptions"), ({"reading": 4}, "headrace.ReadOptions"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_by_name(store, options, named):
    with pytest.raises(ConfigError, match=named):
        Loader(store, **{"seq_len": 9, "batch_size": 4, **options})


@pytest.mark.parametrize("source", ["store", Path("store"), None, [1, 2, 3], np.arange(9)])
def test_what_is_no_open_store_is_refused_with_the_call_that_opens_one(source):
    with pytest.raises(ConfigError, match=r"expected a store or a mixture\. Give headrace\.Store\.open"):
        Loader(source, seq_len=4, batch_size=2)


def test_ranks_and_positions_out_of_range_are_refused(store):
    with pytest.raises(OrderError, match="rank 3"):
        Loader(store, seq_len=9, batch_size=4, rank=3, world_size=3)
    with pytest.raises(OrderError, match="-1"):
        Loader(store, seq_len=9, batch_size=4).seek(-1)
    with pytest.raises(OrderError, match="position=1000000000000000000000000000000"):
        Loader(store, seq_len=9, batch_size=4, epochs=1).seek(10**30)


def test_torchruns_environment_gives_the_rank(store, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = Loader(store, seq_len=9, batch_size=4)
    assert (loader.rank, loader.world_size) == (1, 2)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ConfigError, match="RANK"):
        Loader(store, seq_len=9, batch_size=4)


def test_a_closed_loader_says_so(store):
    loader = Loader(store, seq_len=9, batch_size=4)
    with loader:
        next(loader)
    with pytest.raises(ConfigError, match="closed"):
        next(loader)


def test_a_store_of_a_trillion_tokens_gives_its_first_indices_at_once(fake_store):
    store = fake_store(900)
    store.num_tokens = 10**12
    small = {"seq_len": 4096, "batch_size": 512, "rank": 0, "world_size": 1}
    for options in ({"shuffle": "global"}, {"shuffle": "blocks"}, {"shuffle": "global", "epochs": 3}):
        loader = Loader(store, **small, **options)
        loader.seek(240_000_000)
        # What is held is a chunk of indices, whatever the store's size.
        before = tracemalloc_peak(lambda loader=loader: loader._index.at(240_000_000, None))
        assert before < 4 << 20
        assert len(np.unique(loader._index.at(240_000_000, None).rows)) == 512


def tracemalloc_peak(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_every_stage_is_counted(fake_store):
    loader = Loader(fake_store(900, remote=True), seq_len=9, batch_size=4, reading=ReadOptions(threads=1))
    for _ in range(5):
        next(loader)
    counted = loader.stats.snapshot()
    assert counted["gather"].items >= 20
    assert counted["gather"].bytes >= 20 * 20
    assert counted["next"].items == 5
    loader.close()
