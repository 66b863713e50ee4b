"""One contestant of train.py, in a process of its own: a job as JSON -> its figures as JSON on stdout.

Every contestant trains the same shape on the same tokens, T = context, in the same dtype, with AdamW
(0.9, 0.95), decay 0.1 and clipping at 1.0.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]


def shape_of(job: Job) -> Any:
    """The shape as headrace's config."""
    from headrace.model import GPTConfig

    return GPTConfig(**job["shape"])


def headrace(job: Job) -> dict[str, Any]:
    """`hr.train`, as a user calls it; figures from its own metrics.jsonl."""
    import headrace as hr

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        hr.train(
            job["store"],
            out=out,
            model=shape_of(job),
            steps=job["warm"] + job["steps"],
            data=hr.DataOptions(seq_len=job["T"], batch_size=job["B"]),
            optimizer=hr.OptimizerOptions(lr=3e-4),
            parallel=hr.ParallelOptions(compile=job["compile"]),
            checkpoint=hr.CheckpointOptions(checkpoint_every=job.get("checkpoint_every")),
            run=hr.RunOptions(dtype=job["dtype"], device=job["device"]),
        )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = lines[job["warm"] :]
    steps = [line["step_s"] - line["checkpoint_s"] for line in measured]
    # The last step's save is the end of the run; training waits for the others.
    saves = [line["checkpoint_s"] for line in measured[:-1] if line["checkpoint_s"] > 0]
    return {
        **speed(job, steps),
        "wait_share": sum(line["data_wait_s"] for line in measured)
        / sum(line["step_s"] for line in measured),
        "stall_s": sorted(saves)[len(saves) // 2] if saves else None,
        "losses": [line["loss"] for line in lines],
        "mfu": measured[-1].get("mfu"),
    }


def nanogpt(job: Job) -> dict[str, Any]:
    """NanoGPT's model and the steps of its train.py: get_batch, autocast, backward, clip, AdamW."""
    import torch

    sys.path.insert(0, job["nanogpt"])
    from model import GPT, GPTConfig

    sys.stdout = sys.stderr  # it prints
    shape, B, T = job["shape"], job["B"], job["T"]
    torch.manual_seed(1)
    model = GPT(
        GPTConfig(
            block_size=T, vocab_size=shape["vocab_size"], n_layer=shape["num_hidden_layers"],
            n_head=shape["num_attention_heads"], n_embd=shape["hidden_size"], dropout=0.0, bias=True,
        )
    )  # fmt: skip
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), "cpu")
    if job["compile"]:
        model = torch.compile(model)
    data = np.memmap(job["tokens"], dtype=np.uint16, mode="r")

    def get_batch() -> tuple[Any, Any]:
        at = torch.randint(len(data) - T, (B,))
        x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in at])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in at])
        return x, y

    x, y = get_batch()

    def step() -> float:
        nonlocal x, y
        with mixed(job):
            _, loss = model(x, y)
        begun = time.perf_counter()
        x, y = get_batch()  # where its train.py fetches: beside the device's forward pass
        waited = time.perf_counter() - begun
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return waited

    return timed(job, step)


def trainer(job: Job) -> dict[str, Any]:
    """transformers.Trainer on GPT2LMHeadModel over a memory-mapped dataset."""
    import torch
    from torch.utils.data import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    shape, T = job["shape"], job["T"]
    data = np.memmap(job["tokens"], dtype=np.uint16, mode="r")

    class Rows(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return (len(data) - 1) // T

        def __getitem__(self, i: int) -> dict[str, Any]:
            ids = torch.from_numpy(data[i * T : (i + 1) * T].astype(np.int64))
            return {"input_ids": ids, "labels": ids}

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    clock = Clock()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape["vocab_size"], n_positions=T, n_embd=shape["hidden_size"],
            n_layer=shape["num_hidden_layers"],
            n_head=shape["num_attention_heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=job["B"], max_steps=job["warm"] + job["steps"], use_cpu=True,
            bf16=job["dtype"] == "bfloat16", learning_rate=3e-4, weight_decay=0.1, adam_beta2=0.95,
            max_grad_norm=1.0, optim="adamw_torch_fused", save_strategy="no", report_to=[],
            logging_strategy="no", disable_tqdm=True, torch_compile=job["compile"],
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=Rows(), callbacks=[clock]).train()
    return speed(job, np.diff(clock.at)[job["warm"] - 1 :].tolist())


def naive(job: Job) -> dict[str, Any]:
    """Headrace's model behind the naive loader: text tokenized in __getitem__, no worker."""
    import torch

    from headrace.demo.loader_comparison import naive_batches
    from headrace.model import GPT
    from headrace.training.distributed.model_parallel import compile_blocks

    model = GPT(shape_of(job))
    if job["compile"]:
        compile_blocks(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def pieces() -> Iterator[tuple[Any, Any]]:
        for ids, labels in naive_batches(job["files"], job["tokenizer"], seq_len=job["T"], seed=7)():
            yield from zip(ids.split(job["B"]), labels.split(job["B"]), strict=True)

    batches = pieces()

    def step() -> float:
        begun = time.perf_counter()
        ids, labels = next(batches)
        waited = time.perf_counter() - begun
        with mixed(job):
            loss = model(ids, labels_BT=labels)
        (loss / ids.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return waited

    return timed(job, step)


def save(job: Job) -> dict[str, Any]:
    """Seconds that a synchronous torch.save of weights and moments takes, of the same shape."""
    import torch

    from headrace.model import GPT

    state = {name: tensor.detach() for name, tensor in GPT(shape_of(job)).named_parameters()}
    whole = {
        "model": state,
        "adam": [{name: torch.zeros_like(t) for name, t in state.items()} for _ in range(2)],
    }
    took = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(5):
            begun = time.perf_counter()
            with (Path(folder) / f"{i % 2}.pt").open("wb") as file:
                torch.save(whole, file)
            took.append(time.perf_counter() - begun)
    return {"save_s": sorted(took)[2], "bytes": sum(t.nbytes for t in state.values()) * 3}


def resume(job: Job) -> dict[str, Any]:
    """Losses of a run that is killed after a step, started again; its first lines come from the first start."""
    import headrace as hr

    out, kill_at = Path(job["out"]), job.get("kill_at")

    def progress(done: int, *_: Any) -> None:
        if done == kill_at:
            os.kill(os.getpid(), 9)

    hr.train(
        job["store"],
        out=out,
        model=shape_of(job),
        steps=6,
        data=hr.DataOptions(seq_len=job["T"], batch_size=job["B"]),
        optimizer=hr.OptimizerOptions(lr=3e-4),
        checkpoint=hr.CheckpointOptions(checkpoint_every=2),
        run=hr.RunOptions(dtype=job["dtype"], device=job["device"]),
        progress=progress,
    )
    return {"losses": [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]}


def mixed(job: Job) -> Any:
    """Autocast as the contestants of this file use it."""
    from contextlib import nullcontext

    import torch

    return nullcontext() if job["dtype"] == "float32" else torch.autocast("cpu", dtype=torch.bfloat16)


def timed(job: Job, step: Callable[[], float]) -> dict[str, Any]:
    """Run the steps; a step returns the seconds that it waited for data."""
    took, waited = [], 0.0
    for number in range(job["warm"] + job["steps"]):
        begun = time.perf_counter()
        wait = step()
        if number >= job["warm"]:
            took.append(time.perf_counter() - begun)
            waited += wait
    return {**speed(job, took), "wait_share": waited / math.fsum(took)}


def speed(job: Job, steps: list[float]) -> dict[str, Any]:
    """Tokens a second of the median step."""
    return {"tokens_per_s": job["B"] * job["T"] / float(np.median(steps)), "steps": len(steps)}


WAYS = {f.__name__: f for f in (headrace, nanogpt, trainer, naive, save, resume)}

if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    asked = json.loads(sys.argv[1])
    print(json.dumps(WAYS[asked["way"]](asked)), file=answers, flush=True)
