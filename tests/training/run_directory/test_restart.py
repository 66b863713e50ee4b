"""restart.py: `--restart` deletes a run, once, and nothing else."""

import json

import pytest
from flat_options import train

from headrace.errors import ConfigError
from headrace.model import GPTConfig
from headrace.training.run_directory.restart import delete_run, is_first_attempt

SHAPE = GPTConfig(
    vocab_size=257, num_hidden_layers=1, hidden_size=32, num_attention_heads=2, max_position_embeddings=16
)
OPTIONS = {"model": SHAPE, "seq_len": 16, "batch_size": 4, "device": "cpu"}


def _make_run(out, run=None):
    (out / "checkpoints" / "step-1").mkdir(parents=True)
    (out / "metrics.jsonl").write_text('{"step": 1}\n')
    (out / "run.json").write_text(json.dumps(run or {"recipe": {"model": {}, "data": {}}}))
    (out / "notes.txt").write_text("mine")


def test_the_run_is_deleted_and_other_files_stay(tmp_path):
    _make_run(tmp_path)
    delete_run(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    delete_run(tmp_path, None)


def test_a_damaged_run_is_deleted(tmp_path):
    _make_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    delete_run(tmp_path, None)
    assert not (tmp_path / "checkpoints").exists()


def test_what_is_no_run_is_not_deleted(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ConfigError, match="holds checkpoints, tokenizer and neither"):
        delete_run(tmp_path, None)
    assert (tmp_path / "checkpoints").exists()


def test_weights_that_the_new_run_would_lack_are_not_deleted(tmp_path):
    _make_run(tmp_path, {"recipe": {"model": {}}, "imported": {"from": "gpt2-dir"}})
    with pytest.raises(ConfigError, match=r"began with the weights of gpt2-dir.*--init-from"):
        delete_run(tmp_path, None)
    with pytest.raises(ConfigError, match="would delete the run that --init-from names"):
        delete_run(tmp_path, f"{tmp_path}@1")
    assert (tmp_path / "checkpoints").exists()
    delete_run(tmp_path, "gpt2-dir")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_scheduler_that_starts_the_process_again_continues_the_run(name):
    assert is_first_attempt({name: "0"})
    assert not is_first_attempt({name: "2"})


def test_a_restarted_run_is_the_run_that_its_options_say(store, tmp_path, monkeypatch):
    train(store, out=tmp_path / "run", steps=3, **OPTIONS)
    summary = train(store, out=tmp_path / "run", steps=2, seed=5, restart=True, **OPTIONS)
    assert (summary.steps, summary.resumed_from) == (2, 0)
    fresh = train(store, out=tmp_path / "fresh", steps=2, seed=5, **OPTIONS)
    assert summary.loss == fresh.loss
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = train(store, out=tmp_path / "run", steps=2, seed=5, restart=True, **OPTIONS)
    assert again.resumed_from == 2


def test_restart_with_a_mirror_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="copy on the mirror"):
        train(store, out=tmp_path / "run", steps=1, restart=True, mirror=str(tmp_path / "m"), **OPTIONS)
