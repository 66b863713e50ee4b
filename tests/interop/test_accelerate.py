"""torch.py: accelerate.prepare takes a loader as it is, on one process and on two, and no DataLoader around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from headrace import ConfigError, Loader, Store, ingest

pytest.importorskip("accelerate")

SCRIPT = """
import json, sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader, IterableDataset

import headrace as hr
from headrace.interop.torch import LoaderDataset, dataloader

folder, store, kind, steps = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
dispatch = {"none": None, "false": False}[sys.argv[5]]
accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
class Generator(IterableDataset):
    def __iter__(self):
        for batch in loader:
            yield batch["input_ids"]


loader = hr.Loader(hr.Store.open(store), seq_len=31, batch_size=8, seed=3, epochs=1)
plain = {
    "loader": lambda: loader,
    "dataloader": lambda: dataloader(loader),
    "dataset": lambda: DataLoader(LoaderDataset(loader), batch_size=None),
    "generator": lambda: DataLoader(Generator(), batch_size=None),
    "map": lambda: DataLoader(loader, batch_size=None),
    "dict": lambda: DataLoader(LoaderDataset(loader), batch_size=None, collate_fn=dict),
}[kind]()
model = torch.nn.Linear(1, 1)
try:
    model, batches = accelerator.prepare(model, plain)
    accelerator.register_for_checkpointing(loader)
    if (folder / "state").exists():
        accelerator.load_state(str(folder / "state"))
    rows = []
    for epoch in range(loader.epoch, 2):
        for batch in batches:
            rows.append([batch.position, batch.rows[: batch.num_rows].tolist()])
            if len(rows) == steps:
                accelerator.save_state(str(folder / "state"))
                break
        if len(rows) == steps:
            break
    (folder / f"rank{accelerator.process_index}.json").write_text(json.dumps(rows))
except hr.ConfigError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accelerate")
    texts = "".join(json.dumps({"text": f"{n} turns of the wheel"}) + "\n" for n in range(300))
    (folder / "texts.jsonl").write_text(texts)
    ingest(folder / "texts.jsonl", folder / "store", tokenizer="byte")
    (folder / "script.py").write_text(SCRIPT)
    return folder


def run(made, folder, kind, *, steps=10**6, processes=1, dispatch="none", refused=False):
    """(what was printed, rows of all ranks by position)."""
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [
            sys.executable, *(launcher if processes > 1 else []), str(made / "script.py"), str(folder),
            str(made / "store"), kind, str(steps), dispatch,
        ],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    # Rank 0 refuses and leaves; the others may notice it in the middle of accelerate's broadcast.
    assert done.returncode == 0 or refused, done.stderr
    rows = {}
    for rank in range(processes):
        path = folder / f"rank{rank}.json"
        for position, part in json.loads(path.read_text()) if path.exists() else []:
            rows.setdefault(position, []).extend(part)
    return done.stdout, rows


def test_a_prepared_dataloader_is_resumed_exactly_on_other_processes(made, tmp_path):
    """30 batches on one process, the rest of two epochs on two: what one undisturbed process reads.

    A Loader without a DataLoader is in examples/accelerate_loop.py, which tests/test_examples.py runs so.
    """
    kind = "dataloader"
    _, whole = run(made, tmp_path / "whole", kind)
    _, first = run(made, tmp_path / "parts", kind, steps=30)
    _, rest = run(made, tmp_path / "parts", kind, processes=2)
    assert len(first) == 30
    assert first | rest == whole
    rows = [row for position in sorted(whole) for row in whole[position]]
    half = len(rows) // 2
    assert sorted(rows[:half]) == sorted(rows[half:]) == list(range(half))


@pytest.mark.parametrize(
    ("kind", "processes", "dispatch"),
    [("dataset", 1, "none"), ("dict", 2, "none"), ("map", 2, "false"), ("generator", 1, "none")],
)
def test_a_dataloader_that_would_be_sharded_again_is_refused_with_the_line_to_write(
    made, tmp_path, kind, processes, dispatch
):
    printed, rows = run(made, tmp_path / "out", kind, processes=processes, dispatch=dispatch, refused=True)
    assert "accelerator.prepare(model, optimizer, loader)" in printed
    assert rows == {}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    "name", ["Accelerator.prepare_data_loader", "prepare_data_loader", "skip_first_batches"]
)
def test_a_loader_that_is_prepared_by_another_function_is_refused_with_the_line_to_write(name, split, made):
    import accelerate

    accelerator = accelerate.Accelerator(
        cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(split_batches=split)
    )
    loader = Loader(Store.open(made / "store"), seq_len=31, batch_size=8)
    prepare = {
        "Accelerator.prepare_data_loader": accelerator.prepare_data_loader,
        "prepare_data_loader": accelerate.data_loader.prepare_data_loader,
        "skip_first_batches": accelerate.skip_first_batches,
    }[name]
    with pytest.raises(ConfigError, match=r"accelerator\.prepare\(model, optimizer, loader\)"):
        prepare(loader)
    assert accelerator.prepare(loader) is loader
