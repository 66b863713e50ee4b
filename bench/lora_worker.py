"""One contestant of lora.py, in a process of its own: a job as JSON -> its losses and figures as JSON on stdout."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]


def headrace(job: Job) -> dict[str, Any]:
    """`hr.train` with LoRA, as a user calls it; figures from its own metrics.jsonl."""
    import headrace as hr
    from headrace.training import LoraOptions

    with tempfile.TemporaryDirectory(dir=Path(job["rows"]).parent) as folder:
        out = Path(folder) / "run"
        hr.train(
            job["store"],
            out=out,
            init_from=job["adapter"],
            steps=job["steps"],
            data=hr.DataOptions(seq_len=job["T"], batch_size=job["B"]),
            optimizer=hr.OptimizerOptions(
                lr=job["lr"], lr_schedule="constant", warmup_steps=1, weight_decay=0.0
            ),
            run=hr.RunOptions(
                dtype=job["dtype"], device="cpu", seed=job["seed"], lora=LoraOptions(r=job["rank"])
            ),
        )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step_s"] - line["checkpoint_s"] for line in lines[job["warm"] :]]
    return figures(job, steps, [line["loss"] for line in lines])


def peft_trainer(job: Job) -> dict[str, Any]:
    """Trainer on a model of peft over the same rows in order."""
    import peft
    import torch
    from torch.utils.data import Dataset, SequentialSampler
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    rows = np.load(job["rows"]).reshape(-1, job["T"] + 1).astype(np.int64)

    class Rows(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> dict[str, Any]:
            ids, labels = torch.from_numpy(rows[i, :-1]), torch.from_numpy(rows[i, 1:])
            return {"input_ids": ids, "labels": ids, "shift_labels": labels}

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []
            self.losses: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(rows)

        def log(self, logs: dict[str, float], *rest: Any) -> None:
            if "loss" in logs:
                logs["loss"] = self.last_loss  # it rounds
            super().log(logs, *rest)

        def training_step(self, *given: Any, **named: Any) -> Any:
            loss = super().training_step(*given, **named)
            self.last_loss = float(loss)
            return loss

    clock = Clock()
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32),
        job["adapter"],
        is_trainable=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=job["B"], max_steps=job["steps"], use_cpu=True,
            bf16=job["dtype"] == "bfloat16", learning_rate=job["lr"], lr_scheduler_type="constant", weight_decay=0.0,
            adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused", save_strategy="no", report_to=[],
            logging_steps=1, disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        InOrder(model, arguments, train_dataset=Rows(), callbacks=[clock]).train()
    return figures(job, np.diff(clock.at)[job["warm"] - 1 :].tolist(), clock.losses)


def figures(job: Job, steps: list[float], losses: list[float]) -> dict[str, Any]:
    """Tokens a second of the median step, losses, and the peak of the process's resident memory."""
    return {
        "tokens_per_s": job["B"] * job["T"] / float(np.median(steps)),
        "losses": losses,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


WAYS = {f.__name__: f for f in (headrace, peft_trainer)}

if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    asked = json.loads(sys.argv[1])
    print(json.dumps(WAYS[asked["way"]](asked)), file=answers, flush=True)
