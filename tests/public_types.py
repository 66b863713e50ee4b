"""The public API's types, as a type checker sees them: `make lint` runs mypy over this file, nothing imports it."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import torch

import headrace as hr
from headrace.load.batch import Batch
from headrace.load.mixture import Mixture
from headrace.load.options import ReadOptions
from headrace.model.llama.decoder import Decoder
from headrace.stats import StageCount
from headrace.tokens.protocol import Tokenizer

Integers = np.ndarray[tuple[Any, ...], np.dtype[np.integer[Any]]]


def loaders(store: hr.Store) -> None:
    loader = hr.Loader(store, seq_len=8, batch_size=4, output=hr.BatchOptions(position_ids=True))
    assert_type(next(loader), Batch[torch.Tensor])
    assert_type(next(iter(loader)), Batch[torch.Tensor])
    for batch in loader:
        assert_type(batch, Batch[torch.Tensor])
    assert_type(next(loader).input_ids, torch.Tensor)
    assert_type(next(loader)["labels"], torch.Tensor)
    assert_type(next(loader).position_ids, torch.Tensor | None)
    assert_type(next(loader).to("cuda"), Batch[torch.Tensor])
    assert_type(next(loader).rows.dtype, np.dtype[np.int64])
    assert_type(loader.position, int)
    assert_type(loader.epoch, int)
    assert_type(loader.state_dict(), dict[str, int | str])
    assert_type(loader.output, hr.BatchOptions[Any])
    assert_type(loader.reading, ReadOptions)
    assert_type(loader.stages(), dict[str, StageCount])

    arrays = hr.Loader(store, seq_len=8, batch_size=4, output=hr.BatchOptions(framework="numpy"))
    assert_type(next(arrays).input_ids, Integers)
    assert_type(next(arrays)["labels"], Integers)


def stores() -> None:
    store = hr.Store.open("store")
    assert_type(store, hr.Store)
    assert_type(store.num_tokens, int)
    assert_type(store.num_documents, int)
    assert_type(store.num_shards, int)
    assert_type(store.dtype, np.dtype[Any])
    assert_type(store.vocab_size, int)
    assert_type(store.eos_id, int)
    assert_type(store.fingerprint, str)
    assert_type(store.codec, str)
    assert_type(store.snapshot, int)
    assert_type(store.url, str)
    assert_type(store.tokenizer, Tokenizer)
    assert_type(store.read(0, 9), np.ndarray[tuple[Any, ...], np.dtype[Any]])
    assert_type(hr.mix({store: 1.0}), Mixture)


def models() -> None:
    assert_type(hr.load_model("run")[0], hr.GPT | Decoder)
