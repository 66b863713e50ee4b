"""One contestant of weights.py, in a process of its own: a job as JSON -> seconds, memory and a sum as JSON on stdout.

Imports are done, and the kernel's mark of the peak memory is set back, before the clock starts. The sum is that of all
bytes of all tensors, each tensor once: contestants that loaded the same weights have the same.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Job = dict[str, Any]
FILE = "model.safetensors"
REQUEST = 8 << 20


def raw(job: Job) -> Callable[[], Any]:
    """Reads of the same bytes into memory, by threads, and nothing else; from S3 by obstore, as we use it."""
    import numpy as np

    if not job["s3"]:
        from concurrent.futures import ThreadPoolExecutor

        def read() -> Any:
            path = Path(job["directory"]) / FILE
            size = path.stat().st_size
            memory = np.empty(size, np.uint8)
            view = memoryview(memory)
            handle = os.open(path, os.O_RDONLY)

            def one(start: int) -> None:
                stop = min(start + REQUEST, size)
                while start < stop:
                    start += os.preadv(handle, [view[start:stop]], start)

            with ThreadPoolExecutor(job["flight"]) as pool:
                list(pool.map(one, range(0, size, REQUEST)))
            os.close(handle)
            return {}

        return read
    import asyncio

    import obstore
    from obstore.store import from_url

    async def get() -> None:
        store = from_url(job["s3"], client_options={"allow_http": True})
        size = (await obstore.head_async(store, FILE))["size"]
        free = asyncio.Semaphore(job["flight"])
        memory = np.empty(size, np.uint8)

        async def one(start: int) -> None:
            async with free:
                stop = min(start + REQUEST, size)
                data = await obstore.get_range_async(store, FILE, start=start, end=stop)
                memory[start:stop] = np.frombuffer(data, np.uint8)

        await asyncio.gather(*map(one, range(0, size, REQUEST)))

    return lambda: asyncio.run(get()) or {}


def headrace(job: Job) -> Callable[[], Any]:
    """`headrace.load_model`, as generate and serve call it; from S3 with an empty cache, which it fills."""
    import torch

    # Modules are imported when they are first used; the others' are imported by name.
    from headrace.model import load_model
    from headrace.model.weights import hf_tokenizer, load, location  # noqa: F401
    from headrace.storage import remote  # noqa: F401

    if job["s3"]:
        import obstore  # noqa: F401
    before = status("VmRSS")
    job["tokenizer"] = hf_tokenizer.load_hf_tokenizer(Path(job["directory"]))
    job["tokenizer_bytes"] = status("VmRSS") - before  # of the one that is loaded with the model

    def read() -> Any:
        model, _ = load_model(job["s3"] or job["directory"], dtype=torch.bfloat16)
        return dict(model.named_parameters())

    return read


def fetched(job: Job) -> str:
    """A directory with the file: from S3 by boto3's transfer manager, ten parts at a time as it comes."""
    if not job["s3"]:
        return str(job["directory"])
    import boto3

    bucket, _, key = job["s3"].removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for name in ("config.json", FILE):
        client.download_file(bucket, f"{key}/{name}", str(Path(job["scratch"]) / name))
    return str(job["scratch"])


def load_file(job: Job) -> Callable[[], Any]:
    """safetensors.torch.load_file, each byte touched: it maps the file, and pages come as they are needed."""
    from safetensors.torch import load_file

    if job["s3"]:
        import boto3  # noqa: F401  # before the clock starts

    def load() -> Any:
        tensors = load_file(f"{fetched(job)}/{FILE}")
        return {name: tensor.clone() for name, tensor in tensors.items()}

    return load


def from_pretrained(job: Job) -> Callable[[], Any]:
    """AutoModelForCausalLM.from_pretrained in the stored type."""
    from transformers import AutoModelForCausalLM
    from transformers.models.llama import modeling_llama  # noqa: F401  # before the clock starts

    if job["s3"]:
        import boto3  # noqa: F401

    def load() -> Any:
        model = AutoModelForCausalLM.from_pretrained(fetched(job), dtype="auto")
        return dict(model.named_parameters())

    return load


def fastsafetensors(job: Job) -> Callable[[], Any]:
    """Its loader without GPU Direct Storage, on the CPU."""
    import torch
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load() -> Any:
        loader = SafeTensorsFileLoader(
            SingleGroup(), torch.device("cpu"), nogds=True, max_threads=job["flight"]
        )
        loader.add_filenames({0: [f"{job['directory']}/{FILE}"]})
        buffer = loader.copy_files_to_device()
        return {name: buffer.get_tensor(name) for name in loader.get_keys()}, loader, buffer

    return load


def runai(job: Job) -> Callable[[], Any]:
    """SafetensorsStreamer, tensors kept as it gives them; concurrency as chosen."""
    os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(job["flight"])
    os.environ["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] = "0"
    os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] = "-1"
    from runai_model_streamer import SafetensorsStreamer

    path = f"{job['s3'] or job['directory']}/{FILE}"

    def load() -> Any:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path])
            return dict(streamer.get_tensors())

    return load


WAYS = {
    "headrace": headrace,
    "raw reads": raw,
    "safetensors load_file": load_file,
    "transformers from_pretrained": from_pretrained,
    "fastsafetensors": fastsafetensors,
    "runai-model-streamer": runai,
}


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status; this benchmark needs Linux")


def drop_pages(directory: str) -> None:
    """Let the page cache forget the file."""
    handle = os.open(f"{directory}/{FILE}", os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def main() -> None:
    job = json.loads(sys.argv[1])
    load = WAYS[job["way"]](job)
    gc.collect()
    drop_pages(job["directory"])
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins here
    before, used, began = status("VmRSS"), time.process_time(), time.perf_counter()
    kept = load()
    took, used = time.perf_counter() - began, time.process_time() - used
    peak = status("VmHWM") - before
    tensors = kept[0] if isinstance(kept, tuple) else kept
    answer = {
        "s": took,
        "cpu_s": used,
        "peak_bytes": peak - job.get("tokenizer_bytes", 0),
        "sum": total(tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
    }
    print(json.dumps(answer), flush=True)
    os._exit(0)  # without the clean-up of libraries that wait for their own threads


def total(tensors: dict[str, Any]) -> int:
    """The sum of all bytes."""
    import torch

    return sum(
        int(tensor.detach().contiguous().view(-1).view(torch.uint8).sum(dtype=torch.int64))
        for tensor in tensors.values()
    )


if __name__ == "__main__":
    main()
