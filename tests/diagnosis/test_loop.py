"""loop.py, session.py: the loop gets its batches, and the diagnosis is right."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
from loop_fakes import BackgroundLoader, SlowLoader

import headrace as hr
from headrace.diagnosis import DiagnosedLoader, DiagnoseOptions


@pytest.mark.parametrize("kind", [SlowLoader, BackgroundLoader])
@pytest.mark.parametrize("load_s", [0.0, 0.3, 2.0])
def test_the_loop_gets_every_batch_once_and_in_order(run_loop, clock, kind, load_s):
    batches, result = run_loop(kind(clock, n=300, load_s=load_s), method="blocks", max_cost=0.5)
    assert result.free_blocks
    assert batches == [[i, i] for i in range(300)]
    assert result.steps >= 24


@pytest.mark.parametrize("load_s", [0.0, 0.1, 0.5, 1.5])
def test_the_interval_holds_the_share_that_a_step_waits(run_loop, clock, load_s):
    _, result = run_loop(SlowLoader(clock, n=200, load_s=load_s), max_cost=0.2)
    assert result.method == "blocks"
    assert result.stall.low - 1e-9 <= load_s / (1 + load_s) <= result.stall.high + 1e-9
    assert result.speedup.value == pytest.approx(1 + load_s, rel=0.02)


def test_a_loader_in_the_background_stalls_by_what_it_is_slower(run_loop, clock):
    _, result = run_loop(BackgroundLoader(clock, n=2000, load_s=1.25))
    assert result.stall.low - 1e-9 <= 0.2 <= result.stall.high + 1e-9
    assert result.method == "blocks"


def test_work_of_the_loader_that_slows_the_step_counts(clock):
    """Waits alone miss it: a step whose batches are in memory is faster than one that waits for nothing."""
    loader = SlowLoader(clock, n=400, load_s=0.1)
    options = DiagnoseOptions(max_cost=0.2)
    diagnosed = DiagnosedLoader(loader, options=options, clock=clock, observe=False, verbose=False)
    last_s = 0.0
    for _ in diagnosed:
        clock.now_s += 1.4 if clock.now_s - last_s < 0.15 and clock.now_s > last_s else 1.0
        last_s = clock.now_s
    result = diagnosed.result
    assert result.waits.value == pytest.approx(0.1 / 1.5, abs=0.01)
    assert result.stall.low <= 0.5 / 1.5 <= result.stall.high
    assert result.stall.low > result.waits.high


def test_measuring_ends_when_the_interval_is_narrow(run_loop, clock):
    results = []
    loader = SlowLoader(clock, n=1000, load_s=0.5)
    diagnosed = DiagnosedLoader(
        loader, options=DiagnoseOptions(), clock=clock, observe=False, verbose=False, on_result=results.append
    )
    steps = 0
    for _ in diagnosed:
        clock.now_s += 1.0
        steps += 1
        if results:
            break
    assert steps < 200
    assert diagnosed.is_over
    assert results == [diagnosed.result]


def test_batches_ahead_cost_no_more_than_allowed(run_loop, clock):
    """A background loader that is as slow as the step: what is taken early is waited for."""
    for max_cost in (0.02, 0.1):
        clock.now_s = 0.0
        run_loop(BackgroundLoader(clock, n=300, load_s=1.0), max_cost=max_cost, precision=0.0001)
        assert clock.now_s < 302 * (1 + max_cost)


def test_a_generator_that_is_left_goes_on_with_the_batches_in_memory(clock):
    diagnosed = DiagnosedLoader(
        iter(SlowLoader(clock, n=300, load_s=0.5)),
        options=DiagnoseOptions(method="blocks", max_cost=0.2),
        clock=clock,
        observe=False,
        verbose=False,
    )
    seen = []
    while len(seen) < 300:
        for batch in itertools.islice(diagnosed, 7):
            seen.append(batch[0])
            clock.now_s += 1.0
    assert seen == list(range(300))


def test_an_error_of_the_loader_comes_after_the_batches_before_it(clock):
    def failing():
        yield from SlowLoader(clock, n=50, load_s=0.0)
        raise hr.ShardError("block 50 is damaged")

    for steps_before in range(8):  # the error falls into every place of a free block
        diagnosed = DiagnosedLoader(
            itertools.islice(failing(), steps_before, None),
            options=DiagnoseOptions(method="blocks", max_cost=0.2),
            clock=clock,
            observe=False,
            verbose=False,
        )
        seen = []
        with pytest.raises(hr.ShardError, match="block 50"):  # noqa: PT012
            for batch in diagnosed:
                seen.append(batch[0])
                clock.now_s += 1.0
        assert seen == list(range(steps_before, 50))


@pytest.mark.parametrize("buffers", [1, 2, 4])
def test_a_loader_that_uses_memory_again_is_measured_by_waits_alone(run_loop, clock, buffers):
    ring = [np.zeros(4) for _ in range(buffers)]

    class Ring(SlowLoader):
        def __iter__(self):
            for number, _ in enumerate(super().__iter__()):
                ring[number % buffers][:] = number
                yield {"x": ring[number % buffers][:2]}

    diagnosed = DiagnosedLoader(
        Ring(clock, n=200, load_s=0.2),
        options=DiagnoseOptions(max_cost=0.2),
        clock=clock,
        observe=False,
        verbose=False,
    )
    for number, batch in enumerate(diagnosed):
        assert batch["x"][0] == number
        clock.now_s += 1.0
    assert diagnosed.result.method == "waits"
    assert "memory again" in diagnosed.result.note


class _Resumable(SlowLoader):
    position = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.position = batch[0] + 1
            yield batch

    def state_dict(self):
        return {"position": self.position}


def test_a_loader_that_saves_its_position_is_not_read_ahead(clock):
    loader = _Resumable(clock, n=200, load_s=0.3)
    diagnosed = DiagnosedLoader(loader, options=DiagnoseOptions(), clock=clock, observe=False, verbose=False)
    for batch in diagnosed:
        assert loader.state_dict() == {"position": batch[0] + 1}
        clock.now_s += 1.0
    assert diagnosed.result.method == "waits"
    assert diagnosed.result.stall.low - 1e-9 <= 0.3 / 1.3 <= diagnosed.result.stall.high + 1e-9


def test_read_ahead_on_request_the_state_is_the_loops(clock):
    diagnosed = DiagnosedLoader(
        _Resumable(clock, n=200, load_s=0.3),
        options=DiagnoseOptions(method="blocks", max_cost=0.2),
        clock=clock,
        observe=False,
        verbose=False,
    )
    for batch in diagnosed:
        assert diagnosed.state_dict() == {"position": batch[0] + 1}
        clock.now_s += 1.0
    assert diagnosed.result.method == "blocks"


def test_passes_are_measured_together_without_their_first_waits(run_loop, clock):
    class SlowStart(SlowLoader):
        def __iter__(self):
            clock.now_s += 50.0
            yield from super().__iter__()

    diagnosed = DiagnosedLoader(
        SlowStart(clock, n=30, load_s=0.0),
        options=DiagnoseOptions(),
        clock=clock,
        observe=False,
        verbose=False,
    )
    for _ in range(4):
        for _ in diagnosed:
            clock.now_s += 1.0
    assert diagnosed.result.stall.high < 0.05
    assert diagnosed.result.first_wait_s == 50.0


def test_a_loop_that_is_left_writes_its_result(clock, capsys):
    for number, _ in enumerate(
        DiagnosedLoader(SlowLoader(clock, n=200, load_s=1.0), clock=clock, observe=False)
    ):
        clock.now_s += 1.0
        if number == 50:
            break
    gc.collect()
    assert "50 % of a step of 2.0 s waits for data" in capsys.readouterr().err


def test_attributes_and_length_are_the_loaders(clock):
    loader = SlowLoader(clock, n=7, load_s=0.0)
    diagnosed = hr.diagnose(loader)
    assert len(diagnosed) == 7
    assert diagnosed.load_s == 0.0
    with pytest.raises(TypeError):
        len(hr.diagnose(iter([])))


def test_bad_input_is_refused_by_name():
    with pytest.raises(hr.ConfigError, match="int cannot be iterated"):
        hr.diagnose(3)
    with pytest.raises(hr.ConfigError, match="expected headrace"):
        hr.diagnose([], options={"steps": 3})
    with pytest.raises(hr.ConfigError, match="no batch was taken yet"):
        _ = hr.diagnose([]).result


def test_few_steps_give_a_wide_interval_and_no_verdict(run_loop, clock):
    _, result = run_loop(SlowLoader(clock, n=8, load_s=1.0))
    assert (result.stall.low, result.stall.high) == (0.0, 1.0)
    assert "Not clear yet" in result.sentence
