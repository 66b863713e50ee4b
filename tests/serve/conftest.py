"""A tiny run that was really trained, and real servers of it on free loopback ports."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import headrace as hr
from headrace.model import GPTConfig, load_model, to_hf

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
KEY = "a secret of eight words"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """A GPT that has read some sentences; float32, so that logits are the same everywhere."""
    folder = tmp_path_factory.mktemp("serve")
    words = ["the", "water", "turns", "a", "wheel", "and", "falls", "again", "under", "stone"]
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 40)) for i in range(1, 60)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    hr.ingest([folder / "a.jsonl"], folder / "store", tokenizer="byte", workers=1)
    config = GPTConfig(
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        vocab_size=257,
        max_position_embeddings=256,
    )
    hr.train(
        folder / "store",
        out=folder / "tiny",
        model=config,
        steps=40,
        data=hr.DataOptions(seq_len=64, batch_size=8),
        optimizer=hr.OptimizerOptions(lr=3e-3),
        parallel=hr.ParallelOptions(dp=1),
        run=hr.RunOptions(dtype="float32"),
    )
    return folder / "tiny"


@pytest.fixture(scope="session")
def hf_dir(run_dir):
    """The same weights as a Hugging Face directory with a chat template."""
    out = run_dir.parent / "tiny-hf"
    to_hf(*load_model(run_dir), out)
    (out / "chat_template.jinja").write_text(TEMPLATE)
    return out


class ServerProcess:
    """`headrace serve` as a user starts it."""

    def __init__(self, model, state, *options, env=None):
        self.words = [
            sys.executable, "-m", "headrace", "serve", "--model", str(model), "--port", "0", "--json",
            "--state", str(state), "--dtype", "float32", *map(str, options),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            self.words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )
        line = self.process.stdout.readline()
        if not line:
            _, said = self.process.communicate(timeout=90)
            raise RuntimeError(said)
        self.ready = json.loads(line)
        self.url, self.pid = self.ready["url"], self.ready["pid"]
        self.errors = []
        self._reader = threading.Thread(target=self._drain_stderr, daemon=True)
        self._reader.start()

    def _drain_stderr(self):
        self.errors.extend(self.process.stderr)

    def post(self, path, body, **more):
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def get(self, path):
        return httpx.get(self.url + path, timeout=60)

    def metric(self, name):
        for line in httpx.get(self.url + "/metrics", timeout=90).text.splitlines():
            if line.startswith((f"headrace:{name}{{", f"headrace:{name} ")):
                return float(line.rpartition(" ")[2])
        return 0.0

    def until(self, wanted, *, limit_s=120.0):
        """Wait for a condition on the server's metrics."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if wanted():
                return
            time.sleep(0.01)
        raise AssertionError(f"not within {limit_s} s")

    def idle(self):
        return self.metric("num_requests_running") == 0 and self.metric("num_requests_waiting") == 0

    def resident_bytes(self):
        with Path(f"/proc/{self.pid}/statm").open() as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self):
        self.process.kill()  # nothing happens when it is gone already
        self._ended()

    def terminate(self, *, limit_s=120):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(limit_s)
        self._ended()
        return code

    def _ended(self):
        self.process.wait(90)
        self._reader.join(60)
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def new_server(tmp_path_factory):
    """Start servers; they end with the module."""
    with contextlib.ExitStack() as stack:

        def start(model, *options, state=None, **more):
            made = ServerProcess(model, state or tmp_path_factory.mktemp("state"), *options, **more)
            stack.callback(made.kill)
            return made

        yield start


@pytest.fixture(scope="module")
def server(new_server, hf_dir):
    """The tiny model with its template, eight places."""
    made = new_server(hf_dir, "--batch-size", 8, "--max-queue", 400)
    yield made
    assert made.terminate() == 0
    assert made.errors == []
