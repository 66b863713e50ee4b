"""The table of GPUs, and hardware of one's own."""

import pytest

from headrace.errors import ConfigError
from headrace.plan.hardware import DTYPES, GPUS, gpu_by_name, read_hardware


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100-80gb", "h100-80gb"),
        ("H100-80GB", "h100-80gb"),
        ("A100", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("GB200-186GB", "gb200-186gb"),
        ("RTX4090-24GB", "rtx4090-24gb"),
        ("AMD Instinct MI300X-192GB", "mi300x-192gb"),
    ],
)
def test_a_gpu_is_found_by_the_names_that_tables_use(name, expected):
    assert gpu_by_name(name).name == expected


def test_an_unknown_gpu_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="h100-80gb"):
        gpu_by_name("tpu-v9")


def test_lower_precision_is_never_slower_than_higher():
    for gpu in GPUS.values():
        peaks = [gpu.peak_flops(dtype) for dtype in DTYPES]
        assert peaks == sorted(peaks), gpu.name
        assert gpu.source


def test_a_toml_file_may_change_one_figure_of_a_known_gpu(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('like = "h100-80gb"\nnetwork_gb_s = 12.5\ngpus_per_node = 4\n')
    hardware = read_hardware(path)
    assert (hardware.network_bytes_s, hardware.gpus_per_node, hardware.bf16_flops) == (12.5e9, 4, 989e12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_gib = 80", "missing"),
        ('like = "h100-80gb"\nnetwrok_gb_s = 1', "netwrok_gb_s"),
        ('like = "h100-80gb"\nmemory_gib = -1', "memory_gib"),
        ("x = [", "TOML"),
        ('like = "h100-80gb"\nmemory_gib = true', "memory_gib"),
    ],
)
def test_a_toml_file_that_says_nonsense_is_refused_by_key(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_hardware(path)
