import os
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from headrace.errors import ConfigError
from headrace.generation import Prompt, PromptOptions, SamplingOptions, run_job
from headrace.sink import Sink, count_predictions, read_predictions

# Of the installed package, which the wheel's tests do not find in the checkout.
SRC = Path(headrace.__file__).parents[1]


class Bytes:
    """A tokenizer of bytes; refuses one word."""

    def encode(self, text, **_):
        if text == "refused":
            raise ConfigError("this word is not encoded")
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode()


def job(out, prompts, engine, **more):
    with Sink(out, request={"x": 1}, part_rows=5, retry_errors=more.pop("retry_errors", False)) as sink:
        return run_job(
            prompts, engine, sink, **({"tokenizer": Bytes(), "sampling": SamplingOptions()} | more)
        )


def prompts_of(count):
    return [Prompt(prompt_id=f"{i:09d}", text="x" * (i + 1)) for i in range(count)]


def keys(out):
    table = read_predictions(out, columns=["prompt_id", "sample_index"])
    return sorted(zip(table["prompt_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True))


def test_every_sample_of_every_prompt_is_stored_once(tmp_path, echo_engine):
    made, prompt_tokens, completion_tokens = job(
        tmp_path, prompts_of(17), echo_engine(), prompt_options=PromptOptions(num_samples=3)
    )
    assert keys(tmp_path) == [(f"{i:09d}", s) for i in range(17) for s in range(3)]
    assert (made, completion_tokens) == (51, 102)
    assert prompt_tokens == 3 * sum(range(1, 18))
    texts = read_predictions(tmp_path, sort=True)["text"].to_pylist()
    assert texts == [f"{i + 1}" for i in range(17) for _ in range(3)]


def test_a_prompt_that_names_another_model_is_an_error_row(tmp_path, echo_engine):
    prompts = [Prompt(prompt_id=f"{name}", text="x", model=name) for name in ("this", "other", None)]
    job(tmp_path, prompts, echo_engine(), model="this")
    errors = {row["prompt_id"]: row["error"] for row in read_predictions(tmp_path).to_pylist()}
    assert (errors["this"], errors["None"]) == (None, None)
    assert "model 'other'; this job runs 'this'" in errors["other"]["message"]


def test_a_job_that_broke_goes_on_and_makes_only_what_is_missing(tmp_path, echo_engine):
    with pytest.raises(RuntimeError, match="the device fell off"):
        job(tmp_path, prompts_of(40), echo_engine(poison="000000020"))
    second = echo_engine()
    made, _, _ = job(tmp_path, prompts_of(40), second)
    assert keys(tmp_path) == [(f"{i:09d}", 0) for i in range(40)]
    assert made == second.read < 40
    third = echo_engine()
    assert job(tmp_path, prompts_of(40), third) == (0, 0, 0)
    assert third.read == 0


def test_a_bad_prompt_is_one_error_row_and_the_others_are_made(tmp_path, echo_engine):
    bad = Prompt(
        prompt_id="bad", text="shown", error={"type": "DocumentError", "message": "line 7: not JSON"}
    )
    unencodable = Prompt(prompt_id="refused", text="refused")
    wrong = Prompt(prompt_id="wrong", text="x", sampling={"temperature": -1})
    unknown = Prompt(prompt_id="unknown", text="x", sampling={"temprature": 1})
    others = [*prompts_of(3), bad, unencodable, wrong, unknown, *prompts_of(6)[3:]]
    made, _, _ = job(tmp_path, others, echo_engine())
    assert made == 10, "an error row is a row that was made"
    rows = {row["prompt_id"]: row for row in read_predictions(tmp_path).to_pylist()}
    assert len(rows) == 10
    assert count_predictions(tmp_path) == (10, 4)
    assert rows["bad"]["error"] == {"type": "DocumentError", "message": "line 7: not JSON"}
    assert rows["bad"]["prompt"] == "shown"
    assert rows["refused"]["error"]["type"] == "ConfigError"
    assert "temperature is -1" in rows["wrong"]["error"]["message"]
    assert "temprature" in rows["unknown"]["error"]["message"]
    assert all(rows[f"{i:09d}"]["error"] is None for i in range(6))


def test_errors_are_made_again_only_when_asked_for(tmp_path, echo_engine):
    broken = Prompt(prompt_id="000000001", text="x", error={"type": "E", "message": "broken"})
    mended = Prompt(prompt_id="000000001", text="xx")
    job(tmp_path, [*prompts_of(1), broken], echo_engine())
    job(tmp_path, [*prompts_of(1), mended], echo_engine())
    assert count_predictions(tmp_path) == (2, 1)
    made, _, _ = job(tmp_path, [*prompts_of(1), mended], echo_engine(), retry_errors=True)
    assert made == 1
    assert count_predictions(tmp_path) == (2, 0)
    assert read_predictions(tmp_path, sort=True)["text"].to_pylist() == ["1", "2"]


def test_an_error_that_comes_again_is_stored_once(tmp_path, echo_engine):
    broken = Prompt(prompt_id="b", text="x", error={"type": "E", "message": "broken"})
    for _ in range(3):
        job(tmp_path, [broken], echo_engine(), retry_errors=True)
    assert count_predictions(tmp_path) == (1, 1)
    assert read_predictions(tmp_path).num_rows == 1


def test_prompts_are_read_only_as_the_engine_asks_for_them(tmp_path, echo_engine):
    engine, read = echo_engine(batch_size=4), []

    def source():
        for prompt in prompts_of(50):
            read.append(prompt)
            assert len(read) - len(stored) <= 6
            yield prompt

    stored = []
    job(
        tmp_path,
        source(),
        engine,
        progress=lambda done, *_: stored.append(done),
        clock=iter(range(10**6)).__next__,
    )
    assert engine.most_ahead == 4
    assert len(read) == 50


def test_progress_counts_what_is_stored_and_ends_with_all(tmp_path, echo_engine):
    job(tmp_path, prompts_of(4), echo_engine())
    seen = []
    job(
        tmp_path,
        prompts_of(10),
        echo_engine(),
        num_prompts=10,
        progress=lambda *event: seen.append(event),
        clock=iter(range(10**6)).__next__,
    )
    done = [event[0] for event in seen]
    assert done == sorted(done)
    assert done[-1] == 10
    assert {event[1] for event in seen} == {10}
    assert all("tokens/s" in event[2] for event in seen)


MEMORY = """
import resource, sys
sys.path[:0] = [sys.argv[3], sys.argv[4]]
from conftest import EchoEngine
from headrace.generation import Prompt, SamplingOptions, run_job
from headrace.sink import Sink

class Bytes:
    def encode(self, text, **_): return list(text.encode())
    def decode(self, ids): return bytes(ids).decode()

prompts = (Prompt(prompt_id=f"{i:09d}", text="a short prompt") for i in range(int(sys.argv[2])))
with Sink(sys.argv[1], request={}, part_rows=1024) as sink:
    run_job(prompts, EchoEngine(), sink, tokenizer=Bytes(), sampling=SamplingOptions())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_the_same_for_ten_times_the_prompts(tmp_path):
    """Peak memory of whole processes, 3,000 and 30,000 prompts: equal within 5 %."""
    peaks = []
    for count in (3_000, 30_000):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                MEMORY,
                str(tmp_path / str(count)),
                str(count),
                str(SRC),
                str(Path(__file__).parent),
            ],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(done.stdout.split()[-1]))
        assert count_predictions(tmp_path / str(count)) == (count, 0)
    assert peaks[1] <= peaks[0] * 1.05, f"{peaks} KiB"
