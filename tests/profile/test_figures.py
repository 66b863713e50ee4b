"""Tiles and facts are the run's own numbers under their right names."""

from __future__ import annotations

from headrace.profile.figures import run_facts, run_tiles
from headrace.profile.run_files import read_run_files
from headrace.tokens import load_tokenizer


def facts_of(made):
    return dict(run_facts(read_run_files(made.path)))


def test_the_training_speed_is_all_tokens_over_all_seconds(made):
    """A median of steps leaves out evaluation and checkpoints."""
    made.steps(
        [
            {"step": i, "tokens": 100 * i, "step_s": 1.0 if i % 2 else 9.0, "tokens_per_s": 100.0}
            for i in range(1, 5)
        ]
    )
    tiles = {tile.name: (tile.value, tile.unit) for tile in run_tiles(read_run_files(made.path))}
    assert tiles["training speed"] == ("20", "tokens/s, over the whole run")


def test_a_smoothed_loss_is_called_a_median(made):
    tiles = {tile.name: tile for tile in run_tiles(read_run_files(made.path))}
    assert tiles["training loss"].unit == "nats (median)"
    made.steps([{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}])
    tiles = {tile.name: tile for tile in run_tiles(read_run_files(made.path))}
    assert (tiles["training loss"].value, tiles["training loss"].unit) == (
        "5.00 \N{RIGHTWARDS ARROW} 4.00",
        "nats",
    )


def test_the_tokenizer_is_described_by_its_own_ids_and_not_by_the_padded_table(made):
    assert "tokenizer" not in facts_of(made)
    directory = made.path / "tokenizer"
    directory.mkdir()
    tokenizer = load_tokenizer("byte")
    for name, content in tokenizer.files().items():
        (directory / name).write_bytes(content)
    assert facts_of(made)["tokenizer"] == "257 ids (the model's table is padded to 300)"


def test_layout_device_dtype_learning_rate_and_gradient_norm_are_shown(made):
    made.write(
        "run.json",
        {
            "processes": 4,
            "layout": {"dp": 2, "tp": 2, "pp": 1, "shard": "zero2"},
            "device": "cpu",
            "threads": 2,
            "torch": "2.13.0",
            "recipe": {"dtype": "bfloat16"},
        },
    )
    made.steps([{"step": 1, "lr": 1e-3, "grad_norm": 2.0}, {"step": 2, "lr": 5e-4, "grad_norm": 1.0}])
    facts = facts_of(made)
    assert facts["layout"] == "4 processes, data parallel 2, tensor parallel 2, sharding zero2"
    assert facts["device"] == "cpu, 2 threads, matrix products in bfloat16, torch 2.13.0"
    assert facts["learning rate"] == "at most 0.001, 0.0005 in the last step"
    assert facts["gradient norm"] == "median 1.5, largest 2, before clipping"


def test_a_model_is_named_by_its_family(made):
    """A run of Llama's shape was called a custom GPT."""
    made.write(
        "run.json", {"recipe": {"model_name": "custom", "model": {"model_type": "llama", "vocab_size": 5}}}
    )
    assert facts_of(made)["model"] == "custom Llama"
    made.write("run.json", {"recipe": {"model_name": "imported", "model": {"model_type": "gemma3_text"}}})
    assert facts_of(made)["model"] == "imported Gemma3"
    made.write("run.json", {"recipe": {"model_name": "tiny", "model": {"vocab_size": 5}}})
    assert facts_of(made)["model"] == "tiny GPT"
