"""Ids of documents and positions, cu_seqlens and masks say where documents lie."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from headrace.load import BatchOptions, Loader, ReadOptions
from headrace.load.packing.boundaries import DocumentBoundaries, starts_after, starts_at

EVERYTHING = BatchOptions(document_ids=True, position_ids=True, cu_seqlens=True, framework="numpy")


def by_hand(tokens, eos_id):
    """document_ids, position_ids and cu_seqlens of [B, T + 1] tokens, one token at a time."""
    documents, positions, bounds = [], [], []
    width = tokens.shape[1] - 1
    for number, row in enumerate(tokens.tolist()):
        document, position = 0, 0
        for place, token in enumerate(row[:-1]):
            if place == 0 or row[place - 1] == eos_id:
                document += place > 0
                position = 0
                bounds.append(number * width + place)
            documents.append(document)
            positions.append(position)
            position += 1
            del token
    shape = (len(tokens), width)
    return np.reshape(documents, shape), np.reshape(positions, shape), [*bounds, len(tokens) * width]


@given(num_tokens=integers(50, 900), seq_len=integers(1, 45), mean_doc=integers(1, 30))
def test_rows_of_the_stream_say_where_documents_lie(fake_store, num_tokens, seq_len, mean_doc):
    store = fake_store(num_tokens, mean_doc=mean_doc)
    for batch in Loader(store, seq_len=seq_len, batch_size=4, epochs=1, output=EVERYTHING):
        documents, positions, bounds = by_hand(batch.tokens, store.eos_id)
        assert (batch.document_ids == documents).all()
        assert (batch.position_ids == positions).all()
        assert batch.cu_seqlens.tolist() == bounds


@given(num_tokens=integers(30, 500), width=integers(2, 30), mean_doc=integers(1, 20))
def test_a_store_without_end_ids_is_read_by_its_document_table(fake_store, num_tokens, width, mean_doc):
    store = fake_store(num_tokens, mean_doc=mean_doc)
    firsts = np.arange(0, num_tokens - width + 1, 3)
    tokens = store.gather(firsts, width)
    ends = [store.document_ends(first, first + width) for first in firsts]
    assert (starts_at(firsts, width, ends) == starts_after(tokens, store.eos_id)).all()


def test_labels_of_a_documents_first_token_are_masked_on_request(fake_store):
    store = fake_store(900, mean_doc=10)
    plain, masked = (
        next(
            Loader(
                store,
                seq_len=40,
                batch_size=8,
                output=BatchOptions(framework="numpy", mask_document_starts=m),
            )
        )
        for m in (False, True)
    )
    first = plain.tokens[:, :-1] == store.eos_id
    assert first.any()
    assert (masked.labels == np.where(first, -100, plain.labels)).all()
    assert (masked.masked == first).all()


def test_labels_are_masked_where_a_function_says(fake_store):
    store = fake_store(900)
    loader = Loader(
        store,
        seq_len=40,
        batch_size=8,
        output=BatchOptions(framework="numpy", label_mask=lambda t: t[:, 1:] < 100),
    )
    batch = next(loader)
    wide = batch.tokens[:, 1:].astype(np.int64)
    assert (batch.labels == np.where(wide < 100, -100, wide)).all()


@pytest.mark.parametrize("packing", [None, "best_fit"])
def test_padding_free_batches_hold_the_same_targets_without_padding(fake_store, tmp_path, packing):
    store = fake_store(2000, mean_doc=15)
    options = {
        "seq_len": 40,
        "batch_size": 8,
        "packing": packing,
        "reading": ReadOptions(packing_dir=tmp_path),
    }
    for flat, plain in zip(
        Loader(store, epochs=1, output=replace(EVERYTHING, padding_free=True), **options),
        Loader(store, epochs=1, output=EVERYTHING, **options),
        strict=True,
    ):
        assert (
            flat.input_ids.shape == flat.labels.shape == flat.position_ids.shape == (1, flat.cu_seqlens[-1])
        )
        inside = np.ones_like(plain.labels, bool) if packing is None else plain.labels != -100
        assert (flat.input_ids[0] == plain.input_ids[inside]).all()
        assert (flat.labels[0] == plain.labels[inside]).all()
        assert (flat.position_ids[0] == plain.position_ids[inside]).all()
        assert (flat.position_ids[0][flat.cu_seqlens[:-1]] == 0).all()
        lengths = np.diff(flat.cu_seqlens)
        assert (flat.document_ids[0] == np.repeat(np.arange(lengths.size), lengths)).all()
        if packing:
            assert (flat.labels != -100).all()


def test_a_filler_is_masked_in_every_kind_of_batch(fake_store, tmp_path):
    store = fake_store(71)
    for packing in (None, "best_fit"):
        for padding_free in (False, True):
            ranks = [
                Loader(
                    store, seq_len=7, batch_size=8, epochs=1, rank=r, world_size=8, packing=packing,
                    reading=ReadOptions(packing_dir=tmp_path), output=replace(EVERYTHING, padding_free=padding_free),
                )
                for r in range(8)
            ]  # fmt: skip
            last = [list(loader)[-1] for loader in ranks]
            assert {batch.num_rows for batch in last} == {0, 1}
            for batch in last:
                assert (batch.num_rows == 0) == (batch.labels == -100).all()


def test_padding_is_no_document():
    starts = np.array([[True, False, True, True, False]])
    boundaries = DocumentBoundaries(starts=starts, used=np.array([3]))
    assert boundaries.document_ids().tolist() == [[0, 0, 1, -1]]
    assert boundaries.without_target.tolist() == [[False, True, True, True]]
    assert boundaries.position_ids().tolist() == [[0, 1, 0, 0]]
    assert boundaries.cu_seqlens().tolist() == [0, 2, 3, 4]
