"""A store of 10^12 tokens: opening, the first batch, and resuming anywhere.

Claim     Open + first batch <= 150 ms and <= 50 MB above the empty process; resuming at any position <= 50 ms
          beyond that; the state is <= 256 bytes.
Run       python bench/load_open.py
Compares  Nothing: no rival opens 10^12 tokens here (their index arrays alone: 10 to 30 GB). The store is
          simulated at full size: its manifest and shard table name 60,000 shards of 16.7 M tokens; their
          files are hard links to one real shard, so that every row of the globally shuffled order can be
          read.
Ceiling   Reading the manifest and the shard table's bytes from the page cache, nothing parsed.
Reports   Milliseconds and MB, each from n fresh processes that have imported headrace and opened nothing,
          median and spread; beside them, the same above a bare interpreter, imports included.
Cause     {cause}
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from corpora import EOS, tokens_for_loading
from measure import DATA, at_most, interleave, number, options, pin, report, spread, summary, table, waited

if TYPE_CHECKING:
    from pathlib import Path

CAUSE = """Opening is the shard table: 5.8 MB on disk, 97 bytes a shard, held as columns and never as objects. The
          first batch of the zstd store adds the blocks of its 32 rows, decoded (it used to be made beside three
          others, and took 68 MB)."""
SHARD_TOKENS = 16_700_000
SEQ_LEN = 4096

PROBE = """
import json, sys, time
def resident():
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * 4096
def own():  # private memory only: mapped pages of files are the page cache's
    with open("/proc/self/smaps_rollup") as f:
        return sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Private_"))
bare, bare_own = resident(), own()
start = time.perf_counter()
import headrace as hr
import headrace.load, headrace.store
imported_s = time.perf_counter() - start
empty, empty_own = resident(), own()
url, state = sys.argv[1], json.loads(sys.argv[2])
start = time.perf_counter()
store = hr.Store.open(url)
opened_s = time.perf_counter() - start
loader = hr.Loader(store, seq_len=int(sys.argv[3]), batch_size=32, seed=7, epochs=None, rank=0, world_size=1)
if state: loader.load_state_dict(state)
batch = next(iter(loader))
first_s = time.perf_counter() - start
total = int(batch.tokens.sum())
kept = loader.state_dict()
print(json.dumps({
    "imported_s": imported_s, "opened_s": opened_s, "first_s": first_s,
    "above_empty": resident() - empty, "above_bare": resident() - bare, "own_above_empty": own() - empty_own,
    "num_tokens": store.num_tokens, "rows": store.num_rows(int(sys.argv[3])),
    "state": kept, "state_bytes": len(json.dumps(kept)), "position": batch.position, "sum": total,
    "torch": "torch" in sys.modules,
}))
"""


def simulated(num_shards: int, codec: str) -> Path:
    """A store of num_shards shards that are all hard links to one; made once."""
    from headrace.store import commit_store, write_shard
    from headrace.tokens import load_tokenizer

    made = DATA / f"simulated-{num_shards}-{codec}"
    if (made / "manifest.json").exists():
        return made
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    with waited(f"simulating {num_shards:,} {codec} shards"):
        corpus = tokens_for_loading([], None, num_tokens=SHARD_TOKENS)
        tokens, ends = np.array(corpus.tokens), corpus.ends
        assert tokens[-1] == EOS
        first = write_shard(str(made), "shard-000000", tokens, ends, codec=codec)
        files = [path.name for path in (made / "data").iterdir()]
        entries = [first]
        for i in range(1, num_shards):
            name = f"shard-{i:06d}"
            for file in files:
                os.link(made / "data" / file, made / "data" / file.replace("shard-000000", name))
            entries.append(type(first).from_json({**first.to_json(), "name": name}))
        tokenizer = load_tokenizer(os.environ.get("HEADRACE_BENCH_TOKENIZER") or "byte")
        commit_store(
            str(made),
            entries,
            tokenizer=tokenizer,
            dtype=np.dtype(np.uint16),
            block_tokens=first.block_tokens,
        )
    return made


def probe(url: Path, state: dict[str, object] | None = None) -> dict[str, float]:
    """A fresh process opens the store and takes one batch."""
    told = subprocess.run(
        [sys.executable, "-c", PROBE, str(url), json.dumps(state), str(SEQ_LEN)],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise RuntimeError(told.stderr[-2000:])
    answer: dict[str, float] = json.loads(told.stdout)
    return answer


def table_bytes_s(url: Path) -> float:
    """Milliseconds to read what opening has to read."""
    start = time.perf_counter()
    for path in [url / "manifest.json", *url.glob("shards-*.arrow")]:
        path.read_bytes()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = options(__doc__, repeats=9)
    chosen = parser.parse_args()
    shards = 600 if chosen.quick else 60_000
    repeats = 2 if chosen.quick else chosen.repeats
    pin()
    DATA.mkdir(exist_ok=True)
    stores = {codec: simulated(shards, codec) for codec in ("none", "zstd")}
    one = probe(stores["none"])
    rows = int(one["rows"])
    anywhere = random.Random(7)
    answers: dict[str, list[dict[str, float]]] = {}

    def contestant(codec: str, resume: bool) -> float:
        state = None
        if resume:  # anywhere in the first hundred epochs
            state = {**one["state"], "position": anywhere.randrange(100 * rows)}  # type: ignore[dict-item]
            if codec != "none":
                state = {**probe(stores[codec])["state"], "position": state["position"]}  # type: ignore[dict-item]
        told = probe(stores[codec], state)
        if resume and told["position"] != state["position"]:  # type: ignore[index]
            raise RuntimeError(f"resumed at {told['position']}, wanted {state['position']}")  # type: ignore[index]
        answers.setdefault(f"{codec}, {'resume' if resume else 'open'}", []).append(told)
        return 1e3 * told["first_s"]

    rounds = interleave(
        {
            f"{codec}, {'resume' if resume else 'open'}": (lambda c=codec, r=resume: contestant(c, r))  # type: ignore[misc]
            for codec in stores
            for resume in (False, True)
        }
        | {"bytes of manifest and table": lambda: table_bytes_s(stores["none"])},
        repeats,
    )

    def median(label: str, key: str, scale: float) -> float:
        return scale * float(np.median([told[key] for told in answers[label]]))

    lines = []
    for label, values in rounds.items():
        if label not in answers:
            lines.append([label, number(float(np.median(values))), spread(values), "", "", "", "", "", ""])
            continue
        lines.append(
            [
                label,
                number(float(np.median(values))),
                spread(values),
                number(median(label, "opened_s", 1e3)),
                number(median(label, "above_empty", 1e-6)),
                number(median(label, "own_above_empty", 1e-6)),
                number(median(label, "imported_s", 1e3)),
                number(median(label, "above_bare", 1e-6)),
                number(median(label, "state_bytes", 1)),
            ]
        )
    goals = []
    for codec in stores:
        a, b = f"{codec}, open", f"{codec}, resume"
        first = float(np.median(rounds[a]))
        goals += [
            at_most(f"open + first batch, {codec}", first, 150, "ms", f"{int(one['num_tokens']):,} tokens"),
            at_most(
                f"memory above the empty process, {codec}",
                median(a, "above_empty", 1e-6),
                50,
                "MB",
                f"{number(median(a, 'own_above_empty', 1e-6))} MB of it private",
            ),
            at_most(
                f"resume anywhere, beyond opening, {codec}", float(np.median(rounds[b])) - first, 50, "ms"
            ),
            at_most(f"state, {codec}", max(told["state_bytes"] for told in answers[b]), 256, "bytes"),
        ]
    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={
            f"{int(one['num_tokens']):,} tokens, {shards:,} shards, rows of {SEQ_LEN:,}": table(
                [
                    "store",
                    "first batch ms",
                    "spread",
                    "of it open ms",
                    "MB",
                    "private MB",
                    "import ms",
                    "MB above bare",
                    "state bytes",
                ],
                lines,
            )
        },
        goals=goals,
        data={"first_ms": {k: summary(v) for k, v in rounds.items()}, "answers": answers},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
