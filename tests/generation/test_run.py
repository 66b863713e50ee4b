"""Tests run.py, options.py and loading.py."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import headrace as hr
from headrace.errors import CheckpointError, ConfigError, ResumeError, SourceError
from headrace.generation import EngineOptions, OutputOptions, SamplingOptions, generate
from headrace.generation.loading import load_engine, load_prompts
from headrace.model import GPTConfig, pretrained_files, to_hf
from headrace.sink import count_predictions, read_predictions
from headrace.tokens import load_tokenizer

PROMPTS = [f"prompt number {i} " + "and more " * (i % 4) for i in range(24)]


@pytest.fixture(scope="module")
def model(gpt, tmp_path_factory):
    """The tiny model as a Hugging Face directory."""
    return to_hf(gpt, load_tokenizer("byte"), tmp_path_factory.mktemp("model") / "hf")


def keys(out):
    table = read_predictions(out, columns=["prompt_id", "sample_index"])
    return sorted(zip(table["prompt_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True))


def test_greedy_completions_of_an_exported_model_equal_transformers_generate(model, tmp_path):
    from transformers import AutoModelForCausalLM

    generate(model, PROMPTS, tmp_path, max_new_tokens=12, engine=EngineOptions(batch_size=5))
    reference = AutoModelForCausalLM.from_pretrained(model).eval()
    rows = read_predictions(tmp_path, sort=True).to_pylist()
    for prompt, row in zip(PROMPTS, rows, strict=True):
        ids_1T = torch.tensor([list(prompt.encode())])
        expected = reference.generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=256,
        )
        assert row["token_ids"] == expected[0, ids_1T.shape[1] :].tolist()
        assert row["prompt"] == prompt


def test_every_id_that_the_directory_calls_an_end_ends_a_row(model, tmp_path):
    """Fine-tuned GPT-2s end with a token of their own, beside the tokenizer's."""
    free = tmp_path / "free"
    generate(model, PROMPTS[:3], free, max_new_tokens=12)
    expected = read_predictions(free, sort=True)["token_ids"].to_pylist()
    end = expected[0][5]
    other = tmp_path / "model"
    shutil.copytree(model, other)
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, end]}))
    generate(other, PROMPTS[:3], tmp_path / "ended", max_new_tokens=12)
    for row, ids in zip(read_predictions(tmp_path / "ended", sort=True).to_pylist(), expected, strict=True):
        assert row["token_ids"] == (ids[: ids.index(end) + 1] if end in ids else ids)
    assert end in expected[0]


def test_the_summary_counts_what_was_made_and_what_is_stored(model, tmp_path):
    events = []
    first = generate(
        model,
        PROMPTS,
        tmp_path,
        max_new_tokens=4,
        num_samples=2,
        progress=lambda *event: events.append(event),
    )
    assert (first.num_prompts, first.num_predictions, first.num_new, first.num_errors) == (24, 48, 48, 0)
    assert first.prompt_tokens == 2 * sum(len(prompt.encode()) for prompt in PROMPTS)
    assert 48 <= first.completion_tokens <= 48 * 4
    assert first.tokens_per_s == pytest.approx(first.completion_tokens / first.wall_s)
    assert list(first.stages) == ["prompts", "forward", "sample", "sink"]
    assert events[-1][0] == 48
    again = generate(
        model, PROMPTS, tmp_path, max_new_tokens=4, num_samples=2, engine=EngineOptions(batch_size=7)
    )
    assert (again.num_predictions, again.num_new, again.run_id) == (48, 0, first.run_id)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"sampling": SamplingOptions(seed=1)}, "seed"),
        ({"num_samples": 2}, "num_samples"),
    ],
)
def test_another_request_into_the_same_directory_is_refused(model, tmp_path, change, named):
    generate(model, PROMPTS, tmp_path, max_new_tokens=4)
    with pytest.raises(ResumeError, match=named):
        generate(model, PROMPTS, tmp_path, **({"max_new_tokens": 4} | change))


def test_other_prompts_or_weights_into_the_same_directory_are_refused(model, gpt, tmp_path):
    import copy

    generate(model, PROMPTS, tmp_path / "out", max_new_tokens=4)
    with pytest.raises(ResumeError, match="prompts: stored"):
        generate(model, [*PROMPTS[:-1], "another"], tmp_path / "out", max_new_tokens=4)
    other = copy.deepcopy(gpt)
    with torch.no_grad():
        other.norm.bias[0] += 1e-3
    elsewhere = to_hf(other, load_tokenizer("byte"), tmp_path / "other")
    with pytest.raises(ResumeError, match="model: stored"):
        generate(elsewhere, PROMPTS, tmp_path / "out", max_new_tokens=4)


def test_the_same_model_at_another_place_goes_on(model, tmp_path):
    """Identity is what the weights are, not where they lie."""
    import shutil

    generate(model, PROMPTS, tmp_path / "out", max_new_tokens=4)
    moved = shutil.copytree(model, tmp_path / "moved")
    assert generate(moved, PROMPTS, tmp_path / "out", max_new_tokens=4).num_new == 0


def test_stops_samples_and_logprobs_reach_the_stored_rows(model, tmp_path):
    generate(
        model,
        PROMPTS[:6],
        tmp_path,
        max_new_tokens=10,
        temperature=0.9,
        num_samples=3,
        sampling=SamplingOptions(
            top_p=0.95, stop=("e", "zz"), logprobs=True, prompt_logprobs=True, top_logprobs=3
        ),
        output=OutputOptions(format="jsonl"),
    )
    rows = read_predictions(tmp_path, sort=True).to_pylist()
    assert len(rows) == 18
    assert all("e" not in row["text"] for row in rows)
    assert all(len(row["logprobs"]) == len(row["token_ids"]) for row in rows)
    assert all(len(row["prompt_logprobs"]) == row["prompt_tokens"] for row in rows)
    for row in rows:
        assert len(row["top_logprobs"]) == len(row["token_ids"])
        for token, logprob, top in zip(row["token_ids"], row["logprobs"], row["top_logprobs"], strict=True):
            values = [one["logprob"] for one in top]
            assert values == sorted(values, reverse=True)
            assert len(values) == 3
            assert all(one["logprob"] == logprob for one in top if one["token_id"] == token)
            assert logprob <= values[0]
    assert len({row["text"] for row in rows}) > 6
    assert next((tmp_path / "parts").iterdir()).name.endswith(".jsonl.zst")


def test_a_bad_line_is_an_error_row_and_retry_makes_it_again(model, tmp_path):
    prompts = tmp_path / "p.jsonl"
    lines = [json.dumps({"prompt": text}) for text in PROMPTS[:5]]
    lines.insert(2, json.dumps({"prompt": "x" * 200}))  # longer than the model
    prompts.write_text("\n".join(lines))
    summary = generate(model, prompts, tmp_path / "out", max_new_tokens=4)
    assert (summary.num_predictions, summary.num_errors) == (6, 1)
    (bad,) = [row for row in read_predictions(tmp_path / "out").to_pylist() if row["error"]]
    assert bad["prompt_id"] == "000000002"
    assert "200 tokens and one to generate" in bad["error"]["message"]
    again = generate(
        model, prompts, tmp_path / "out", max_new_tokens=4, output=OutputOptions(retry_errors=True)
    )
    assert (again.num_new, again.num_predictions, again.num_errors) == (1, 6, 1)


def test_an_empty_prompt_starts_a_document(model, tmp_path):
    generate(model, [{"prompt": ""}], tmp_path, max_new_tokens=3)
    (row,) = read_predictions(tmp_path).to_pylist()
    assert row["error"] is None
    assert row["prompt_tokens"] == 1


KILLED = """
import os, signal, sys
from headrace.generation import EngineOptions, generate
from headrace.sink import Sink
step, nth = sys.argv[4], int(sys.argv[5])
seen = 0
def stop(self, name):
    global seen
    seen += name == step
    if seen == nth:
        os.kill(os.getpid(), signal.SIGKILL)
Sink._step = stop
model, prompts, out = sys.argv[1:4]
generate(model, prompts, out, max_new_tokens=6, temperature=1.0, num_samples=2, engine=EngineOptions(batch_size=4))
"""


def test_a_job_killed_at_many_moments_ends_as_if_it_had_not_been(model, tmp_path):
    """Each process is killed by SIGKILL at another step; the last one finishes. Same keys, same samples."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(PROMPTS))
    command = [sys.executable, "-c", KILLED, str(model), str(prompts), str(tmp_path / "out")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    moments = [("frame", 1), ("frame", 20), ("part written", 1), ("before commit", 1), ("none", -1)]
    for step, nth in moments:
        done = subprocess.run(
            [*command, step, str(nth)], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == (0 if step == "none" else -signal.SIGKILL), done.stderr
    assert keys(tmp_path / "out") == [(f"{i:09d}", s) for i in range(24) for s in range(2)]
    generate(model, prompts, tmp_path / "whole", max_new_tokens=6, temperature=1.0, num_samples=2)
    whole, pieced = (read_predictions(tmp_path / name, sort=True) for name in ("whole", "out"))
    assert whole.equals(pieced)
    assert count_predictions(tmp_path / "out") == (48, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: {"engine": EngineOptions(name="nothing")}, "no engine named 'nothing'"),
        (lambda: {"engine": EngineOptions(dtype="int3")}, "no dtype named 'int3'"),
        (lambda: {"engine": EngineOptions(device="abacus")}, "no device named 'abacus'"),
        (lambda: {"engine": EngineOptions(batch_size=0)}, "batch_size is 0"),
        (lambda: {"engine": EngineOptions(workers=0)}, "workers is 0"),
        (lambda: {"num_samples": 0}, "num_samples is 0"),
        (lambda: {"temperature": -1.0}, "temperature is -1.0"),
        (lambda: {"output": OutputOptions(format="csv")}, "no format named 'csv'"),
    ],
)
def test_options_without_meaning_are_refused_and_nothing_is_written(model, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(model, PROMPTS, tmp_path / "out", **options())
    assert not (tmp_path / "out").exists()


def test_missing_prompts_or_model_are_refused_by_name(model, tmp_path):
    with pytest.raises(SourceError, match=r"gone\.txt"):
        generate(model, tmp_path / "gone.txt", tmp_path / "out")
    with pytest.raises(ConfigError, match="gone: neither a run"):
        generate(tmp_path / "gone", PROMPTS, tmp_path / "out")


def test_a_checkpoint_of_a_run_is_named_by_its_step_or_best(tmp_path):
    """RUN, RUN@STEP and RUN@best: the weights are those of the checkpoint, the tokenizer is the run's."""
    (tmp_path / "text.txt").write_text("the river turns the wheel\n" * 60)
    hr.ingest(tmp_path / "text.txt", tmp_path / "store", tokenizer="byte", workers=1)
    shape = GPTConfig(
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        vocab_size=257,
        max_position_embeddings=32,
    )
    run = tmp_path / "run"
    hr.train(
        tmp_path / "store",
        out=run,
        model=shape,
        steps=4,
        data=hr.DataOptions(seq_len=16, batch_size=2),
        evaluation=hr.EvaluationOptions(eval_stores=str(tmp_path / "store")),
        checkpoint=hr.CheckpointOptions(checkpoint_every=2, keep_checkpoints=3),
        run=hr.RunOptions(device="cpu", dtype="float32"),
    )
    names = (run, f"{run}@4", f"{run}@best", f"{run}@2")
    engines = [load_engine(name) for name in names]
    assert [one.fingerprint == engines[0].fingerprint for one in engines] == [True, True, True, False]
    assert {one.tokenizer_fingerprint for one in engines} == {engines[0].tokenizer_fingerprint}
    summary = generate(f"{run}@2", ["the river"], tmp_path / "out", max_new_tokens=2)
    assert summary.num_predictions == 1
    assert load_prompts(tmp_path / "run@2").special_ids == load_prompts(run).special_ids
    (run / "pretrained").mkdir()
    (run / "pretrained" / "config.json").write_text("{}")
    assert pretrained_files(f"{run}@2") == run / "pretrained"
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are 2, "):
        generate(f"{run}@9", ["the river"], tmp_path / "other", max_new_tokens=2)


def test_a_gpu_that_is_not_there_is_refused(model, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        generate(model, PROMPTS, tmp_path / "out", engine=EngineOptions(device="cuda"))
