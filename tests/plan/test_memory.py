"""Memory: the published formulae, and what has to grow or shrink."""

import numpy as np
import pytest

from headrace.plan.hardware import gpu_by_name
from headrace.plan.memory import CONSTANTS, memory
from headrace.plan.points import points
from headrace.plan.shapes import model_shape

ZEROS = np.zeros(len(CONSTANTS))


def used(model="gpt3-13b", **layout):
    p = points(
        model_shape(model),
        gpu_by_name("h100-80gb"),
        seq_len=2048,
        global_batch=512,
        layout={name: np.asarray(value, dtype=float) for name, value in layout.items()},
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
