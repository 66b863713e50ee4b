"""What a server says before it answers, and what it answers for a model without special tokens.

Modules: run.py, process.py, options.py.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import headrace as hr
from headrace.serve.run import default_state


def refused(model, *options):
    """What `headrace serve` says when it does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "serve", "--model", str(model), "--port", "0", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr


def test_predictions_that_no_job_can_make_are_refused(run_dir, tmp_path):
    missing = tmp_path / "gone" / "out"
    said = refused(run_dir, "--predictions", missing)
    assert f"{missing}: no such directory, nor the one above it" in said
    (tmp_path / "out.parquet").write_bytes(b"PAR1")
    assert "out.parquet: a file" in refused(run_dir, "--predictions", f"a={tmp_path / 'out.parquet'}")


def test_predictions_of_a_job_still_to_come_are_warned_of_and_shown_when_they_are_there(
    new_server, run_dir, tmp_path
):
    made, later = tmp_path / "made", tmp_path / "later"
    hr.generate(run_dir, ["the"], made, max_new_tokens=2)
    server = new_server(run_dir, "--predictions", made, "--predictions", later)
    hr.generate(run_dir, ["the", "a"], later, max_new_tokens=2)
    stores = server.get("/predictions").json()["data"]
    assert [(store["name"], store["rows"], store["error"]) for store in stores] == [
        ("made", 1, None),
        ("later", 2, None),
    ]
    assert server.terminate() == 0
    (warning,) = server.errors
    assert f"{later}: none there yet" in warning


def test_a_model_without_special_tokens_answers_text_and_refuses_an_empty_prompt(
    new_server, hf_dir, tmp_path
):
    bare = tmp_path / "bare"
    shutil.copytree(hf_dir, bare)
    for name in ("config.json", "generation_config.json"):
        if (bare / name).exists():
            about = json.loads((bare / name).read_bytes())
            (bare / name).write_text(json.dumps({**about, "bos_token_id": None, "eos_token_id": None}))
    tokenizer = json.loads((bare / "tokenizer.json").read_bytes())
    (bare / "tokenizer.json").write_text(json.dumps({**tokenizer, "added_tokens": []}))
    for name in ("tokenizer_config.json", "special_tokens_map.json", "headrace-tokenizer.json"):
        (bare / name).unlink(missing_ok=True)
    server = new_server(bare)
    asked = {"max_tokens": 5, "temperature": 0}
    answer = server.post("/v1/completions", {"prompt": "the water", **asked}).json()
    assert answer["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    for prompt in ("", ["the", ""]):
        empty = server.post("/v1/completions", {"prompt": prompt, **asked})
        assert (empty.status_code, empty.json()["error"]["param"]) == (400, "prompt")
        assert "no token that begins a text" in empty.json()["error"]["message"]
    assert server.post("/tokenize", {"prompt": ""}).json()["tokens"] == []
    info = server.get("/tokenizer_info").json()
    assert (info["eos_token"], info["eos_token_id"]) == (None, None)
    assert server.terminate() == 0
    assert server.errors == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-queue", -1], "max_queue is -1; expected at least 0"),
        (["--port", 70000], "port is 70000"),
        (["--api-key", ""], "api_key is empty"),
        (["--allow-origin", "example.com"], "expected scheme://host[:port]"),
        (["--allow-host", "http://example.com"], "without scheme or path"),
        (["--predictions", "a=x", "--predictions", "a=y"], "given twice"),
        (["--max-connections", 0], "max_connections is 0"),
    ],
)
def test_an_option_without_meaning_is_refused_before_the_model_is_loaded(run_dir, options, words):
    assert words in refused(run_dir, *options)


def test_a_user_without_a_home_directory_is_told_to_give_one(run_dir, monkeypatch):
    """As a user id in a container that has no passwd entry, without HOME."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(hr.ConfigError, match=r"no home directory.*--state"):
        default_state(run_dir)
