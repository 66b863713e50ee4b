"""Every benchmark, one after the other -> bench/results/, and one page that says which goals are met.

    python bench/rivals.py setup
    python bench/run_all.py --corpus DIR --docs DIR --prose DIR --code DIR --tokenizer tokenizer.json
    python bench/run_all.py --quick       # checks that all run; figures go to bench/.data/quick-results

About 30 minutes, most of it rivals tokenizing. Run it on a quiet machine: each result states the load
          average.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from measure import BENCH, DATA, Goal, number, say, table

if TYPE_CHECKING:
    from pathlib import Path

LOADING = ("order_permute", "load_tokens", "load_codecs", "load_open", "load_wait", "load_s3")
SCRIPTS = (*LOADING, "ingest")


def page(folder: Path) -> str:
    """All goals of the results in a folder, as one Markdown page."""
    rows, about = [], []
    for name in SCRIPTS:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        machine = told["machine"]
        about.append(
            f"- `{name}`: commit {told['commit']}, {machine['utc']}, load average {machine['load_average']}"
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
    failed = []
    for name in () if chosen.page_only else chosen.only:
        say(f"== {name}")
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(BENCH / f"{name}.py"), *(["--quick"] if chosen.quick else [])],
            env=variables,
            check=False,
        )
        say(f"== {name}: exit {done.returncode}, {number(time.perf_counter() - start)} s")
        if done.returncode:
            failed.append(name)
    folder = DATA / "quick-results" if chosen.quick else BENCH / "results"
    text = page(folder)
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
