"""A state is one small integer with a name tag; a foreign one is refused with what differs."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis.strategies import builds, integers, text

from headrace.errors import ResumeError
from headrace.order.cursor import MAX_STATE_BYTES, OrderSpec, position_from_state, state_from_position

SPEC = OrderSpec(
    store="a" * 32, tokenizer="b" * 32, seq_len=2048, seed=7, shuffle="blocks:512x64", packing="best_fit"
)
SPECS = builds(
    OrderSpec,
    store=text(min_size=32, max_size=32),
    tokenizer=text(min_size=32, max_size=32),
    seq_len=integers(1, 2**31),
    seed=integers(),
    shuffle=text(max_size=40),
    packing=text(max_size=40),
    mixture=text(max_size=40),
)


@given(SPECS, integers(0, 2**62))
def test_a_state_survives_json_in_256_bytes(spec, position):
    ascii_only = dataclasses.replace(
        spec, **{f: getattr(spec, f).encode().hex()[:16] for f in ("shuffle", "packing", "mixture")}
    )
    stored = json.dumps(state_from_position(position, ascii_only))
    assert len(stored) <= MAX_STATE_BYTES
    assert position_from_state(json.loads(stored), ascii_only) == position


@pytest.mark.parametrize(
    "changed",
    [
        {"store": "c" * 32},
        {"tokenizer": "c" * 32},
        {"seq_len": 1024},
        {"seed": 8},
        {"shuffle": "global"},
        {"packing": "none"},
        {"mixture": "0123456789abcdef"},
    ],
)
def test_a_state_of_another_order_is_refused_and_named(changed):
    state = state_from_position(5, SPEC)
    with pytest.raises(ResumeError, match=next(iter(changed))) as refused:
        position_from_state(state, dataclasses.replace(SPEC, **changed))
    assert str(refused.value).count("saved") == 1


def test_all_that_differs_is_named_at_once():
    other = dataclasses.replace(SPEC, seed=1, seq_len=3)
    with pytest.raises(ResumeError, match=r"seq_len.*seed"):
        position_from_state(state_from_position(5, SPEC), other)


@pytest.mark.parametrize(
    "state",
    [{}, {"headrace": 2, "position": 1}, {"step": 5}, {"headrace": 1, "position": -1},
     {"headrace": 1, "position": "5"}, {"headrace": 1, "position": True}, {"headrace": 1}],
)  # fmt: skip
def test_what_is_not_a_state_is_refused(state):
    with pytest.raises(ResumeError, match="loader state"):
        position_from_state(state, SPEC)
