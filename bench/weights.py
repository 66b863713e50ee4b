"""Weights into memory: local, from a disk with latency, and from S3; beside raw reads and the field's loaders.

Claim     Cold, from a local disk, and from S3 at 20 ms a request: >= 90 % of raw concurrent reads of the same bytes,
          and as fast as the fastest loader; >= 5 x load_file where each read waits. Memory while loading: <= 5 % more
          than the weights.
Run       python bench/weights.py [--model HF_DIR] (SmolLM2-135M); python bench/rivals.py setup weights
Compares  A model's directory and a random one of 1.3 GB (Llama's shape, bfloat16). Each contestant loads all weights
          in the type that they are stored in, in a fresh process, taking turns; imports are done before. The page
          cache forgets the file first. The disk with latency and the S3 server are bench/slow_media.py: the files
          behind 20 ms a request and --mb-per-s in all. load_file and from_pretrained cannot read S3: they read what
          boto3 has fetched. Ours checks and keeps a copy in the machine's cache, too. With --endpoint the S3 server is
          another one, as it is.
Ceiling   The same bytes by threads (S3: by tasks of obstore) into memory, and nothing else; the best of several
          numbers in flight.
Reports   MB/s: median and spread of the rounds; CPU seconds; the peak of resident memory above the weights (and
          the tokenizer, which ours loads, too).
Cause     {cause}
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import (
    BENCH,
    DATA,
    at_least,
    at_most,
    interleave,
    number,
    options,
    report,
    say,
    spread,
    summary,
    table,
    versions,
)
from rivals import OURS, interpreter, is_made, quiet_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

CAUSE = "Not measured on a quiet machine yet."
FILE = "model.safetensors"
RIVALS = ("safetensors load_file", "transformers from_pretrained", "fastsafetensors", "runai-model-streamer")
FLIGHTS = {"local": (4, 8, 16), "disk": (8, 32), "s3": (16, 32)}
NAMES = {
    "local": "local disk, cold",
    "disk": "disk with {delay} ms a read",
    "s3": "S3 with {delay} ms a request",
}


def random_model(out: Path, *, small: bool) -> Path:
    """A Hugging Face directory of Llama's shape with random weights in bfloat16: 1.3 GB, or 20 MB."""
    import torch
    from safetensors.torch import save_file

    from headrace.model import DecoderConfig
    from headrace.model.families import empty_model
    from headrace.model.weights.hf_tokenizer import hf_tokenizer_files
    from headrace.model.weights.load import to_transformers
    from headrace.tokens import load_tokenizer

    if (out / "config.json").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    width, layers, vocab = (256, 6, 4096) if small else (1536, 20, 49_152)
    shape = DecoderConfig(
        model_type="llama",
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        head_dim=64,
        tie_word_embeddings=True,
        vocab_size=vocab,
        max_position_embeddings=2048,
    )
    model = empty_model(shape, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02, generator=generator)
    config, tensors = to_transformers(model)
    for name, data in hf_tokenizer_files(load_tokenizer("byte"), max_length=2048).items():
        (out / name).write_bytes(data)
    save_file({k: v.to(torch.bfloat16) for k, v in tensors.items()}, out / FILE, metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}), encoding="utf-8")
    return out


@contextmanager
def slow_media(folder: Path, delay_ms: float, mb_per_s: float) -> Iterator[tuple[str, Path | None]]:
    """An S3 server of the folder and, where the kernel allows it, a disk: its endpoint and its directory."""
    mount = Path(tempfile.mkdtemp(prefix="slow-", dir=DATA))
    command = [
        sys.executable, str(BENCH / "slow_media.py"), str(folder), "--delay-ms", str(delay_ms),
        "--mb-per-s", str(mb_per_s), "--mount", str(mount),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port, mounted = process.stdout.readline().split()
        yield f"http://127.0.0.1:{port}", mount if int(mounted) else None
    finally:
        process.stdin.close()
        process.wait()
        mount.rmdir()


def ask(way: str, job: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """One contestant in a fresh process, with scratch space and a cache of its own that are removed behind it."""
    environment = "weights" if way in RIVALS else OURS
    with tempfile.TemporaryDirectory(dir=DATA) as scratch:
        variables = quiet_environment() | {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "HEADRACE_CACHE_DIR": f"{scratch}/cache",
            "PYTHONPATH": os.pathsep.join(sys.path) if environment == OURS else "",
        }
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            variables.setdefault(name, "bench")
        done = subprocess.run(
            [
                str(interpreter(environment)), str(BENCH / "weights_worker.py"),
                json.dumps({**job, "way": way, "scratch": scratch}),
            ],
            capture_output=True, text=True, check=False, timeout=600, env=variables,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{way}: exit {done.returncode}: {done.stderr[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(job: dict[str, Any], medium: str, repeats: int, endpoint: str) -> dict[str, Any]:
    """All contestants on one medium: rates, and the answers behind them."""
    ways = ["headrace", "raw reads", *(RIVALS if is_made("weights") else ())]
    if medium == "s3":
        ways.remove("fastsafetensors") if "fastsafetensors" in ways else None
    size = job["nbytes"]
    best = {}
    for way in ("raw reads", "fastsafetensors", "runai-model-streamer"):
        if way in ways:
            tried = {}
            for flight in FLIGHTS[medium]:
                try:
                    tried[flight] = ask(way, {**job, "flight": flight}, endpoint)["s"]
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    say(f"{way}: LEFT OUT, {error}")
                    ways.remove(way)
                    break
            else:
                best[way] = min(tried, key=tried.__getitem__)
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}

    def one(way: str) -> float:
        answer = ask(way, {**job, "flight": best.get(way, 16)}, endpoint)
        answers[way].append(answer)
        return float(size / answer["s"] / 1e6)

    rates = interleave({way: lambda way=way: one(way) for way in ways}, repeats)
    sums = {way: found[0]["sum"] for way, found in answers.items() if way != "raw reads"}
    if len(set(sums.values())) > 1:
        raise RuntimeError(f"contestants loaded other bytes: {sums}")
    return {"rates": rates, "answers": answers, "flight": best}


def rows(found: dict[str, Any]) -> list[list[str]]:
    """A table's lines, the fastest first."""
    lines = []
    for way, values in sorted(found["rates"].items(), key=lambda item: -statistics.median(item[1])):
        answers = found["answers"][way]
        nbytes = answers[0]["bytes"]
        above = [one["peak_bytes"] - nbytes for one in answers]
        lines.append(
            [
                way,
                number(statistics.median(values)),
                spread(values),
                number(statistics.median([one["cpu_s"] for one in answers])),
                f"{100 * max(above) / nbytes:.1f} %" if nbytes else "",
                str(found["flight"].get(way, "")),
            ]
        )
    return lines


def goals(label: str, medium: str, found: dict[str, Any]) -> list[Any]:
    """What is claimed of a model on a medium."""
    m = {way: statistics.median(values) for way, values in found["rates"].items()}
    others = {way: rate for way, rate in m.items() if way in RIVALS}
    made = [at_least(f"{label}, against raw reads", 100 * m["headrace"] / m["raw reads"], 90, "%")]
    if others:
        fastest = max(others, key=others.__getitem__)
        made.append(at_least(f"{label}, against {fastest}", m["headrace"] / others[fastest], 1, "x"))
        if medium == "disk":
            ratio = m["headrace"] / others["safetensors load_file"]
            made.append(at_least(f"{label}, against load_file", ratio, 5, "x"))
    if medium == "local":
        ours = found["answers"]["headrace"]
        above = statistics.median([one["peak_bytes"] / one["bytes"] - 1 for one in ours])
        made.append(at_most(f"{label}, memory above the weights", 100 * above, 5, "%"))
    return made


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--model", default=os.environ.get("HEADRACE_BENCH_MODEL"))
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--mb-per-s", type=float, default=250.0)
    parser.add_argument("--endpoint", default="", help="of an S3 server that has the models in bucket bench")
    parser.add_argument("--media", nargs="*", choices=tuple(NAMES), default=tuple(NAMES))
    chosen = parser.parse_args()
    repeats = 1 if chosen.quick else chosen.repeats
    DATA.mkdir(parents=True, exist_ok=True)
    folder = DATA / "weights"
    models = {
        "random 1.3 GB" if not chosen.quick else "random 20 MB": random_model(
            folder / ("small" if chosen.quick else "large"), small=chosen.quick
        )
    }
    if chosen.model and not chosen.quick:
        path = folder / "given"
        if not path.is_dir():
            shutil.copytree(chosen.model, path)
        models[Path(chosen.model).name] = path
    tables, made, data = {}, [], {}
    with slow_media(folder, chosen.delay_ms, chosen.mb_per_s) as (server, disk):
        endpoint = chosen.endpoint or server
        for label, path in models.items():
            for medium in chosen.media:
                if medium == "disk" and disk is None:
                    say("disk: not measured: no FUSE here, or no right to mount")
                    continue
                where = disk / path.name if medium == "disk" and disk is not None else path
                job = {
                    "directory": str(where),
                    "s3": f"s3://bench/{path.name}" if medium == "s3" else "",
                    "nbytes": (path / FILE).stat().st_size,
                }
                title = f"{label}, {NAMES[medium].format(delay=number(chosen.delay_ms))}"
                say(title)
                found = measure(job, medium, repeats, endpoint)
                head = ["contestant", "MB/s", "spread", "CPU s", "memory above", "in flight"]
                tables[title] = table(head, rows(found))
                made += goals(title, medium, found)
                data[title] = {
                    "mb_per_s": {way: summary(values) for way, values in found["rates"].items()},
                    "answers": found["answers"],
                }
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables=tables,
        goals=made,
        data={**data, "mb_per_s_of_slow_media": chosen.mb_per_s, "versions": versions("torch", "obstore")},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
