"""A model that is loaded for generation shares cached prefixes with the same model only."""

import json

import pytest
import torch
from safetensors.torch import save_file

from headrace.generation import PrefixCacheOptions, Request, SamplingOptions, load_engine
from small_models import random_hf_directory, small_gpt, small_llama

IDS = tuple(7 * i % 256 for i in range(70))


def save_adapter(out, *, base, module, shape, seed):
    """An adapter of rank 2 on one linear layer of a base, in peft's format."""
    outputs, inputs = shape
    torch.manual_seed(seed)
    out.mkdir()
    prefix = f"base_model.model.{module}"
    save_file(
        {
            f"{prefix}.lora_A.weight": torch.randn(2, inputs),
            f"{prefix}.lora_B.weight": torch.randn(outputs, 2),
        },
        out / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": 2,
        "lora_alpha": 4,
        "target_modules": [module.rpartition(".")[2]],
        "layers_to_transform": [0],
        "layers_pattern": "h" if module.startswith("transformer") else "layers",
        "task_type": "CAUSAL_LM",
    }
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


def generate(model, prefix_cache):
    """A greedy answer, and the tokens of the prompt that were found in the cache."""
    engine = load_engine(model, device="cpu", batch_size=1, prefix_cache=prefix_cache).engine
    sampling = SamplingOptions(max_new_tokens=6, logprobs=True)
    (row,) = engine.run([Request(prompt_id="0", token_ids=IDS, sampling=sampling)])
    return row.token_ids, row.logprobs, engine.cached_tokens


@pytest.mark.parametrize(
    ("shape", "module", "matrix"),
    [
        (small_llama(max_position_embeddings=96), "model.layers.0.self_attn.v_proj", (16, 32)),
        (small_gpt(max_position_embeddings=96), "transformer.h.0.mlp.c_fc", (128, 32)),
    ],
    ids=["llama", "gpt2"],
)
def test_adapters_of_one_base_share_no_prefix_with_each_other_or_with_the_base(
    tmp_path, shape, module, matrix
):
    """Blocks of the base or of another adapter would give a wrong answer, and nothing would say so."""
    base = random_hf_directory(tmp_path / "base", shape)
    models = [base] + [
        save_adapter(tmp_path / f"adapter{seed}", base=base, module=module, shape=matrix, seed=seed)
        for seed in (1, 2)
    ]
    kept = PrefixCacheOptions(directory=str(tmp_path / "prefixes"))
    expected = [generate(model, PrefixCacheOptions(memory_bytes=0)) for model in models]
    assert len({answer[1] for answer in expected}) == 3
    for model, (ids, logprobs, _) in zip(models, expected, strict=True):
        for cached in (0, 64):
            got = generate(model, kept)
            assert got[0] == ids
            assert got[1] == pytest.approx(logprobs, abs=1e-3)
            assert got[2] == cached


def test_types_of_weights_share_no_prefix(tmp_path):
    base = random_hf_directory(tmp_path / "base", small_llama(max_position_embeddings=96))
    directory = PrefixCacheOptions(directory=str(tmp_path / "prefixes"))
    request = Request(prompt_id="0", token_ids=IDS, sampling=SamplingOptions(max_new_tokens=1))
    for dtype in ("float32", "bfloat16"):
        engine = load_engine(base, dtype=dtype, device="cpu", prefix_cache=directory).engine
        list(engine.run([request]))
        assert engine.cached_tokens == 0
