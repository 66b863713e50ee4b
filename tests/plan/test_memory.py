"""Memory: the published formulae, and what has to grow or shrink."""

import numpy as np
import pytest

from headrace.plan.hardware import gpu_by_name
from headrace.plan.memory import CONSTANTS, memory
from headrace.plan.points import points
from headrace.plan.shapes import model_shape

ZEROS = np.zeros(len(CONSTANTS))


def used(model="gpt3-13b", *, first_stage=False, **layout):
    p = points(
        model_shape(model),
        gpu_by_name("h100-80gb"),
        seq_len=2048,
        global_batch=512,
        layout={name: np.asarray(value, dtype=float) for name, value in layout.items()},
        first_stage=first_stage,
    )
    return memory(p, ZEROS)


def test_state_takes_eighteen_bytes_a_weight_with_float32_gradients():
    found = used(dp=1)
    state = found.weights + found.gradients + found.optimizer
    assert state[0] == pytest.approx(18 * model_shape("gpt3-13b").num_parameters, rel=1e-6)


def test_zero_shares_state_as_rajbhandari_says():
    found = used(dp=[1, 8, 1, 1], fsdp=[1, 1, 8, 8], zero=[0, 1, 2, 3])
    whole = found.optimizer[0]
    assert found.optimizer[1:] == pytest.approx(whole / 8)
    assert found.gradients[2:] == pytest.approx(found.gradients[0] / 8)
    assert found.weights[3] == pytest.approx(found.weights[0] / 8)


def test_activations_grow_with_rows_and_shrink_with_recomputation_and_tensor_parallelism():
    found = used(micro_batch=[1, 2, 1, 1], tp=[1, 1, 2, 1], recompute=[0, 0, 0, 2])
    assert found.activations[1] == pytest.approx(2 * found.activations[0])
    assert found.activations[2] == pytest.approx(found.activations[0] / 2)
    assert found.activations[3] < 0.3 * found.activations[0]


def test_a_pipeline_holds_as_many_micro_batches_as_stages():
    """1F1B: the first of p stages holds p micro-batches of a p-th of the layers."""
    one, four = used(pp=[1, 4], dp=[1, 1]).activations
    assert four == pytest.approx(one)


def test_a_layer_keeps_the_bytes_that_korthikanti_counts_without_dropout():
    """Table 2 of Korthikanti et al. 2022: 34 bytes a token and channel, of which two are masks of dropout."""
    shape = model_shape("gpt3-13b")
    found = used(dp=1).activations[0]
    assert found == pytest.approx(32 * 2048 * shape.hidden_size * shape.num_layers)


def test_logits_lie_on_the_last_stage_and_not_on_the_first():
    fullest = used("qwen2.5-0.5b", pp=2, micro_batch=8)
    first = used("qwen2.5-0.5b", pp=2, micro_batch=8, first_stage=True)
    assert first.logits[0] == 0 < fullest.logits[0]
    assert first.total[0] < fullest.total[0]
