"""limiter.py, evidence.py, advice.py, result.py: what was seen, what is named, and what is advised."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from headrace.diagnosis.advice import advise
from headrace.diagnosis.evidence import Evidence, collect_evidence
from headrace.diagnosis.kernel import Usage
from headrace.diagnosis.limiter import PHRASES, find_limiter
from headrace.diagnosis.result import Diagnosis
from headrace.diagnosis.sampler import LoopSamples
from headrace.profile import ConfidenceInterval

STALL = ConfidenceInterval(value=0.4, low=0.35, high=0.45)


def seen(**given):
    return Evidence(**{"samples": 100, "main": {"idle": 1.0}, "cores": 8, "wall_s": 10.0, **given})


@pytest.mark.parametrize(
    ("evidence", "limiter"),
    [
        (seen(main={"storage": 0.9, "cpu": 0.1}), "storage"),
        (seen(main={"network": 1.0}), "network"),
        (seen(main={"decompression": 0.7, "cpu": 0.3}), "decompression"),
        (seen(main={"hand_over": 0.8, "idle": 0.2}, producers={"idle": 1.0}, workers=4), "hand_over"),
        # Many small objects: building them in the loop's thread is the other end of the pipe ...
        (
            seen(
                main={"cpu": 0.38, "idle": 0.37, "hand_over": 0.25},
                producers={"hand_over": 0.5, "idle": 0.5},
                workers=1,
            ),
            "hand_over",
        ),
        # ... unless the loop's own work is most of it, or the workers do something else.
        (
            seen(main={"cpu": 0.7, "idle": 0.1, "hand_over": 0.2}, producers={"hand_over": 1.0}, workers=1),
            "loader_cpu",
        ),
        (
            seen(main={"cpu": 0.4, "idle": 0.3, "hand_over": 0.3}, producers={"parsing": 1.0}, workers=1),
            "loader_cpu",
        ),
        (seen(main={"device_copy": 0.9}), "device_copy"),
        (seen(main={"sleep": 1.0}), "latency"),
        (seen(producers={"tokenizing": 1.0}, workers=8), "tokenizing"),
        (seen(producers={"network": 0.9, "cpu": 0.1}, idle_cores=6.0), "network"),
        (seen(producers={"decompression": 0.9, "idle": 0.1}, workers=1, idle_cores=6.0), "workers"),
        (seen(producers={"decompression": 1.0}, workers=8, idle_cores=0.2), "decompression"),
        (seen(producers={"decompression": 1.0}, workers=2, worker_cpu_s={"1": 9.0, "2": 9.0}), "workers"),
        (
            seen(producers={"cpu": 1.0}, gil_wait=0.6, gil_turns=0.9, gil_threads=2, runnable_threads=2.5),
            "gil",
        ),
        # One thread waits for the GIL only where the sampling thread holds it, or has no core while it holds it.
        (
            seen(main={"cpu": 1.0}, gil_wait=0.9, gil_turns=0.9, gil_threads=1, runnable_threads=2.0),
            "loader_cpu",
        ),
        (seen(main={"decompression": 1.0}, gil_wait=0.9, core_wait=0.9, other_cores=2.0), "decompression"),
        # Other processes on all cores: threads at the GIL wait for a core most of the time.
        (
            seen(
                main={"cpu": 1.0},
                gil_turns=0.9,
                gil_threads=2,
                runnable_threads=2.0,
                core_wait=0.9,
                other_cores=7.0,
            ),
            "gil",
        ),
        # Threads beside a loop that waits for its disk do not hold it up.
        (
            seen(main={"storage": 1.0}, gil_wait=0.6, gil_turns=0.9, gil_threads=2, runnable_threads=2.5),
            "storage",
        ),
        (seen(producers={"idle": 1.0}, workers=2), "unclear"),
        (seen(samples=2), "unclear"),
        # The loop's own thread counts its processor time in every wait, sampled or not.
        (seen(samples=2, waits_s=3.0, waits_cpu=0.9), "loader_cpu"),
        (seen(samples=2, late_ticks=9, late_others=1.0, waits_cpu=0.9), "gil"),
        (seen(samples=2, late_ticks=9, late_others=0.1), "unclear"),
        (seen(samples=2, late_ticks=30, gil_wait=0.6), "gil"),
        (seen(samples=2, late_ticks=30, gil_wait=0.1), "unclear"),
        (seen(samples=2, late_ticks=30, gil_wait=0.2, gil_turns=1.0, gil_threads=2), "gil"),
    ],
)
def test_the_resource_that_the_evidence_shows_is_named(evidence, limiter):
    finding = find_limiter(STALL, evidence)
    assert finding.limiter == limiter
    assert finding.reason
    assert limiter in PHRASES
    assert advise(STALL, finding, evidence)


def test_too_few_samples_say_how_many_are_needed():
    reason = find_limiter(STALL, seen(samples=2, waits_s=0.31)).reason
    assert "2 samples fell into 0.3 s of waits, and 5 are needed" in reason


def test_no_stall_no_advice():
    """Whatever was seen: what does not hold the loop up is not worth a change."""
    stall = ConfidenceInterval(value=0.01, low=0.0, high=0.02)
    finding = find_limiter(stall, seen(main={"decompression": 1.0}))
    assert finding.limiter == "model"
    assert advise(stall, finding, seen()) == ()


def test_an_interval_from_nothing_to_much_is_no_verdict():
    stall = ConfidenceInterval(value=0.2, low=0.0, high=0.6)
    finding = find_limiter(stall, seen(main={"decompression": 1.0}))
    assert finding.limiter == "unclear"
    assert advise(stall, finding, seen()) == ()


def test_copies_to_the_device_are_named_where_data_arrives_in_time():
    stall = ConfidenceInterval(value=0.0, low=0.0, high=0.01)
    assert find_limiter(stall, seen(work={"device_copy": 0.3, "cpu": 0.7})).limiter == "device_copy"


def test_advice_is_ranked_and_gains_no_more_than_the_ceiling():
    for limiter in PHRASES:
        if limiter in ("model", "workers", "unclear"):
            continue
        activity = {"loader_cpu": "cpu", "latency": "sleep", "gil": "cpu"}.get(limiter, limiter)
        evidence = seen(
            main={activity: 1.0},
            gil_wait=0.5,
            gil_turns=float(limiter == "gil"),
            gil_threads=2,
            runnable_threads=2.0,
        )
        finding = find_limiter(STALL, evidence)
        assert finding.limiter == limiter
        gains = [one.gain for one in advise(STALL, finding, evidence)]
        assert [gain.value for gain in gains] == sorted((gain.value for gain in gains), reverse=True)
        assert all(
            0 <= gain.low <= gain.value <= gain.high <= 1 / (1 - STALL.high) - 1 + 1e-9 for gain in gains
        )


def test_more_workers_gain_by_their_number():
    evidence = seen(producers={"parsing": 1.0}, workers=2, idle_cores=1.0)
    first = advise(STALL, find_limiter(STALL, evidence), evidence)
    more = next(one for one in first if one.lever == "threads")
    assert more.change == "3 workers instead of 2"
    assert more.gain.high == pytest.approx(0.5)


def test_counters_become_shares_and_rates():
    samples = LoopSamples(waits=10, turns=4, runnable=15, workers=2)
    samples.main.update(idle=8, hand_over=2)
    samples.working.update({1: 10, 2: 5, 3: 5})
    samples.gil.update({1: 1, 2: 4, 3: 0})
    samples.others.add(4.0, cpu_s=1.0, core_wait_s=1.0)
    before = Usage(
        threads_s={"python (1)": 1.0},
        core_wait_s={1: 1.0},
        idle_s=5.0,
        busy_s=1.0,
        disk_bytes=100,
        read_bytes=100,
        pressure_s={"io": 1.0},
    )
    after = Usage(
        threads_s={"python (1)": 1.5, "pool (7)": 2.0},
        workers_s={9: 3.0},
        core_wait_s={1: 2.0, 9: 4.5},
        idle_s=9.0,
        busy_s=8.5,
        disk_bytes=1100,
        read_bytes=4100,
        pressure_s={"io": 2.0},
    )
    evidence = collect_evidence(
        samples, Counter(cpu=3.0, idle=1.0), before, after, wall_s=2.0, queue_fill=0.5
    )
    assert evidence.main == {"idle": 0.8, "hand_over": 0.2}
    assert evidence.producers == {"cpu": 0.75, "idle": 0.25}
    assert evidence.thread_cpu_s == {"python (1)": 0.5, "pool (7)": 2.0}
    assert (evidence.gil_turns, evidence.gil_threads, evidence.runnable_threads) == (0.4, 1, 1.5)
    assert evidence.gil_wait == pytest.approx(2 / 3)
    assert evidence.core_wait == 0.5
    assert (evidence.idle_cores, evidence.other_cores) == (2.0, 1.0)
    assert evidence.page_cache_hits == 0.75
    assert evidence.pressure["io"] == 0.5


def test_cores_that_others_use_are_named_beside_the_work():
    evidence = seen(main={"decompression": 1.0}, core_wait=0.6, other_cores=1.5, cores=2)
    finding = find_limiter(STALL, evidence)
    assert "60 % of the time that they had work they waited for a core" in finding.reason
    assert any("cores of its own for the job" in one.change for one in advise(STALL, finding, evidence))
    assert "waited for a core 60 %" in _diagnosis(finding, evidence).to_text()


def _diagnosis(finding, evidence):
    return Diagnosis(
        stall=STALL, waits=STALL, step_s=0.1, finding=finding, method="blocks", steps=100, free_blocks=5,
        evidence=evidence, advice=advise(STALL, finding, evidence),
    )  # fmt: skip


@pytest.mark.parametrize(("core_wait_s", "activity"), [(5.0, "storage"), (9.0, "cpu")])
def test_reads_are_storage_where_they_block_and_work_where_the_page_cache_has_the_bytes(
    core_wait_s, activity
):
    """Beside other processes a thread that reads a fast disk is mostly seen waiting for a core."""
    samples = LoopSamples(waits=10)
    samples.main.update(reading=9, storage=1)
    samples.main_wait.add(10.0, cpu_s=0.8, core_wait_s=core_wait_s)
    evidence = collect_evidence(samples, Counter(), Usage(), Usage(), wall_s=2.0, queue_fill=None)
    assert evidence.main[activity] >= 0.9


def test_a_diagnosis_is_text_and_json():
    evidence = seen(main={"decompression": 1.0}, disk_bytes=10**9, read_bytes=4 * 10**9, pressure={"io": 0.2})
    finding = find_limiter(STALL, evidence)
    result = _diagnosis(finding, evidence)
    assert result.sentence == (
        "40 % of a step of 100 ms waits for data (95 % interval 35 % to 45 %), because of decompression on the CPU; "
        "with free data the loop would be 1.67 times as fast (1.54 to 1.82)."
    )
    assert "100 MB/s from disk" in result.to_text()
    assert "io pressure 20 %" in result.to_text()
    assert json.loads(json.dumps(result.to_json()))["limiter"] == "decompression"
