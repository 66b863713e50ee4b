"""Names of rivals -> Python environments of their own, and processes that run in them.

    python bench/rivals.py setup            # makes all of them in .venv-rivals/ in the checkout, ~5 GB
    python bench/rivals.py setup litdata    # one of them
    python bench/rivals.py list

Several environments, because the rivals disagree: MosaicML Streaming wants transformers 4 and NumPy 2.1, and LitData
and Streaming both ask for a torchvision that does not import beside the pinned CPU build of torch. Neither
needs it for tokens: LitData never imports it there, Streaming imports two names at start-up for its image
classes. So both are installed without their declared dependencies (the requirements files name all that is
used, pinned), and Streaming's environment gets a stand-in for those two names.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import BENCH, CHECKOUT, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOME = CHECKOUT / ".venv-rivals"
ENVIRONMENTS = {
    "field": "HF datasets, grain + ArrayRecord, Megatron-core, datatrove",
    "litdata": "LitData",
    "streaming": "MosaicML Streaming",
    "openvino": "OpenVINO GenAI",
    "weights": "safetensors, transformers, fastsafetensors, runai-model-streamer",
}
OURS = "ours"
"""The environment that runs the benchmark itself."""

# The two names that streaming.vision imports; it never calls them for tokens.
TORCHVISION_STAND_IN = {
    "__init__.py": '"""Stand-in: torchvision has no build beside this torch, and tokens need none."""\n',
    "datasets/__init__.py": "class VisionDataset:\n    pass\n\n\nclass CIFAR10:\n    pass\n",
    "transforms/__init__.py": "",
    "transforms/functional.py": 'def to_tensor(image):\n    raise RuntimeError("stand-in torchvision")\n',
}


def interpreter(environment: str) -> Path:
    """Python of an environment.

    Raises:
        SystemExit: the environment has not been made; says how to make it.
    """
    if environment == OURS:
        return Path(sys.executable)
    python = HOME / environment / "bin" / "python"
    if not (HOME / environment / ".made").exists():
        raise SystemExit(
            f"{python.parent.parent}: no environment for {ENVIRONMENTS[environment]}. "
            f"Run: python bench/rivals.py setup {environment}"
        )
    return python


def is_made(environment: str) -> bool:
    """Whether an environment is complete."""
    return environment == OURS or (HOME / environment / ".made").exists()


def setup(environment: str) -> None:
    """Make one environment, pinned; nothing to do when its requirements have not changed."""
    wanted = (BENCH / f"requirements-{environment}.txt").read_text(encoding="utf-8")
    mark = HOME / environment / ".made"
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        say(f"{environment}: there already ({mark.parent})")
        return
    say(f"{environment}: installing {ENVIRONMENTS[environment]} into {mark.parent}")
    venv.create(HOME / environment, with_pip=True)
    python = HOME / environment / "bin" / "python"
    # --no-deps: the file names everything, so nothing unpinned (a torch built for CUDA, a torchvision) comes
    # along.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r"]
    subprocess.run([*pip, str(BENCH / f"requirements-{environment}.txt")], check=True)
    if environment == "streaming":
        site = next((HOME / environment / "lib").glob("python3*/site-packages"))
        for name, text in TORCHVISION_STAND_IN.items():
            path = site / "torchvision" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    mark.write_text(wanted, encoding="utf-8")


def quiet_environment() -> dict[str, str]:
    """Variables that keep rivals off the network and from printing, and tokenizers to one thread."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "DISABLE_VERSION_CHECK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
    }


# Reads process groups from its standard input, and kills those still named there when the writer is gone: a
# benchmark that is itself killed (by a time limit, say) leaves no stopped worker behind.
MINDER = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    sign, group = line[0], int(line[1:])
    groups.add(group) if sign == "+" else groups.discard(group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
_minder: subprocess.Popen[str] | None = None


def mind(sign: str, group: int) -> None:
    """Name ("+") a process group to be killed when this process ends, or take it back ("-")."""
    global _minder
    if _minder is None:
        _minder = subprocess.Popen(
            [sys.executable, "-c", MINDER], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
    assert _minder.stdin
    with contextlib.suppress(BrokenPipeError):
        _minder.stdin.write(f"{sign}{group}\n")
        _minder.stdin.flush()


class WorkerError(RuntimeError):
    """A contestant died, reported an error of its own, or did not answer in time."""


class Worker:
    """A process in an environment that answers one JSON line with one JSON line.

    It lives through all rounds, so that interleaved rounds do not pay for imports. Between its turns it and
    its children are stopped (SIGSTOP): waiting loaders poll and prefetch, and 17 of them halved the speed of
    the one whose turn it was.
    """

    def __init__(self, environment: str, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [str(interpreter(environment)), str(BENCH / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("HEADRACE_BENCH_VERBOSE") else subprocess.DEVNULL,
            env=quiet_environment(),
            text=True,
            start_new_session=True,
        )
        mind("+", self._process.pid)
        self._label = f"{script} {' '.join(arguments[:1])}"

    def ask(self, *, limit_s: float = 120.0, **message: Any) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises:
            WorkerError: the process died, reported an error of its own, or was silent for `limit_s` and was
                killed.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died; the empty answer below says so
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        late = threading.Timer(limit_s, self._signal, (signal.SIGKILL,))
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        self._signal(signal.SIGSTOP if line else signal.SIGKILL)
        if not line:
            code = self._process.wait()
            why = (
                f"no answer to {message.get('do')!r} in {limit_s:.0f} s"
                if code == -9
                else f"ended with {code}"
            )
            raise WorkerError(f"{self._label}: {why}; see it with HEADRACE_BENCH_VERBOSE=1")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self._label}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process and its children; it is given five seconds to go by itself."""
        assert self._process.stdin
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._signal(signal.SIGKILL)
        self._process.wait()
        mind("-", self._process.pid)

    def _signal(self, number: signal.Signals) -> None:
        """To the process and all its children: they are a session of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def opened(
    contestants: Mapping[str, tuple[str, Sequence[str]]], script: str = "load_worker.py"
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]], dict[str, str]]:
    """A worker for each contestant that can be had, and why the others are left out.

    Each converts the tokens into its own format in a first process, and is opened in a fresh one.

    Args:
        contestants: label -> (environment, arguments of the script).
        script: which worker script.

    Returns:
        Workers, their answers to "open", and for those left out the reason.
    """
    workers, answers, missing = {}, {}, {}
    for label, (environment, arguments) in contestants.items():
        if not is_made(environment):
            missing[label] = f"no environment; run: python bench/rivals.py setup {environment}"
        else:
            try:
                first = Worker(environment, script, *arguments)
                try:
                    first.ask(do="prepare", limit_s=240)
                finally:
                    first.close()
                worker = Worker(environment, script, *arguments)
                try:
                    answers[label] = worker.ask(do="open")
                except WorkerError:
                    worker.close()
                    raise
            except (WorkerError, OSError) as error:
                missing[label] = str(error)
            else:
                workers[label] = worker
                say(f"{label}: open in {answers[label]['open_s']:.2f} s")
        if label in missing:
            say(f"{label}: LEFT OUT, {missing[label]}")
    return workers, answers, missing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["setup", "list"])
    parser.add_argument(
        "names", nargs="*", choices=[[], *ENVIRONMENTS], help="environments; all unless named"
    )
    chosen = parser.parse_args()
    for name in chosen.names or ENVIRONMENTS:
        if chosen.do == "setup":
            setup(name)
        print(f"{name:10} {'ready' if is_made(name) else 'missing':8} {ENVIRONMENTS[name]}")


if __name__ == "__main__":
    main()
