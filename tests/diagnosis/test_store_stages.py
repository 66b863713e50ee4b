"""store_stages.py, trial.py, run_steps.py, page.py: a store and a run, measured as a user does."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import headrace as hr
from headrace.cli.app import main
from headrace.diagnosis import (
    StoreOptions,
    diagnose_run,
    diagnose_store,
    diagnosis_parts,
    needed_tokens_per_s,
    try_change,
)
from headrace.diagnosis.evidence import Evidence
from headrace.diagnosis.limiter import Finding
from headrace.profile import ConfidenceInterval

QUICK = StoreOptions(seq_len=64, batch_size=4, seconds=0.3)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosed")
    words = np.random.default_rng(0).integers(0, 1 << 20, size=(2000, 20))
    lines = [json.dumps({"text": " ".join(map(str, row))}) for row in words]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    hr.ingest([folder / "corpus.jsonl"], folder / "store", tokenizer="byte")
    return folder / "store"


@pytest.fixture
def run_path(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    rows = [
        {"step": i, "tokens": 100 * i, "step_s": 1.0, "data_wait_s": 0.4, "compute_s": 0.6, "decoding_s": 0.3}
        for i in range(1, 41)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "run.json").write_text("{}")
    return path


def test_each_stage_of_a_store_has_a_ceiling(store_path):
    with hr.Store.open(store_path) as store:
        found = diagnose_store(store, QUICK)
    names = [stage.name for stage in found.stages]
    assert {"decompression", "hand-over"} <= set(names)
    assert found.tokens_per_s.value > 0
    assert all(stage.tokens_per_s > 0 for stage in found.stages)
    assert found.slowest.counts
    assert found.sentence.startswith("The loader alone gives ")
    json.dumps(found.to_json())


def test_a_model_that_takes_less_than_the_loader_gives_is_the_limit(store_path):
    with hr.Store.open(store_path) as store:
        found = diagnose_store(store, QUICK, needed=1.0, needed_by="a slow model")
        assert "so the model is the limit" in found.sentence
        found = diagnose_store(store, QUICK, needed=1e15, needed_by="a fast model")
        assert "so data is the limit" in found.sentence
    wide = ConfidenceInterval(value=2.0, low=1.0, high=4.0)
    for needed, verdict in (
        (0.9, "the model is the limit"),
        (3.0, "cannot be said"),
        (4.1, "data is the limit"),
    ):
        assert verdict in replace(found, tokens_per_s=wide, needed=needed).sentence


def test_a_change_is_measured_beside_the_loader_as_it_is(store_path):
    options = StoreOptions(seq_len=64, batch_size=4, seconds=0.3, shuffle="global", threads=1)
    with hr.Store.open(store_path, cache_bytes=0) as store:
        trial = try_change(store, diagnose_store(store, options), options)
    if trial is None:
        pytest.skip("one core: nothing to change")
    assert trial.measured.low <= trial.measured.value <= trial.measured.high
    assert ("the prediction held" in trial.to_text()) == trial.held


def test_what_a_model_needs_is_planned_or_measured(run_path):
    planned, by = needed_tokens_per_s("gpt3-125m", QUICK)
    assert planned > 1e3
    assert by == "gpt3-125m on one h100-80gb"
    measured, by = needed_tokens_per_s(str(run_path), QUICK)
    assert measured == pytest.approx(4000 / 24)
    assert "without its waits" in by


def test_a_run_is_diagnosed_from_its_metrics(run_path):
    found = diagnose_run(run_path)
    assert found.balance.limiter == "decompression"
    assert "because of decoding in the loader" in found.to_text()
    assert found.advice[0].gain.value == pytest.approx(1 / (1 - 0.36) - 1, abs=0.01)


def test_a_loops_parts_are_compute_and_the_wait_by_its_cause():
    share = ConfidenceInterval(value=0.25, low=0.2, high=0.3)
    finding = Finding(limiter="network", share=share, reason="")
    found = hr.Diagnosis(
        stall=share, waits=share, step_s=2.0, finding=finding, method="waits", evidence=Evidence()
    )
    assert [(part.name, part.seconds) for part in diagnosis_parts(found)] == [
        ("compute", 1.5),
        ("wait: the network", 0.5),
    ]


def test_the_command_writes_text_json_and_a_page(run_path, tmp_path, capsys):
    assert main(["diagnose", str(run_path)]) == 0
    assert "40 % of a step of 1.0 s waits for data" in capsys.readouterr().out
    out = tmp_path / "page"
    assert main(["diagnose", str(run_path), "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["limiter"] == "decompression"
    assert json.loads((out / "diagnosis.json").read_text())["stall"]["value"] == pytest.approx(0.4)
    page = (out / "diagnosis.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in page
    assert values["sentence"].replace("'", "&#x27;") in page
    assert (out / "step.svg").is_file()


def test_the_command_measures_a_store(store_path, capsys):
    words = ["--seq-len", "64", "--batch-size", "4", "--seconds", "0.2", "--json", "--try"]
    assert main(["diagnose", str(store_path), *words]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["tokens_per_s"]["value"] > 0
    assert "trial" in values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--try"], "--try measures the loader of a store"),
        (["nothing-there"], "no manifest.json"),
        (["STORE", "--seconds", "0"], "expected more than 0"),
        (["STORE", "--seconds", "inf"], "at most 3,600"),
        (["STORE", "--threads", "100000"], "at most 1,024"),
        (["STORE", "--batch-size", "1000000000"], "tokens a batch"),
        (["STORE", "--gpu", "gpu9"], "gpu9"),
        (["RUN", "--model", "gpt3-125m"], "--model is of a store"),
        (["RUN", "--out", "file"], "File exists"),
        (["/"], "/"),
        (["STORE", "--seq-len", "0"], "seq_len=0: expected at least 1"),
        (["STORE", "--threads", "-1"], "threads=-1"),
        (["STORE", "--model", "gpt9"], "gpt9"),
    ],
)
def test_bad_input_is_refused_without_a_traceback(
    words, message, run_path, store_path, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file where a directory is wanted")
    words = [{"RUN": str(run_path), "STORE": str(store_path)}.get(word, word) for word in words]
    assert main(["diagnose", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_few_steps_is_refused(run_path, capsys):
    (run_path / "metrics.jsonl").write_text('{"step": 1, "step_s": 1.0}\n')
    assert main(["diagnose", str(run_path)]) == 2
    assert "too few to say" in capsys.readouterr().err
