"""Claim: serving costs at most 50 us of CPU a streamed token, and 16 streams run faster than by transformers serve.

Run:      python bench/serve.py --model HF_DIR [--quick]
Compares: (1) CPU seconds of the server's process over 16 streams against the bare engine's on the same requests, both
          greedy, ignore_eos, torch on one thread, so that CPU time is work done; (2) `headrace serve` and
          `transformers serve --continuous-batching`, the same 16 prompts of chat at once, float32, the same client,
          which takes the time of the first text; tokens are counted by the model's tokenizer.
Ceiling:  the engine alone.
Reports:  median and spread over interleaved rounds.
Cause:    see the note at each goal; a step of 16 rows is one wake-up of the loop, and each row one write to a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

import measure

STREAMS = 16
WORDS = "the water turns a wheel and falls again under the stone".split()  # noqa: SIM905
PYTHON = sys.executable


def prompts(count):
    return [
        f"Write about number {i}: " + " ".join(WORDS[(i * j) % 11] for j in range(1, 24 + i))
        for i in range(count)
    ]


class Process:
    """A server and its address."""

    def __init__(self, words, *, url=None, env=None, until="/health"):
        self.words = words
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE if url is None else self.log, stderr=self.log, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        if url is None:
            url = json.loads(self.process.stdout.readline())["url"]
        self.url = url
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + until).status_code < 500:
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise RuntimeError(self.log.read()[-3000:])
            time.sleep(0.2)

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def crowd(url, bodies, path):
    """Frames with text, seconds, and the time of each stream's first frame."""
    started = time.perf_counter()

    async def one(client, body):
        first, count, text = None, 0, []
        async with client.stream("POST", url + path, json=body) as response:
            if response.status_code != 200:
                raise RuntimeError((await response.aread()).decode()[:1000])
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[6:]).get("choices") or ():
                    piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                    if piece:
                        first = first or time.perf_counter() - started
                        count += 1
                        text.append(piece)
        return count, first, "".join(text)

    async with httpx.AsyncClient(timeout=280, limits=httpx.Limits(max_connections=None)) as client:
        found = await asyncio.gather(*(one(client, body) for body in bodies))
    return found, time.perf_counter() - started


def alone(model, count, tokens, rounds):
    """CPU seconds of the bare engine for the same requests, in a process of its own."""
    code = f"""
import json, resource, sys, time
sys.path.insert(0, {str(measure.BENCH)!r})
from serve import prompts
from headrace.generation import Request, SamplingOptions
from headrace.generation.loading import load_engine
loaded = load_engine({str(model)!r}, dtype="float32", batch_size={count})
for turn in range({rounds} + 1):
    begun = time.process_time()
    for i, text in enumerate(prompts({count})):
        loaded.engine.add(Request(prompt_id=f"{{turn}}/{{i}}", token_ids=tuple(loaded.prompts.encode(text)),
                                  sampling=SamplingOptions(max_new_tokens={tokens}, ignore_eos=True)))
    made = 0
    while loaded.engine.running or loaded.engine.waiting:
        made += sum(token.token_id is not None for token in loaded.engine.step())
    print(json.dumps([time.process_time() - begun, made]), flush=True)
"""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()][1:]


def ours(model, *, batch_size=STREAMS, env=None):
    state = tempfile.mkdtemp()
    words = [PYTHON, "-m", "headrace", "serve", "--model", model, "--port", "0", "--json", "--state", state]
    return Process([*words, "--dtype", "float32", "--batch-size", str(batch_size)], env=env)


def overhead(tiny, *, tokens, rounds):
    """Microseconds of CPU a token: engine alone, and the whole server. A tiny model, so that 1 % noise is small."""
    per_token = {"engine alone": [], "headrace serve": []}
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    os.environ |= single
    with ours(tiny, env=single) as server:
        bodies = [
            {"prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
            for text in prompts(STREAMS)
        ]
        asyncio.run(crowd(server.url, bodies, "/v1/completions"))
        for _ in range(rounds):
            begun = server.cpu_s()
            for _ in range(4):
                asyncio.run(crowd(server.url, bodies, "/v1/completions"))
            per_token["headrace serve"].append((server.cpu_s() - begun) / (4 * STREAMS * tokens) * 1e6)
            runs = alone(tiny, STREAMS, tokens, 4)
            per_token["engine alone"].append(
                sum(cpu for cpu, _ in runs) / sum(made for _, made in runs) * 1e6
            )
    return per_token


RIVAL = [
    str(measure.CHECKOUT / ".venv-rivals" / "serve" / "bin" / "python"),
    "-c",
    "import sys; from transformers.cli.transformers import main; sys.exit(main())",
]
"""An environment with `transformers[serving]`."""


def rival(model, *, tokens, rounds):
    """Tokens/s and time to first token of 16 chats at once."""
    port = 18765
    theirs = [
        *RIVAL,
        "serve",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--log-level",
        "error",
    ]
    # Its own default takes 60 % of the memory for the cache; these hold 32,768 tokens.
    theirs += ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "1024"]
    theirs += ["--cb-max-batch-tokens", "1024"]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    results = {"headrace serve": [], "transformers serve": []}
    texts = {}
    for _ in range(rounds):
        for name, runs in results.items():
            made = (
                ours(model) if name == "headrace serve" else Process(theirs, url=f"http://127.0.0.1:{port}")
            )
            with made as server:
                asked = Path(model).resolve().name if name == "headrace serve" else str(model)
                bodies = [
                    {"model": asked, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
                     "temperature": 0, "stream": True}
                    for text in prompts(STREAMS)
                ]  # fmt: skip
                path = "/v1/chat/completions"
                asyncio.run(
                    crowd(server.url, [body | {"max_tokens": 4} for body in bodies[:2]], path)
                )  # loads, warms
                found, wall = asyncio.run(crowd(server.url, bodies, path))
            runs.append(
                {"tokens": sum(len(tokenizer.encode(text).ids) for _, _, text in found), "wall_s": wall,
                 "first_s": statistics.median(first for _, first, _ in found if first)}
            )  # fmt: skip
            texts[name] = [text for _, _, text in found]
            measure.say(f"  {name}: {runs[-1]}")
    same = sum(a[:40] == b[:40] for a, b in zip(*texts.values(), strict=True))
    return results, same


def tiny_model():
    """A model whose steps cost little, in a directory of its own."""
    from headrace.model import GPT, GPTConfig, to_hf
    from headrace.tokens.byte import ByteTokenizer

    out = Path(tempfile.mkdtemp()) / "tiny"
    to_hf(
        GPT(
            GPTConfig(
                num_hidden_layers=2,
                hidden_size=64,
                num_attention_heads=4,
                vocab_size=257,
                max_position_embeddings=1024,
            ),
            seed=1,
        ),
        ByteTokenizer(),
        out,
    )
    return out


def main():
    parser = measure.options(__doc__, repeats=3)
    parser.add_argument(
        "--model",
        default=os.environ.get("HEADRACE_BENCH_MODEL"),
        help="a Hugging Face directory with a chat template (default: $HEADRACE_BENCH_MODEL)",
    )
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    if options.model is None:
        measure.say("serve: not measured: no model; give --model, or set HEADRACE_BENCH_MODEL")
        return
    rounds = 1 if options.quick else options.repeats
    tables, goals = {}, []
    cpu = overhead(tiny_model(), tokens=64 if options.quick else 256, rounds=rounds)
    extra = [a - b for a, b in zip(cpu["headrace serve"], cpu["engine alone"], strict=True)]
    rows = [
        [n, measure.number(statistics.median(v)), measure.spread(v)]
        for n, v in [*cpu.items(), ("difference", extra)]
    ]
    tables["CPU a token, 16 streams, a tiny model"] = measure.table(["", "us", "spread"], rows)
    goals.append(
        measure.at_most("server overhead per streamed token", statistics.median(extra), 50, "us CPU")
    )
    results, same = rival(options.model, tokens=16 if options.quick else options.tokens, rounds=rounds)
    rate = {n: statistics.median(one["tokens"] / one["wall_s"] for one in v) for n, v in results.items()}
    first = {n: statistics.median(one["first_s"] for one in v) for n, v in results.items()}
    rows = [
        [
            n,
            measure.number(rate[n]),
            measure.number(first[n]),
            measure.spread([one["tokens"] / one["wall_s"] for one in v]),
        ]
        for n, v in results.items()
    ]
    tables[f"{STREAMS} chats at once"] = measure.table(
        ["", "tokens/s", "s to the first token", "spread of tokens/s"], rows
    )
    note = f"{same} of {STREAMS} answers begin with the same 40 characters"
    ratio = rate["headrace serve"] / rate["transformers serve"]
    goals.append(measure.at_least("tokens/s against transformers serve", ratio, 1.5, "x", note))
    waited = first["headrace serve"] / first["transformers serve"]
    goals.append(measure.at_most("time to first token against transformers serve", waited, 0.7, "x"))
    measure.report(
        __file__, doc=__doc__, tables=tables, goals=goals, quick=options.quick,
        data={"cpu_us": cpu, "rival": results, "same": same,
              "versions": measure.versions("torch", "transformers", "uvicorn", "starlette")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
