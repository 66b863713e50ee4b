"""Peaks of devices by name; none is guessed."""

from __future__ import annotations

import pytest
import torch

from headrace.training.step.mfu import device_peak, peak_flops


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA A10G", "bfloat16", 70e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165e12),
        ("NVIDIA GeForce GTX 1080", "bfloat16", None),
        ("NVIDIA H100 NVL", "bfloat16", 835e12),
        ("NVIDIA L40S", "float32", 91.6e12),
        ("NVIDIA GB200", "bfloat16", 2500e12),
        ("AMD Instinct MI300X", "bfloat16", 1307e12),
    ],
)
def test_the_longest_known_name_in_a_device_name_counts(name, dtype, peak):
    assert peak_flops(name, dtype) == peak


def test_a_cpu_has_no_known_peak():
    assert device_peak(torch.device("cpu"), "float32") is None
