"""Names of rivals -> Python environments of their own, and processes that run in them.

    python bench/rivals.py setup            # makes .venv-rivals/{field,litdata,streaming} in the checkout, ~4
    GB python bench/rivals.py setup litdata    # one of them
    python bench/rivals.py list

Three environments, because the rivals disagree: MosaicML Streaming wants transformers 4 and NumPy 2.1, and
          LitData
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
import venv
from pathlib import Path
from typing import Any

from measure import BENCH, CHECKOUT, say

HOME = CHECKOUT / ".venv-rivals"
ENVIRONMENTS = {
    "field": "HF datasets, grain + ArrayRecord, Megatron-core, datatrove",
    "litdata": "LitData",
    "streaming": "MosaicML Streaming",
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
        self._label = f"{script} {' '.join(arguments[:1])}"

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises:
            RuntimeError: the process died, or reported an error of its own.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the empty answer below says so
        line = self._process.stdout.readline()
        self._signal(signal.SIGSTOP if line else signal.SIGKILL)
        if not line:
            raise RuntimeError(
                f"{self._label}: ended with {self._process.wait()}; see it with HEADRACE_BENCH_VERBOSE=1"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._label}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process; it is given ten seconds."""
        assert self._process.stdin
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To the process and all its children: they are a session of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


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
