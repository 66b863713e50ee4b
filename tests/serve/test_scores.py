"""Echo with log-probabilities is what lm-evaluation-harness needs, to the last place that float32 has.

Module: offsets.py.
"""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def reference(hf_dir):
    return AutoModelForCausalLM.from_pretrained(hf_dir, dtype=torch.float32).eval()


def parse_as_lm_eval_does(answer, context_lengths):
    """lm-eval 0.4.13, models/openai_completions.py, in our words: sum over the continuation, greedy or not."""
    found = []
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    for choice, start in zip(choices, context_lengths, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][start:-1]
        tops = choice["logprobs"]["top_logprobs"][start:-1]
        greedy = all(value == max(top.values()) for value, top in zip(logprobs, tops, strict=True))
        found.append((sum(logprobs), greedy))
    return found


@torch.inference_mode()
def score(model, ids, start):
    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
    wanted = [
        (logprobs[at - 1, ids[at]].item(), logprobs[at - 1].argmax().item() == ids[at])
        for at in range(start, len(ids))
    ]
    return sum(value for value, _ in wanted), all(greedy for _, greedy in wanted)


def test_lm_evals_requests_get_the_loglikelihoods_of_transformers(server, reference, hf_dir):
    tokenizer = AutoTokenizer.from_pretrained(hf_dir)
    rng = random.Random(5)
    greedy = server.post(
        "/v1/completions", {"prompt": "the water", "max_tokens": 12, "temperature": 0}
    ).json()
    texts = [("the water", greedy["choices"][0]["text"])]
    texts += [
        ("the wheel turns", " a stone"),
        ("a", " water falls again"),
        ("é☃", " under"),
        ("x" * 200, "yz"),
    ]
    pairs = [(tokenizer.encode(context), tokenizer.encode(more)) for context, more in texts]
    pairs += [
        ([rng.randrange(256) for _ in range(n)], [rng.randrange(256) for _ in range(9)]) for n in (1, 30, 240)
    ]
    answer = server.post(
        "/v1/completions",
        {
            "model": server.ready["model"],
            "prompt": [[*context, *more] for context, more in pairs],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 1,
            "seed": 1234,
            "echo": True,
        },
    )
    assert answer.status_code == 200, answer.text
    found = parse_as_lm_eval_does(answer.json(), [len(context) for context, _ in pairs])
    for (context, more), (total, is_greedy) in zip(pairs, found, strict=True):
        wanted, wanted_greedy = score(reference, [*context, *more], len(context))
        assert total == pytest.approx(wanted, abs=2e-3)
        assert is_greedy == wanted_greedy
    assert found[0][1]
    assert {is_greedy for _, is_greedy in found} == {True, False}


def test_echo_alone_scores_a_prompt_without_making_a_token(server, reference):
    answer = server.post(
        "/v1/completions", {"prompt": "the wheel", "max_tokens": 0, "echo": True, "logprobs": 2}
    ).json()
    said = answer["choices"][0]["logprobs"]
    assert answer["choices"][0]["text"] == "".join(said["tokens"]) == "the wheel"
    assert answer["usage"]["completion_tokens"] == 0
    assert said["token_logprobs"][0] is None
    assert said["text_offset"] == list(range(9))
    wanted, _ = score(reference, list(b"the wheel"), 1)
    assert sum(said["token_logprobs"][1:]) == pytest.approx(wanted, abs=2e-3)


def test_a_stream_carries_the_same_logprobs_as_the_whole_answer(server):
    body = {"prompt": "the", "max_tokens": 9, "temperature": 0, "logprobs": 3, "echo": True}
    whole = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    text = server.post("/v1/completions", body | {"stream": True}).text
    parts = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    streamed = {}
    for part in parts:
        for name, values in (part["choices"][0]["logprobs"] or {}).items():
            streamed.setdefault(name, []).extend(values)
    assert streamed == whole


def test_half_characters_are_named_by_their_bytes(server):
    ids = list("é".encode())
    answer = server.post(
        "/v1/completions", {"prompt": [ids], "max_tokens": 0, "echo": True, "logprobs": 1}
    ).json()
    assert answer["choices"][0]["text"] == "é"
    assert answer["choices"][0]["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]


@pytest.mark.parametrize("prompt", ["the water", "é☃🌊 a", "", [256, 116, 104, 101], [195, 169, 104]])
def test_text_offset_counts_characters_of_the_text(server, prompt):
    """A special token in front has none; a token that is a part of a character has that character's offset."""
    body = {
        "prompt": prompt,
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
        "ignore_eos": True,
    }
    (choice,) = server.post("/v1/completions", body).json()["choices"]
    logprobs, text = choice["logprobs"], choice["text"]
    offsets, tokens = logprobs["text_offset"], logprobs["tokens"]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    for offset, token, after in zip(offsets, tokens, [*offsets[1:], len(text)], strict=True):
        if token.startswith(("<|", "bytes:")):
            assert after - offset <= 1
        else:
            assert text[offset:after] == token
    body |= {"echo": False}
    (alone,) = server.post("/v1/completions", body).json()["choices"]
    assert alone["logprobs"]["text_offset"][0] == 0
    for offset, token in zip(alone["logprobs"]["text_offset"], alone["logprobs"]["tokens"], strict=True):
        assert alone["text"].startswith(token, offset) or token.startswith(("<|", "bytes:"))


def test_tokens_of_a_stop_string_that_was_cut_off_are_at_the_end_of_the_text(server):
    body = {"prompt": "the water turns", "max_tokens": 60, "temperature": 0, "logprobs": 1}
    text = server.post("/v1/completions", body).json()["choices"][0]["text"]
    (choice,) = server.post("/v1/completions", body | {"stop": text[10:14]}).json()["choices"]
    assert max(choice["logprobs"]["text_offset"]) == len(choice["text"]) == text.index(text[10:14])


LM_EVAL = os.environ.get("HEADRACE_LM_EVAL")
TASK = """
task: headrace_lines
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""


@pytest.mark.campaign
@pytest.mark.skipif(
    LM_EVAL is None, reason="set HEADRACE_LM_EVAL to the lm_eval command of an environment that has it"
)
def test_lm_eval_itself_gives_the_same_numbers_over_http_as_with_its_hf_backend(server, hf_dir, tmp_path):
    words = ["water", "wheel", "stone", "again"]
    rows = [{"context": f"the {a} turns the", "choices": [f" {b}" for b in words]} for a in words]
    data, out = tmp_path / "lines.jsonl", {}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.format(data=data))
    backends = {
        "hf": ["--model", "hf", "--model_args", f"pretrained={hf_dir},dtype=float32", "--device", "cpu"],
        "http": [
            "--model", "local-completions", "--model_args",
            f"model={server.ready['model']},base_url={server.url}/v1/completions,tokenizer={hf_dir},num_concurrent=2",
        ],
    }  # fmt: skip
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    for name, words_of in backends.items():
        done = subprocess.run(
            [*LM_EVAL.split(), *words_of, "--include_path", str(tmp_path), "--tasks", "headrace_lines", "--batch_size",
             "2", "--log_samples", "--output_path", str(tmp_path / name)],
            capture_output=True, text=True, env=env, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        (samples,) = Path(tmp_path / name).rglob("samples_*.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        out[name] = {line["doc_id"]: line["filtered_resps"] for line in lines}
    assert len(out["hf"]) == 4
    for doc, wanted in out["hf"].items():
        for (a, greedy_a), (b, greedy_b) in zip(wanted, out["http"][doc], strict=True):
            assert float(a) == pytest.approx(float(b), abs=2e-3)
            assert str(greedy_a) == str(greedy_b)
