"""Batches on a device hold the same ids; the copy is ours, the order is not changed."""

from dataclasses import replace

import numpy as np
import pytest

from headrace.load import BatchOptions, Loader, ReadOptions

torch = pytest.importorskip("torch")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("vocab_size", [257, 65_536, 100_000])
def test_a_device_gets_the_ids_that_the_host_gets(fake_store, device, vocab_size):
    store = fake_store(3000, vocab_size=vocab_size)
    plain = list(Loader(store, seq_len=9, batch_size=4, epochs=1))
    with Loader(store, seq_len=9, batch_size=4, epochs=1, output=BatchOptions(device=device)) as loader:
        there = list(loader)
    for got, want in zip(there, plain, strict=True):
        assert got.input_ids.device.type == device
        assert got.input_ids.dtype == torch.int64
        assert torch.equal(got.input_ids.cpu(), want.input_ids)
        assert torch.equal(got.labels.cpu(), want.labels)
        assert (got.tokens.cpu().numpy() == want.tokens).all()


@pytest.mark.parametrize("device", DEVICES)
def test_masks_and_documents_travel_too(fake_store, tmp_path, device):
    store = fake_store(3000, mean_doc=12)
    for padding_free in (False, True):
        options = {
            "seq_len": 30, "batch_size": 4, "epochs": 1, "packing": "best_fit",
            "reading": ReadOptions(packing_dir=tmp_path),
        }  # fmt: skip
        output = BatchOptions(
            position_ids=True, document_ids=True, cu_seqlens=True, padding_free=padding_free
        )
        plain = list(Loader(store, output=output, **options))
        with Loader(store, output=replace(output, device=device), **options) as loader:
            for got, want in zip(loader, plain, strict=True):
                for name in ("input_ids", "labels", "position_ids", "document_ids", "cu_seqlens"):
                    assert torch.equal(getattr(got, name).cpu(), getattr(want, name)), name


@pytest.mark.parametrize("device", DEVICES)
def test_many_batches_in_flight_are_not_mixed_up(fake_store, device):
    store = fake_store(200_000)
    wanted = np.concatenate([b.tokens for b in Loader(store, seq_len=99, batch_size=16, epochs=1)])
    with Loader(
        store,
        seq_len=99,
        batch_size=16,
        epochs=1,
        output=BatchOptions(device=device),
        reading=ReadOptions(prefetch=6),
    ) as loader:
        kept = [batch.input_ids for batch in loader]
    assert (torch.cat(kept).cpu().numpy() == wanted[:, :-1]).all()
