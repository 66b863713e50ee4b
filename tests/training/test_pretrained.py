"""Weights from elsewhere begin a run: same logits on any layout, or a refusal. Covers tokenizer_check.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from flat_options import train
from safetensors.torch import load_file, save_file

from headrace.errors import CheckpointError, ConfigError, ResumeError, TokenizerError
from headrace.model import GPT, build_model, load_model, pretrained_files, to_hf
from headrace.store import Store
from headrace.tokens import load_tokenizer, train_tokenizer
from headrace.tokens.byte import ByteTokenizer
from headrace.training import import_model
from small_models import small_gpt, small_llama

SHAPE = small_gpt()
LLAMA = small_llama()
OPTIONS: dict[str, Any] = {
    "batch_size": 8, "steps": 6, "lr": 3e-3, "seed": 5, "device": "cpu", "dtype": "float32",
}  # fmt: skip


def headrace(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers saves: GPT2LMHeadModel in several files, and our byte tokenizer's tokenizer.json."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("made-elsewhere") / "hf"
    torch.manual_seed(0)
    to_hf(GPT(SHAPE), ByteTokenizer(), folder)  # for the tokenizer
    for name in ("model.safetensors", "headrace-tokenizer.json"):
        (folder / name).unlink()
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_embd=32, n_head=4, vocab_size=257, n_positions=32, eos_token_id=256, bos_token_id=256
        )
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    theirs.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.fixture(scope="module")
def imported(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "run"
    import_model(hf, out)
    return out


def test_an_imported_run_has_the_logits_of_transformers_and_goes_back(
    hf: Path, imported: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_model(imported)
    ids = torch.arange(32)[None] * 7 % 257
    theirs = AutoModelForCausalLM.from_pretrained(hf).eval()
    to_hf(model, tokenizer, tmp_path / "back")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        want = theirs(ids).logits
        torch.testing.assert_close(model(ids), want, atol=2e-5, rtol=1e-5)
        assert torch.equal(again(ids).logits, want)
    assert tokenizer.encode("the wheel").tolist() == list(b"the wheel")


def test_the_first_step_has_the_loss_that_transformers_has(
    hf: Path, store: Path, tmp_path: Path, losses: Any
) -> None:
    from transformers import AutoModelForCausalLM

    from headrace import Loader

    train(store, out=tmp_path / "run", init_from=hf, **OPTIONS)
    with Store.open(store) as opened, Loader(opened, seq_len=32, batch_size=8, seed=5) as loader:
        batch = next(iter(loader))
        logits = AutoModelForCausalLM.from_pretrained(hf).eval()(batch.input_ids.long()).logits
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.long().flatten())
    np.testing.assert_allclose(losses(tmp_path / "run")[0][1], float(want.detach()), rtol=1e-5)


def test_a_run_on_top_of_an_import_goes_on_after_a_stop_without_its_origin(
    hf: Path, store: Path, tmp_path: Path, losses: Any
) -> None:
    whole, out, pretrained = tmp_path / "whole", tmp_path / "run", tmp_path / "pretrained"
    train(store, out=whole, init_from=hf, **OPTIONS)
    shutil.copytree(hf, pretrained)
    train(store, out=out, init_from=pretrained, checkpoint_every=2, **OPTIONS)
    shutil.rmtree(pretrained)
    for step in (0, 6):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    assert train(store, out=out, init_from=pretrained, **OPTIONS).resumed_from == 4
    assert losses(out) == losses(whole)
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(CheckpointError, match="the weights that it begins with are gone"):
        train(store, out=out, init_from=pretrained, **OPTIONS)


def test_every_layout_begins_with_the_imported_weights(
    hf: Path, imported: Path, store: Path, tmp_path: Path, start_run: Any, losses: Any
) -> None:
    shutil.copytree(imported, tmp_path / "0")
    layouts: list[dict[str, Any]] = [{}, {"tp": 2}, {"pp": 2}, {"shard": "zero3"}]
    for number, options in enumerate(layouts):
        asked = {**OPTIONS, "model": None, "stores": store, "out": tmp_path / str(number), **options}
        asked |= {"init_from": hf} if number else {}  # the first trains in the imported directory
        run = start_run(world=2 if options else 1, **asked)
        assert run.wait_all()[0] == (0, "end 6 None")
        np.testing.assert_allclose(losses(tmp_path / str(number)), losses(tmp_path / "0"), rtol=1e-4)


def test_a_run_begins_with_the_weights_of_another_run(
    store: Path, other_store: Path, tmp_path: Path, read_metrics: Any
) -> None:
    first = train(store, out=tmp_path / "a", model=SHAPE, **{**OPTIONS, "steps": 60, "lr": 1e-2})
    second = train(other_store, out=tmp_path / "b", init_from=tmp_path / "a", **OPTIONS)
    assert (first.loss or 9) < 3
    assert read_metrics(tmp_path / "b")[0]["loss"] == pytest.approx(first.loss, abs=0.3)
    assert second.resumed_from == 0


def test_an_imported_run_is_mirrored_before_its_first_step(
    hf: Path, store: Path, tmp_path: Path, losses: Any
) -> None:
    from headrace.storage import open_blob

    mirror = "memory://imported"
    train(store, out=tmp_path / "here", init_from=hf, mirror=mirror, **OPTIONS)
    blob = open_blob(mirror)
    for name in blob.list("checkpoints/step-00000006/"):
        blob.delete(name)
    train(store, out=tmp_path / "there", mirror=mirror, **OPTIONS)
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


def test_weights_whose_tokenizer_is_not_the_stores_are_refused(hf: Path, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(hf, other)
    for path in other.glob("*tokenizer*"):
        path.unlink()
    train_tokenizer(["the water turns the wheel"] * 20, vocab_size=257, out=other / "tokenizer.json")
    with pytest.raises(
        ConfigError, match=r"the store's tokenizer 'byte' is not 'other'.*Ingest with --tokenizer"
    ):
        train(store, out=tmp_path / "run", init_from=other, **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_one_tokenizer_in_two_forms_is_one_tokenizer(hf: Path, store: Path) -> None:
    """The other tests rest on it: a tokenizer.json, and a store of the byte tokenizer, have the same ids."""
    with Store.open(store) as opened:
        assert load_tokenizer(hf).fingerprint != opened.tokenizer_fingerprint


def test_what_an_origin_decides_is_not_asked_for_again(
    hf: Path, imported: Path, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="Leave out the model"):
        train(store, out=tmp_path / "run", init_from=hf, model="tiny", **OPTIONS)
    train(store, out=tmp_path / "fresh", model=SHAPE, **OPTIONS)
    with pytest.raises(ResumeError, match="began with fresh weights"):
        train(store, out=tmp_path / "fresh", init_from=hf, **OPTIONS)
    with pytest.raises(ConfigError, match="holds another run already"):
        import_model(hf, tmp_path / "fresh")
    shutil.copytree(imported, tmp_path / "imported")
    with pytest.raises(ResumeError, match="requested are those of"):
        train(store, out=tmp_path / "imported", init_from=tmp_path / "fresh", **OPTIONS)


def test_the_command_line_imports_trains_and_exports(hf: Path, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):  # the second finds it done
        done = headrace("import", hf, "--out", run, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["config"]["hidden_size"] == 32
    done = headrace(
        "train",
        store,
        "--out",
        run,
        "--steps",
        2,
        "--batch-size",
        4,
        "--lr",
        1e-3,
        "--device",
        "cpu",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert headrace("export", run, "--out", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "config.json").is_file()


def damaged() -> dict[str, tuple[str, str]]:
    return {
        "config.json": ("{", "config.json: not JSON"),
        "tokenizer.json": ("", "tokenizer"),
        "model-00001": ("", "model-00001-of-.* no such file, model.safetensors.index.json names it"),
        "index": ("[]", "not an index of safetensors files"),
        "falcon": ('{"model_type": "falcon"}', "a 'falcon' model"),
        "heads": (
            '{"model_type": "gpt2", "n_embd": 10, "n_head": 3}',
            "hidden_size 10 is not divisible by num_attention_heads 3"),
        "layers": ('{"model_type": "gpt2", "n_layer": "x"}', "n_layer is 'x'; expected a whole number"),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(damaged()))
def test_a_directory_that_does_not_fit_is_refused_and_nothing_is_left(
    name: str, hf: Path, tmp_path: Path
) -> None:
    content, says = damaged()[name]
    shutil.copytree(hf, tmp_path / "hf")
    pattern = {"falcon": "config.json", "heads": "config.json", "layers": "config.json", "index": "*index*"}
    (path,) = (tmp_path / "hf").glob(pattern.get(name, f"{name}*"))
    if content:
        path.write_text(content)
    else:
        path.unlink()
    with pytest.raises((ConfigError, CheckpointError, TokenizerError), match=says) as caught:
        import_model(tmp_path / "hf", tmp_path / "run")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_pickle_is_not_opened_and_the_cure_is_named(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    shutil.copy(hf / "config.json", tmp_path / "hf")
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, a pickle, which is not opened"):
        import_model(tmp_path / "hf", tmp_path / "run")


def test_a_run_that_was_imported_says_where_from(hf: Path, imported: Path) -> None:
    run = orjson.loads((imported / "run.json").read_bytes())
    assert run["imported"]["from"] == str(hf)
    assert run["imported"]["weights"].startswith("hf ")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama directory with the byte tokenizer, two ends of text and a chat template."""
    folder = tmp_path_factory.mktemp("llama") / "hf"
    model = build_model(LLAMA, seed=3)
    to_hf(model, ByteTokenizer(), folder)
    (folder / "headrace-tokenizer.json").unlink()
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [256, 10], "bos_token_id": 256})
    )
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


def test_a_llama_directory_is_trained_and_exported_with_its_own_files(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    summary = import_model(llama, tmp_path / "run")
    assert summary.config == LLAMA
    model, _ = load_model(tmp_path / "run")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)(input_ids=ids).logits
        torch.testing.assert_close(model(ids), theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    files = pretrained_files(tmp_path / "run")
    assert files is not None
    to_hf(model, ByteTokenizer(), tmp_path / "out", files_of=files)
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (llama / name).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, theirs)


def test_a_run_begins_with_a_llama_directory_and_resumes_exactly(
    llama: Path, store: Path, tmp_path: Path, losses: Any
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(store, out=whole, init_from=llama, **OPTIONS)
    run = orjson.loads((whole / "run.json").read_bytes())
    assert run["recipe"]["model"]["model_type"] == "llama"
    assert run["parameters"] == LLAMA.num_parameters
    import_model(llama, out)
    train(store, out=out, **OPTIONS)
    assert losses(out) == losses(whole)
    train(store, out=tmp_path / "next", init_from=whole, **{**OPTIONS, "steps": 1})
    assert pretrained_files(tmp_path / "next") is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused_and_nothing_is_left(
    value: float, hf: Path, store: Path, tmp_path: Path
) -> None:
    """A number too large for float32 becomes an infinity when it is read."""
    shutil.copytree(hf, tmp_path / "hf")
    file = next(
        path for path in sorted((tmp_path / "hf").glob("*.safetensors")) if "h.1.mlp" in str(load_file(path))
    )
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "h.1.mlp" in name and name.endswith("weight"))
    tensors[name] = tensors[name].double()
    tensors[name][2, 3] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"h\.1\.mlp\.\w+\.weight holds (nan|inf) at .*no finite number"
    ):
        import_model(tmp_path / "hf", tmp_path / "run")
    with pytest.raises(CheckpointError, match="no finite number"):
        train(store, out=tmp_path / "trained", init_from=tmp_path / "hf", seq_len=16, batch_size=2, steps=1)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "trained" / "run.json").exists()
