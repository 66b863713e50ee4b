"""One contestant of generate.py, in a process of its own: a job as JSON -> its figures as JSON on stdout."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def requests(job: Job, prompts: list[list[int]], *, new: int) -> list[Any]:
    """Greedy requests."""
    from headrace.generation.options import SamplingOptions
    from headrace.generation.request import Request

    sampling = SamplingOptions(max_new_tokens=new, stop=tuple(job["stop"]))
    return [
        Request(prompt_id=f"{i:06d}", token_ids=tuple(ids), sampling=sampling)
        for i, ids in enumerate(prompts)
    ]


def engine(job: Job, name: str) -> dict[str, Any]:
    """An engine of headrace: its own, or its adapter to transformers' continuous batching."""
    from headrace.generation.loading import load_engine

    loaded = load_engine(job["model"], engine=name, dtype=job["dtype"], device="cpu", batch_size=job["batch"])
    list(loaded.engine.run(requests(job, job["prompts"][:2], new=4)))
    begun = time.perf_counter()
    rows = list(loaded.engine.run(requests(job, job["prompts"], new=job["new"])))
    wall_s = time.perf_counter() - begun
    assert not [row.error for row in rows if row.error]
    return {"tokens": sum(row.completion_tokens for row in rows), "seconds": wall_s}


def native(job: Job) -> dict[str, Any]:
    """Headrace's own engine."""
    return engine(job, "native")


def continuous(job: Job) -> dict[str, Any]:
    """Transformers' continuous batching."""
    return engine(job, "transformers")


def generate(job: Job) -> dict[str, Any]:
    """`model.generate` over padded batches of prompts of like length; ids after a row's end do not count."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    ends = model.generation_config.eos_token_id
    pad = ends[0] if isinstance(ends, list) else ends

    @torch.inference_mode()
    def run(prompts: list[list[int]], new: int) -> int:
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        out = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=new, pad_token_id=pad,
            stop_strings=job["stop"] or None, tokenizer=tokenizer if job["stop"] else None,
        )[:, longest:]  # fmt: skip
        return int((out != pad).sum()) + int((out == pad).any(1).sum())

    run(job["prompts"][:2], 4)
    ordered = sorted(job["prompts"], key=len)
    begun = time.perf_counter()
    tokens = sum(run(ordered[i : i + job["batch"]], job["new"]) for i in range(0, len(ordered), job["batch"]))
    return {"tokens": tokens, "seconds": time.perf_counter() - begun}


def stored(job: Job) -> dict[str, Any]:
    """A whole job with its sink; what storing took of it."""
    import headrace as hr

    with tempfile.TemporaryDirectory() as folder:
        summary = hr.generate(
            job["model"],
            [{"id": f"{i:06d}", "prompt_token_ids": ids} for i, ids in enumerate(job["prompts"])],
            Path(folder) / "out", max_new_tokens=job["new"], sampling=hr.SamplingOptions(stop=job["stop"]),
            engine=hr.EngineOptions(dtype=job["dtype"], device="cpu", batch_size=job["batch"]),
        )  # fmt: skip
    busy = {name: stage.busy_s for name, stage in summary.stages.items()}
    return {"sink_s": busy.get("sink", 0.0), "work_s": busy["forward"] + busy["sample"], "stages": busy}


def one_row(job: Job) -> tuple[Any, int]:
    """An engine as it is by default, and the bytes of weights that each token of one row reads."""
    import torch

    from headrace.generation.decoding.gpt_runner import GPTRunner
    from headrace.generation.engines.native import NativeEngine
    from headrace.generation.loading import load_engine
    from headrace.model.gpt.gpt import GPT
    from headrace.model.gpt.sizes import gpt_config

    dtype = getattr(torch, job["dtype"])
    if "size" in job:  # random weights: what they are does not change how fast they are read
        config = gpt_config(job["size"], vocab_size=50_257)
        runner = GPTRunner(GPT(config).to(dtype))
        read = (
            config.num_parameters - config.max_position_embeddings * config.hidden_size
        )  # one position is looked up, not read
        return NativeEngine(runner, [b"x"] * 50_257), read * dtype.itemsize
    from transformers import AutoModelForCausalLM

    loaded = load_engine(job["model"], dtype=job["dtype"], device="cpu")
    model = AutoModelForCausalLM.from_pretrained(job["model"])
    return loaded.engine, sum(p.numel() for p in model.parameters()) * dtype.itemsize


def bandwidth(job: Job) -> dict[str, Any]:
    """Decoding one row: bytes of weights a second, beside a plain read of as many bytes before and after it."""
    import torch

    if not job["compiled"]:
        os.environ["HEADRACE_NATIVE"] = "off"
    made, weights = one_row(job)
    prompt = [i % 50_000 for i in job["prompts"][0][:16]]
    list(made.run(requests(job, [prompt], new=8)))
    plain = torch.ones(weights // 4, dtype=torch.float32)

    def reads() -> list[float]:
        return [measured(plain.sum) for _ in range(9)]

    took, read = [], reads()
    made.add(requests({**job, "stop": []}, [prompt], new=job["new"])[0])
    made.step()
    while made.running:
        took.append(measured(made.step))
    read += reads()
    step_s, read_s = statistics.median(took), statistics.median(read)
    return {
        "decode": weights / step_s,
        "read": weights / read_s,
        "step_ms": 1e3 * step_s,
        "tokens_per_s": 1 / step_s,
        "bytes": weights,
        "decoder": made.runner.decoder_name,
    }


def measured(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


WAYS = {f.__name__: f for f in (native, continuous, generate, stored, bandwidth)}

if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(WAYS[asked["way"]](asked)), file=answers, flush=True)
