"""Lightning's Trainer takes a loader as it is: exact resume, whole validations, and each rank its own rows."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings

import pytest

from headrace.errors import ConfigError
from headrace.load import Loader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")
torch = pytest.importorskip("torch")
from headrace.interop.torch import LoaderDataset, dataloader  # noqa: E402  # after the check for torch

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 2,
}  # fmt: skip


class Recording(lightning.LightningModule):
    """Keeps the positions of the batches that it gets."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(257, 257)
        self.trained, self.validated, self.tested = [], [], []

    def training_step(self, batch, index):
        self.trained.append(batch.position)
        logits = self.embedding(batch["input_ids"])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())

    def validation_step(self, batch, index):
        self.validated.append(batch.rows.tolist())

    def test_step(self, batch, index):
        self.tested.append(batch.position)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader_of(store, **options):
    return Loader(store, **{"seq_len": 15, "batch_size": 8, "seed": 3, "epochs": 1, **options})


def trained(store, folder, *, epochs=1, resume=None, wrap=lambda loader: loader):
    model = Recording()
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(folder, every_n_train_steps=20, save_top_k=-1)
    trainer = lightning.Trainer(max_steps=40, callbacks=[checkpoint], **QUIET)
    trainer.fit(model, wrap(loader_of(store, epochs=epochs)), ckpt_path=resume)
    return model.trained


@pytest.mark.parametrize("epochs", [1, 2, None])
@pytest.mark.parametrize("wrap", [lambda loader: loader, dataloader])
def test_a_resumed_trainer_reads_what_an_uninterrupted_one_reads(store, tmp_path, epochs, wrap):
    """13 batches an epoch: step 20 is in the middle of the second."""
    whole = trained(store, tmp_path, epochs=epochs, wrap=wrap)
    (saved,) = tmp_path.glob("*step=20.ckpt")
    assert trained(store, tmp_path / "again", epochs=epochs, resume=str(saved), wrap=wrap) == whole[20:]
    assert len(whole) == 40


def test_each_validation_and_each_test_reads_all_rows(store):
    model, validation = Recording(), loader_of(store, shuffle=False)
    trainer = lightning.Trainer(max_epochs=2, enable_checkpointing=False, **QUIET)
    trainer.fit(model, loader_of(store), validation)
    whole = [batch.rows.tolist() for batch in loader_of(store, shuffle=False)]
    assert model.validated == [*whole[:2], *whole, *whole]
    test = loader_of(store)
    for count in (13, 26):
        trainer.test(model, test, verbose=False)
        assert len(model.tested) == count


def test_a_dataloader_whose_state_lightning_does_not_save_is_refused(store, tmp_path):
    def wrapped(loader):
        return torch.utils.data.DataLoader(LoaderDataset(loader), batch_size=None)

    with pytest.raises(ConfigError, match=r"trainer\.fit\(model, loader\)"):
        trained(store, tmp_path, wrap=wrapped)


class Rows(torch.utils.data.IterableDataset):
    """A user's own iterable around a loader."""

    def __init__(self, loader, way):
        self.loader, self.way = loader, way

    def __iter__(self):
        return iter(self.loader) if self.way == "handed on" else self.batches()

    def batches(self):
        while self.way == "next":
            yield next(self.loader)
        yield from self.loader


@pytest.mark.parametrize("way", ["next", "yield", "handed on"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: rows,
        lambda rows: torch.utils.data.DataLoader(rows, batch_size=None),
    ],
)
def test_a_loader_in_an_iterable_of_the_users_is_refused_with_the_line_to_write(store, tmp_path, way, wrap):
    with pytest.raises(ConfigError, match=r"trainer\.fit\(model, loader\).*on_before_batch_transfer"):
        trained(store, tmp_path, wrap=lambda loader: wrap(Rows(loader, way)))


@pytest.mark.parametrize(
    "wrap",
    [
        iter,
        lambda loader: map(copy.copy, loader),
        lambda loader: (batch for batch in loader),
        lambda loader: iter(dataloader(loader)),
    ],
    ids=["iter", "map", "generator expression", "iterator of a DataLoader"],
)
def test_an_iterator_over_a_loader_is_refused_with_the_line_to_write(store, tmp_path, wrap):
    """The user's code begins the loop: Lightning would get one pass, whatever its epochs, and no state."""
    with pytest.raises(ConfigError, match=r"trainer\.fit\(model, loader\)"):
        trained(store, tmp_path, wrap=wrap)


def test_a_loop_over_a_loader_in_a_hook_is_the_users_own(store, tmp_path):
    class Looking(Recording):
        def training_step(self, batch, index):
            assert next(probe).num_rows == 8
            self.seen = sum(batch.num_rows for batch in loader_of(store))
            return super().training_step(batch, index)

    probe, model = loader_of(store, epochs=None), Looking()
    lightning.Trainer(max_steps=2, enable_checkpointing=False, **QUIET).fit(model, loader_of(store))
    assert model.seen == loader_of(store).num_rows


RANKS = """
import sys
import torch, torch.distributed as dist, torch.multiprocessing as processes
import headrace as hr

def work(rank, store, port):
    loader = hr.Loader(hr.Store.open(store), seq_len=31, batch_size=8)  # before the rank is known
    dist.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
    late = hr.Loader(hr.Store.open(store), seq_len=31, batch_size=8)
    print("late", late.rank, next(late).rows.tolist(), flush=True)
    try:
        next(loader)
    except hr.ConfigError as error:
        print("refused", rank, error, flush=True)
    given = hr.Loader(hr.Store.open(store), seq_len=31, batch_size=8, rank=0, world_size=1)
    print("given", len(next(given).rows), flush=True)
    dist.destroy_process_group()

if __name__ == "__main__":
    processes.spawn(work, args=(sys.argv[1], sys.argv[2]), nprocs=2)
"""


def test_a_rank_that_torch_distributed_contradicts_is_refused(tmp_path):
    import json

    from headrace import ingest

    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": f"turn {n}"}) + "\n" for n in range(300))
    )
    ingest(tmp_path / "texts.jsonl", tmp_path / "store", tokenizer="byte")
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, str(tmp_path / "ranks.py"), str(tmp_path / "store"), str(tmp_path / "meeting")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert [line.split(" ", 2)[:2] for line in lines if line.startswith("late")] == [
        ["late", "0"],
        ["late", "1"],
    ]
    assert sum("rank 0 of 1" in line and "of 2" in line for line in lines) == 2
    assert lines.count("given 8") == 2
