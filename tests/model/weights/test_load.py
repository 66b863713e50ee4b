"""Weights are written and read with equal logits: safetensors, Hugging Face directories. Covers hf_tokenizer.py too."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from storage_fakes import PowerCut

from headrace.errors import CheckpointError, ConfigError, TokenizerError
from headrace.model import GPT, GPTConfig, from_hf, load_model, load_weights, save_weights, to_hf
from headrace.tokens import Tokenizer, load_tokenizer, tokenizer_from_files, train_tokenizer
from headrace.tokens.byte import ByteTokenizer

TEXTS = [
    "def f(x):\n    return x  # größe",
    "the cat <|endoftext|> sat",
    "  two  spaces\tand\ttabs\n\n",
    "🎏",
]


def model_for(tokenizer: Tokenizer, *, banded: bool = False) -> GPT:
    config = GPTConfig(
        num_hidden_layers=2,
        hidden_size=24,
        num_attention_heads=3,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=16,
        banded=banded,
    )
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TEXTS * 20, vocab_size=300, out=out)
    return load_tokenizer(out)


def small_ranks() -> Tokenizer:
    """A tiktoken encoding of a few merges, as a store carries it."""
    import base64

    tokens = [bytes([b]) for b in range(256)] + [b"th", b"the", b" t", b" the", b"in", b"ing", b"  "]
    lines = b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(tokens))
    about = {
        "kind": "tiktoken", "name": "small", "eos_id": len(tokens),
        "pattern": r" ?\p{L}+| ?[^\s\p{L}]+|\s+(?!\S)|\s+",
        "special_tokens": {"<|endoftext|>": len(tokens)},
    }  # fmt: skip
    return tokenizer_from_files({"headrace-tokenizer.json": orjson.dumps(about), "ranks.tiktoken": lines})


@pytest.mark.parametrize("kind", ["byte", "trained", "tiktoken"])
def test_transformers_opens_an_export_with_equal_logits_and_ids(
    kind: str, trained: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = {"byte": ByteTokenizer(), "trained": trained, "tiktoken": small_ranks()}[kind]
    model = model_for(tokenizer)
    to_hf(model, tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(16)[None] * 13 % tokenizer.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert their_tokenizer.eos_token_id == tokenizer.eos_id
    for text in [*TEXTS, "the thing in the ring", "then"]:
        if "<|endoftext|>" in text:
            continue  # theirs recognises it, ours never does
        assert their_tokenizer.encode(text) == tokenizer.encode(text).tolist()
        assert their_tokenizer.decode(tokenizer.encode(text).tolist()) == text


def test_an_export_comes_back_as_the_same_model_and_tokenizer(trained: Tokenizer, tmp_path: Path) -> None:
    model = model_for(trained)
    to_hf(model, trained, tmp_path)
    again, tokenizer = load_model(tmp_path)
    assert again.config == model.config
    assert tokenizer.fingerprint == trained.fingerprint
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def test_a_model_saved_by_transformers_gives_its_logits(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=24, n_head=3, vocab_size=50, n_positions=16)).eval()
    theirs.save_pretrained(tmp_path)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_hf(tmp_path)(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)


def test_a_weights_file_holds_model_and_shape(tmp_path: Path) -> None:
    model = model_for(ByteTokenizer(), banded=True)
    save_weights(model, tmp_path / "w.safetensors")
    again = load_weights(tmp_path / "w.safetensors")
    assert again.config == model.config
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in model.named_parameters())


def test_a_torn_weights_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(model_for(ByteTokenizer()), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"w\.safetensors: not a whole safetensors file"):
        load_weights(path)


def test_a_banded_model_is_not_exported_as_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no banded layers"):
        to_hf(model_for(ByteTokenizer(), banded=True), ByteTokenizer(), tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "falcon"}, "'falcon' model"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"n_inner": 7}, "n_inner is 7"),
    ],
)
def test_a_model_that_would_compute_something_else_is_refused(
    change: dict, says: str, tmp_path: Path
) -> None:
    to_hf(model_for(ByteTokenizer()), ByteTokenizer(), tmp_path)
    about = orjson.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_bytes(orjson.dumps({**about, **change}))
    with pytest.raises(ConfigError, match=says):
        load_model(tmp_path)


def test_weights_of_another_shape_than_the_config_are_refused(tmp_path: Path) -> None:
    to_hf(model_for(ByteTokenizer()), ByteTokenizer(), tmp_path)
    about = orjson.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_bytes(orjson.dumps({**about, "n_positions": 32}))
    with pytest.raises(CheckpointError, match=r"pos.weight has shape \[16, 24\], the config says \[32, 24\]"):
        load_model(tmp_path)


def test_a_directory_that_is_neither_run_nor_export_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"neither a run .*, a Hugging Face directory .* nor an adapter",
    ):
        load_model(tmp_path)


def test_a_tokenizer_of_vocab_and_merges_alone_gives_gpt2s_ids(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer

    from headrace.model.weights.hf_tokenizer import load_hf_tokenizer

    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(
        [*TEXTS, "it's 1234 things"] * 20,
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    theirs.save_model(str(tmp_path))
    ours = load_hf_tokenizer(tmp_path)
    assert ours.eos_id == theirs.token_to_id("<|endoftext|>")
    for text in [*TEXTS, "it's  12 they'll\n\n x", " lead", "trail  "]:
        if "<|endoftext|>" not in text:
            assert ours.encode(text).tolist() == theirs.encode(text).ids
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(TokenizerError):
        load_hf_tokenizer(tmp_path).encode("x")


def test_an_export_that_has_returned_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    power = PowerCut(disk)
    with monkeypatch.context() as patch:
        power.patch(patch)
        out = to_hf(model_for(ByteTokenizer()), ByteTokenizer(), disk / "models" / "new")
    left = power.survivors(tmp_path / "left") / "models" / "new"
    assert {path.name: path.read_bytes() for path in left.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }
