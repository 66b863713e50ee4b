"""Families of training software."""

import numpy as np
import pytest

from headrace.plan.families import FAMILIES, family_indices, family_of
from headrace.plan.hardware import gpu_by_name
from headrace.plan.points import points
from headrace.plan.shapes import model_shape


def set_up(gpu="h100-80gb", dtype="bf16", **layout):
    return points(
        model_shape("llama3-8b"), gpu_by_name(gpu), seq_len=4096, global_batch=64, dtype=dtype, layout=layout
    )


@pytest.mark.parametrize(
    ("system", "gpu", "family"),
    [
        ("Megatron-Bridge GB300-288GB", "gb300-288gb", "transformer-engine"),
        ("NVIDIA/NeMo H100-80GB", "h100-80gb", "transformer-engine"),
        ("NVIDIA-NeMo/Automodel H100-80GB", "h100-80gb", "fsdp"),
        ("Megatron-LM A100-80GB", "a100-80gb", "megatron"),
        ("Megatron-LM H100-80GB", "h100-80gb", "transformer-engine"),
        ("torchtitan MI300X-192GB", "mi300x-192gb", "fsdp"),
        (None, "h100-80gb", "fsdp"),
    ],
)
def test_a_name_says_the_family(system, gpu, family):
    assert family_of(system, set_up(gpu)) == family


def test_set_ups_say_the_family_where_the_name_says_nothing():
    assert family_of("our lab A100", set_up("a100-80gb", fsdp=8, zero=3)) == "fsdp"
    assert family_of("our lab A100", set_up("a100-80gb", tp=8)) == "megatron"
    assert family_of("our lab H100", set_up(dtype="fp8", tp=8)) == "transformer-engine"


def test_each_row_gets_the_family_of_its_system():
    p = set_up("a100-80gb", tp=np.array([8.0, 1.0, 8.0]))
    found = [FAMILIES[i] for i in family_indices(["Megatron-LM A", "torchtitan A", "Megatron-LM A"], p)]
    assert found == ["megatron", "fsdp", "megatron"]
