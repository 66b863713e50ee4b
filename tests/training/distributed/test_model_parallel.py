"""Every layout trains the same model on the same rows, and any layout continues where another stopped.

Covers parallel.py, pipeline.py, layout.py and trainable.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
import torch.distributed as dist
from flat_options import train
from torch.distributed.tensor.debug import (
    _clear_sharding_prop_cache as clear_cached_shardings,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

from headrace.errors import ConfigError
from headrace.model import DecoderConfig, GPTConfig, ModelConfig, sharded_like
from headrace.model.weights.checkpoint import list_checkpoints
from headrace.training.distributed.layout import device_mesh
from headrace.training.distributed.model_parallel import local
from headrace.training.options import DataOptions, OptimizerOptions, ParallelOptions
from headrace.training.recipe import RecipeRequest
from headrace.training.step.trainable import TrainableModel

SHAPE = GPTConfig(
    num_hidden_layers=4, hidden_size=32, num_attention_heads=4, vocab_size=257, max_position_embeddings=32
)
LLAMA = DecoderConfig(
    model_type="llama", head_dim=8,
    num_hidden_layers=4, hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=48,
    vocab_size=257, max_position_embeddings=32,
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "seq_len": 32,
    "batch_size": 8,
    "steps": 20,
    "lr": 3e-3,
    "seed": 5,
    "device": "cpu",
    "dtype": "float32",  # auto is bfloat16 on some CPUs
}
FORKED = {**OPTIONS, "model": dataclasses.asdict(SHAPE)}
# Sums are taken in another order; over 20 steps of AdamW the losses stay this near (measured: 2e-6).
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def alone(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "alone"
    train(store, out=out, model=SHAPE, **OPTIONS)
    return out


LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2": (2, {"dp": 2}),
    "dp2, zero2, accumulated": (2, {"dp": 2, "shard": "zero2", "gradient_accumulation_steps": 2}),
    "dp2, zero3, recomputed": (2, {"dp": 2, "shard": "zero3", "activation_checkpointing": True}),
    "dp2, accumulated": (2, {"dp": 2, "gradient_accumulation_steps": 4}),
    "tp2": (2, {"tp": 2}),
    "pp2": (2, {"pp": 2}),
    "pp2, gpipe": (2, {"pp": 2, "pipeline_schedule": "gpipe"}),
    "pp2, interleaved": (2, {"pp": 2, "pipeline_schedule": "interleaved"}),
    "dp2 x tp2": (4, {"dp": 2, "tp": 2}),
    "dp2 x tp2, zero3": (4, {"dp": 2, "tp": 2, "shard": "zero3"}),
    "tp2 x pp2": (4, {"tp": 2, "pp": 2}),
    "dp2 x pp2, zero2": (4, {"dp": 2, "pp": 2, "shard": "zero2"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_has_the_loss_curve_of_one_process(
    *, name: str, store: Path, alone: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    world, options = LAYOUTS[name]
    stop_at = 6 if "," in name else 0  # variants share most of their way with what runs to the end
    run = start_run(world=world, stop_at=stop_at, stores=store, out=tmp_path / "run", **FORKED, **options)
    assert run.wait_all() == [(0, "end 7 SIGTERM" if stop_at else "end 20 None")] * world
    got = losses(tmp_path / "run")
    assert len(got) == (7 if stop_at else 20)
    np.testing.assert_allclose(got, losses(alone)[: len(got)], rtol=TOLERANCE)


MUON: dict[str, Any] = {"optimizer": "muon", "steps": 6, "checkpoint_every": 3, "lr": 3e-3}


def test_muon_has_the_loss_curve_of_one_process_on_every_layout_and_moves_between_them(
    store: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    """Its orthogonalisation is in bfloat16: a sum in another order is another last digit of 8 bits."""
    train(store, out=tmp_path / "alone", model=SHAPE, **{**OPTIONS, **MUON})
    expected = losses(tmp_path / "alone")
    layouts: list[tuple[int, dict[str, Any]]] = [
        (2, {"tp": 2}),
        (2, {"dp": 2, "shard": "zero3"}),
        (2, {"pp": 2}),
    ]
    for number, (world, options) in enumerate(layouts):
        out = tmp_path / str(number)
        run = start_run(world=world, stores=store, out=out, **{**FORKED, **MUON}, **options)
        assert [code for code, _ in run.wait_all()] == [0] * world
        np.testing.assert_allclose(losses(out), expected, rtol=1e-3)
    shutil.rmtree(tmp_path / "0" / "checkpoints" / "step-00000006")
    train(store, out=tmp_path / "0")
    np.testing.assert_allclose(losses(tmp_path / "0"), expected, rtol=1e-3)


def test_a_run_moves_between_layouts_with_the_same_rows_and_losses(
    store: Path, alone: Path, tmp_path: Path, start_run: Any, losses: Any, read_metrics: Any
) -> None:
    out = tmp_path / "run"
    route: list[tuple[int, dict[str, Any], int]] = [
        (1, {}, 4),
        (2, {"dp": 2}, 7),
        (2, {"tp": 2}, 11),
        (4, {"dp": 4, "shard": "zero3"}, 14),
        (2, {"pp": 2}, 17),
        (1, {}, 0),
    ]
    for world, options, stop_at in route:
        run = start_run(
            world=world, stop_at=stop_at, stores=store, out=out, keep_checkpoints=1, **FORKED, **options
        )
        assert [code for code, _ in run.wait_all()] == [0] * world
        assert [step for step, _ in list_checkpoints(out / "checkpoints")] == [stop_at + 1 if stop_at else 20]
    np.testing.assert_allclose(losses(out), losses(alone), rtol=TOLERANCE)
    assert [line["position"] for line in read_metrics(out)] == list(range(8, 168, 8))


def test_held_out_loss_is_the_same_on_every_layout(
    store: Path, other_store: Path, tmp_path: Path, start_run: Any, read_metrics: Any
) -> None:
    asked = {
        **FORKED,
        "steps": 4,
        "eval_stores": other_store,
        "eval_rows": 13,
        "eval_every": 2,
        "stores": store,
    }
    found = []
    for number, (world, options) in enumerate([(1, {}), (2, {"dp": 2}), (2, {"pp": 2}), (2, {"tp": 2})]):
        out = tmp_path / str(number)
        assert start_run(world=world, out=out, **asked, **options).wait_all()[0][0] == 0
        found.append([line["eval_loss"] for line in read_metrics(out) if "eval_loss" in line])
    np.testing.assert_allclose(found[1:], [found[0]] * 3, rtol=TOLERANCE)


def test_vectors_from_elsewhere_fill_the_token_table_on_every_layout(
    store: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    # The byte tokenizer's ids are single characters, and so are this file's words.
    vectors = np.random.default_rng(0).normal(size=(26, 40))
    lines = [f"{chr(97 + i)} {' '.join(f'{x:.4f}' for x in row)}" for i, row in enumerate(vectors)]
    (tmp_path / "vectors.txt").write_text("26 40\n" + "\n".join(lines) + "\n")
    asked = {**FORKED, "steps": 3, "stores": store, "embeddings": tmp_path / "vectors.txt"}
    for number, (world, options) in enumerate(
        [(1, {}), (2, {"tp": 2}), (2, {"pp": 2}), (2, {"shard": "zero3"})]
    ):
        assert start_run(world=world, out=tmp_path / str(number), **asked, **options).wait() == 0
        np.testing.assert_allclose(losses(tmp_path / str(number)), losses(tmp_path / "0"), rtol=TOLERANCE)
    run = orjson.loads((tmp_path / "0" / "run.json").read_bytes())
    # 26 letters, and 26 capitals that found their letter.
    assert run["embeddings"] == {"found": 52, "tokens": 257, "hit_rate": 52 / 257}
    again = train(model=SHAPE, out=tmp_path / "0", **{key: asked[key] for key in asked if key != "model"})
    assert again.hit_rate == 52 / 257
    assert start_run(out=tmp_path / "plain", **{**asked, "embeddings": None}).wait() == 0
    assert losses(tmp_path / "plain") != losses(tmp_path / "0")


@pytest.mark.parametrize(("dead", "checkpoint_every"), [(0, 100), (1, 1)])
def test_a_dead_rank_ends_the_run_with_an_error_that_names_it(
    dead: int, checkpoint_every: int, store: Path, tmp_path: Path, start_run: Any
) -> None:
    """Also when its death meets a save: that the save failed too is not what is told."""
    asked = {
        **FORKED, "steps": 100_000, "stores": store, "out": tmp_path / "run", "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    run = start_run(world=2, dp=2, **asked)
    run.wait_for_step(3)
    os.kill(run.pids[dead], signal.SIGKILL)
    ends = run.wait_all()
    assert ends[dead][0] == -signal.SIGKILL
    code, said = ends[1 - dead]
    assert code == 9
    assert said.startswith("error WorkerError")
    assert f"rank {dead}" in said
    assert "no longer answers" in said


def test_one_rank_told_to_stop_stops_all_after_one_checkpoint(
    store: Path, alone: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    out = tmp_path / "run"
    run = start_run(world=2, dp=2, stores=store, out=out, **FORKED)
    run.wait_for_step(3)
    os.kill(run.pids[1], signal.SIGTERM)
    ends = run.wait_all()
    assert ends[0] == ends[1]
    assert ends[0][1].endswith("SIGTERM")
    assert start_run(stores=store, out=out, **FORKED).wait() == 0
    np.testing.assert_allclose(losses(out), losses(alone), rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("world", "options", "says"),
    [
        (2, {"tp": 3}, "dp x tp x pp = dp x 3 x 1 cannot be 2 processes"),
        (2, {"dp": 1}, "dp x tp x pp = 1 x 1 x 1 cannot be 2 processes"),
        (2, {"dp": 2, "batch_size": 9}, "dp 2 does not divide the rows of a micro-batch"),
        (3, {"tp": 3}, "tp 3 does not divide the model's num_attention_heads 4"),
        (3, {"pp": 3}, "the number of stages 3 does not divide the model's num_hidden_layers 4"),
        (2, {"pp": 2, "microbatches": 3}, "microbatches 3 does not divide a rank's rows 8"),
        (
            2,
            {"pp": 2, "microbatches": 1},
            "microbatches 1 of a rank's 8 rows are fewer than the 2 pipeline stages",
        ),
        (1, {"shard": "zero9"}, "shard is 'zero9'"),
        (1, {"pipeline_schedule": "wave"}, "pipeline_schedule is 'wave'"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_on_every_rank_before_any_work(
    *, world: int, options: dict[str, Any], says: str, store: Path, tmp_path: Path, start_run: Any
) -> None:
    run = start_run(world=world, stores=store, out=tmp_path / "run", **{**FORKED, **options})
    for code, said in run.wait_all():
        assert code == 9
        assert said.startswith("error ConfigError")
        assert says in said
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_leader_reaches_every_rank(store: Path, tmp_path: Path, start_run: Any) -> None:
    out = tmp_path / "run"
    assert start_run(stores=store, out=out, **{**FORKED, "steps": 2}).wait() == 0
    for code, said in start_run(world=2, stores=store, out=out, **{**FORKED, "seed": 6}).wait_all():
        assert code == 9
        assert re.search(r"seed: run has \d+, requested 6", said)


def test_degrees_alone_are_refused_in_one_process(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be 1 processes"):
        train(store, out=tmp_path / "run", model=SHAPE, tp=2, **OPTIONS)


def test_a_rendezvous_that_nobody_holds_fails_with_its_address(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.errors import WorkerError

    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9", "HEADRACE_RENDEZVOUS_S": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(
        WorkerError, match=r"rank 1 of 2: cannot meet the others at 127\.0\.0\.1:9 within 1 s"
    ):
        train(store, out=tmp_path / "run", model=SHAPE, **OPTIONS)


@pytest.mark.parametrize(
    "degrees",
    [
        {"dp": 2, "shard": "zero3"},
        {"dp": 3, "shard": "zero2"},
        {"tp": 4},
        {"pp": 2},
        {"pp": 2, "tp": 2, "pipeline_schedule": "interleaved", "microbatches": 2},
        {"dp": 2, "tp": 2, "shard": "zero3"},
        {"dp": 2, "tp": 2, "pp": 2, "shard": "zero2"},
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, LLAMA], ids=["gpt", "llama"])
def test_each_rank_of_a_layout_begins_with_its_part_of_the_whole_models_weights(
    degrees: dict[str, Any], shape: ModelConfig
) -> None:
    """To the bit, and every weight on some rank; ranks are made one after the other, without messages."""
    parallel = ParallelOptions(**{"dp": 1} | degrees)
    size = parallel.dp * parallel.tp * parallel.pp
    recipe = RecipeRequest(
        model=shape,
        model_name="custom",
        data=DataOptions(seq_len=32, batch_size=12),
        optimizer=OptimizerOptions(),
        seed=5,
        banded=False,
        init_from=None,
    ).resolve(vocab_size=257, data_identity={}, steps=1, dtype="float32")
    whole = dict(TrainableModel(recipe, torch.device("cpu")).named)
    seen: set[str] = set()
    for rank in range(size):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
        try:
            mesh = device_mesh(parallel, torch.device("cpu"))
            model = TrainableModel(recipe, torch.device("cpu"), parallel=parallel, mesh=mesh)
            for name, parameter in model.named:
                expected = sharded_like(parameter, whole[name].detach())
                assert torch.equal(local(parameter), local(expected)), (rank, name)
                seen.add(name)
        finally:
            dist.destroy_process_group()
            clear_cached_shardings()  # of this rank: they are found by the mesh, which is equal on all
    assert seen == set(whole)
