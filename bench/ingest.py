"""From .jsonl.gz to a token store: ours, every pipeline of the field, and the tokenizer alone.

Claim     On 2 cores: >= 40 times faster than HF datasets, >= 15 times the fastest rival pipeline, >= 65 % of
          the best tokenizer alone on text that is decoded already (zstd store included); 400 MB of text at >=
          110 MB/s where the tokenizer alone reaches 170; <= 1 GiB of memory with 2 workers; the zstd store is
          no larger than the gzip'd text (natural language) or 1.05 times it (code); a restart redoes only
          units that were not finished.
Run       python bench/rivals.py setup; python bench/ingest.py --docs DIR --prose DIR --code DIR --tokenizer
          tokenizer.json. In pieces, each its own quiet time: --go-on --window-s 240, again and again until it
          ends; rounds that were measured before count.
Compares  The same two .jsonl.gz files a corpus, GPT-2's vocabulary, 2 worker processes, one contestant after
          the other. Rivals tokenize as they usually do (HF tokenizers); "+ fast" gives them the engine that
          we use. Each output is read back and hashed document by document: the ids are the same.
Ceiling   The fast engine alone, one process a core, on texts in memory, from cold: nothing read, parsed or
          written.
Reports   Wall seconds of the whole process, from start to exit (a user's seconds), and of the job inside it;
          MB of text a second; peak memory of all processes together (proportional set size, sampled 5 times a
          second). Ours and the ceiling: median and spread of n rounds; slow rivals: fewer. A round in
          which other processes took more than 0.15 cores is done again.
Cause     {cause}
"""

from __future__ import annotations

import compileall
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import time
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from corpora import files_of
from measure import (
    BENCH,
    DATA,
    Goal,
    TreeMemory,
    at_least,
    at_most,
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
    from pathlib import Path

CAUSE = """Of the workers' busy seconds on 406 MB tokenizing is 46 %, writing (zstd, fsync) 31, reading (gunzip) 13,
          parsing 7, packing 3: both cores are busy from begin to end. A job's start and end take 0.37 to 0.47 s of both
          cores (imports of two processes, the engine, the reference and its ids of the sample, compiling the parser).
          gunzip, zstd and the tokenizer, with nothing around them, take about 1.3 s of both cores: with the start
          that would be 65 % of the tokenizer alone, no more. Tried, and not taken: huge pages, and memory that is not
          given back (no gain); zstd with matches of 5 bytes and one table (45 % faster, stores 4 to 7 % larger)."""
WORKERS = 2
MAX_OTHERS = 0.15
"""Cores that other processes may take during a round; a round with more is done again. Workers of datatrove are
children of a server of its own, and cannot be told from others."""
ROUNDS = DATA / "ingest-rounds.jsonl"
"""Rounds of --go-on runs. Delete it after a change that matters."""

# label -> (environment, contestant, with the fast tokenizer)
RIVALS = {
    "HF datasets": ("field", "hf", False),
    "HF datasets, tokenizers called directly": ("field", "hf-direct", False),
    "Megatron preprocess": ("field", "megatron", False),
    "Megatron preprocess + fast": ("field", "megatron", True),
    "datatrove": ("field", "datatrove", False),
    "LitData optimize": ("litdata", "litdata", False),
    "LitData optimize + fast": ("litdata", "litdata", True),
    "MDSWriter": ("streaming", "mds", False),
    "MDSWriter + fast": ("streaming", "mds", True),
}
NAMED = {"Megatron preprocess", "Megatron preprocess + fast", "datatrove", "LitData optimize", "MDSWriter"}
"""The rival pipelines that the claim names; the other "+ fast" ones are shown beside them."""

EVERYWHERE = {"HF datasets", "Megatron preprocess + fast"}
"""Rivals on every corpus: the one with a claim of its own, and the fastest one on documentation."""

Contestant: TypeAlias = tuple[str, str, bool]
OURS_AND_CEILING: dict[str, Contestant] = {
    "headrace": (OURS, "ours", True),
    "tokenizer alone": (OURS, "ceiling", True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Two files of one kind of text."""

    name: str
    files: list[Path]
    text_bytes: int
    documents: int
    stored_gz: int
    """Bytes of the .jsonl.gz files."""
    text_gz: int
    """Bytes of the bare text, gzip level 6."""

    @property
    def key(self) -> str:
        """Name and sizes: rounds of another corpus do not count."""
        return "-".join([self.name, *(str(path.stat().st_size) for path in self.files)])


@dataclass(slots=True)
class Run:
    """What one contestant did to one corpus."""

    wall_s: list[float] = field(default_factory=list)
    job_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)
    out_bytes: int = 0

    def keep(self, corpus: Corpus, label: str) -> None:
        """Write the latest round down, for --go-on."""
        told = asdict(self) | {name: getattr(self, name)[-1:] for name in ("wall_s", "job_s", "peak_bytes")}
        with ROUNDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"corpus": corpus.key, "label": label, "run": told}) + "\n")

    @classmethod
    def kept(cls, corpus: Corpus, label: str) -> Run:
        """All rounds that were written down."""
        found = cls()
        for line in ROUNDS.read_text(encoding="utf-8").splitlines() if ROUNDS.exists() else ():
            one = json.loads(line)
            if (one["corpus"], one["label"]) == (corpus.key, label):
                for name in ("wall_s", "job_s", "peak_bytes"):
                    getattr(found, name).extend(one["run"][name])
                found.told, found.out_bytes = one["run"]["summary"], one["run"]["out_bytes"]
                found.proof = one["run"]["proof"] or found.proof
        return found

    def last(self) -> str:
        """The latest round in words."""
        return f"{self.wall_s[-1]:.2f} s, job {self.job_s[-1]:.2f} s, {self.peak_bytes[-1] / 1e6:.0f} MB"


def prepare(name: str, files: list[Path]) -> Corpus:
    """Measure a corpus once; the answer is kept beside the prepared data."""
    key = "-".join([name, *(str(path.stat().st_size) for path in files)])  # Corpus.key
    kept = DATA / f"ingest-{zlib.crc32(key.encode()):08x}.json"
    if not kept.exists():
        say(f"{name}: measuring {len(files)} files")
        text_bytes, documents, packer, text_gz = 0, 0, zlib.compressobj(6), 0
        for path in files:
            with gzip.open(path, "rb") as lines:
                for line in lines:
                    text = json.loads(line)["text"].encode()
                    text_bytes += len(text)
                    documents += 1
                    text_gz += len(packer.compress(text + b"\n"))
        text_gz += len(packer.flush())
        DATA.mkdir(exist_ok=True)
        kept.write_text(json.dumps({"text_bytes": text_bytes, "documents": documents, "text_gz": text_gz}))
    return Corpus(
        name=name,
        files=files,
        stored_gz=sum(path.stat().st_size for path in files),
        **json.loads(kept.read_text()),
    )


def small(name: str, corpus: Corpus, limit: int) -> Corpus:
    """The first `limit` bytes of each file, as files of their own."""
    cut = []
    for path in corpus.files:
        out = DATA / f"ingest-{name}-{limit}-{path.name}"
        if not out.exists():
            with gzip.open(path, "rb") as lines, gzip.open(out, "wb", 6) as some:
                size = 0
                while size < limit and (line := lines.readline()):
                    size += some.write(line)
        cut.append(out)
    return prepare(name, cut)


def others_cpu_s() -> float:
    """CPU seconds of the machine that are not ours or our finished children's."""
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123
        user, nice, system, _, _, irq, soft, *_ = map(int, file.readline().split()[1:])
    busy = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
    return busy - sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def run(
    environment: str, contestant: str, fast: bool, corpus: Corpus, tokenizer: str, into: Run, *, prove: bool
) -> None:
    """One contestant in a process of its own, from a clean folder; adds to `into`."""
    out = DATA / "ingest-out"
    shutil.rmtree(out, ignore_errors=True)
    variables = quiet_environment() | {
        "INGEST_WORKER_TOKENIZER": tokenizer,
        "INGEST_WORKER_FAST": "1" if fast else "0",
    }
    command = [str(interpreter(environment)), str(BENCH / "ingest_worker.py")]
    tail = [contestant, "--out", str(out), "--workers", str(WORKERS)]
    errors = (DATA / "ingest-errors.txt").open("w+")
    start, cpu = time.perf_counter(), others_cpu_s()
    process = subprocess.Popen(
        [*command, "run", *tail, *map(str, corpus.files)],
        stdout=subprocess.PIPE,
        stderr=errors,
        env=variables,
        text=True,
    )
    with TreeMemory(process.pid) as memory:
        answer, _ = process.communicate()
    wall_s = time.perf_counter() - start
    others = (others_cpu_s() - cpu) / wall_s
    if process.returncode:
        errors.seek(0)
        raise RuntimeError(
            f"{contestant} on {corpus.name}: exit {process.returncode}\n{errors.read()[-2000:]}"
        )
    told = json.loads(answer)
    if others > MAX_OTHERS and contestant != "datatrove":
        say(f"{corpus.name}: {contestant}: other processes took {others:.2f} cores: not counted")
        shutil.rmtree(out)
        return
    into.wall_s.append(wall_s)
    into.job_s.append(told.pop("job_s"))
    into.peak_bytes.append(memory.peak_bytes)
    into.told = told
    # The tokenizer's own files travel in our store: 1 to 11 MB whatever the corpus, so they are left out
    # here.
    into.out_bytes = sum(
        path.stat().st_size
        for path in out.rglob("*")
        if path.is_file() and not path.is_symlink() and path.parent != out / "store" / "tokenizer"
    )
    if prove:
        hashed = subprocess.run(
            [*command, "hash", *tail], capture_output=True, env=variables, text=True, check=True
        )
        into.proof = json.loads(hashed.stdout)
    shutil.rmtree(out)


def restarted(corpus: Corpus, tokenizer: str, whole_s: float) -> dict[str, Any]:
    """Kill our job at half of its time with SIGKILL and run it again: same bytes, and what was redone."""
    variables = quiet_environment() | {"INGEST_WORKER_TOKENIZER": tokenizer}
    command = [
        str(interpreter(OURS)),
        str(BENCH / "ingest_worker.py"),
        "run",
        "ours",
        "--workers",
        str(WORKERS),
    ]
    hashes, times = [], {}
    for name in ("undisturbed", "killed"):
        out = DATA / f"ingest-{name}"
        shutil.rmtree(out, ignore_errors=True)
        arguments = [*command, "--out", str(out), *map(str, corpus.files)]
        if name == "killed":
            process = subprocess.Popen(
                arguments,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=variables,
                start_new_session=True,
            )
            time.sleep(whole_s / 2)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            left = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            times["bytes_left_by_the_killed_run"] = left
            times["units_done_when_killed"] = len(list((out / "store" / ".ingest" / "units").glob("*.json")))
            times["looked_complete"] = (out / "store" / "manifest.json").exists()
            # The worker script makes its folder and refuses an old one; the store inside is what is resumed.
            arguments.append("--again")
        start = time.perf_counter()
        told = subprocess.run(arguments, capture_output=True, env=variables, text=True, check=False)
        if told.returncode:
            raise RuntimeError(
                f"restart of ours on {corpus.name}: exit {told.returncode}\n{told.stderr[-2000:]}"
            )
        times[f"{name}_s"] = time.perf_counter() - start
        times[f"{name}_told"] = json.loads(told.stdout)
        data = sorted((out / "store").rglob("*"))
        hashes.append(
            [(str(path.relative_to(out)), zlib.crc32(path.read_bytes())) for path in data if path.is_file()]
        )
        shutil.rmtree(out)
    stores = [[pair for pair in pairs if "/data/" in pair[0]] for pairs in hashes]
    return times | {
        "same_bytes": stores[0] == stores[1] and bool(stores[0]),
        "same_files": hashes[0] == hashes[1],
    }


def main() -> None:
    parser = options(__doc__, repeats=5)
    for name in ("docs", "prose", "code"):
        parser.add_argument(
            f"--{name}",
            nargs="*",
            default=os.environ.get(f"HEADRACE_BENCH_{name.upper()}", "").split(),
            help=f"two .jsonl.gz files, or their folder (default: $HEADRACE_BENCH_{name.upper()})",
        )
    parser.add_argument(
        "--tokenizer", default=os.environ.get("HEADRACE_BENCH_TOKENIZER"), help="GPT-2's tokenizer.json"
    )
    parser.add_argument("--rival-repeats", type=int, default=1, help="rounds of each rival (default 1)")
    parser.add_argument(
        "--rivals-on",
        nargs="*",
        default=["docs"],
        help="corpora to run all rivals on; others get HF datasets and the fastest one",
    )
    parser.add_argument(
        "--go-on", action="store_true", help=f"rounds kept in {ROUNDS.name} count; keep these as well"
    )
    parser.add_argument(
        "--window-s", type=float, help="start no round after so many seconds (use with --go-on)"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], help="rivals whose label contains one of these words"
    )
    chosen = parser.parse_args()
    given = {
        name: files_of(getattr(chosen, name)) for name in ("docs", "prose", "code") if getattr(chosen, name)
    }
    if not given or not chosen.tokenizer:
        raise SystemExit(
            "give --tokenizer and at least one of --docs, --prose, --code (or their variables, see --help)"
        )
    # As installing does; a checkout whose variables forbid bytecode would compile us anew in each process.
    compileall.compile_dir(BENCH.parent / "src" / "headrace", quiet=1)
    corpora = {name: prepare(name, files[:2]) for name, files in given.items()}
    if chosen.quick:
        corpora = {name: small(name, corpus, 2_000_000) for name, corpus in corpora.items()}
    missing: dict[str, str] = {}
    repeats, rival_repeats = (1, 1) if chosen.quick else (chosen.repeats, chosen.rival_repeats)

    opened = time.perf_counter()

    def one_round(
        corpus: Corpus, runs: dict[str, Run], label: str, wanted: int, contestant: Contestant
    ) -> None:
        """One more round, unless there are as many as are wanted."""
        if label not in runs:
            runs[label] = Run.kept(corpus, label) if chosen.go_on else Run()
        one = runs[label]
        if len(one.wall_s) >= wanted:
            return
        before = len(one.wall_s)
        while len(one.wall_s) == before:
            if chosen.window_s and time.perf_counter() - opened > chosen.window_s:
                raise SystemExit("the window is over; run the same command again to go on")
            prove = contestant[1] != "ceiling" and not one.proof
            run(*contestant, corpus, chosen.tokenizer, one, prove=prove)
        say(f"{corpus.name}: {label}: {one.last()}")
        if chosen.go_on:
            one.keep(corpus, label)

    if not chosen.quick:
        corpora["all"] = prepare("all", enough(given, 400_000_000))
    results: dict[str, dict[str, Run]] = {name: {} for name in corpora}
    for name, corpus in corpora.items():
        for turn in range(1, repeats + 1):
            for label, contestant in OURS_AND_CEILING.items():
                one_round(corpus, results[name], label, turn, contestant)
            for label, contestant in RIVALS.items():
                wanted = name in chosen.rivals_on or (label in EVERYWHERE and name != "all")
                if not wanted or (chosen.only and not any(word in label for word in chosen.only)):
                    continue
                if is_made(contestant[0]):
                    one_round(corpus, results[name], label, min(turn, rival_repeats), contestant)
                elif turn == 1:
                    missing[label] = contestant[0]
                    say(f"{label}: left out; run: python bench/rivals.py setup {contestant[0]}")
    first = list(corpora)[-1]
    again = restarted(corpora[first], chosen.tokenizer, float(np.median(results[first]["headrace"].wall_s)))

    report(
        __file__,
        doc=__doc__.replace("{cause}", CAUSE),
        tables={title(corpus): rendered(corpus, results[name]) for name, corpus in corpora.items()}
        | {"Restart": restart_words(again)}
        | ({"Left out": left_out(missing)} if missing else {}),
        goals=goals_of(corpora, results, again),
        data={
            "corpora": {
                name: {k: getattr(c, k) for k in ("text_bytes", "documents", "stored_gz", "text_gz")}
                for name, c in corpora.items()
            },
            "runs": {
                name: {
                    label: {
                        "wall_s": summary(one.wall_s),
                        "job_s": summary(one.job_s),
                        "peak_bytes": max(one.peak_bytes),
                        "out_bytes": one.out_bytes,
                        "proof": one.proof,
                        "summary": one.told,
                    }
                    for label, one in runs.items()
                }
                for name, runs in results.items()
            },
            "restart": again,
            "versions": versions("gigatoken", "pyarrow", "isal", "zstandard", "pysimdjson", "orjson"),
        },
        quick=chosen.quick,
    )
    for name, runs in results.items():
        if len({one.proof["hash"] for one in runs.values() if one.proof}) > 1:
            raise SystemExit(f"{name}: not all contestants made the same ids; the figures above do not count")


def enough(given: dict[str, list[Path]], text_bytes: int) -> list[Path]:
    """Files of all corpora, round and round, until there is text enough."""
    queues = [list(files) for files in given.values()]
    taken: list[Path] = []
    size = 0.0
    while any(queues) and size < text_bytes:
        for queue in queues:
            if queue and size < text_bytes:
                taken.append(queue.pop(0))
                size += prepare(taken[-1].parent.name + taken[-1].name, [taken[-1]]).text_bytes
    return taken


def title(corpus: Corpus) -> str:
    """A corpus in words."""
    return (
        f"{corpus.name}: {corpus.text_bytes / 1e6:.1f} MB of text, {corpus.documents:,} documents, "
        f"{len(corpus.files)} files, "
        f".jsonl.gz {corpus.stored_gz / 1e6:.1f} MB, bare text gzip -6 {corpus.text_gz / 1e6:.1f} MB"
    )


def rendered(corpus: Corpus, runs: dict[str, Run]) -> str:
    """One corpus' table."""
    ours = runs["headrace"]
    rows = []
    for label, one in runs.items():
        wall, job = float(np.median(one.wall_s)), float(np.median(one.job_s))
        same = (
            ""
            if not one.proof
            else ("same ids" if one.proof["hash"] == ours.proof.get("hash") else "DIFFERENT")
        )
        rows.append(
            [
                label,
                number(wall),
                spread(one.wall_s) if len(one.wall_s) > 1 else "n = 1",
                number(job),
                number(corpus.text_bytes / 1e6 / job),
                number(wall / float(np.median(ours.wall_s))) + " x",
                number(max(one.peak_bytes) / 2**20),
                number(one.out_bytes / 1e6) if one.out_bytes else "",
                same,
            ]
        )
    return table(
        ["contestant", "wall s", "spread", "job s", "job MB/s", "of ours", "peak MiB", "out MB", "proof"],
        rows,
    )


def left_out(missing: dict[str, str]) -> str:
    """Rivals that were not there: their goals are not shown to be met."""
    return "\n".join(
        f"- {label}: no environment; `python bench/rivals.py setup {environment}` makes it"
        for label, environment in missing.items()
    )


def restart_words(again: dict[str, Any]) -> str:
    """The restart as two sentences."""
    told = again["killed_told"]["summary"]
    return (
        f"Undisturbed {again['undisturbed_s']:.2f} s; killed at half of that it left "
        f"{again['bytes_left_by_the_killed_run'] / 1e6:.1f} MB and "
        f"{'looked' if again['looked_complete'] else 'did not look'} "
        f"complete; run again it took {again['killed_s']:.2f} s: of {told['units']} units "
        f"{again['units_done_when_killed']} were done when it was killed, {told['units_resumed']} were not done again. "
        f"Shards are "
        f"{'the same bytes' if again['same_bytes'] else 'DIFFERENT BYTES'} as undisturbed."
    )


def goals_of(
    corpora: dict[str, Corpus], results: dict[str, dict[str, Run]], again: dict[str, Any]
) -> list[Goal]:
    """Every bar of the claim, corpus by corpus."""
    goals: list[Goal] = []
    for name, corpus in corpora.items():
        runs = results[name]
        ours = runs["headrace"]
        wall, job = float(np.median(ours.wall_s)), float(np.median(ours.job_s))
        alone = float(np.median(runs["tokenizer alone"].job_s))
        if "HF datasets" in runs:
            goals.append(
                at_least(
                    f"{name}: against HF datasets",
                    float(np.median(runs["HF datasets"].wall_s)) / wall,
                    40,
                    "x",
                )
            )
        named = {label: float(np.median(one.wall_s)) for label, one in runs.items() if label in NAMED}
        if named:
            best = min(named, key=named.__getitem__)
            goals.append(
                at_least(f"{name}: against the fastest rival pipeline", named[best] / wall, 15, "x", best)
            )
        goals.append(
            at_least(
                f"{name}: of the tokenizer alone",
                100 * alone / job,
                65,
                "%",
                f"alone {number(corpus.text_bytes / 1e6 / alone)} MB/s",
            )
        )
        if name == "all":
            goals.append(
                at_least(
                    "400 MB of text, 2 cores",
                    corpus.text_bytes / 1e6 / job,
                    110,
                    "MB/s",
                    f"alone {number(corpus.text_bytes / 1e6 / alone)} MB/s; bar set where that is 170",
                )
            )
        else:
            bar = 1.05 if name == "code" else 1.0
            goals.append(
                at_most(
                    f"{name}: store against the .jsonl.gz", ours.out_bytes / corpus.stored_gz, bar, "x",
                    f"{number(ours.out_bytes / corpus.text_gz)} x the bare text's gzip -6",
                )
            )  # fmt: skip
        goals.append(at_most(f"{name}: peak memory, 2 workers", max(ours.peak_bytes) / 2**20, 1024, "MiB"))
    goals.append(
        Goal(
            claim="restart after SIGKILL at half time",
            wanted="same bytes, no finished unit done again",
            got=again["units_done_when_killed"] - again["killed_told"]["summary"]["units_resumed"],
            unit="finished units done again",
            met=again["same_bytes"]
            and not again["looked_complete"]
            and again["units_done_when_killed"] == again["killed_told"]["summary"]["units_resumed"],
            note=("same bytes" if again["same_bytes"] else "bytes differ")
            + f", {again['units_done_when_killed']} units were done when killed",
        )
    )
    return goals


if __name__ == "__main__":
    main()
