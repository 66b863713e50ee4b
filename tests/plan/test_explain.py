"""Explanations: lines add up, sentences name what binds, the command is one that headrace takes."""

import pytest

from headrace.errors import ConfigError
from headrace.plan import (
    TrainingJob,
    command,
    duration,
    gpu_by_name,
    model_shape,
    search,
    sentences,
    shipped,
    summary_of,
    why,
)

STEPS, MEMORIES = shipped()
JOB = TrainingJob(
    shape=model_shape("gpt3-13b"), hardware=gpu_by_name("h100-80gb"), gpus=64, seq_len=2048, global_batch=1024
)


@pytest.fixture(scope="module")
def layouts():
    return search(JOB, STEPS, MEMORIES)


def test_the_parts_of_a_step_add_up(layouts):
    lines = dict(why(layouts, JOB, STEPS, MEMORIES, "tp=8,pp=2"))
    parts = [float(v.split()[0]) for k, v in lines.items() if v.rstrip().endswith("%")]
    assert sum(parts) == pytest.approx(float(lines["a step"].split()[0]), rel=0.02)
    memory = [
        float(v.split()[0]) for k, v in lines.items() if k.startswith("memory: ") and "fullest" not in k
    ]
    assert sum(memory) == pytest.approx(float(lines["memory: fullest rank"].split()[0]), rel=0.02)
    assert "tp=8" in lines["layout"]


@pytest.mark.parametrize(
    "text", ["tp", "xp=2", "tp=7", "", "tp=8;pp=2", "tp=8,tp=8", "tp=\u00b2", "shard=zero9"]
)
def test_why_of_what_is_not_there_is_refused(layouts, text):
    with pytest.raises(ConfigError, match="--why"):
        why(layouts, JOB, STEPS, MEMORIES, text)


def test_a_summary_has_its_intervals_around_its_values(layouts):
    for i in range(5):
        s = summary_of(layouts, JOB, STEPS, i)
        for name in ("step_s", "tokens_per_s", "mfu", "memory_gib"):
            assert s[f"{name}_low"] <= s[name] <= s[f"{name}_high"]
        assert 0 < s["mfu"] < 1


def test_sentences_name_what_binds(layouts):
    assert any("Memory" in sentence for sentence in sentences(layouts, JOB, STEPS))
    small = TrainingJob(
        shape=model_shape("gpt3-175b"), hardware=JOB.hardware, gpus=8, seq_len=2048, global_batch=64
    )
    (said,) = sentences(search(small, STEPS, MEMORIES), small, STEPS)
    assert said.startswith("Nothing fits")
    assert "GiB" in said


def test_the_command_is_what_torchrun_takes(layouts):
    words = command(JOB, layouts, 0, model="gpt3-13b")
    assert words.startswith("torchrun --nnodes 8 --nproc-per-node 8")
    assert "--batch-size 1024" in words


def test_days_follow_from_steps(layouts):
    d = duration(JOB, layouts, 0, 300e9)
    assert d["days_low"] < d["days"] < d["days_high"]
    assert d["steps"] * layouts.step.value[0] == pytest.approx(d["days"] * 86400, rel=1e-3)


def test_what_does_not_fit_says_what_would_make_it_fit(layouts):
    verdict = dict(why(layouts, JOB, STEPS, MEMORIES, "dp=64,shard=none,recompute=none,micro_batch=16"))[
        "verdict"
    ]
    assert verdict.startswith("does not fit: ")
    assert " fits and is " in verdict
    assert any(change in verdict for change in ("recompute=", "micro_batch=", "shard="))
