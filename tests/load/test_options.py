"""options.py: options are checked for type and range when they are made, and kept as plain Python values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headrace.errors import ConfigError, OrderError, ResumeError
from headrace.load import BatchOptions, Loader, ReadOptions

PLAIN = {"seq_len": 9, "batch_size": 4, "seed": 1, "epochs": 2, "rank": 0, "world_size": 1}


@pytest.mark.parametrize("name", ["seq_len", "batch_size", "seed", "epochs", "rank", "world_size"])
@pytest.mark.parametrize("value", [1.5, 1.0, True, np.True_, np.float64(1), "1", [1]])
def test_what_is_no_integer_is_refused_by_name(store, name, value):
    with pytest.raises(ConfigError, match=f"{name}=.*expected an integer"):
        Loader(store, **(PLAIN | {name: value}))


@pytest.mark.parametrize("value", [2**31, 10**30])
@pytest.mark.parametrize("name", ["seq_len", "batch_size", "epochs"])
def test_a_number_that_has_no_place_in_the_format_is_refused(store, name, value):
    with pytest.raises(ConfigError, match=f"{name}={value}: must be at most"):
        Loader(store, **(PLAIN | {name: value}))


@pytest.mark.parametrize("name", ["seq_len", "batch_size", "seed"])
def test_none_is_refused_where_there_is_no_default(store, name):
    with pytest.raises(ConfigError, match=f"{name}=None"):
        Loader(store, **(PLAIN | {name: None}))


def test_numpy_integers_are_taken_and_kept_as_integers(store):
    plain = Loader(store, **PLAIN)
    loader = Loader(
        store, **{name: np.int64(value) for name, value in PLAIN.items()},
        reading=ReadOptions(threads=np.int32(0), prefetch=np.uint8(3)),
    )  # fmt: skip
    loader.seek(np.int64(16))
    loader.batch_size = np.int16(5)
    next(loader)
    assert loader.position == 21
    assert json.loads(json.dumps(loader.state_dict())) == plain.state_dict() | {"position": 21}
    values = [getattr(loader, name) for name in PLAIN] + [loader.reading.threads, loader.reading.prefetch]
    assert {type(value) for value in values} == {int}


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None, 2**40])
def test_a_batch_size_is_checked_when_it_is_set(store, size):
    loader = Loader(store, **PLAIN)
    next(loader)
    with pytest.raises(ConfigError, match="batch_size"):
        loader.batch_size = size
    assert loader.batch_size == 4
    assert next(loader).position == 4


@pytest.mark.parametrize("position", [8.0, True, None, "8", -1, 10**30])
def test_a_position_that_is_none_is_refused(store, position):
    loader = Loader(store, **PLAIN)
    with pytest.raises(OrderError, match="position="):
        loader.seek(position)
    assert loader.position == 0


@pytest.mark.parametrize("state", [None, 5, "state", [], {}, {"headrace": 1}])
def test_what_is_no_state_is_refused(store, state):
    with pytest.raises(ResumeError, match="state"):
        Loader(store, **PLAIN).load_state_dict(state)


@pytest.mark.parametrize("position", [10**30, -1, 1.5, None, True])
def test_a_state_with_an_impossible_position_is_refused(store, position):
    loader = Loader(store, **PLAIN)
    with pytest.raises(ResumeError, match="position"):
        loader.load_state_dict(loader.state_dict() | {"position": position})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"framework": "tf"}, "framework"), ({"last": "most"}, "last"), ({"position_ids": 1}, "position_ids"),
        ({"label_mask": True}, "label_mask"), ({"device": "cpu", "framework": "numpy"}, "device"),
    ],
)  # fmt: skip
def test_a_batchs_options_are_refused_by_name(options, named):
    with pytest.raises(ConfigError, match=named):
        BatchOptions(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threads": -1}, "threads"), ({"threads": 1.5}, "threads"), ({"prefetch": 0}, "prefetch"),
        ({"prefetch": None}, "prefetch"), ({"window": 0}, "window"), ({"window": True}, "window"),
    ],
)  # fmt: skip
def test_reading_options_are_refused_by_name(options, named):
    with pytest.raises(ConfigError, match=named):
        ReadOptions(**options)


@pytest.mark.parametrize("packing", [None, "best_fit"])
def test_a_row_that_offsets_of_32_bits_cannot_address_is_refused_at_once(store, tmp_path, packing):
    with pytest.raises(ConfigError, match="seq_len"):
        Loader(
            store, **(PLAIN | {"seq_len": 2**31}), packing=packing, reading=ReadOptions(packing_dir=tmp_path)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mask",
    [
        lambda tokens: np.ones((1, 1), bool),
        lambda tokens: np.ones((len(tokens), tokens.shape[1] - 1), int),
        lambda tokens: np.ones(tokens.shape, bool),
        lambda tokens: None,
        lambda tokens: True,
    ],
)
def test_a_label_mask_of_another_shape_or_type_is_refused(store, mask):
    loader = Loader(store, **PLAIN, output=BatchOptions(label_mask=mask))
    with pytest.raises(ConfigError, match=r"label_mask returned .*\(4, 9\)"):
        next(loader)


def test_options_are_frozen_and_compare():
    assert BatchOptions(position_ids=True) == BatchOptions(position_ids=True)
    with pytest.raises(AttributeError):
        ReadOptions().threads = 3
