"""The paper's recipe: rate, batch ramp-up, decay on matrices only, clipping; optimizers are torch's. Covers muon.py."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.model import GPT, GPTConfig
from headrace.training.optim import (
    OptimizerSettings,
    TrainingSchedule,
    clip_factor,
    describe_groups,
    make_optimizers,
    scale_gradients,
)

SHAPE = GPTConfig(
    num_hidden_layers=2, hidden_size=8, num_attention_heads=1, vocab_size=9, max_position_embeddings=4
)


@given(steps=st.integers(2, 500), warmup=st.integers(1, 50))
def test_the_rate_rises_to_its_peak_then_falls_to_its_floor(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps - 1)
    plan = TrainingSchedule(steps=steps, lr=2.0, warmup_steps=warmup, batch_size=4, micro_batch_size=4)
    rates = [plan.lr_at(step) for step in range(1, steps + 1)]
    assert all(a < b for a, b in itertools.pairwise(rates[:warmup]))
    assert rates[warmup - 1] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[warmup - 1 :]))
    assert rates[-1] == pytest.approx(0.2)


def test_the_rate_halfway_down_is_the_mean_of_peak_and_floor() -> None:
    plan = TrainingSchedule(steps=110, lr=1.0, warmup_steps=10, batch_size=4, micro_batch_size=4)
    assert plan.lr_at(60) == pytest.approx((1.0 + 0.1) / 2)


def test_the_floor_holds_after_the_cosine() -> None:
    plan = TrainingSchedule(
        steps=100, lr=1.0, warmup_steps=5, decay_steps=50, batch_size=4, micro_batch_size=4
    )
    assert plan.lr_at(50) == plan.lr_at(51) == plan.lr_at(100) == pytest.approx(0.1)


def test_the_schedules_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = {
        "constant": transformers.get_constant_schedule_with_warmup(_sgd(), 5),
        "linear": transformers.get_linear_schedule_with_warmup(_sgd(), 5, 40),
        "cosine": transformers.get_cosine_schedule_with_warmup(_sgd(), 5, 40),
        "wsd": transformers.get_wsd_schedule(
            _sgd(),
            num_warmup_steps=5,
            num_stable_steps=25,
            num_decay_steps=10,
            decay_type="linear",
            min_lr_ratio=0.0,
        ),
    }
    for name, scheduler in theirs.items():
        plan = TrainingSchedule(
            steps=40, lr=1.0, warmup_steps=5, lr_schedule=name, cooldown_steps=10, min_lr_ratio=0.0,
            batch_size=4, micro_batch_size=4,
        )  # fmt: skip
        expected = []
        for _ in range(40):
            scheduler.optimizer.step()
            scheduler.step()
            expected.append(scheduler.get_last_lr()[0])
        assert [plan.lr_at(step) for step in range(1, 41)] == pytest.approx(expected, abs=1e-12), name


def _sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_a_batch_ramp_grows_in_whole_units_and_stays() -> None:
    plan = TrainingSchedule(
        steps=9,
        lr=1.0,
        warmup_steps=1,
        batch_size=16,
        micro_batch_size=2,
        rampup_batch_size=4,
        rampup_steps=6,
    )
    assert [plan.micro_batches_at(step) for step in range(1, 10)] == [2, 3, 4, 5, 6, 7, 8, 8, 8]


@pytest.mark.parametrize(
    "wrong", [{"micro_batch_size": 3}, {"rampup_batch_size": 3}, {"rampup_batch_size": 32}]
)
def test_a_batch_that_is_no_whole_number_of_units_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="train:"):
        TrainingSchedule(
            **{"steps": 9, "lr": 1.0, "warmup_steps": 1, "batch_size": 16, "micro_batch_size": 2, **wrong}
        )


def test_decay_touches_matrices_and_not_biases_or_gains() -> None:
    model = GPT(SHAPE)
    (adamw,) = make_optimizers(model.named_parameters(), OptimizerSettings())
    decayed = {id(p) for group in adamw.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (not name.endswith("bias") and "norm" not in name), name


def test_muon_takes_the_matrices_and_adamw_the_tables_biases_and_gains() -> None:
    groups = describe_groups(GPT(SHAPE).named_parameters(), OptimizerSettings(optimizer="muon"))
    assert [(group["optimizer"], group["weight_decay"]) for group in groups] == [
        ("adamw", 0.1), ("adamw", 0.0), ("muon", 0.1),
    ]  # fmt: skip
    assert groups[0]["names"] == ["tok.weight", "pos.weight"]
    assert set(groups[2]["names"]) == {
        f"blocks.*.{part}.weight" for part in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
    }
    assert sum(group["parameters"] for group in groups) == SHAPE.num_parameters


@pytest.mark.parametrize("implementation", ["auto", "fused", "foreach"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizers_take_the_steps_of_torchs_own(name: str, implementation: str) -> None:
    torch.manual_seed(0)
    ours, theirs = (GPT(SHAPE) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = OptimizerSettings(optimizer=name, optimizer_implementation=implementation, weight_decay=0.2)
    optimizers = make_optimizers(ours.named_parameters(), settings)
    named = dict(theirs.named_parameters())
    matrices = (
        [p for n, p in named.items() if p.ndim == 2 and n.startswith("blocks")] if name == "muon" else []
    )
    rest = [p for p in named.values() if all(p is not m for m in matrices)]
    references: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.2},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=0.01, betas=(0.9, 0.95), eps=1e-8,
        )
    ]  # fmt: skip
    if matrices:
        references.append(
            torch.optim.Muon(matrices, lr=0.01, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
        )
    for _ in range(5):
        for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            reference.grad = mine.grad.clone()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.01
        for optimizer in (*optimizers, *references):
            optimizer.step()
    for (key, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6, msg=key)


@given(clip=st.floats(0.1, 50), size=st.floats(0.01, 10))
def test_gradients_end_with_at_most_the_clipped_norm(clip: float, size: float) -> None:
    grads = [torch.full((3, 2), 2.0 * size), torch.full((4,), -size)]
    before = math.sqrt(sum(float((g**2).sum()) for g in grads))
    scale_gradients(grads, clip_factor(before, clip))
    after = math.sqrt(sum(float((g**2).sum()) for g in grads))
    assert after == pytest.approx(min(clip, before), rel=1e-4)
