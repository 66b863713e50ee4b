"""Functions to time -> medians, spreads, goals met or missed, and one JSON and one Markdown file a benchmark.

Every file in this folder uses these few names, so that all results say the same things: which machine, how busy
it was, which commit, which versions, how often, and the spread beside the median.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

BENCH = Path(__file__).resolve().parent
CHECKOUT = BENCH.parent
DATA = Path(os.environ.get("HEADRACE_BENCH_DATA", BENCH / ".data"))
"""Prepared corpora and stores; large, never committed, made again when deleted."""


def run_worker(
    script: str, job: Mapping[str, Any], *, limit_s: float, killed: bool = False
) -> dict[str, Any]:
    """A contestant in a fresh process: what its last line says.

    Args:
        script: in bench/; its argument is the job as JSON.
        job: `way` names the contestant.
        limit_s: how long it may take.
        killed: it kills itself; the answer is then empty.
    """
    done = subprocess.run(
        [sys.executable, str(BENCH / script), json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    )
    if killed and done.returncode == -9:
        return {}
    if done.returncode:
        raise RuntimeError(f"{job['way']}: exit {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A claim with its bar, and what was measured against it."""

    claim: str
    wanted: str
    """The bar in words, with its unit."""
    got: float
    unit: str
    met: bool
    note: str = ""

    def row(self) -> list[str]:
        """The goal as a row of the table of goals."""
        return [
            self.claim,
            self.wanted,
            f"{number(self.got)} {self.unit}".strip(),
            "met" if self.met else "MISSED",
            self.note,
        ]


def at_least(claim: str, got: float, bar: float, unit: str = "", note: str = "") -> Goal:
    """A goal that is met from `bar` upwards."""
    return Goal(
        claim=claim, wanted=f">= {number(bar)} {unit}".strip(), got=got, unit=unit, met=got >= bar, note=note
    )


def at_most(claim: str, got: float, bar: float, unit: str = "", note: str = "") -> Goal:
    """A goal that is met up to `bar`."""
    return Goal(
        claim=claim, wanted=f"<= {number(bar)} {unit}".strip(), got=got, unit=unit, met=got <= bar, note=note
    )


def number(value: float) -> str:
    """Three significant figures, with thousands separated: 3470.2 -> 3,470; 0.01234 -> 0.0123."""
    if value != value:  # noqa: PLR0124  NaN is the only value that differs from itself
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0")


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and spread of n values: {"median", "min", "max", "n", "values"}."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
        "values": list(values),
    }


def spread(values: Sequence[float]) -> str:
    """Smallest to largest value, as a table shows it."""
    return f"{number(min(values))} - {number(max(values))}"


def interleave(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each contestant once a round, the first one moving on by one each round.

    A burst of someone else's work then falls on all of them, not on one.
    """
    names = list(contestants)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            values[name].append(contestants[name]())
            say(f"  round {turn + 1}/{repeats}  {name}: {number(values[name][-1])}")
    return values


def timed(call: Callable[[], Any], *, at_least_s: float = 0.3, warm: int = 1) -> float:
    """Seconds one call takes, over as many calls as fill `at_least_s`."""
    for _ in range(warm):
        call()
    calls, start = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        took = time.perf_counter() - start
        if took >= at_least_s:
            return took / calls


def pin(core: int | None = None) -> int:
    """Keep this process, and what it starts from now on, on one core; the last one unless told."""
    core = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {core})
    return core


def peak_resident_bytes() -> int:
    """Most memory that this process ever held, from the kernel's own mark."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM line; this benchmark needs Linux")


def resident_bytes() -> int:
    """Memory that this process holds now."""
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TreeMemory:
    """Most memory that a process and its children held together.

    Proportional set size: a page that several processes share counts once, so that forked workers are not
    counted twice. Sampled, because the kernel keeps no mark for a tree; 5 Hz costs under 1 % of a core.
    """

    def __init__(self, pid: int, *, every_s: float = 0.2) -> None:
        self._pid, self._every_s = pid, every_s
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, _tree(self._pid))))
            self._done.wait(self._every_s)


def _tree(pid: int) -> list[int]:
    found, ahead = [], [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*"):
            with contextlib.suppress(OSError):
                ahead += map(int, (task / "children").read_text().split())
    return found


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def machine() -> dict[str, Any]:
    """What ran it, and how busy that was; no names."""
    from headrace.native import native_target  # contestants' environments do not have it

    model, memory = "unknown", 0
    with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with Path("/proc/meminfo").open(encoding="ascii") as info:
        memory = int(info.readline().split()[1]) * 1024
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "native": native_target(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "utc": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def commit() -> str:
    """Commit of the checkout, marked where the library differs from it."""
    git = ["git", "-C", str(CHECKOUT)]
    head = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode:
        return "not a git checkout"
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "src"], capture_output=True, text=True, check=False
    ).stdout
    return head.stdout.strip() + (" + changes in src" if dirty.strip() else "")


def versions(*names: str) -> dict[str, str]:
    """Installed versions of packages in this environment; a missing one is said to be missing."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads in a terminal too; all but the first column right-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    pad = [str.ljust] + [str.rjust] * (len(head) - 1)

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(pad[i](cell, widths[i]) for i, cell in enumerate(row)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def report(
    script: str,
    *,
    doc: str,
    tables: Mapping[str, str],
    goals: Sequence[Goal],
    data: Mapping[str, Any],
    quick: bool,
) -> Path:
    """Write results/NAME.json and NAME.md, and print the latter; quick runs go beside the data instead."""
    name = Path(script).stem
    folder = DATA / "quick-results" if quick else BENCH / "results"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "commit": commit(), "quick": quick}
    head = about["machine"]
    lines = [
        f"# {name}" + (" (quick run: for correctness, not for figures)" if quick else ""),
        "",
        "```text",
        doc.strip(),
        "```",
        "",
        (
            f"{head['cpu']}, {head['cores']} cores, {head['memory_gib']} GiB, Linux {head['kernel']}, "
            f"Python {head['python']}, native {head['native']}; "
            f"load average {' '.join(map(str, head['load_average']))} at the end; "
            f"{head['utc']} UTC; commit {about['commit']}"
        ),
        "",
    ]
    for title, body in tables.items():
        lines += [f"## {title}", "", body, ""]
    if goals:
        lines += [
            "## Goals",
            "",
            table(["claim", "goal", "measured", "", "note"], [goal.row() for goal in goals]),
            "",
        ]
    text = "\n".join(lines)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    whole = {
        **about,
        "goals": [{k: getattr(goal, k) for k in Goal.__dataclass_fields__} for goal in goals],
        **data,
    }
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1, default=str) + "\n", encoding="utf-8")
    print(text, flush=True)
    return folder / f"{name}.md"


def say(text: str) -> None:
    """A line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def options(doc: str, *, repeats: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small and short: checks that it runs, not how fast"
    )
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"interleaved rounds (default {repeats})"
    )
    return parser


@contextlib.contextmanager
def waited(label: str) -> Iterator[None]:
    """Say how long a preparation took."""
    start = time.perf_counter()
    yield
    say(f"{label}: {time.perf_counter() - start:.1f} s")
