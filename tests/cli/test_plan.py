"""`headrace plan` as a user types it: plan.py, plan_tables.py."""

from __future__ import annotations

import json

import pytest

from headrace.cli.app import main

SMALL = ("plan", "--model", "gpt3-125m", "--gpus", "2", "--batch-size", "8")

HERE = """
name = "a-laptop"
arch = "cpu"
memory_gib = 16
float32_tflops = 0.1
bf16_tflops = 0.02
fp8_tflops = 0.02
fp4_tflops = 0.02
memory_gb_s = 10
link_gb_s = 1
network_gb_s = 1
gpus_per_node = 2
cores_per_node = 4
decode_mtokens_s = 250
"""


def test_a_plan_prints_layouts_words_and_a_command(capsys):
    assert main([*SMALL]) == 0
    out = capsys.readouterr().out
    assert "torchrun --nnodes 1 --nproc-per-node 2 -m headrace train" in out
    assert "Memory does not bind" in out


def test_hardware_of_a_file_decides_the_dtype_that_auto_means(tmp_path, capsys):
    (tmp_path / "here.toml").write_text(HERE)
    assert main([*SMALL, "--hardware", str(tmp_path / "here.toml"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dtype"] == "float32"
    assert plan["layouts"][0]["fits"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpu", "h100-80gb", "--here"), "--gpu and --here"),
        (("--measure-again",), "--measure-again is for --here"),
        (("--gpus", "0"), "--gpus is 0"),
    ],
)
def test_hardware_options_that_contradict_each_other_are_refused(words, message, capsys):
    assert main([*SMALL, *words]) == 2
    assert message in capsys.readouterr().err
