"""A contestant's name on the command line, commands on stdin -> batches, counted, timed or hashed, on stdout.

    python bench/load_worker.py CONTESTANT FOLDER [--workers 0|1] [--seed 7]

Runs in the contestant's own environment (see rivals.py), so it imports nothing of this project but what is
          its
own contestant's. FOLDER has tokens.npy and ends.npy (see corpora.py); each contestant converts them once into
its own format, in FOLDER/CONTESTANT, as its documentation says.

Every contestant yields batches of 32 rows of 2,048 tokens in a shuffled order. `ids(batch)` gives them back
          as one
[32, 2048] array for hashing; it is not called while timing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

B, T = 32, 2048  # rows a batch, tokens a row


@dataclass(frozen=True)
class Contestant:
    """What a contestant has to give."""

    epoch: Callable[[], Iterator[Any]]
    """A new iterator over one epoch, or over an endless stream."""
    ids: Callable[[Any], np.ndarray]
    """A batch's input tokens, [B, T]."""
    package: str
    """Distribution whose version is reported."""
    endless: bool = False
    """The iterator does not stop at an epoch's end; `num_rows` says where that is."""
    num_rows: int | None = None


# --- plain PyTorch: what people write themselves
# ---------------------------------------------------------------


def nanogpt(folder: Path, workers: int, seed: int) -> Contestant:  # noqa: ARG001  has no workers
    """Random windows, sampled with replacement, widened row by row and stacked: the get_batch idiom."""
    import torch

    path = raw_file(folder)
    torch.manual_seed(seed)

    def stream() -> Iterator[Any]:
        while True:
            # The map is opened anew for each batch, as the idiom does against a leak in long-lived maps.
            data = np.memmap(path, np.uint16, "r")
            at = torch.randint(len(data) - T, (B,))
            x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in at])
            y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in at])
            yield x, y

    return Contestant(stream, lambda batch: batch[0].numpy(), "torch", endless=True)


def memmap(folder: Path, workers: int, seed: int, *, stored: bool = False) -> Contestant:
    """A Dataset over a memory map in a shuffling DataLoader: int64 inputs and labels, or rows as stored."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    path = raw_file(folder)

    class Rows(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.tokens = np.memmap(path, np.uint16, "r")

        def __len__(self) -> int:
            return (len(self.tokens) - 1) // T

        def __getitem__(self, row: int) -> Any:
            window = self.tokens[row * T : row * T + T + 1]
            if stored:
                return torch.from_numpy(np.array(window))
            return torch.from_numpy(window.astype(np.int64))

    rows = Rows()
    torch.manual_seed(seed)
    loader = DataLoader(rows, batch_size=B, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    if stored:
        return Contestant(lambda: iter(loader), lambda batch: batch.numpy()[:, :T], "torch")

    def epoch() -> Iterator[Any]:
        # Split after collating: twice as fast as collating two tensors a row.
        for wide in loader:
            yield wide[:, :-1], wide[:, 1:]

    return Contestant(epoch, lambda batch: batch[0].numpy(), "torch")


def memmap_stored(folder: Path, workers: int, seed: int) -> Contestant:
    """The same, rows as stored (uint16) instead of widened: the strongest form of this rival."""
    return memmap(folder, workers, seed, stored=True)


# --- libraries
# ----------------------------------------------------------------------------------------------------


def litdata(folder: Path, workers: int, seed: int) -> Contestant:
    """optimize() with TokensLoader, then a shuffling StreamingDataset of local chunks."""
    import litdata as ld
    import torch
    from litdata.streaming.cache import Cache
    from litdata.streaming.item_loader import TokensLoader

    made = folder / "litdata"
    rows = 4096  # rows a chunk: 16 MiB, near LitData's own default of 64 MB, with several chunks to shuffle
    if not (made / "index.json").exists():
        made.mkdir(exist_ok=True)
        cache = Cache(str(made), chunk_size=rows * T, item_loader=TokensLoader())
        tokens = raw_tokens(folder)
        whole = (len(tokens) - 1) // T * T
        for i, start in enumerate(range(0, whole, rows * T)):
            cache[i] = torch.from_numpy(np.array(tokens[start : min(start + rows * T, whole)]))
        cache.done()
        cache.merge()
    dataset = ld.StreamingDataset(str(made), item_loader=TokensLoader(block_size=T), shuffle=True, seed=seed)
    loader = ld.StreamingDataLoader(dataset, batch_size=B, num_workers=workers)
    return Contestant(lambda: iter(loader), lambda batch: batch.numpy(), "litdata")


def hf_datasets(folder: Path, workers: int, seed: int, *, form: str = "numpy") -> Contestant:
    """An Arrow dataset of fixed-length rows in a shuffling DataLoader."""
    import datasets
    import torch
    from torch.utils.data import DataLoader

    made = folder / "hf"
    if not (made / "state.json").exists():
        tokens = raw_tokens(folder)
        whole = (len(tokens) - 1) // T
        rows = np.array(tokens[: whole * T]).reshape(whole, T)
        features = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("uint16"), length=T)})
        datasets.Dataset.from_dict({"input_ids": rows}, features=features).save_to_disk(str(made))
    data = datasets.load_from_disk(str(made)).with_format(form)
    torch.manual_seed(seed)
    collate = (lambda items: np.stack([item["input_ids"] for item in items])) if form == "numpy" else None
    loader = DataLoader(
        data,
        batch_size=B,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
    )
    if form == "numpy":
        return Contestant(lambda: iter(loader), lambda batch: batch, "datasets")
    return Contestant(lambda: iter(loader), lambda batch: batch["input_ids"].numpy(), "datasets")


def hf_datasets_torch(folder: Path, workers: int, seed: int) -> Contestant:
    """The same in torch format, which widens to int64."""
    return hf_datasets(folder, workers, seed, form="torch")


def array_record(folder: Path) -> Any:
    import grain
    from array_record.python.array_record_module import ArrayRecordWriter

    made = folder / "rows.array_record"
    if not made.exists():
        half = made.with_suffix(".half")
        writer = ArrayRecordWriter(str(half), "group_size:1")
        tokens = raw_tokens(folder)
        for row in range((len(tokens) - 1) // T):
            writer.write(tokens[row * T : row * T + T].tobytes())
        writer.close()
        half.rename(made)
    return grain.sources.ArrayRecordDataSource([str(made)])


def grain_map(folder: Path, workers: int, seed: int) -> Contestant:  # noqa: ARG001  has no workers
    """Grain MapDataset on ArrayRecord, batches by random access in this process."""
    import grain

    data = (
        grain.MapDataset.source(array_record(folder))
        .shuffle(seed=seed)
        .map(lambda record: np.frombuffer(record, np.uint16))
        .batch(B)
    )
    # No reading threads: on one core they only add hand-overs.
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return Contestant(lambda: iter(data.to_iter_dataset(reading)), lambda batch: batch, "grain")


class Decode:
    """bytes -> uint16 row; made a grain transform when grain is there."""

    def map(self, record: bytes) -> np.ndarray:
        return np.frombuffer(record, np.uint16)


def grain_loader(folder: Path, workers: int, seed: int) -> Contestant:
    """Grain's DataLoader on ArrayRecord, with its own worker processes."""
    import grain

    source = array_record(folder)
    decode = type("DecodeMap", (Decode, grain.transforms.Map), {})
    globals()["DecodeMap"] = decode  # workers find it by name
    decode.__module__ = __name__

    def epoch() -> Iterator[Any]:
        sampler = grain.samplers.IndexSampler(len(source), num_epochs=1, shuffle=True, seed=seed)
        return iter(
            grain.DataLoader(
                data_source=source,
                sampler=sampler,
                operations=[decode(), grain.transforms.Batch(B)],
                worker_count=workers,
            )
        )

    return Contestant(epoch, lambda batch: batch, "grain")


def megatron(folder: Path, workers: int, seed: int) -> Contestant:
    """Megatron-core's GPTDataset (documents and samples shuffled by its own indices) in a DataLoader."""
    import torch
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    from megatron.core.datasets.utils import Split
    from torch.utils.data import DataLoader

    prefix = folder / "megatron" / "text_document"
    if not prefix.with_suffix(".idx").exists():
        prefix.parent.mkdir(exist_ok=True)
        builder = IndexedDatasetBuilder(str(prefix) + ".bin", dtype=np.uint16)
        tokens, start = raw_tokens(folder), 0
        for end in np.load(folder / "ends.npy"):
            builder.add_document(tokens[start:end], [int(end) - start])
            start = int(end)
        builder.finalize(str(prefix) + ".idx")

    class Vocabulary:
        vocab_size, eod, pad, unique_identifiers = 50257, 50256, -1, {"name": "gpt2"}

    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=T,
        blend=([str(prefix)], None),
        split="1,0,0",
        path_to_cache=str(folder / "megatron" / "cache"),
        tokenizer=Vocabulary(),  # type: ignore[arg-type]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    low = GPTDataset.build_low_level_dataset(str(prefix), config)
    documents = np.arange(GPTDataset.numel_low_level_dataset(low), dtype=np.int32)
    data = GPTDataset(low, str(prefix), documents, None, Split.train, config)
    loader = DataLoader(data, batch_size=B, num_workers=workers, persistent_workers=workers > 0)  # type: ignore[var-annotated,arg-type]
    assert torch.tensor(0) == 0
    return Contestant(lambda: iter(loader), lambda batch: batch["tokens"].numpy(), "megatron-core")


def streaming(folder: Path, workers: int, seed: int) -> Contestant:
    """MDSWriter rows of uint16, StreamingDataset with its default shuffle, in a DataLoader."""
    import shutil

    import streaming as ms
    from torch.utils.data import DataLoader

    made = folder / "mds"
    if not (made / "index.json").exists():
        half = folder / "mds-half"
        shutil.rmtree(half, ignore_errors=True)
        tokens = raw_tokens(folder)
        with ms.MDSWriter(out=str(half), columns={"tokens": f"ndarray:uint16:{T}"}) as writer:
            for row in range((len(tokens) - 1) // T):
                writer.write({"tokens": np.array(tokens[row * T : row * T + T])})
        half.rename(made)
    from streaming.base import util

    util.clean_stale_shared_memory()
    data = ms.StreamingDataset(
        local=str(made), shuffle=True, shuffle_seed=seed, batch_size=B, replication=None
    )
    loader = DataLoader(
        data,
        batch_size=B,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=lambda items: np.stack([item["tokens"] for item in items]),
    )
    return Contestant(lambda: iter(loader), lambda batch: batch, "mosaicml-streaming")


# --- ours
# ---------------------------------------------------------------------------------------------------------


def ours(folder: Path, _workers: int, seed: int, *, codec: str = "none", **chosen: Any) -> Contestant:
    """headrace: batches in the stored type."""
    import headrace as hr

    opening = {k: chosen.pop(k) for k in ("verify",) if k in chosen}
    reading = {k: chosen.pop(k) for k in ("threads",) if k in chosen}
    if codec != "none":
        # Two fifths of the decoded tokens: with the default of 256 MiB this store would be decoded once and then
        # served from memory. The window of four groups (16 MiB) is that much smaller than the default, too.
        opening["cache_bytes"] = max(8 << 20, raw_tokens(folder).nbytes * 2 // 5)
        if chosen.get("shuffle") == "blocks":
            reading["window"] = 4
    store = hr.Store.open(ours_store(folder, codec), **opening)
    loader = hr.Loader(
        store, seq_len=T, batch_size=B, seed=seed, rank=0, world_size=1, reading=hr.ReadOptions(**reading), **chosen
    )  # fmt: skip

    def stream() -> Iterator[Any]:
        loader.seek(0)
        return iter(loader)

    return Contestant(
        stream, lambda batch: batch.tokens[:, :T], "headrace", endless=True, num_rows=store.num_rows(T)
    )


def ours_int64(folder: Path, workers: int, seed: int) -> Contestant:
    """headrace: int64 torch tensors of inputs and labels."""
    import torch

    plain = ours(folder, workers, seed)

    def stream() -> Iterator[Any]:
        for batch in plain.epoch():
            pair = batch.input_ids, batch.labels
            assert pair[0].dtype == torch.int64
            yield pair

    return Contestant(stream, lambda pair: pair[0].numpy(), "headrace", endless=True, num_rows=plain.num_rows)


def ours_store(folder: Path, codec: str, *, copies: int = 1) -> str:
    """A store of the folder's tokens, so many times over, in shards of 10 M tokens; made once."""
    from headrace.store import commit_store, write_shard
    from headrace.tokens import load_tokenizer

    made = folder / (f"ours-{codec}" if copies == 1 else f"ours-{codec}-x{copies}")
    if not (made / "manifest.json").exists():
        tokens, ends = raw_tokens(folder), np.load(folder / "ends.npy")
        entries = []
        for _ in range(copies):
            start = 0
            while start < len(tokens):
                last = np.searchsorted(ends, min(start + 10_000_000, len(tokens)))  # they end with a document
                stop = int(ends[min(last, len(ends) - 1)])
                inside = ends[(ends > start) & (ends <= stop)] - start
                name = f"shard-{len(entries):05d}"
                part = np.array(tokens[start:stop])
                entries.append(write_shard(str(made), name, part, inside, codec=codec))
                start = stop
        tokenizer = load_tokenizer(os.environ.get("HEADRACE_BENCH_TOKENIZER") or "gpt2")
        commit_store(str(made), entries, tokenizer=tokenizer, dtype=np.dtype(np.uint16), block_tokens=65536)
    return str(made)


CONTESTANTS: dict[str, Callable[[Path, int, int], Contestant]] = {
    "ours": ours,
    "ours-int64": ours_int64,
    "ours-blocks": lambda f, w, s: ours(f, w, s, shuffle="blocks"),
    "ours-lz4-blocks": lambda f, w, s: ours(f, w, s, codec="lz4", shuffle="blocks"),
    "ours-zstd-blocks": lambda f, w, s: ours(f, w, s, codec="zstd", shuffle="blocks"),
    "ours-zstd-blocks-inline": lambda f, w, s: ours(f, w, s, codec="zstd", shuffle="blocks", threads=0),
    "ours-zstd-blocks-ahead": lambda f, w, s: ours(f, w, s, codec="zstd", shuffle="blocks", threads=1),
    "ours-zstd-global": lambda f, w, s: ours(f, w, s, codec="zstd", shuffle="global"),
    "ours-unverified": lambda f, w, s: ours(f, w, s, verify=False),
    "ours-zstd-blocks-unverified": lambda f, w, s: ours(
        f, w, s, codec="zstd", shuffle="blocks", verify=False
    ),
    "memmap": memmap,
    "memmap-stored": memmap_stored,
    "nanogpt": nanogpt,
    "litdata": litdata,
    "hf-numpy": hf_datasets,
    "hf-torch": hf_datasets_torch,
    "grain-map": grain_map,
    "grain-loader": grain_loader,
    "megatron": megatron,
    "streaming": streaming,
}


def raw_tokens(folder: Path) -> np.ndarray:
    return np.load(folder / "tokens.npy", mmap_mode="r")


def raw_file(folder: Path) -> Path:
    """The tokens without NumPy's header, as nanoGPT and plain datasets keep them."""
    path = folder / "tokens.bin"
    if not path.exists():
        half = path.with_suffix(".half")
        raw_tokens(folder).tofile(half)
        half.rename(path)
    return path


def timed_pass(contestant: Contestant, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Tokens and seconds, at least `seconds`; an epoch's first batch is not counted."""
    tokens, spent, cpu = 0, 0.0, 0.0
    while spent < seconds:
        if "stream" not in state:
            state["stream"] = contestant.epoch()
            next(state["stream"])
        stream = state["stream"]
        start, busy, batches = time.perf_counter(), time.process_time(), 0
        for _ in stream:
            batches += 1
            if batches % 8 == 0 and time.perf_counter() - start + spent >= seconds:
                break
        else:
            del state["stream"]
        spent += time.perf_counter() - start
        cpu += time.process_time() - busy
        tokens += batches * B * T
    return {"tokens": tokens, "seconds": spent, "cpu_s": cpu}


def hashed_epoch(contestant: Contestant) -> dict[str, Any]:
    """One epoch, hashed without regard to order: the sum of the rows' hashes, and how often each id came."""
    total, rows, counts = 0, 0, np.zeros(2**16, np.int64)
    seen: set[int] = set()
    for batch in contestant.epoch():
        ids = np.ascontiguousarray(contestant.ids(batch).astype(np.uint16))
        if contestant.num_rows is not None:
            ids = ids[: contestant.num_rows - rows]
        counts += np.bincount(ids.ravel(), minlength=2**16)
        rows += len(ids)
        for row in ids:
            digest = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")
            total = (total + digest) % 2**64
            seen.add(digest)
        if rows == contestant.num_rows:
            break
    return {"rows": rows, "distinct": len(seen), "hash": f"{total:016x}", "counts": counts.tolist()}


def main() -> None:
    # Libraries print what they like; the answers keep standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # one core is measured; set before torch is imported
    contestant: Contestant | None = None
    state: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if contestant is None:
                start = time.perf_counter()
                contestant = CONTESTANTS[chosen.contestant](chosen.folder, chosen.workers, chosen.seed)
                made_s = time.perf_counter() - start
            match message["do"]:
                case "prepare":
                    answer: dict[str, Any] = {"made_s": made_s}
                case "open":
                    start = time.perf_counter()
                    state["stream"] = contestant.epoch()
                    next(state["stream"])
                    answer = {
                        "open_s": made_s + time.perf_counter() - start,
                        "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
                        "version": importlib.metadata.version(contestant.package),
                    }
                case "first":
                    # Everything a new process does to see each row once, but for imports.
                    start, busy = time.perf_counter(), time.process_time()
                    rows = 0
                    for batch in contestant.epoch():
                        rows += len(contestant.ids(batch))
                        if contestant.num_rows is not None and rows >= contestant.num_rows:
                            break
                    answer = {
                        "tokens": rows * T,
                        "seconds": time.perf_counter() - start,
                        "cpu_s": time.process_time() - busy,
                    }
                case "pass":
                    answer = timed_pass(contestant, state, message["seconds"])
                case "hash":
                    state.clear()
                    answer = hashed_epoch(contestant)
                case other:
                    answer = {"error": f"unknown command {other!r}"}
        except Exception as error:  # noqa: BLE001  the parent shows it, whatever a rival raises
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
