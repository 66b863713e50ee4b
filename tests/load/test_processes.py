"""Whole processes: killed at any moment, started by torchrun, without torch."""

import json
import os
import signal
import subprocess
import sys

import pytest

RUN = """
import json, os, sys
from pathlib import Path
from headrace.load import BatchOptions, Loader, ReadOptions, mix
from headrace.store import Store

folder = Path(sys.argv[1])
stores = [Store.open(url) for url in sys.argv[2:]]
loader = Loader(
    mix({stores[0]: 0.7, stores[1]: 0.3}), seq_len=31, batch_size=8, epochs=2, seed=5, packing="best_fit",
    reading=ReadOptions(packing_dir=folder / "plans", threads=2), output=BatchOptions(framework="numpy"), rank=0,
    world_size=1,
)
if (folder / "state.json").exists():
    loader.load_state_dict(json.loads((folder / "state.json").read_text()))
for batch in loader:
    # As a checkpoint: what was seen and where the loader stands become durable together.
    seen = [batch.position, batch.tokens.tolist()]
    staged = folder / "state.tmp"
    staged.write_text(json.dumps(loader.state_dict()))
    with open(folder / "seen.jsonl", "a") as log:
        log.write(json.dumps(seen) + "\\n")
    staged.replace(folder / "state.json")
    print(batch.position, flush=True)
print("done", flush=True)
"""


def start(folder, urls):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), *urls],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )


def seen(folder):
    """Position -> tokens; a batch that was seen again after a kill must have been the same."""
    found = {}
    for line in (folder / "seen.jsonl").read_text().splitlines():
        position, tokens = json.loads(line)
        assert found.setdefault(position, tokens) == tokens
    return found


def test_a_run_that_is_killed_again_and_again_reads_what_an_undisturbed_one_reads(make_store, tmp_path):
    urls = [str(make_store(6000, seed=s, codec="zstd")[0].url) for s in (1, 2)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    with start(whole, urls) as process:
        assert process.communicate()[0].endswith("done\n")
    kills = 0
    for lines in (0, 1, 2, 5, 9, 20, 10**6):
        with start(killed, urls) as process:
            for _ in range(lines):
                if process.stdout.readline() in ("", "done\n"):
                    break
            else:
                process.send_signal(signal.SIGKILL)
                kills += 1
    assert kills == 6
    assert seen(killed) == seen(whole)
    assert sorted(file.name for file in killed.iterdir()) == ["plans", "seen.jsonl", "state.json"]
    assert {file.suffix for file in (killed / "plans").iterdir()} == {".arrow"}


TORCHRUN = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from headrace.load import Loader
from headrace.store import Store

dist.init_process_group("gloo")
loader = Loader(Store.open(sys.argv[2]), seq_len=31, batch_size=7, epochs=1)
rows = [[b.position, b.global_rows, b.rows[: b.num_rows].tolist()] for b in loader]
dist.barrier()
Path(sys.argv[1], f"rank{dist.get_rank()}.json").write_text(json.dumps(rows))
dist.destroy_process_group()
"""


def test_ranks_of_torchrun_read_disjoint_slices_in_equally_many_steps(make_store, tmp_path):
    pytest.importorskip("torch")
    store, _, _ = make_store(4000)
    script = tmp_path / "ranks.py"
    script.write_text(TORCHRUN)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    done = subprocess.run(
        [*command, str(tmp_path), str(store.url)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    delivered = []
    for (position, rows, mine), (other_position, other_rows, others) in zip(*ranks, strict=True):
        assert (position, rows) == (other_position, other_rows)
        assert len(mine) + len(others) == rows
        delivered += mine + others
    assert sorted(delivered) == list(range(store.num_rows(31)))


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import importlib.util
from headrace.load import BatchOptions, Loader
from headrace.store import Store
import headrace.load.host as host
host.find_spec = lambda name: None if name == "torch" else importlib.util.find_spec(name)
batch = next(Loader(Store.open(sys.argv[1]), seq_len=31, batch_size=4, output=BatchOptions(position_ids=True)))
print(type(batch.input_ids).__name__, batch.labels.dtype, batch.position_ids.shape)
"""


def test_without_torch_batches_are_numpy_arrays(make_store):
    store, _, _ = make_store(2000)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(store.url)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["ndarray", "int64", "(4,", "31)"], done.stderr


def test_torch_is_not_imported_before_ids_are_asked_for(make_store):
    store, _, _ = make_store(2000)
    code = """if 1:
        import sys
        from headrace.load import Loader
        from headrace.store import Store
        batch = next(Loader(Store.open(sys.argv[1]), seq_len=31, batch_size=4))
        print(batch.tokens.sum() > 0, "torch" in sys.modules)
        """
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.url)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
