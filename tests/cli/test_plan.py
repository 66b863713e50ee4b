"""`headrace plan` as a user types it: plan.py, plan_options.py, plan_tables.py."""

from __future__ import annotations

import json

import pytest

import headrace as hr
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
        (("--page", "."), "plan: page is ., a directory"),
        (("--tokens", "0"), "tokens is 0; expected a number above 0"),
        (("--tokens", "nan"), "tokens is nan"),
        (("--kv-heads", "2"), "--kv-heads is given beside --model"),
        (("--tp", "3"), "tp=3 cannot be; expected tp 1, 2 ("),
        (("--dp", "2", "--tp", "2"), "tp=2 cannot be with dp=2; expected tp 1"),
        (("--cp", "3"), "cp=3 cannot be; expected cp 1, 2"),
        (("--micro-batch", "3"), "micro_batch=3 cannot be; expected micro_batch 1, 2, 4, 8"),
        (("--why", ""), "--why '': expected values like dp=8,tp=2"),
        (("--why", "dp=two"), "dp is 'two'; expected a whole number"),
        (("--why", "dp=2,dp=1"), "dp is given twice"),
        (("--why", "dp=2,tp=2"), "tp=2 cannot be with dp=2"),
        (("--gpus", "13"), "13 GPUs and 8 rows have no layout at all"),
        (("--calibrate", "none.csv"), "none.csv: cannot be read as CSV in UTF-8: No such file"),
        (("--calibrate", "none.json"), "none.json: cannot be read: No such file"),
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


def test_a_layout_that_does_not_fit_says_by_how_much_and_what_would(capsys):
    large = ("plan", "--model", "gpt3-13b", "--gpu", "h100-80gb", "--gpus", "8", "--batch-size", "64")
    assert main([*large, "--why", "dp=8,shard=none,recompute=full"]) == 0
    verdict = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("verdict"))
    assert "does not fit" in verdict
    assert "GiB too much; " in verdict
    assert " fits and is " in verdict


def test_where_nothing_fits_a_layout_says_how_many_gpus_would(capsys):
    assert main(["plan", "--model", "gpt3-175b", "--gpus", "8", "--batch-size", "64", "--why", "tp=8"]) == 0
    assert "no layout of this job surely fits. About " in capsys.readouterr().out


@pytest.mark.parametrize(("gpus", "per_node"), [(8, 3), (12, 8), (6, 4)])
def test_the_command_starts_as_many_processes_as_there_are_gpus(gpus, per_node, capsys):
    words = ("--gpus", str(gpus), "--gpus-per-node", str(per_node), "--batch-size", "24", "--json")
    assert main(["plan", "--model", "gpt3-125m", *words]) == 0
    command = json.loads(capsys.readouterr().out)["command"].split()
    nodes, processes = (int(command[command.index(o) + 1]) for o in ("--nnodes", "--nproc-per-node"))
    assert nodes * processes == gpus
    assert processes <= per_node


def test_rows_that_nothing_is_learned_from_are_named(tmp_path, capsys):
    header = "source,gpu,n_gpus,layers,hidden,heads,seq,global_batch_seqs,dp,tp,pp,tokens_per_s_per_gpu\n"
    row = "x,A100,8,24,2048,16,1024,64,8,1,1,"
    table = tmp_path / "mine.csv"
    table.write_text(f"{header}{row}5000\n{row}5100\n{row}-3\n")
    assert main(["plan", "check", str(table), "--calibrate", str(table)]) == 0
    said = capsys.readouterr()
    assert f"{table}: row 2 is left out: tokens_per_s_per_gpu is -3" in said.err.replace("\n", "")
    assert "row 2 is left out" in said.out


def test_a_plan_of_a_store_measures_it_and_trains_on_it(tmp_path, capsys):
    (tmp_path / "corpus.jsonl").write_text('{"text": "a document"}\n' * 500)
    hr.ingest([tmp_path / "corpus.jsonl"], tmp_path / "my store", tokenizer="byte")
    assert main([*SMALL, "--store", str(tmp_path / "my store"), "--tokens", "55000", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {f["name"]: f["value"] for f in plan["input_output"]}["epochs"] == pytest.approx(10)
    assert f"train '{tmp_path / 'my store'}' --out RUN" in plan["command"]


def test_a_plan_of_what_is_no_store_is_refused(tmp_path, capsys):
    assert main([*SMALL, "--store", str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err
