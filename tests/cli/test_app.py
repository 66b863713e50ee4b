"""The command line: flags change on purpose, errors are one line, JSON is alone on stdout.

Of app.py and of the commands: demo.py, export.py, generate.py, import_.py, ingest.py, inspect.py, plan.py,
report.py, serve.py, tokenizer.py, train.py; what a command does is tested with the folder that does it.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys

import orjson
import pytest
import typer.main

import headrace as hr
from headrace.cli.app import app, main


def headrace(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "headrace", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def jsonl_gz(path, texts):
    path.write_bytes(gzip.compress(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)))
    return path


def flags():
    found = {}
    root = typer.main.get_command(app)
    found[""] = sorted(option for param in root.params for option in param.opts)
    for name, command in root.commands.items():
        for word, inner in getattr(command, "commands", {"": command}).items():
            options = (option for param in inner.params for option in param.opts if option.startswith("-"))
            found[f"{name} {word}".strip()] = sorted(set(options))
    return found


def test_flags_change_only_on_purpose():
    assert flags() == {
        "": ["--install-completion", "--log-file", "--log-level", "--show-completion", "--version"],
        "demo": ["--json", "--out", "--restart", "--seconds", "--seed", "--text-field"],
        "ingest": [
            "--append", "--codec", "--csv-delimiter", "--csv-header", "--dedup", "--dedup-field",
            "--dedup-min-chars", "--dedup-threshold", "--distribute", "--feature",
            "--field", "--filter", "--format", "--image-field",
            "--interactions", "--item-field", "--json", "--keep", "--keep-duplicates", "--label-field",
            "--language", "--language-min-score", "--layout", "--learn", "--map", "--max-document-bytes",
            "--max-history", "--max-reject-share",
            "--min-item-interactions", "--min-user-interactions", "--normalise", "--out", "--part",
            "--record", "--restart", "--rows", "--sample", "--samples", "--seed", "--session-gap",
            "--share", "--skip-damaged", "--split", "--strict", "--template", "--test-from", "--text-field",
            "--text-mode", "--time-field", "--tokenizer", "--user-field", "--validation-from",
            "--validation-out", "--validation-share", "--workers",
        ],
        "tokenizer train": ["--json", "--out", "--text-field", "--vocab-size"],
        "inspect": ["--html", "--json", "--samples", "--tokenizer", "--verify"],
        "plan check": ["--calibrate", "--json"],
        "plan calibrate": ["--hardware", "--here", "--json", "--out"],
        "train": [
            "--activation-checkpointing", "--banded", "--batch-size", "--betas", "--checkpoint-every",
            "--checkpoint-seconds", "--checkpoint-timeout", "--compile", "--cooldown-steps", "--decay-steps", "--depth",
            "--device", "--dp", "--dtype", "--embeddings", "--eps", "--eval-every", "--eval-rows",
            "--eval-stores", "--gradient-accumulation-steps", "--head-dim", "--hidden-size", "--init-from",
            "--init-state", "--intermediate-size", "--json", "--keep-best", "--keep-checkpoints",
            "--layout", "--lora-alpha", "--lora-dropout", "--lora-r", "--lora-target-modules", "--lr",
            "--lr-schedule", "--max-grad-norm", "--max-position-embeddings",
            "--max-seconds", "--microbatches", "--min-lr-ratio", "--mirror", "--model", "--model-type",
            "--momentum", "--num-attention-heads", "--num-hidden-layers", "--num-key-value-heads",
            "--on-divergence", "--optimizer", "--optimizer-implementation", "--out", "--packing",
            "--patience", "--pipeline-schedule", "--pp", "--rampup-batch-size", "--rampup-steps",
            "--restart", "--sample-every", "--sample-max-new-tokens", "--sample-prompt", "--sample-prompts",
            "--sample-temperature",
            "--seed", "--separate-documents", "--seq-len", "--shard", "--shuffle", "--spike-sigma",
            "--spike-window", "--steps", "--tie-word-embeddings", "--tokenizer", "--tokens", "--tp", "--track",
            "--use-rslora", "--warmup-steps", "--weight-decay",
        ],
        "generate": [
            "--add-special-tokens", "--batch-size", "--device", "--distribute", "--dtype", "--engine", "--format",
            "--frequency-penalty", "--ignore-eos", "--json", "--logprobs", "--max-new-tokens", "--min-p", "--model",
            "--num-samples", "--out", "--prefix-cache", "--prefix-cache-disk-bytes", "--prefix-cache-memory-bytes",
            "--presence-penalty", "--prompt-logprobs", "--prompts",
            "--rebuild-commits", "--repetition-penalty", "--retry-errors", "--seed",
            "--split-special-tokens", "--stop", "--temperature",
            "--top-k", "--top-logprobs", "--top-p", "--workers",
        ],
        "serve": [
            "--allow-host", "--allow-origin", "--api-key", "--batch-size", "--device", "--drain-s", "--dtype", "--host",
            "--json", "--max-body-bytes", "--max-connections", "--max-queue", "--max-upload-bytes", "--model", "--name",
            "--port", "--predictions", "--prefix-cache", "--prefix-cache-disk-bytes", "--prefix-cache-memory-bytes",
            "--share-prefixes", "--state",
        ],
        "diagnose": [
            "--batch-size", "--cache-dir", "--gpu", "--json", "--model", "--out", "--seconds", "--seq-len", "--shuffle",
            "--threads", "--try",
        ],
        "report": ["--json"],
        "export": ["--adapter", "--json", "--out"],
        "import": ["--json", "--out"],
    }  # fmt: skip


@pytest.mark.parametrize("command", sorted(flags().keys() - {""}))
def test_every_command_has_help_with_examples(command):
    done = headrace(*command.split(), "--help", env={"COLUMNS": "100", "PATH": "", "TERM": "dumb"})
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert f"headrace {command.split()[0]}" in done.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    source = jsonl_gz(folder / "a.jsonl.gz", [f"line {i} of water and wheels" for i in range(200)])
    done = headrace("ingest", source, "--out", folder / "store", "--workers", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 200
    assert done.stderr == ""
    return folder / "store"


def test_inspect_shows_counts_and_rows_and_verifies(store):
    done = headrace("inspect", store, "--verify", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["documents"], report["verified"]) == (0, 200, True)
    assert "water" in headrace("inspect", store).stdout


def test_a_tokenizer_is_trained_from_raw_files(tmp_path):
    source = jsonl_gz(tmp_path / "a.jsonl.gz", ["the wheel turns the stone, the water turns the wheel"] * 50)
    done = headrace("tokenizer", "train", source, "--vocab-size", 280, "--out", tmp_path / "t.json", "--json")
    assert done.returncode == 0, done.stderr
    assert 257 < json.loads(done.stdout)["vocab_size"] <= 280


def bad_inputs():
    good = b'{"text": "fine"}\n'
    return {
        "missing.jsonl": (None, "missing.jsonl: No such file|no such file"),
        "named.jsonl.gz": (good, "named.jsonl.gz: named as gzip"),
        "truncated.jsonl.gz": (gzip.compress(good * 5000)[:-200], "truncated.jsonl.gz: truncated"),
        "utf8.jsonl": (good + b'{"text": "\xff"}\n', "utf8.jsonl: line 2: byte 27: invalid UTF-8"),
        "nofield.jsonl": (good + b'{"body": 1}\n', "nofield.jsonl: line 2: .*no text field 'text'"),
        "empty.jsonl": (b"", "no documents|empty"),
    }


@pytest.mark.parametrize("name", sorted(bad_inputs()))
def test_bad_input_is_one_line_with_exit_code_2_and_leaves_no_store(tmp_path, name):
    data, wanted = bad_inputs()[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    done = headrace("ingest", tmp_path / name, "--out", tmp_path / "store", "--workers", 1)
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.search(wanted, line, re.IGNORECASE), line
    assert not (tmp_path / "store" / "manifest.json").exists()
    assert headrace("inspect", tmp_path / "store").returncode == 2


def test_a_wrong_option_is_usage_and_exit_code_2():
    done = headrace("ingest", "x", "--codec", "brotli", "--out", "y")
    assert done.returncode == 2
    assert "--codec" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--top-k", "abc"], "Invalid value for '--top-k': got 'abc', expected a whole number."),
        (["--top-p=x"], "Invalid value for '--top-p': got 'x', expected a number."),
        (["--engine", "foo"], "Invalid value for '--engine': 'foo' is not one of 'native'"),
    ],
)
def test_a_bad_value_of_an_option_is_reported_as_got_and_expected(capsys, words, expected):
    assert main(["generate", "--model", "m", "--prompts", "p", "--out", "o", *words]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_where_stderr_is_no_terminal_the_log_level_governs_what_it_shows(store, tmp_path):
    """`headrace --log-level error` leaves warnings out; --log-file keeps them in a file."""
    log = tmp_path / "headrace.log"
    words = [
        "tokenizer",
        "train",
        tmp_path / "a.jsonl.gz",
        "--vocab-size",
        5000,
        "--out",
        tmp_path / "t.json",
    ]
    jsonl_gz(tmp_path / "a.jsonl.gz", ["too little text for so many ids"] * 9)
    done = headrace("--log-level", "error", "--log-file", log, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert " WARNING headrace: " in log.read_text()
    assert " WARNING headrace: " in headrace(*words).stderr


def test_options_about_stores_and_prompts_are_taken_beside_them(tmp_path):
    """--patience counts evaluations of --eval-stores, --sample-every is of --sample-prompt."""
    (tmp_path / "a.txt").write_text("the water turns the wheel\n" * 99)
    hr.ingest([tmp_path / "a.txt"], tmp_path / "store", tokenizer="byte")
    shape = ["--num-hidden-layers", 1, "--hidden-size", 16, "--num-attention-heads", 1, "--seq-len", 16]
    about = [
        "--eval-stores",
        tmp_path / "store",
        "--patience",
        3,
        "--sample-prompt",
        "the",
        "--sample-every",
        1,
    ]
    words = [
        "train",
        tmp_path / "store",
        "--out",
        tmp_path / "run",
        *shape,
        "--batch-size",
        2,
        "--steps",
        2,
        *about,
    ]
    assert main([str(word) for word in words]) == 0
    samples = [orjson.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_bytes().splitlines()]
    assert [(line["step"], line["prompt"]) for line in samples] == [(1, "the"), (2, "the")]
    both = ["--sample-prompts", tmp_path / "a.txt", "--sample-prompt", "the"]
    assert main([str(word) for word in [*words, *both]]) == 2


def test_a_log_file_that_cannot_be_written_is_one_line(tmp_path):
    done = headrace("--log-file", tmp_path / "none" / "x.log", "inspect", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--log-file" in done.stderr


def test_ctrl_c_says_how_to_continue(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("headrace.store.Store.open", interrupted)
    assert main(["inspect", "store"]) == 130
    assert "interrupted; run the same command again to continue" in capsys.readouterr().err
