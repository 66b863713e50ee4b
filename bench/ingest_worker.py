"""A contestant's name and .jsonl.gz files -> its own kind of token store, timed inside, or read and hashed.

    python bench/ingest_worker.py run CONTESTANT --out DIR --tokenizer tokenizer.json --workers 2 FILES...
    python bench/ingest_worker.py hash CONTESTANT --out DIR

Each contestant is used as its own documentation shows, with what makes it faster where it offers a choice.
          All
append GPT-2's end-of-text id to each document and keep ids in 2 bytes where they can. `hash` sums a hash of
each document's ids, so the order in which workers wrote does not matter.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import multiprocessing
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EOS = 50256
TOKENIZER = os.environ.get("INGEST_WORKER_TOKENIZER", "")
FAST = os.environ.get("INGEST_WORKER_FAST", "") == "1"


@cache
def encoder() -> Callable[[str], list[int]]:
    """Text -> ids, one per process: HF tokenizers, or the fast engine where a contestant is given it."""
    if FAST:
        import gigatoken

        definition = json.loads(Path(TOKENIZER).read_text(encoding="utf-8"))
        definition["added_tokens"] = []  # or text that spells <|endoftext|> would end a document
        fast = gigatoken.Tokenizer.from_json(json.dumps(definition))
        return lambda text: fast.encode(text.encode()).tolist()
    import tokenizers

    slow = tokenizers.Tokenizer.from_file(TOKENIZER)
    slow.encode_special_tokens = True
    return lambda text: slow.encode(text, add_special_tokens=False).ids


def texts_of(path: str) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


# --- Hugging Face datasets
# ------------------------------------------------------------------------------------------

ROW = 2048


def hf_run(files: list[str], out: Path, workers: int) -> None:
    """load_dataset, map(tokenize), map(group), save_to_disk: the language-modelling example's way."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(Path(TOKENIZER).parent))
    hf_map(files, out, workers, lambda texts: tokenizer(texts)["input_ids"])
    assert datasets


def hf_direct_run(files: list[str], out: Path, workers: int) -> None:
    """The same with the `tokenizers` library called directly, without transformers around it."""
    import tokenizers

    direct = tokenizers.Tokenizer.from_file(TOKENIZER)
    direct.encode_special_tokens = True
    hf_map(
        files,
        out,
        workers,
        lambda texts: [e.ids for e in direct.encode_batch(texts, add_special_tokens=False)],
    )


def hf_map(files: list[str], out: Path, workers: int, encode: Callable[[list[str]], list[list[int]]]) -> None:
    import datasets

    raw = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"input_ids": [[*ids, EOS] for ids in encode(batch["text"])]}

    def group(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = [i for ids in batch["input_ids"] for i in ids]
        # The example drops each batch's remainder; kept here, so that all tokens can be compared.
        return {"input_ids": [joined[i : i + ROW] for i in range(0, len(joined), ROW)]}

    ids = raw.map(tokenize, batched=True, num_proc=workers, remove_columns=raw.column_names)
    ids.map(group, batched=True, num_proc=workers).save_to_disk(str(out / "rows"))


def hf_read(out: Path) -> Iterator[np.ndarray]:
    import datasets

    rows = datasets.load_from_disk(str(out / "rows")).with_format("arrow")
    for batch in rows.iter(1000):
        yield batch["input_ids"].combine_chunks().flatten().to_numpy()


# --- Megatron-core
# --------------------------------------------------------------------------------------------------


def megatron_line(line: bytes) -> tuple[list[int], int]:
    ids = encoder()(json.loads(line)["text"])
    ids.append(EOS)
    return ids, len(ids)


def megatron_run(files: list[str], out: Path, workers: int) -> None:
    """A pool of encoders fed with lines in chunks of 32, one writer: what its preprocessing tool does."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(out / "text_document.bin"), dtype=np.uint16)
    with multiprocessing.Pool(workers) as pool:
        for path in files:
            with gzip.open(path, "rb") as lines:
                for ids, length in pool.imap(megatron_line, lines, 32):
                    builder.add_document(torch.IntTensor(ids), [length])
    builder.finalize(str(out / "text_document.idx"))


def megatron_read(out: Path) -> Iterator[np.ndarray]:
    yield np.fromfile(out / "text_document.bin", np.uint16)


# --- datatrove
# ------------------------------------------------------------------------------------------------------


def datatrove_run(files: list[str], out: Path, workers: int) -> None:
    """JsonlReader, then DocumentTokenizer, one task a file; documents are not shuffled on the way."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    folder = out / "source"
    folder.mkdir()
    for path in files:
        (folder / Path(path).name).symlink_to(Path(path).resolve())
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(folder), glob_pattern="*.jsonl.gz"),
            DocumentTokenizer(
                output_folder=str(out / "tokens"),
                tokenizer_name_or_path=TOKENIZER,
                eos_token="<|endoftext|>",
                shuffle_documents=False,
                batch_size=1000,
            ),
        ],
        tasks=len(files),
        workers=workers,
        logging_dir=str(out / "logs"),
    ).run()


def datatrove_read(out: Path) -> Iterator[np.ndarray]:
    for path in sorted((out / "tokens").glob("*.ds")):
        yield np.fromfile(path, np.uint16)


# --- LitData
# --------------------------------------------------------------------------------------------------------


def litdata_file(path: str) -> Iterator[Any]:
    import torch

    encode = encoder()
    for text in texts_of(path):
        yield torch.tensor([*encode(text), EOS], dtype=torch.uint16)


def litdata_run(files: list[str], out: Path, workers: int) -> None:
    """optimize() over files, one tensor a document, in chunks for TokensLoader."""
    import litdata as ld

    ld.optimize(
        fn=litdata_file,
        inputs=files,
        output_dir=str(out / "chunks"),
        chunk_bytes="64MB",
        item_loader=ld.TokensLoader(),
        num_workers=workers,
        verbose=False,
    )


def litdata_read(out: Path) -> Iterator[np.ndarray]:
    index = json.loads((out / "chunks" / "index.json").read_text())
    for chunk in index["chunks"]:
        yield np.fromfile(
            out / "chunks" / chunk["filename"], np.uint16, offset=(1 + chunk["chunk_size"] + 1) * 4
        )


# --- MosaicML Streaming
# ---------------------------------------------------------------------------------------------


def mds_file(job: tuple[str, str]) -> None:
    import streaming as ms

    path, folder = job
    encode = encoder()
    with ms.MDSWriter(out=folder, columns={"tokens": "ndarray:uint16"}) as writer:
        for text in texts_of(path):
            writer.write({"tokens": np.array([*encode(text), EOS], np.uint16)})


def mds_run(files: list[str], out: Path, workers: int) -> None:
    """One MDSWriter a file in a pool, then merge_index, as its guide to parallel conversion shows."""
    from streaming.base.util import merge_index

    jobs = [(path, str(out / "mds" / f"{i:03d}")) for i, path in enumerate(files)]
    with multiprocessing.Pool(workers) as pool:
        pool.map(mds_file, jobs, chunksize=1)
    merge_index(str(out / "mds"))


def mds_read(out: Path) -> Iterator[np.ndarray]:
    import streaming as ms

    for folder in sorted((out / "mds").glob("[0-9]*")):
        for item in ms.LocalDataset(str(folder)):  # type: ignore[attr-defined]
            yield item["tokens"]


# --- ours
# -----------------------------------------------------------------------------------------------------------


def ours_run(files: list[str], out: Path, workers: int) -> dict[str, Any]:
    """headrace.ingest with its defaults: a zstd store, the tokenizer's check against its reference."""
    import dataclasses

    import headrace as hr

    summary = hr.ingest(files, str(out / "store"), tokenizer=TOKENIZER, workers=workers)
    return json.loads(json.dumps(dataclasses.asdict(summary) | {"out": "store"}, default=str))


def ours_read(out: Path) -> Iterator[np.ndarray]:
    import headrace as hr

    store = hr.Store.open(str(out / "store"))
    step = 4_000_000
    for start in range(0, store.num_tokens, step):
        yield store.read(start, min(start + step, store.num_tokens))


# --- the ceiling
# ----------------------------------------------------------------------------------------------------


def ceiling_share(job: tuple[list[bytes], Any, Any]) -> None:
    texts, ready, answers = job
    import gigatoken

    definition = json.loads(Path(TOKENIZER).read_text(encoding="utf-8"))
    definition["added_tokens"] = []
    fast = gigatoken.Tokenizer.from_json(json.dumps(definition))
    ready.wait()
    start, tokens, batch, size = time.perf_counter(), 0, [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= 4 << 20:
            tokens += len(fast.encode_batch(batch, parallel=False).layout.content)
            batch, size = [], 0
    if batch:
        tokens += len(fast.encode_batch(batch, parallel=False).layout.content)
    answers.put((time.perf_counter() - start, tokens, sum(map(len, texts))))


def ceiling_run(files: list[str], out: Path, workers: int) -> dict[str, Any]:  # noqa: ARG001  writes nothing
    """The best tokenizer alone: text decoded before the clock starts, nothing packed or written after it."""
    shares: list[list[bytes]] = [[] for _ in range(workers)]
    sizes = [0] * workers
    for path in files:
        for text in texts_of(path):
            smallest = sizes.index(min(sizes))
            shares[smallest].append(text.encode())
            sizes[smallest] += len(shares[smallest][-1])
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=ceiling_share, args=((share, ready, answers),)) for share in shares]
    for process in processes:
        process.start()
    results = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return {
        "job_s": max(t[0] for t in results),
        "tokens": sum(t[1] for t in results),
        "text_bytes": sum(t[2] for t in results),
    }


CONTESTANTS: dict[
    str, tuple[Callable[[list[str], Path, int], Any], Callable[[Path], Iterator[np.ndarray]] | None]
] = {
    "ours": (ours_run, ours_read),
    "hf": (hf_run, hf_read),
    "hf-direct": (hf_direct_run, hf_read),
    "megatron": (megatron_run, megatron_read),
    "datatrove": (datatrove_run, datatrove_read),
    "litdata": (litdata_run, litdata_read),
    "mds": (mds_run, mds_read),
    "ceiling": (ceiling_run, None),
}


def hashed(stream: Iterator[np.ndarray]) -> dict[str, Any]:
    """Documents split at end-of-text, hashed without regard to order."""
    total, documents, tokens = 0, 0, 0
    rest = np.empty(0, np.uint16)
    for part in stream:
        ids = np.concatenate([rest, part.astype(np.uint16)])
        tokens += len(part)
        start = 0
        for end in np.flatnonzero(ids == EOS) + 1:
            digest = hashlib.blake2b(ids[start:end].tobytes(), digest_size=8).digest()
            total = (total + int.from_bytes(digest, "little")) % 2**64
            documents += 1
            start = int(end)
        rest = ids[start:]
    assert not len(rest), f"{len(rest)} tokens after the last document's end"
    return {"documents": documents, "tokens": tokens, "hash": f"{total:016x}"}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["run", "hash"])
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="go on in a folder that a killed run left")
    chosen = parser.parse_intermixed_args()
    run, read = CONTESTANTS[chosen.contestant]
    if chosen.do == "hash":
        assert read is not None
        answer = hashed(read(chosen.out))
    else:
        chosen.out.mkdir(parents=True, exist_ok=chosen.again)
        start = time.perf_counter()
        summary = run(chosen.files, chosen.out, chosen.workers)
        answer = {
            "job_s": time.perf_counter() - start,
            **({"summary": summary} if chosen.contestant == "ours" else summary or {}),
        }
    answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    sys.exit(main())
