"""A DataLoader around a loader delivers its batches, and refuses workers."""

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
