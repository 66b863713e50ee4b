"""The same text, loaded naively and by headrace -> time to first batch, tokens/s, peak memory of each.

Naive is what a tutorial shows: the whole gzip files in a list of lines, tokenizing
in `__getitem__`, `DataLoader(batch_size=32, shuffle=True)`. It is counted
generously: every token that it tokenizes counts, cut into rows without padding
or truncation. Each way runs in a process of its own; importing libraries is not
counted for either.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.errors import WorkerError

BATCH_ROWS = 32
START_LIMIT_S = 600.0
"""A child that has not measured anything by then is ended."""
_CHILD = "import sys; from headrace.demo.naive import child; child(sys.argv[1])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one way of loading took."""

    first_batch_s: float
    """From opening the data to the first batch in hand; imports are done by then."""
    tokens_per_s: float
    """After the first batch: input ids and labels, int64."""
    peak_bytes: int
    """Largest resident memory of the process."""
    data_bytes: int
    """Of it, what was not there when the imports were done."""
    batches: int
    measured_s: float


def compare(
    *,
    files: Sequence[Path],
    tokenizer: Path,
    store: Path,
    seq_len: int,
    seconds: float,
    once_s: float,
    epoch_tokens: int,
    seed: int = 0,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> dict[str, Any]:
    """Measure both ways on the same text, one after the other.

    Args:
        files: .jsonl.gz, for the naive way.
        tokenizer: tokenizer.json, for the naive way; the one that the store was made with.
        store: the same text, ingested.
        seq_len: T; both deliver batches of 32 rows of T inputs and T labels.
        seconds: how long each way is measured after its first batch.
        once_s: what ingest took, for the table.
        epoch_tokens: tokens of the text.
        seed: of both orders.
        progress: called with (ways measured, 2, note).

    Returns:
        What profile/rivals.py turns into a table.

    Raises:
        WorkerError: a child failed; its last words are in the message.
    """
    shared = {"seq_len": seq_len, "seconds": seconds, "seed": seed}
    report = progress or (lambda *_: None)
    report(0, 2, "the naive way")
    naive = _child({"way": "naive", "files": [str(f) for f in files], "tokenizer": str(tokenizer), **shared})
    report(1, 2, "headrace")
    ours = _child({"way": "headrace", "store": str(store), **shared})
    report(2, 2, "")
    what = (
        "Naive: the whole gzip files in a list of lines, json.loads and tokenizing in __getitem__, "
        f"DataLoader(batch_size={BATCH_ROWS}, shuffle=True). Both deliver batches of {BATCH_ROWS} rows of "
        f"{seq_len} int64 inputs and labels, shuffled, each in a process of its own."
    )
    note = (
        "Counted generously: every token that the naive way tokenizes counts, though most scripts cut "
        "documents off and throw the rest away. Importing libraries counts for neither."
    )
    return {
        "what": what,
        "notes": [note],
        "batch_rows": BATCH_ROWS,
        "seq_len": seq_len,
        "once_s": once_s,
        "epoch_tokens": epoch_tokens,
        "naive": naive,
        "headrace": ours,
    }


def _child(job: dict[str, Any]) -> dict[str, Any]:
    words = json.dumps({**job, "parent": os.getpid()})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            timeout=START_LIMIT_S + job["seconds"],
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(
            f"loading by {job['way']}: no result after {error.timeout:.0f} s; is the corpus too large?"
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise WorkerError(f"loading by {job['way']}: exit code {done.returncode}: {said[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def measure(
    open_batches: Callable[[], Iterator[tuple[Any, Any]]],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    resident: Callable[[], tuple[int, int]] | None = None,
) -> Measured:
    """Time a way of loading that gives (input ids, labels), both [B, T], without end.

    Args:
        open_batches: opens the data; the time starts before.
        seconds: measured after the first batch.
        clock: seconds.
        resident: (now, peak) bytes of this process.
    """
    resident = resident or resident_bytes
    before, _ = resident()
    start = clock()
    batches = open_batches()
    next(batches)
    first = clock()
    tokens = count = 0
    while (now := clock()) - first < seconds:
        input_ids, labels = next(batches)
        assert input_ids.shape == labels.shape
        tokens += input_ids.numel()
        count += 1
    _, peak = resident()
    return Measured(
        first_batch_s=first - start,
        tokens_per_s=tokens / (now - first) if count else 0.0,
        peak_bytes=peak,
        data_bytes=max(0, peak - before),
        batches=count,
        measured_s=now - first,
    )


def resident_bytes() -> tuple[int, int]:
    """Resident memory of this process now, and its peak, in bytes.

    From /proc where there is one: Linux's ru_maxrss of a child starts at its parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    sizes = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if "kB" in rest
    }
    return sizes["VmRSS"], sizes["VmHWM"]


def naive_batches(
    files: Sequence[str], tokenizer: str, *, seq_len: int, seed: int
) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """The naive way, ready to be opened: libraries are imported, nothing is read."""
    import torch
    from tokenizers import Tokenizer
    from torch.utils.data import DataLoader, Dataset

    class Lines(Dataset[list[int]]):
        """All lines of all files in memory; a document is tokenized when it is asked for."""

        def __init__(self) -> None:
            self.tokenizer = Tokenizer.from_file(tokenizer)
            self.eos: int = self.tokenizer.token_to_id("<|endoftext|>") or 0
            self.lines: list[str] = []
            for path in files:
                with gzip.open(path, "rt", encoding="utf-8") as lines:
                    self.lines += lines.readlines()

        def __len__(self) -> int:
            return len(self.lines)

        def __getitem__(self, index: int) -> list[int]:
            text = json.loads(self.lines[index])["text"]
            return [*self.tokenizer.encode(text, add_special_tokens=False).ids, self.eos]

    def batches() -> Iterator[tuple[Any, Any]]:
        torch.manual_seed(seed)
        loader = DataLoader(Lines(), batch_size=BATCH_ROWS, shuffle=True, collate_fn=list)
        waiting: list[int] = []
        size = BATCH_ROWS * (seq_len + 1)
        while True:
            for documents in loader:
                for ids in documents:
                    waiting += ids
                while len(waiting) >= size:
                    rows = torch.tensor(waiting[:size]).view(BATCH_ROWS, seq_len + 1)
                    del waiting[:size]
                    yield rows[:, :-1], rows[:, 1:]

    return batches


def headrace_batches(store: str, *, seq_len: int, seed: int) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Loading by headrace, ready to be opened."""
    import torch  # noqa: F401 - so that the loader gives tensors, and its import is not timed

    from headrace.load import Loader
    from headrace.store import Store

    def batches() -> Iterator[tuple[Any, Any]]:
        with Loader(
            Store.open(store), seq_len=seq_len, batch_size=BATCH_ROWS, seed=seed, epochs=None
        ) as loader:
            for batch in loader:
                yield batch.input_ids, batch.labels

    return batches


def child(words: str) -> None:
    """What a measuring process does: its job is one JSON object, its result another on stdout."""
    job = json.loads(words)
    shape = {"seq_len": job["seq_len"], "seed": job["seed"]}
    if job["way"] == "naive":
        opened = naive_batches(job["files"], job["tokenizer"], **shape)
    else:
        opened = headrace_batches(job["store"], **shape)

    def clock() -> float:
        if os.getppid() != job["parent"]:
            raise SystemExit("the demo that asked for this was killed")
        return time.perf_counter()

    sys.stdout.write(json.dumps(asdict(measure(opened, seconds=job["seconds"], clock=clock))))
