"""A run directory made by hand, as train and the demo write it, with numbers that are easy to check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RUN = {
    "format": 1,
    "recipe": {
        "model": {
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "vocab_size": 300,
            "max_position_embeddings": 16,
        },
        "model_name": "tiny",
        "data": {"stores": ["ab" * 16]},
    },
    "parameters": 35_000,
    "stores": ["store"],
}


class MadeRun:
    """Writes the files of a run, one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def write(self, name: str, value: object) -> None:
        (self.path / name).write_text(json.dumps(value), encoding="utf-8")

    def steps(self, rows: list[dict[str, object]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.path / "metrics.jsonl").write_text(text, encoding="utf-8")


def step_row(step: int, **others: object) -> dict[str, object]:
    return {
        "step": step,
        "loss": 8.0 / step + 2.0,
        "lr": 1e-3,
        "tokens": 64 * step,
        "step_s": 1.0,
        "tokens_per_s": 64.0,
        "data_wait_s": 0.125,
        "compute_s": 0.75,
        "checkpoint_s": 0.0,
        **others,
    }


@pytest.fixture
def made(tmp_path):
    run = MadeRun(tmp_path / "run")
    run.write("run.json", RUN)
    run.steps([step_row(i) for i in range(1, 101)])
    return run
