"""A small table of measured runs, made by the formulae with known constants."""

import csv

import numpy as np
import pytest

from headrace.plan.step_time import NAMES, step_time
from headrace.plan.table import read_table

COLUMNS = (
    "source",
    "gpu",
    "n_gpus",
    "model",
    "params_b",
    "layers",
    "hidden",
    "heads",
    "seq",
    "global_batch_seqs",
    "micro_batch",
    "dp",
    "fsdp",
    "tp",
    "pp",
    "cp",
    "precision",
    "activation_ckpt",
    "mfu_pct",
    "tflops_per_gpu",
    "tokens_per_s_per_gpu",
    "mem_gib",
    "note",
)
ROW = {
    "source": "lab A",
    "gpu": "A100",
    "n_gpus": 8,
    "model": "gpt",
    "layers": 24,
    "hidden": 2048,
    "heads": 16,
    "seq": 1024,
    "global_batch_seqs": 64,
    "micro_batch": 2,
    "dp": 2,
    "fsdp": 1,
    "tp": 2,
    "pp": 2,
    "cp": 1,
    "precision": "bf16",
    "activation_ckpt": "none",
    "tokens_per_s_per_gpu": 5000,
}


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def made_rows(source, *, share, n, seed, noise=0.0):
    """N random layouts whose step times follow the formulae with matmul_share multiplied by `share`."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        tp, pp, dp = (int(2 ** rng.integers(0, 3)) for _ in range(3))
        micro = int(2 ** rng.integers(0, 3))
        rows.append(
            {
                **ROW,
                "source": source,
                "n_gpus": tp * pp * dp,
                "tp": tp,
                "pp": pp,
                "dp": dp,
                "micro_batch": micro,
                "hidden": int(rng.choice([1024, 2048, 4096])),
                "layers": int(rng.choice([16, 24, 32])),
                "global_batch_seqs": micro * dp * int(2 ** rng.integers(2, 5)),
            }
        )
    return rows, rng.normal(0, noise, n)


@pytest.fixture
def made_table(tmp_path):
    """Writer of CSV tables whose truth is known: takes [(source, share of the peak, rows)] and a noise."""

    def make(systems, *, noise=0.0, name="made.csv", seed=0):
        rows, factors = [], []
        for i, (source, share, n) in enumerate(systems):
            more, error = made_rows(source, share=share, n=n, seed=seed + i, noise=noise)
            rows += more
            factors += [(share, e) for e in error]
        path = write(tmp_path / name, rows)
        table = read_table(path)
        logs = np.zeros((len(rows), len(NAMES)))
        logs[:, 0] = np.log([share for share, _ in factors])
        seconds = step_time(table.points, logs).total * np.exp([e for _, e in factors])
        for row, second in zip(rows, seconds, strict=True):
            tokens = row["global_batch_seqs"] * row["seq"]
            row["tokens_per_s_per_gpu"] = tokens / (second * row["n_gpus"])
        return write(path, rows)

    return make
