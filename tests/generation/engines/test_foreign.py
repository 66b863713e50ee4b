"""Engines of other libraries: the same rows as the native one, and a refusal for what they cannot do.

Tests transformers_engine.py, vllm_engine.py and results.py.
"""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from headrace.errors import ConfigError
from headrace.generation import EngineOptions, NativeEngine, Request, SamplingOptions, generate
from headrace.generation.decoding.hf_runner import HFRunner
from headrace.generation.engines.transformers_engine import TransformersEngine
from headrace.generation.engines.vllm_engine import VLLMEngine
from headrace.sink import read_predictions
from headrace.tokens import load_tokenizer

EOS = 127
TABLE = [bytes([i]) for i in range(127)] + [b""]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    import transformers as t

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("llama")
    config = t.LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        initializer_range=0.5,
        dtype="float32",
        eos_token_id=EOS,
    )
    t.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def batching(directory):
    return TransformersEngine(
        directory, dtype=torch.float32, device=CPU, table=TABLE, eos_ids=(EOS,), batch_size=4
    )


@pytest.fixture
def native(directory):
    return NativeEngine(
        HFRunner.of_directory(directory, dtype=torch.float32, device=CPU), TABLE, eos_ids=(EOS,), batch_size=4
    )


def small(requests):
    return [replace(one, token_ids=tuple(i % 127 for i in one.token_ids)) for one in requests]


def by_key(rows):
    return {(row.prompt_id, row.sample_index): row for row in rows}


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert replace(one[key], logprobs=None) == replace(other[key], logprobs=None)
        if one[key].logprobs is not None:
            assert other[key].logprobs == pytest.approx(one[key].logprobs, abs=1e-4)


def test_transformers_batching_makes_the_native_engines_rows(batching, native, make_requests):
    """Greedy, with and without log-probabilities, in one stream: the manager changes between them."""
    requests = small(make_requests(14, own=lambda i: {"logprobs": i in (5, 6, 7)}))
    same(by_key(native.run(requests)), by_key(batching.run(requests)))


def test_transformers_batching_stops_at_stop_strings_and_at_the_end_as_we_do(batching, native, make_requests):
    free = by_key(native.run(small(make_requests(8, own=lambda _: {"max_new_tokens": 20}))))
    stops = tuple({row.text[3:5] for row in free.values() if len(row.text) > 6})[:4]
    assert stops
    requests = small(make_requests(8, own=lambda _: {"max_new_tokens": 20, "stop": stops}))
    ours, theirs = by_key(native.run(requests)), by_key(batching.run(requests))
    assert any(row.finish_reason == "stop" for row in ours.values())
    same(ours, theirs)


def test_transformers_batching_samples_within_top_k(batching, make_requests):
    requests = small(make_requests(6, own=lambda _: {"temperature": 1.0, "top_k": 1}))
    greedy = small(make_requests(6))
    sampled, likeliest = by_key(batching.run(requests)), by_key(batching.run(greedy))
    assert {k: row.token_ids for k, row in sampled.items()} == {
        k: row.token_ids for k, row in likeliest.items()
    }


def test_what_transformers_batching_cannot_do_is_an_error_row_and_the_others_are_made(
    batching, make_requests
):
    own = {1: {"min_p": 0.5}, 3: {"max_new_tokens": 0}, 5: {"logprobs": True, "temperature": 0.5}}
    requests = small(make_requests(7, own=lambda i: own.get(i, {})))
    requests[2] = replace(requests[2], token_ids=(500,))
    rows = [row for _, row in sorted(by_key(batching.run(requests)).items())]
    assert [i for i, row in enumerate(rows) if row.error] == [1, 2, 3, 5]
    assert "no min_p" in rows[1].error["message"]
    assert "token id 500" in rows[2].error["message"]


def test_a_run_that_is_given_up_ends_the_batching_thread(batching, make_requests):
    import threading

    before = threading.active_count()
    rows = batching.run(small(make_requests(12)))
    next(rows)
    rows.close()
    assert threading.active_count() == before


def test_a_job_runs_on_transformers_and_refuses_what_it_has_not(gpt, tmp_path):
    from headrace.model import to_hf

    to_hf(gpt, load_tokenizer("byte"), tmp_path / "model")
    prompts = [f"prompt {i}" for i in range(6)]
    generate(tmp_path / "model", prompts, tmp_path / "native", max_new_tokens=6)
    made = generate(
        tmp_path / "model",
        prompts,
        tmp_path / "theirs",
        max_new_tokens=6,
        engine=EngineOptions(name="transformers"),
    )
    assert (made.engine, made.num_predictions, made.num_errors) == ("transformers", 6, 0)
    ours, theirs = (read_predictions(tmp_path / name, sort=True) for name in ("native", "theirs"))
    assert ours["token_ids"].equals(theirs["token_ids"])
    assert ours["text"].equals(theirs["text"])
    with pytest.raises(ConfigError, match="no frequency_penalty"):
        generate(
            tmp_path / "model",
            prompts,
            tmp_path / "no",
            engine=EngineOptions(name="transformers"),
            sampling=SamplingOptions(frequency_penalty=0.5),
        )
    assert not (tmp_path / "no").exists()


def test_engines_of_others_read_hugging_face_directories_only(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="reads Hugging Face directories"):
        generate(tmp_path, ["a"], tmp_path / "out", engine=EngineOptions(name="transformers"))


def test_vllm_that_is_not_installed_is_said(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"vLLM, which is not installed.*headrace\[vllm\]"):
        VLLMEngine(directory, dtype="auto", table=TABLE, eos_ids=(EOS,), batch_size=4)


class FakeLLMEngine:
    """vLLM's documented surface over the native engine: keyword arguments are checked, one step a token."""

    def __init__(self, native):
        self.native, self.aborted, self.left = native, [], {}
        self.model_config = SimpleNamespace(max_model_len=96, dtype=torch.float32, get_vocab_size=lambda: 128)

    def add_request(self, request_id, prompt, params):
        own = {
            "max_new_tokens": params.max_tokens,
            "stop": tuple(params.stop),
            "logprobs": params.logprobs is not None,
            "prompt_logprobs": params.prompt_logprobs is not None,
        }
        ids = tuple(prompt["prompt_token_ids"])
        self.left[request_id] = ids
        self.native.add(Request(prompt_id=request_id, token_ids=ids, sampling=SamplingOptions(**own)))

    def step(self):
        out = []
        for token in self.native.step():
            row = token.prediction
            if row is None:
                continue
            ids = self.left.pop(row.prompt_id)
            logprob = SimpleNamespace
            made = SimpleNamespace(
                token_ids=list(row.token_ids),
                logprobs=row.logprobs
                and [{i: logprob(logprob=x)} for i, x in zip(row.token_ids, row.logprobs, strict=True)],
            )
            scored = row.prompt_logprobs and [
                None if x is None else {i: logprob(logprob=x)}
                for i, x in zip(ids, row.prompt_logprobs, strict=True)
            ]
            out.append(
                SimpleNamespace(
                    request_id=row.prompt_id, finished=True, outputs=[made], prompt_logprobs=scored
                )
            )
        return out

    def abort_request(self, names):
        self.aborted += names


@pytest.fixture
def vllm(directory, native, monkeypatch):
    module = ModuleType("vllm")
    fake = FakeLLMEngine(native)
    module.SamplingParams = SimpleNamespace
    module.EngineArgs = SimpleNamespace
    module.LLMEngine = SimpleNamespace(from_engine_args=lambda _: fake)
    monkeypatch.setitem(sys.modules, "vllm", module)
    engine = VLLMEngine(directory, dtype="auto", table=TABLE, eos_ids=(EOS,), batch_size=4)
    return engine, fake


def test_the_vllm_adapter_turns_vllms_outputs_into_our_rows(directory, vllm, make_requests):
    engine, _ = vllm
    reference = NativeEngine(
        HFRunner.of_directory(directory, dtype=torch.float32, device=CPU), TABLE, eos_ids=(EOS,)
    )
    requests = small(make_requests(11, own=lambda i: {"logprobs": i % 2 == 0, "prompt_logprobs": i % 3 == 0}))
    ours, theirs = by_key(reference.run(requests)), by_key(engine.run(requests))
    same(
        {k: replace(row, prompt_logprobs=None) for k, row in ours.items()},
        {k: replace(row, prompt_logprobs=None) for k, row in theirs.items()},
    )
    assert any(row.prompt_logprobs for row in theirs.values())


def test_the_vllm_adapter_refuses_a_bad_prompt_alone_and_aborts_what_is_given_up(vllm, make_requests):
    engine, fake = vllm
    requests = small(make_requests(9, own=lambda i: {"max_new_tokens": 1 + i}))
    requests[0] = replace(requests[0], token_ids=(500,))
    rows = engine.run(requests)
    assert next(rows).error["type"] == "ConfigError"
    assert next(rows).error is None
    rows.close()
    assert fake.aborted
