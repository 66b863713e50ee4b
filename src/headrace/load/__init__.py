"""A store and an order -> batches: this rank's rows of each global batch, from any position, on any device.

In reading order:

    options              what a batch carries, how it is read
    mixture              stores and weights -> one source
    distributed          this process's data-parallel rank
    indices              a position -> the rows of the batch there
    rows, packing/       row numbers -> tokens: the stream cut every seq_len, or whole documents side by side
    defaults             what "auto" means for a kind of store
    host, device         tokens -> int64 arrays in host memory, or on a device
    batch_builder, batch rows -> a batch: a mapping that models take
    read_ahead           rows announced to remote stores
    thread_pool, prefetch  batches made ahead
    stateful             loops over passes, one position as the state
    loader               all of it: `Loader`
    sample_columns, sample_rows, sample_loader   the same for stores of samples: images decoded into the batch
    pytree               batches as pytrees of torch and JAX
"""

from headrace.load.batch import Batch
from headrace.load.callers import (
    WITH_ACCELERATE,
    called_by_accelerate,
    called_by_lightning,
    iterated_by_accelerate,
)
from headrace.load.distributed import data_rank
from headrace.load.loader import Loader
from headrace.load.mixture import Mixture, mix
from headrace.load.options import BatchOptions, ReadOptions
from headrace.load.sample_loader import SampleLoader

__all__ = [
    "WITH_ACCELERATE",
    "Batch",
    "BatchOptions",
    "Loader",
    "Mixture",
    "ReadOptions",
    "SampleLoader",
    "called_by_accelerate",
    "called_by_lightning",
    "data_rank",
    "iterated_by_accelerate",
    "mix",
]
