"""`headrace plan` as a user types it: plan.py, plan_options.py, plan_tables.py."""

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
        (("--top", "0"), "top is 0; expected a whole number above 0"),
        (("--page", "plan.html", "--why", "dp=2"), "--page draws all layouts and --why explains one"),
        (("--page", "s3://bucket/plan.html"), "plan: page is s3://bucket/plan.html: a URL"),
    ],
)
def test_options_that_contradict_each_other_or_mean_nothing_are_refused(
    words, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_points_of_ones_own_are_not_written_to_a_directory_named_like_a_url(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "calibrate", "run", "--out", "s3://bucket/lab.json"]) == 2
    assert "plan calibrate: out is s3://bucket/lab.json: a URL" in capsys.readouterr().err


def test_the_command_trains_a_layout_that_train_has(capsys):
    """Selective recomputation and four stages a rank are planned; the command is of the best without them."""
    words = (
        "plan",
        "--model",
        "gpt3-13b",
        "--gpu",
        "a100-40gb",
        "--gpus",
        "64",
        "--batch-size",
        "1024",
        "--json",
    )
    assert main([*words, "--recompute", "selective"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] is None
    assert main([*words]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert "--activation-checkpointing" not in plan["command"] or any(
        "recompute=full" in sentence for sentence in plan["sentences"]
    )
    if plan["layouts"][0]["recompute"] == "selective":
        assert any("that headrace train has" in sentence for sentence in plan["sentences"])


def test_a_plan_writes_its_page_and_explains_with_formulae(tmp_path, capsys):
    assert main([*SMALL, "--page", str(tmp_path / "plan.html")]) == 0
    assert "<svg" in (tmp_path / "plan.html").read_text()
    capsys.readouterr()
    assert main([*SMALL, "--why", "dp=2"]) == 0
    out = capsys.readouterr().out
    assert "= tokens/s / nodes" in out
    assert "a step" in out
