"""Rates of this machine: rates.py and collective.py."""

import torch.distributed as dist

from headrace.probe.collective import all_reduce_rate
from headrace.probe.rates import copy_bytes_s, decode_tokens_s, disk_bytes_s, matmul_flops


def test_every_probe_measures_a_rate_that_a_processor_can_have(tmp_path):
    assert 1e8 < matmul_flops("float32", seconds=0.01) < 1e14
    assert 1e7 < matmul_flops("bf16", seconds=0.01) < 1e15
    assert 1e7 < copy_bytes_s(seconds=0.01) < 1e13
    assert 1e6 < decode_tokens_s(seconds=0.01) < 1e11
    assert 1e6 < disk_bytes_s(tmp_path) < 1e12


def test_a_disk_probe_leaves_no_file(tmp_path):
    disk_bytes_s(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_all_reduce_has_a_bandwidth_and_a_latency():
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        bytes_s, latency_s = all_reduce_rate(None, size=2)
    finally:
        dist.destroy_process_group()
    assert bytes_s > 0
    assert latency_s > 0
