"""SIGKILL in every step, then the same call: the demo ends as if it had not been killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from headrace.sink import read_predictions
from headrace.store import Store

# A demo whose process kills itself at the n-th call of a step's progress function. The comparison of loaders has
# tests of its own; here it would only take time.
DRIVER = """
import json, os, signal, sys
from headrace.demo import DemoOptions, run_demo, steps
from headrace.demo.display import DemoDisplay

job = json.loads(sys.argv[1])
steps.compare_loaders = lambda **_: {
    "naive": {"tokens_per_s": 1.0}, "headrace": {"tokens_per_s": 2.0}, "once_s": 1.0, "epoch_tokens": 1
}


class KillingDisplay(DemoDisplay):
    def _lines(self, title):
        return KillingProgress(title)


class KillingProgress:
    def __init__(self, title):
        self.title, self.count = title, 0

    def __enter__(self):
        self.die_at(0)
        return lambda done, total, note: self.die_at(self.count + 1)

    def die_at(self, count):
        self.count = count
        if [self.title, count] == job["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def __exit__(self, *_):
        self.die_at(-1)


run_demo(job["files"], job["out"], display=KillingDisplay(steps=8), options=DemoOptions(**job["options"]))
"""


KILLS = [
    ["corpus", 3],
    ["corpus", -1],
    ["tokenizer", 1],
    ["ingest", 1],
    ["train", 2],
    ["generate", 1],
    ["report", 0],
]
"""Step and call of its progress function; -1 is after the step was recorded."""


def start(files, out, options, kill):
    job = {"files": [str(path) for path in files], "out": str(out), "options": options, "kill": kill}
    return subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(job)], capture_output=True, text=True, check=False
    )


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]


def keys(out):
    table = read_predictions(out / "predictions", sort=True)
    return list(zip(table["prompt_id"].to_pylist(), table["sample_index"].to_pylist(), strict=True))


def test_a_demo_killed_in_every_step_ends_like_one_that_was_not(corpus_file, small_options, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start([corpus_file], undisturbed, small_options, None).returncode == 0
    for kill in KILLS:
        done = start([corpus_file], killed, small_options, kill)
        assert done.returncode == -signal.SIGKILL, f"{kill}: {done.stderr}"
    last = start([corpus_file], killed, small_options, None)
    assert last.returncode == 0, last.stderr

    with Store.open(str(undisturbed / "store")) as one, Store.open(str(killed / "store")) as two:
        assert one.fingerprint == two.fingerprint
    assert losses(killed) == losses(undisturbed)
    assert keys(killed) == keys(undisturbed)
    assert len(set(keys(killed))) == small_options["prompts"]
    assert (killed / "run" / "report.html").exists()
    # Nothing that a kill left behind stays.
    assert {path.name for path in killed.iterdir()} == {path.name for path in undisturbed.iterdir()}
