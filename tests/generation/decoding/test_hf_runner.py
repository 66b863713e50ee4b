"""Small random models of several families, as transformers writes them.

Tests decoding/hf_runner.py, fused.py and fingerprint.py.
"""

from dataclasses import replace

import pytest
import torch

from headrace.errors import ConfigError
from headrace.generation import NativeEngine
from headrace.generation.decoding import fused
from headrace.generation.decoding.hf_runner import HFRunner
from headrace.model import DecoderConfig, build_model, to_hf
from headrace.tokens import load_tokenizer

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.5,
}


FAMILIES = (
    "llama", "llama_biased", "llama3", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "granite", "gpt_neox",
    "mixtral", "opt", "phi", "phi3",
)  # fmt: skip


def families():
    import transformers as t

    return {
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(**SHAPE, num_key_value_heads=2)),
        "llama_biased": (
            t.LlamaForCausalLM,
            t.LlamaConfig(
                **SHAPE, num_key_value_heads=4, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
            ),
        ),
        "llama3": (
            t.LlamaForCausalLM,
            t.LlamaConfig(
                **SHAPE,
                num_key_value_heads=2,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 24,
                },
            ),
        ),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**SHAPE, num_key_value_heads=1)),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16)),
        "mistral": (t.MistralForCausalLM, t.MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=5)),
        "gemma3": (
            t.Gemma3ForCausalLM,
            t.Gemma3TextConfig(**SHAPE, num_key_value_heads=2, head_dim=16, sliding_window=5),
        ),
        "gemma2": (
            t.Gemma2ForCausalLM,
            t.Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=16, sliding_window=5),
        ),
        "mixtral": (
            t.MixtralForCausalLM,
            t.MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=4),
        ),
        "opt": (
            t.OPTForCausalLM,
            t.OPTConfig(
                vocab_size=128,
                hidden_size=32,
                ffn_dim=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=96,
                word_embed_proj_dim=32,
                init_std=0.5,
            ),
        ),
        "phi": (t.PhiForCausalLM, t.PhiConfig(**SHAPE)),
        "phi3": (
            t.Phi3ForCausalLM,
            t.Phi3Config(**SHAPE, num_key_value_heads=2, pad_token_id=0, sliding_window=5),
        ),
        "granite": (t.GraniteForCausalLM, t.GraniteConfig(**SHAPE, logits_scaling=3.0)),
        "gpt_neox": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**SHAPE)),
    }


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request, tmp_path_factory):
    kind, config = families()[request.param]
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp(request.param)
    kind(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("batch_size", [1, 5])
def test_greedy_tokens_equal_transformers_generate(directory, make_requests, batch_size):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(directory).eval()
    runner = HFRunner.of_directory(directory, dtype=torch.float32, device=torch.device("cpu"))
    assert (runner._fused is not None) == (reference.config.model_type in fused.FAMILIES)
    if runner._fused is not None:
        assert runner.decoder_name == runner._fused.decoder_name
    requests = [
        replace(request, token_ids=tuple(i % 128 for i in request.token_ids))
        for request in make_requests(12, own=lambda _: {"max_new_tokens": 16})
    ]
    got = {
        row.prompt_id: row.token_ids
        for row in NativeEngine(runner, [b"x"] * 128, batch_size=batch_size).run(requests)
    }
    for request in requests:
        ids_1T = torch.tensor([request.token_ids])
        expected = reference.generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),  # else ids equal to the padding are not seen
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert got[request.prompt_id] == tuple(expected[0, len(request.token_ids) :].tolist())


def test_greedy_tokens_are_the_same_with_a_prefix_cache(directory, make_requests, new_prefix_cache):
    """Windows, caps, rotations, grouped queries; alone and in a batch, computed and from the cache."""
    runner = HFRunner.of_directory(directory, dtype=torch.float32, device=torch.device("cpu"))
    head = tuple(7 * i % 128 for i in range(22))
    requests = [
        replace(request, token_ids=head + tuple(i % 128 for i in request.token_ids))
        for request in make_requests(6, longest=12, own=lambda _: {"max_new_tokens": 8, "logprobs": True})
    ]
    table = [b"x"] * 128
    expected = {row.prompt_id: row for row in NativeEngine(runner, table, batch_size=6).run(requests)}
    for batch_size in (1, 6):
        engine = NativeEngine(runner, table, batch_size=batch_size, prefix_cache=new_prefix_cache(runner))
        for row in engine.run(requests):
            assert row.token_ids == expected[row.prompt_id].token_ids
            assert row.logprobs == pytest.approx(expected[row.prompt_id].logprobs, abs=2e-3)
        assert engine.cached_tokens >= 5 * 20


SCALED = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("family", "one", "other"),
    [
        ("Llama", {"rope_parameters": DEFAULT}, {"rope_parameters": DEFAULT | {"rope_theta": 1e5}}),
        ("Llama", {"rope_parameters": DEFAULT}, {"rope_parameters": SCALED}),
        ("Llama", {"rope_parameters": SCALED}, {"rope_parameters": SCALED | {"factor": 4.0}}),
        ("Mistral", {"sliding_window": 5}, {"sliding_window": 6}),
        ("Mistral", {"sliding_window": 5}, {"sliding_window": None}),
    ],
    ids=["theta", "scaled", "factor", "window", "no window"],
)
def test_models_of_equal_weights_that_rotate_or_attend_differently_share_no_prefix(
    tmp_path, family, one, other
):
    """The fingerprint of the weights is equal; that of keys and values is not, and the directory does not matter."""
    import transformers as t

    found = []
    for name, more in (("one", one), ("same", one), ("other", other)):
        torch.manual_seed(1)
        config = getattr(t, f"{family}Config")(**SHAPE, num_key_value_heads=2, **more)
        getattr(t, f"{family}ForCausalLM")(config).save_pretrained(tmp_path / name)
        cpu = torch.device("cpu")
        runner = HFRunner.of_directory(tmp_path / name, dtype=torch.float32, device=cpu)
        found.append((runner.fingerprint, runner.kv_fingerprint))
    assert found[0] == found[1]
    assert found[0][0] == found[2][0]
    assert found[0][1] != found[2][1]


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("mamba", "not plain or sliding attention|cannot be replaced"),
        ("gpt_oss", "attention with s_aux"),
        ("bloom", "attention of its own"),
        ("falcon", "attention of its own"),
    ],
)
def test_a_model_that_attends_another_way_is_refused_and_never_run_wrongly(tmp_path, family, why):
    """State-space layers, attention sinks, positions as biases: none of them passes through our attention."""
    import transformers as t

    small = {"vocab_size": 64, "hidden_size": 32, "initializer_range": 0.5}
    kind, config = {
        "mamba": (t.MambaForCausalLM, t.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)),
        "gpt_oss": (
            t.GptOssForCausalLM,
            t.GptOssConfig(
                **SHAPE,
                num_key_value_heads=2,
                head_dim=8,
                num_local_experts=4,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            ),
        ),
        "bloom": (t.BloomForCausalLM, t.BloomConfig(**small, n_layer=2, n_head=4)),
        "falcon": (
            t.FalconForCausalLM,
            t.FalconConfig(**small, num_hidden_layers=2, num_attention_heads=4, alibi=True),
        ),
    }[family]
    kind(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"{tmp_path}: .*({why}).*Choose engine vllm"):
        HFRunner.of_directory(tmp_path, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_positions_that_change_with_the_length_end_where_they_begin_to(tmp_path, make_requests, kind):
    """Behind that length every token's position would be another, those in the cache as well."""
    import transformers as t

    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "dynamic":
        model = t.LlamaForCausalLM(
            t.LlamaConfig(**SHAPE | {"max_position_embeddings": 40}, rope_parameters=rope)
        )
    else:
        rope |= {
            "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 40
        }  # fmt: skip
        model = t.Phi3ForCausalLM(
            t.Phi3Config(**SHAPE, pad_token_id=0, original_max_position_embeddings=40, rope_parameters=rope)
        )
    model.eval().save_pretrained(tmp_path)
    runner = HFRunner.of_directory(tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    assert runner.context == 40
    requests = [
        replace(request, token_ids=tuple(i % 128 for i in request.token_ids))
        for request in make_requests(4, longest=30, own=lambda _: {"max_new_tokens": 60})
    ]
    for row in NativeEngine(runner, [b"x"] * 128, batch_size=3).run(requests):
        ids = requests[int(row.prompt_id)].token_ids
        expected = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=40 - len(ids),
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert (row.finish_reason, len(ids) + len(row.token_ids)) == ("length", 40)
        assert row.token_ids == tuple(expected[0, len(ids) :].tolist())


def test_a_model_in_several_files_is_one_model(tmp_path):
    """Sharded safetensors: the same weights, the same fingerprint."""
    import transformers as t

    torch.manual_seed(1)
    model = t.LlamaForCausalLM(t.LlamaConfig(**SHAPE, num_key_value_heads=2))
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20kB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (
        HFRunner.of_directory(tmp_path / name, dtype=torch.float32, device=torch.device("cpu"))
        for name in ("one", "many")
    )
    assert one.fingerprint == many.fingerprint


def test_a_decoder_that_was_trained_here_runs_as_its_export_does(tmp_path, make_requests):
    shape = DecoderConfig(
        model_type="gemma2", num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, vocab_size=257, max_position_embeddings=64, norm_placement="both",
        norm_unit_offset=True, scale_embeddings=True, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh",
        sliding_window=5, layer_types=("sliding_attention", "full_attention"), attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0, query_pre_attn_scalar=16,
    )  # fmt: skip
    model = build_model(shape, seed=2)
    to_hf(model, load_tokenizer("byte"), tmp_path / "hf")
    cpu = torch.device("cpu")
    runners = [
        HFRunner.of_decoder(model, tmp_path),
        HFRunner.of_directory(tmp_path / "hf", dtype=torch.float32, device=cpu),
    ]
    assert runners[0].fingerprint == runners[1].fingerprint
    requests = make_requests(3, own=lambda _: {"max_new_tokens": 8})
    first, second = (
        {
            row.prompt_id: row.token_ids
            for row in NativeEngine(runner, [b"x"] * 257, batch_size=2).run(requests)
        }
        for runner in runners
    )
    assert first == second
