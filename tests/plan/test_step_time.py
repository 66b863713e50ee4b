"""Step time: what has to hold whatever the constants are. Holds points.py too."""

import numpy as np
import pytest

from headrace.plan.hardware import gpu_by_name
from headrace.plan.points import points
from headrace.plan.shapes import model_shape
from headrace.plan.step_time import CONSTANTS, step_time

ZEROS = np.zeros(len(CONSTANTS))


def seconds(gpu="h100-80gb", model="gpt3-13b", dtype="bf16", seq_len=2048, **layout):
    p = points(
        model_shape(model),
        gpu_by_name(gpu),
        seq_len=seq_len,
        global_batch=512,
        dtype=dtype,
        layout={name: np.asarray(value, dtype=float) for name, value in layout.items()},
    )
    return step_time(p, ZEROS)


def test_no_part_is_negative_and_parts_make_the_total():
    found = seconds(dp=[1, 4, 8], tp=[1, 2, 8], pp=[1, 2, 4], micro_batch=[1, 2, 4], recompute=[0, 1, 2])
    parts = [getattr(found, name) for name in found.__dataclass_fields__]
    assert all((part >= 0).all() for part in parts)
    assert found.total == pytest.approx(sum(parts))


def test_a_step_is_never_faster_than_the_peak_allows():
    found = seconds(dp=8, tp=2, micro_batch=4)
    p = model_shape("gpt3-13b")
    flops = p.flops_per_token(2048) - 12 * p.num_layers * p.hidden_size * 2048
    assert found.total[0] > flops * 512 * 2048 / (16 * 989e12)


def test_the_bubble_is_the_published_share_and_virtual_stages_divide_it():
    """(p - 1) / (v m) of the time of the stages: Narayanan et al. 2021."""
    found = seconds(pp=[4, 4], dp=[1, 1], interleave=[1, 2], micro_batch=[4, 4])
    assert found.bubble[0] == pytest.approx(2 * found.bubble[1])
    m = 512 / 4
    running = (
        found.total - found.bubble - found.logits - found.optimizer - found.overhead - found.data_parallel
    )
    assert found.bubble[0] / running[0] == pytest.approx(3 / m, rel=1e-6)


@pytest.mark.parametrize(
    ("slow", "fast"),
    [
        ({"gpu": "a100-80gb"}, {"gpu": "h100-80gb"}),
        ({"dtype": "bf16"}, {"dtype": "fp8"}),
        ({"recompute": 2}, {"recompute": 0}),
        ({"seq_len": 4096}, {"seq_len": 2048}),
        ({"tp": 16, "dp": 1}, {"tp": 8, "dp": 2}),
    ],
)
def test_what_should_be_slower_is_slower(slow, fast):
    base = {"dp": 8, "tp": 2, "micro_batch": 2}
    assert seconds(**{**base, **slow}).total[0] > seconds(**{**base, **fast}).total[0]


def test_sharded_weights_cost_nothing_where_there_is_one_rank():
    assert seconds(dp=1, fsdp=1, zero=3).sharded_weights[0] == 0
