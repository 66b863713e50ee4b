"""A DataLoader around a loader delivers its batches, and refuses workers."""

from types import SimpleNamespace

import pytest

from headrace.errors import ConfigError
from headrace.load import Loader

torch_data = pytest.importorskip("torch.utils.data")
from headrace.interop.torch import LoaderDataset  # noqa: E402  # after the check for torch


def test_a_dataloader_delivers_the_loaders_batches(store):
    wanted = [batch.rows.tolist() for batch in Loader(store, seq_len=15, batch_size=4, epochs=1)]
    dataset = LoaderDataset(Loader(store, seq_len=15, batch_size=4, epochs=1))
    assert len(dataset) == len(wanted)
    assert [batch.rows.tolist() for batch in torch_data.DataLoader(dataset, batch_size=None)] == wanted


def test_its_state_is_the_loaders(store):
    dataset = LoaderDataset(Loader(store, seq_len=15, batch_size=4, epochs=1))
    batches = iter(dataset)
    next(batches)
    state = dataset.state_dict()
    other = LoaderDataset(Loader(store, seq_len=15, batch_size=4, epochs=1))
    other.load_state_dict(state)
    assert [b.position for b in other] == [b.position for b in batches]


def test_worker_processes_are_refused(store, monkeypatch):
    # As torch sets it in a worker; a real one would be forked from a process that other tests fill with threads.
    monkeypatch.setattr(torch_data._utils.worker, "_worker_info", object())
    with pytest.raises(ConfigError, match="num_workers=0"):
        next(iter(LoaderDataset(Loader(store, seq_len=15, batch_size=4, epochs=1))))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_loader_in_several_worker_processes_is_refused_in_any_dataset(store, monkeypatch, num_workers):
    """Each worker would deliver every batch; one worker delivers them once."""
    monkeypatch.setattr(torch_data._utils.worker, "_worker_info", SimpleNamespace(num_workers=num_workers))
    loader = Loader(store, seq_len=15, batch_size=4, epochs=1)
    if num_workers == 1:
        assert sum(batch.num_rows for batch in loader) == loader.num_rows
    else:
        with pytest.raises(ConfigError, match="every worker would deliver every batch"):
            next(loader)
    share = Loader(store, seq_len=15, batch_size=4, epochs=1, rank=1, world_size=2)
    assert next(share).num_rows == 2  # the user's own division among the workers
