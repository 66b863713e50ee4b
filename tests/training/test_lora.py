"""Low-rank matrices learn beside frozen weights: losses of peft, small checkpoints, adapters in and out, refusals.

Covers lora.py and lora_options.py.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from flat_options import train
from typer.testing import CliRunner

from headrace.cli.app import app
from headrace.errors import CheckpointError, ConfigError, ResumeError
from headrace.model import export_adapter, load_model, to_hf
from headrace.store import Store
from headrace.training import LoraOptions
from small_models import random_hf_directory, small_gpt, small_llama

GPT_SHAPE = small_gpt()
LLAMA = small_llama()
OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "steps": 6,
    "lr": 1e-2,
    "seed": 5,
    "device": "cpu",
    "dtype": "float32",
}
LORA = LoraOptions(r=2, lora_alpha=8, target_modules=("all-linear",))
IDS = torch.arange(32)[None] * 7 % 257


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_hf_directory(tmp_path_factory.mktemp("base") / "llama", LLAMA)


@pytest.fixture(scope="module")
def tuned(base: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "tuned"
    train(store, out=out, init_from=base, lora=LORA, checkpoint_every=3, **OPTIONS)
    return out


def run_json(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads((out / "run.json").read_bytes())
    return content


def logits(model: Path | str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_model(model)[0](IDS)
    return found


def weights(checkpoint: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint import FileSystemReader

    return FileSystemReader(checkpoint).read_metadata().state_dict_metadata


def test_a_run_keeps_frozen_weights_once_and_in_its_checkpoints_what_learns_alone(
    tuned: Path, base: Path
) -> None:
    run = run_json(tuned)
    names = weights(tuned / "checkpoints" / "step-00000006")
    assert all(name.endswith((".lora_A", ".lora_B")) for name in names)
    assert {name.split(".blocks.")[0] for name in names} == {"model", "adam.exp_avg", "adam.exp_avg_sq"}
    assert run["trainable_parameters"] == sum(
        int(np.prod(one.size)) for name, one in names.items() if name.startswith("model.")
    )
    assert run["parameters"] == LLAMA.num_parameters > run["trainable_parameters"]
    assert run["recipe"]["lora"]["target_modules"] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    assert [group["parameters"] for group in run["parameter_groups"]] == [run["trainable_parameters"]]
    assert not any(".lora_" in name for name in weights(tuned / "base" / "step-00000000"))
    assert logits(f"{tuned}@3").ne(logits(tuned)).any()
    assert logits(base).ne(logits(tuned)).any()


@pytest.mark.parametrize("shape", [GPT_SHAPE, LLAMA], ids=["gpt2", "llama"])
def test_losses_equal_those_of_peft_on_the_same_rows(
    shape: Any, store: Path, tmp_path: Path, losses: Any
) -> None:
    """AdamW of torch on peft's model, from the matrices that the run began with."""
    import peft
    from transformers import AutoModelForCausalLM

    from headrace import Loader

    base, out = random_hf_directory(tmp_path / "base", shape), tmp_path / "run"
    options = {
        **OPTIONS,
        "warmup_steps": 1,
        "lr_schedule": "constant",
        "max_grad_norm": 0.0,
        "weight_decay": 0.1,
    }
    train(store, out=out, init_from=base, lora=LORA, **{**options, "steps": 1, "lr": 0.0})
    export_adapter(out, tmp_path / "start")
    train(store, out=tmp_path / "again", init_from=tmp_path / "start", lora=LORA, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), tmp_path / "start", is_trainable=True
        )
    learns = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    expected = []
    with Store.open(store) as opened, Loader(opened, seq_len=32, batch_size=8, seed=5) as loader:
        for _, batch in zip(range(6), loader, strict=False):
            scores = theirs(batch.input_ids.long()).logits
            loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch.labels.long().flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(float(loss.detach()))
    got = [loss for _, loss, _ in losses(tmp_path / "again")]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert abs(got[0] - got[-1]) > 0.01


def test_a_stopped_run_goes_on_with_the_same_losses_and_without_its_base(
    base: Path, tuned: Path, store: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    source, out = shutil.copytree(base, tmp_path / "base"), tmp_path / "run"
    asked = {
        **OPTIONS,
        "stores": store,
        "out": out,
        "init_from": source,
        "model": None,
        "checkpoint_every": 2,
    }
    run = start_run(stop_at=3, lora={"r": 2, "lora_alpha": 8, "target_modules": ["all-linear"]}, **asked)
    assert run.wait_all() == [(0, "end 4 SIGTERM")]
    shutil.rmtree(source)
    train(store, out=out)
    assert losses(out) == losses(tuned)
    assert torch.equal(logits(out), logits(tuned))


def test_every_layout_has_the_losses_of_one_process_and_its_checkpoints_are_the_same(
    base: Path, store: Path, tuned: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    layouts: list[tuple[int, dict[str, Any]]] = [
        (2, {"dp": 2, "shard": "zero3", "activation_checkpointing": True}),
        (2, {"tp": 2}),
        (2, {"pp": 2}),
    ]
    asked = {**OPTIONS, "stores": store, "init_from": base, "model": None}
    lora = {"r": 2, "lora_alpha": 8, "target_modules": ["all-linear"]}
    for number, (world, options) in enumerate(layouts):
        out = tmp_path / str(number)
        run = start_run(world=world, out=out, lora=lora, **asked, **options)
        assert run.wait_all() == [(0, "end 6 None")] * world
        np.testing.assert_allclose(losses(out), losses(tuned), rtol=1e-4)
        torch.testing.assert_close(logits(out), logits(tuned), atol=1e-4, rtol=1e-4)


def test_an_exported_adapter_gives_peft_the_logits_of_the_run_and_is_tuned_further(
    base: Path, tuned: Path, store: Path, tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    out, parameters = export_adapter(tuned, tmp_path / "adapter")
    assert parameters == run_json(tuned)["trainable_parameters"]
    assert torch.equal(logits(out), logits(tuned))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(tuned), atol=2e-5, rtol=2e-5)
    further = tmp_path / "further"
    train(store, out=further, init_from=out, lora=LoraOptions(r=2), **{**OPTIONS, "steps": 1, "lr": 0.0})
    assert run_json(further)["recipe"]["lora"] == run_json(tuned)["recipe"]["lora"]
    assert torch.equal(logits(further), logits(tuned))
    with pytest.raises(ConfigError, match=r"r: it has 2, requested 4"):
        train(store, out=tmp_path / "other", init_from=out, lora=LoraOptions(r=4), **OPTIONS)


def test_an_adapter_without_lora_options_is_merged_and_all_weights_learn(
    tuned: Path, store: Path, tmp_path: Path
) -> None:
    adapter, _ = export_adapter(tuned, tmp_path / "adapter")
    summary = train(store, out=tmp_path / "run", init_from=adapter, **{**OPTIONS, "steps": 1, "lr": 0.0})
    assert summary.trainable_parameters == summary.parameters
    assert torch.equal(logits(tmp_path / "run"), logits(tuned))


def test_a_run_that_tunes_is_a_base_and_is_branched(
    tuned: Path, store: Path, tmp_path: Path, losses: Any
) -> None:
    again = tmp_path / "again"
    train(store, out=again, init_from=f"{tuned}@3", lora=LORA, **{**OPTIONS, "steps": 1, "lr": 0.0})
    assert torch.equal(logits(again), logits(f"{tuned}@3"))
    branch = tmp_path / "branch"
    train(store, out=branch, init_from=f"{tuned}@3", init_state="full", steps=6)
    assert losses(branch) == losses(tuned)
    assert torch.equal(logits(branch), logits(tuned))


def test_a_merged_export_gives_transformers_the_logits_of_the_run(tuned: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_model(tuned)
    to_hf(model, tokenizer, tmp_path / "merged")
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(IDS).logits
    torch.testing.assert_close(theirs, logits(tuned), atol=2e-5, rtol=2e-5)


def test_a_mirror_has_the_frozen_weights_once_and_a_run_starts_from_it(
    base: Path, tuned: Path, store: Path, tmp_path: Path, losses: Any
) -> None:
    mirror, out = tmp_path / "mirror", tmp_path / "run"
    mirror.mkdir()
    options = {"mirror": str(mirror), "checkpoint_every": 3}
    train(store, out=out, init_from=base, lora=LORA, **{**OPTIONS, "steps": 3, "decay_steps": 6}, **options)
    shutil.rmtree(out)
    shutil.rmtree(mirror / "checkpoints" / "step-00000000", ignore_errors=True)
    train(store, out=out, steps=6, **options)
    np.testing.assert_allclose(losses(out), losses(tuned), rtol=1e-6)
    assert torch.equal(logits(mirror), logits(out))


def test_frozen_weights_of_another_run_are_refused(
    tuned: Path, base: Path, store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(tuned, tmp_path / "run")
    shutil.rmtree(out / "base")
    with pytest.raises(CheckpointError, match="frozen weights that the run tunes are gone"):
        train(store, out=out, steps=8)
    other = tmp_path / "other"
    train(
        store,
        out=other,
        init_from=random_hf_directory(tmp_path / "b", LLAMA),
        lora=LORA,
        **{**OPTIONS, "steps": 1},
    )
    shutil.copytree(other / "base", out / "base")
    with pytest.raises(CheckpointError, match="other weights than those that the run tunes"):
        load_model(out)


def test_the_configuration_of_a_run_does_not_change(tuned: Path, store: Path) -> None:
    with pytest.raises(ResumeError, match=r"lora\.lora_alpha: run has 8\.0, requested 4\.0"):
        train(store, out=tuned, lora=LoraOptions(lora_alpha=4), **OPTIONS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": 0}, r"r \(--lora-r\) is 0"),
        ({"r": True}, r"r \(--lora-r\) is True"),
        ({"r": 2, "lora_alpha": 0}, "lora_alpha is 0"),
        ({"r": 2, "lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"r": 2, "lora_dropout": 1.0}, r"lora_dropout is 1\.0"),
        ({"r": 2, "target_modules": "q_proj"}, "expected several names"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LoraOptions(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lora": LoraOptions(lora_alpha=4)}, r"LoRA options without a rank\. Give r \(--lora-r\)"),
        ({"lora": LoraOptions(r=2, target_modules=("lm_head",))}, "The head, embeddings and norms"),
        ({"lora": LORA, "init_from": None, "model": LLAMA}, "LoRA tunes weights that exist"),
        ({"lora": LORA, "layout": "auto"}, "layout auto plans the training of all weights"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    options: dict[str, Any], says: str, base: Path, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        train(store, out=tmp_path / "run", **{"init_from": base, **OPTIONS, **options})
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_without_lora_has_no_adapter(base: Path, store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path / "run", init_from=base, **{**OPTIONS, "steps": 1})
    with pytest.raises(ConfigError, match="Leave --adapter out"):
        export_adapter(tmp_path / "run", tmp_path / "adapter")


def test_run_adapter_and_merged_directory_generate_the_same_text(tuned: Path, tmp_path: Path) -> None:
    import headrace as hr

    model, tokenizer = load_model(tuned)
    merged = to_hf(model, tokenizer, tmp_path / "merged")
    adapter, _ = export_adapter(tuned, tmp_path / "adapter")
    texts = []
    for number, source in enumerate((tuned, adapter, merged)):
        out = tmp_path / f"predictions-{number}"
        hr.generate(model=source, prompts=["the water"], out=out, max_new_tokens=12)
        texts.append([row["text"] for row in hr.read_predictions(out).to_pylist()])
    assert texts == [texts[0]] * 3
    assert len(texts[0]) == 1


def test_the_command_line_tunes_says_what_learns_and_exports_the_adapter(
    base: Path, store: Path, tuned: Path, tmp_path: Path
) -> None:
    options = "--lora-r 2 --lora-alpha 8 --lora-target-modules all-linear --batch-size 8 --steps 6 --lr 1e-2 --seed 5"
    words = ["train", str(store), "--init-from", str(base), *options.split(), "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--dtype", "float32", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    count = run_json(tuned)["trainable_parameters"]
    assert f"{count:,} of them learn (LoRA)" in done.output
    assert f"({count:,} of them learn)" in (tmp_path / "run" / "train.log").read_text()
    words = ["export", str(tmp_path / "run"), "--adapter", "--json", "--out", str(tmp_path / "adapter")]
    done = CliRunner().invoke(app, words)
    assert orjson.loads(done.stdout) == {"adapter": str(tmp_path / "adapter"), "parameters": count}
    assert torch.equal(logits(tmp_path / "adapter"), logits(tuned))
