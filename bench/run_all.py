"""Every benchmark, one after the other -> bench/results/, and one page that says which goals are met.

    python bench/rivals.py setup
    python bench/run_all.py --corpus DIR --docs DIR --prose DIR --code DIR --tokenizer tokenizer.json
    python bench/run_all.py --quick       # checks that all run; figures go to bench/.data/quick-results

Each ends within --limit seconds (600) or is ended; what fails or is ended is named, and the rest goes on. Run it
on a quiet machine: each result states the load average.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from measure import BENCH, DATA, Goal, number, say, table
from rivals import mind

if TYPE_CHECKING:
    from pathlib import Path

# Not claims of their own: the scaffold, and what runs inside the contestants' environments.
HELPERS = ("corpora", "measure", "rivals", "run_all", "slow_media")
SCRIPTS = tuple(
    path.stem
    for path in sorted(BENCH.glob("*.py"))
    if path.stem not in HELPERS and not path.stem.endswith("_worker")
)


def run(name: str, *, quick: bool, variables: dict[str, str], limit_s: float) -> str:
    """Run one benchmark, and end it and all it started when its time is up; what went wrong, or nothing."""
    process = subprocess.Popen(
        [sys.executable, str(BENCH / f"{name}.py"), *(["--quick"] if quick else [])],
        env=variables,
        start_new_session=True,
    )
    mind("+", process.pid)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"ended after {limit_s:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        mind("-", process.pid)
    return f"exit {code}" if code else ""


def page(folder: Path, failed: dict[str, str]) -> str:
    """All goals of the results in a folder, as one Markdown page."""
    rows, about = [], []
    for path in sorted(folder.glob("*.json")):
        name = path.stem
        told = json.loads(path.read_text(encoding="utf-8"))
        machine = told["machine"]
        about.append(
            f"- `{name}`: {machine['cpu']}, commit {told['commit']}, {machine['utc']}, "
            f"load average {machine['load_average']}"
        )
        rows += [[name, *Goal(**goal).row()] for goal in told["goals"]]
    missed = sum(row[4] == "MISSED" for row in rows)
    return "\n".join(
        [
            "# Goals and figures",
            "",
            f"{len(rows) - missed} of {len(rows)} met; tables, spreads and causes are beside this file.",
            "",
            table(["benchmark", "claim", "goal", "measured", "", "note"], rows),
            "",
            *about,
            *(
                f"- `{name}`: FAILED in the last run ({why}); a figure of it above is older"
                for name, why in failed.items()
            ),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=SCRIPTS, default=SCRIPTS)
    parser.add_argument(
        "--page-only", action="store_true", help="write the page from the results that are there"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for each benchmark (default 600)")
    parser.add_argument("--tokenizer", default=os.environ.get("HEADRACE_BENCH_TOKENIZER"))
    for name in ("corpus", "docs", "prose", "code"):
        parser.add_argument(
            f"--{name}", nargs="*", default=os.environ.get(f"HEADRACE_BENCH_{name.upper()}", "").split()
        )
    chosen = parser.parse_args()
    given = {
        f"HEADRACE_BENCH_{name.upper()}": " ".join(getattr(chosen, name))
        for name in ("corpus", "docs", "prose", "code")
    }
    variables = {**os.environ, **given}
    if chosen.tokenizer:
        variables["HEADRACE_BENCH_TOKENIZER"] = chosen.tokenizer
    failed = {}
    for name in () if chosen.page_only else chosen.only:
        say(f"== {name}")
        start = time.perf_counter()
        why = run(name, quick=chosen.quick, variables=variables, limit_s=chosen.limit)
        say(f"== {name}: {why or 'done'}, {number(time.perf_counter() - start)} s")
        if why:
            failed[name] = why
    folder = DATA / "quick-results" if chosen.quick else BENCH / "results"
    text = page(folder, failed)
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text)
    if failed:
        raise SystemExit("failed: " + ", ".join(f"{name} ({why})" for name, why in failed.items()))


if __name__ == "__main__":
    main()
