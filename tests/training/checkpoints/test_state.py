"""A checkpoint holds the state of its run, and a run restored from it continues there. Covers run_json.py too."""

from __future__ import annotations

import shutil
import warnings

import orjson
import pytest
from flat_options import train

from headrace.errors import CheckpointError, ResumeError
from headrace.model import GPT, GPTConfig, to_hf
from headrace.tokens import load_tokenizer
from headrace.training import import_model

SHAPE = GPTConfig(
    num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=257, max_position_embeddings=16
)
OPTIONS = {"seq_len": 16, "batch_size": 4, "lr": 1e-3, "progress": None, "dtype": "float32"}


def test_a_checkpoint_says_step_tokens_and_the_loaders_position(store, tmp_path, read_metrics):
    train(store, out=tmp_path / "run", model=SHAPE, steps=3, **OPTIONS)
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    state = orjson.loads((newest / "state.json").read_bytes())
    last = read_metrics(tmp_path / "run")[-1]
    assert (state["step"], state["tokens"]) == (3, 3 * 4 * 16)
    assert state["loader"]["position"] == last["position"] == 3 * 4
    assert train(store, out=tmp_path / "run", model=SHAPE, steps=3, **OPTIONS).resumed_from == 3


def test_an_imported_run_whose_weights_are_gone_does_not_begin_with_random_ones(store, tmp_path):
    to_hf(GPT(SHAPE), load_tokenizer("byte"), tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="the weights that it begins with are gone or damaged"):
        train(store, out=tmp_path / "run", steps=2, **OPTIONS)


@pytest.mark.parametrize("lost", [["run.json"], ["run.json", "checkpoints"]])
def test_metrics_without_a_run_are_not_overwritten_by_a_fresh_one(lost, store, tmp_path):
    out = tmp_path / "run"
    train(store, out=out, model=SHAPE, steps=2, **OPTIONS)
    before = (out / "metrics.jsonl").read_bytes()
    for name in lost:
        (out / name).rename(tmp_path / name)
    with pytest.raises(ResumeError, match=r"up to step 2, but there is no run\.json.*--restart"):
        train(store, out=out, model=SHAPE, steps=2, **OPTIONS)
    assert (out / "metrics.jsonl").read_bytes() == before
    for name in lost:
        (tmp_path / name).rename(out / name)
    assert train(store, out=out, model=SHAPE, steps=2, **OPTIONS).resumed_from == 2
    (out / "run.json").unlink()
    assert train(store, out=out, model=SHAPE, steps=2, restart=True, **OPTIONS).resumed_from == 0


@pytest.mark.parametrize("start", ["train", "train from an import", "import"])
def test_a_checkpoint_without_its_run_json_is_not_taken_for_another_runs(start, store, tmp_path):
    out, to = tmp_path / "run", tmp_path / "hf"
    train(store, out=out, model=SHAPE, steps=2, **OPTIONS)
    to_hf(GPT(SHAPE), load_tokenizer("byte"), to)
    (out / "metrics.jsonl").unlink()
    (out / "run.json").rename(tmp_path / "run.json")
    begin = {"model": SHAPE} if start == "train" else {"init_from": to}
    with pytest.raises(ResumeError, match=r"has a checkpoint of step 2, but neither run\.json nor metrics"):
        import_model(to, out) if start == "import" else train(
            store, out=out, steps=2, seed=1, **begin, **OPTIONS
        )
    assert not (out / "run.json").exists()
    (tmp_path / "run.json").rename(out / "run.json")
    with pytest.warns(RuntimeWarning, match="has lines of 0 of the 2 steps"):
        assert train(store, out=out, model=SHAPE, steps=3, **OPTIONS).resumed_from == 2


def test_a_start_that_was_killed_before_its_run_json_is_made_again(store, tmp_path):
    train(store, out=tmp_path / "run", model=SHAPE, steps=2, **OPTIONS)
    to_hf(GPT(SHAPE), load_tokenizer("byte"), tmp_path / "hf")
    for name, begin in {
        "hf": {"init_from": tmp_path / "hf"},
        "run": {"init_from": tmp_path / "run", "init_state": "full"},
    }.items():
        out = tmp_path / f"from-{name}"
        train(store, out=out, steps=3, **begin, **OPTIONS)
        for file in ("run.json", "metrics.jsonl"):
            (out / file).unlink()
        own = {"hf": "step-00000000", "run": "step-00000002"}[name]
        for path in (out / "checkpoints").iterdir():
            if path.name != own:
                shutil.rmtree(path)
        assert [path.name for path in (out / "checkpoints").iterdir()] == [own]
        assert train(store, out=out, steps=3, **begin, **OPTIONS).steps == 3


@pytest.mark.parametrize("loss", ["moved away", "all damaged"])
def test_a_run_whose_checkpoints_are_gone_is_refused_and_its_metrics_stay(loss, store, tmp_path):
    out = tmp_path / "run"
    train(store, out=out, model=SHAPE, steps=3, **OPTIONS)
    before = (out / "metrics.jsonl").read_bytes()
    if loss == "moved away":
        (out / "checkpoints").rename(tmp_path / "elsewhere")
    else:
        for state in (out / "checkpoints").glob("*/state.json"):
            state.write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            CheckpointError, match=r"had checkpoints from step 3 on and reached step 3.*Put its"
        ):
            train(store, out=out, model=SHAPE, steps=3, **OPTIONS)
    assert (out / "metrics.jsonl").read_bytes() == before
    if loss == "moved away":
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (tmp_path / "elsewhere").rename(out / "checkpoints")
        assert train(store, out=out, model=SHAPE, steps=3, **OPTIONS).resumed_from == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "a JSON list, expected an object"),
        ('{"format": 1}', "has no recipe with a model"),
        ('{"format": 1, "recipe": {"model": 5}}', "has no recipe with a model"),
        (
            '{"format": 1, "recipe": {"model": {"hidden_size": 16}, "data": {}}}',
            "its recipe has no '",
        ),
        ('{"format": 9}', "run format 9"),
    ],
)
def test_a_run_json_without_its_keys_is_an_error_that_names_it(content, message, store, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text(content)
    with pytest.raises(ResumeError, match=message):
        train(store, out=out, model=SHAPE, steps=2, **OPTIONS)
