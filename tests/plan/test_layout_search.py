"""Search: every layout that divides, ranked, and nothing called fitting that does not."""

import time

import pytest

from headrace.errors import ConfigError
from headrace.plan import TrainingJob, gpu_by_name, model_shape, search, shipped
from headrace.plan.explain import layout_values
from headrace.plan.layout_search import _divisors

STEPS, MEMORIES = shipped()


def layouts(model="gpt3-13b", gpus=64, rows=512, gpu="h100-80gb", **fixed):
    job = TrainingJob(
        shape=model_shape(model), hardware=gpu_by_name(gpu), gpus=gpus, seq_len=2048, global_batch=rows
    )
    return search(job, STEPS, MEMORIES, fixed=fixed)


def test_every_layout_uses_all_gpus_and_all_rows():
    found = layouts()
    p = found.points
    assert (p.gpus == 64).all()
    assert (p.data_ranks * p.micro_batch * p.num_micro_batches == 512).all()
    assert (40 % p.tp == 0).all()
    names = {tuple(layout_values(found, i).values()) for i in range(len(found))}
    assert len(names) == len(found)


def test_the_best_that_surely_fits_comes_first():
    found = layouts()
    assert found.fits[0]
    fitting = found.step.value[found.fits]
    assert (fitting[1:] >= fitting[:-1]).all()
    assert (found.memory.high[found.fits] < gpu_by_name("h100-80gb").memory_bytes).all()


def test_fixed_degrees_stay_fixed():
    found = layouts(tp=4, pp=2, shard="zero2", recompute="full", micro_batch=1)
    assert {layout_values(found, i)["tp"] for i in range(len(found))} == {4}
    assert {layout_values(found, i)["dp"] for i in range(len(found))} == {8}
    assert {layout_values(found, i)["shard"] for i in range(len(found))} == {"zero2"}


@pytest.mark.parametrize(
    "fixed", [{"tp": 3}, {"tp": 0}, {"shard": "zero9"}, {"ddp": 2}, {"dp": 63}, {"tp": True}]
)
def test_impossible_fixed_values_are_refused(fixed):
    with pytest.raises(ConfigError):
        layouts(**fixed)


def test_a_model_that_no_layout_holds_is_not_called_fitting():
    found = layouts("gpt3-175b", gpus=8)
    assert not found.fits.any()
    assert not found.tight.any()


@pytest.mark.parametrize("bad", [{"gpus": 0}, {"gpus": 1.5}, {"global_batch": -1}, {"dtype": "int8"}])
def test_a_job_that_is_none_is_refused(bad):
    values = {
        "shape": model_shape("gpt3-125m"),
        "hardware": gpu_by_name("A100"),
        "gpus": 8,
        "seq_len": 128,
        "global_batch": 8,
        **bad,
    }
    with pytest.raises(ConfigError):
        TrainingJob(**values)


def test_a_thousand_gpus_are_searched_in_thousands_of_layouts():
    begun = time.perf_counter()
    found = layouts("gpt3-175b", gpus=1024, rows=1536)
    assert len(found) > 1000
    assert found.fits.any()
    assert time.perf_counter() - begun < 30  # a deadlock's bound; bench/plan_search.py measures it


@pytest.mark.parametrize("name", ["gpus", "seq_len", "global_batch"])
def test_counts_that_no_machine_has_are_refused_at_once(name):
    """Their divisors would take hours to find."""
    given = {"gpus": 8, "seq_len": 2048, "global_batch": 64, name: 10**21}
    with pytest.raises(ConfigError, match=f"{name} is 1000000000000000000000; expected at most"):
        TrainingJob(shape=model_shape("gpt3-125m"), hardware=gpu_by_name("h100-80gb"), **given)


def test_all_divisors_are_found_once():
    assert [list(_divisors(number)) for number in (1, 12, 36)] == [
        [1], [1, 2, 3, 4, 6, 12], [1, 2, 3, 4, 6, 9, 12, 18, 36],
    ]  # fmt: skip
