"""A checkpoint says where its run stands, and a run opened from it stands there."""

from __future__ import annotations

import shutil

import orjson
import pytest
from flat_options import train

from headrace.errors import CheckpointError
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
