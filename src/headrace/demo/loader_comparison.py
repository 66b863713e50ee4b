"""The same text, loaded by a tutorial's code and by headrace -> time to first batch, tokens/s, peak memory of each.

The naive loader is what a tutorial shows: all lines of the gzip files in a list, tokenizing in `__getitem__`,
`DataLoader(batch_size=32, shuffle=True)`. Every token that it tokenizes is counted, cut into rows without padding
or truncation. Each loader runs in a process of its own; the time of imports is not counted for either.
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
from headrace.platform import peak_memory_nbytes

BATCH_ROWS = 32
START_LIMIT_S = 600.0
"""A measuring process that has no result by then is killed."""
_CHILD = "import sys; from headrace.demo.loader_comparison import measure_job; measure_job(sys.argv[1])"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderMeasurement:
    """Times and memory of one loader."""

    first_batch_s: float
    """From opening the data to the first batch; imports are done before."""
    tokens_per_s: float
    """After the first batch: input ids and labels, int64."""
    peak_bytes: int
    """Largest resident memory of the process."""
    data_bytes: int
    """The part of peak_bytes above the memory after the imports."""
    batches: int
    measured_s: float


def compare_loaders(
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
    """Measure both loaders on the same text, one after the other.

    Args:
        files: .jsonl.gz files for the naive loader.
        tokenizer: the tokenizer.json that the store was made with, for the naive loader.
        store: the same text, ingested.
        seq_len: T; both deliver batches of 32 rows of T inputs and T labels.
        seconds: how long each loader is measured after its first batch.
        once_s: seconds that the ingest took, for the table.
        epoch_tokens: tokens of the text.
        seed: seed of both orders.
        progress: called with (loaders measured, 2, note).

    Returns:
        The content of naive.json, which headrace.profile shows as a table.

    Raises:
        WorkerError: a measuring process failed; the last line of its stderr is in the message.
    """
    shared = {"seq_len": seq_len, "seconds": seconds, "seed": seed}
    show = progress or (lambda *_: None)
    show(0, 2, "the naive loader")
    naive = _run_job(
        {"loader": "naive", "files": [str(f) for f in files], "tokenizer": str(tokenizer), **shared}
    )
    show(1, 2, "headrace")
    ours = _run_job({"loader": "headrace", "store": str(store), **shared})
    show(2, 2, "")
    what = (
        "Naive: all lines of the gzip files in a list, json.loads and tokenizing in __getitem__, "
        f"DataLoader(batch_size={BATCH_ROWS}, shuffle=True). Both deliver batches of {BATCH_ROWS} rows of "
        f"{seq_len} int64 inputs and labels, shuffled, each in a process of its own."
    )
    note = (
        "Every token that the naive loader tokenizes is counted, though most scripts truncate documents. "
        "The time of imports is not counted for either."
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


def _run_job(job: dict[str, Any]) -> dict[str, Any]:
    argument = json.dumps({**job, "parent": os.getpid()})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, argument],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            timeout=START_LIMIT_S + job["seconds"],
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(
            f"measuring the {job['loader']} loader: no result after {error.timeout:.0f} s. Give fewer files."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise WorkerError(f"measuring the {job['loader']} loader: exit code {done.returncode}: {lines[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def measure(
    open_batches: Callable[[], Iterator[tuple[Any, Any]]],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    resident: Callable[[], tuple[int, int]] | None = None,
) -> LoaderMeasurement:
    """Measure a loader that yields (input ids, labels), both [B, T], without end.

    Args:
        open_batches: opens the data; the time starts before the call.
        seconds: how long to measure after the first batch.
        clock: returns seconds.
        resident: returns the resident bytes of this process, now and at the peak.
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
    return LoaderMeasurement(
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
        peak = peak_memory_nbytes() or 0
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
    """Import what the naive loader needs; return the function that opens it."""
    import torch
    from tokenizers import Tokenizer
    from torch.utils.data import DataLoader, Dataset

    class LineDataset(Dataset[list[int]]):
        """All lines of all files in memory; a document is tokenized when it is taken."""

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
        loader = DataLoader(LineDataset(), batch_size=BATCH_ROWS, shuffle=True, collate_fn=list)
        ids_left: list[int] = []
        size = BATCH_ROWS * (seq_len + 1)
        while True:
            for documents in loader:
                for ids in documents:
                    ids_left += ids
                while len(ids_left) >= size:
                    rows = torch.tensor(ids_left[:size]).view(BATCH_ROWS, seq_len + 1)
                    del ids_left[:size]
                    yield rows[:, :-1], rows[:, 1:]

    return batches


def headrace_batches(store: str, *, seq_len: int, seed: int) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Import what headrace's loader needs; return the function that opens it."""
    import torch  # noqa: F401 - the loader gives tensors then, and the import is not timed

    from headrace.load import Loader
    from headrace.store import Store

    def batches() -> Iterator[tuple[Any, Any]]:
        with Loader(
            Store.open(store), seq_len=seq_len, batch_size=BATCH_ROWS, seed=seed, epochs=None
        ) as loader:
            for batch in loader:
                yield batch.input_ids, batch.labels

    return batches


def measure_job(argument: str) -> None:
    """Run in a measuring process: read a job as JSON, print a LoaderMeasurement as JSON."""
    job = json.loads(argument)
    shape = {"seq_len": job["seq_len"], "seed": job["seed"]}
    if job["loader"] == "naive":
        open_batches = naive_batches(job["files"], job["tokenizer"], **shape)
    else:
        open_batches = headrace_batches(job["store"], **shape)

    def clock() -> float:
        if os.getppid() != job["parent"]:
            raise SystemExit("the demo that started this process was killed")
        return time.perf_counter()

    sys.stdout.write(json.dumps(asdict(measure(open_batches, seconds=job["seconds"], clock=clock))))
