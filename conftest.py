"""Markdown pages -> tests: every `python` and `sh` block of the README and of docs/ is run.

Blocks of one page share a namespace and an empty working directory, in reading
order. A `console` or `text` block is only shown.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).parent


def _run_shell(example: Example) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")


def _enter(namespace: dict[str, Any]) -> None:
    namespace["_home"] = str(Path.cwd())
    namespace["_folder"] = tempfile.TemporaryDirectory(prefix="headrace-docs-")
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser(language="sh", evaluator=_run_shell)],
    patterns=["README.md", "docs/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()


# No test asks a network for anything, and none is told about a missing GPU.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A shell's background job ignores Ctrl-C, and so would all that it starts; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
