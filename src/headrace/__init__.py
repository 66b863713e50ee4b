"""Text to a language model, and its words back out: nothing waits, nothing is lost.

The path of the data, and the names that meet it:

    raw files     ingest(sources, out, tokenizer=...)       -> a store; IngestSummary
                  StoreWriter(out, tokenizer=...)           documents of any iterator -> a store
                  FieldOptions, OperatorOptions, FilterOptions, JobOptions  its options
                  ingest(sources, out, samples=Samples())   images with labels, boxes or masks -> a store of samples
                  train_tokenizer, load_tokenizer           byte-level BPE, or one that exists
                  ingest(sources, out, interactions=Interactions())  logs of users' interactions with items -> samples
    a store       Store.open(url)                           tokens, documents, shards; checked on read
                  mix({store: weight})                      several stores, read as one
                  SampleStore.open(url)                     rows with typed columns: images, labels, boxes
    batches       Loader(store, seq_len=..., batch_size=...)  this rank's rows of each global batch
                  Loader(SampleStore, batch_size=..., image=ImageTransform(size=224))  the same for images
                  Loader(SampleStore, batch_size=..., interactions=InteractionOptions())  and for interactions
                  Batch                                     input_ids, labels, tokens; a mapping that models take
                  BatchOptions, ReadOptions                 what a batch carries, how it is read
    a model       train(stores, model=..., out=...)         -> a run; RunSummary
                  DataOptions, OptimizerOptions, ParallelOptions, CheckpointOptions, EvaluationOptions, RunOptions
                  GPT, GPTConfig, load_model                GPT-3's decoder, and its weights
    predictions   generate(model=..., prompts=..., out=...) -> parts, each key once; GenerateSummary
                  SamplingOptions, EngineOptions            its options
                  PromptOptions, OutputOptions, PrefixCacheOptions
                  read_predictions(out)                     what is committed, as Arrow
    a look        diagnose(loader)                          is a loop bound by its data or its model; Diagnosis
                  DiagnoseOptions                           how precisely, at what cost
                  report(run)                               where the time went, as a page
    errors        HeadraceError and its tree                what, where, got, expected, cure

Names are imported when they are first used: `import headrace` costs
milliseconds and never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from headrace.diagnosis import DiagnoseOptions, Diagnosis, diagnose
    from headrace.errors import (
        CheckpointError,
        ConfigError,
        DocumentError,
        HeadraceError,
        InputError,
        ManifestError,
        OrderError,
        ResumeError,
        ShardError,
        SinkError,
        SourceError,
        SpaceError,
        StorageError,
        StoreError,
        TokenizerError,
        WorkerError,
    )
    from headrace.generation import (
        EngineOptions,
        OutputOptions,
        PrefixCacheOptions,
        PromptOptions,
        SamplingOptions,
        generate,
    )
    from headrace.images import ImageTransform
    from headrace.ingestion import (
        FieldOptions,
        FilterOptions,
        Interactions,
        JobOptions,
        OperatorOptions,
        Samples,
        StoreWriter,
        ingest,
    )
    from headrace.interactions import InteractionOptions
    from headrace.load import Batch, BatchOptions, Loader, ReadOptions, mix
    from headrace.model import GPT, GPTConfig, load_model
    from headrace.profile import report
    from headrace.sink import read_predictions
    from headrace.store import SampleStore, Store
    from headrace.tokens import load_tokenizer, train_tokenizer
    from headrace.training import (
        CheckpointOptions,
        DataOptions,
        EvaluationOptions,
        OptimizerOptions,
        ParallelOptions,
        RunOptions,
        train,
    )

_EXPORTS = {
    "headrace.diagnosis": ["DiagnoseOptions", "Diagnosis", "diagnose"],
    "headrace.ingestion": [
        "FieldOptions",
        "FilterOptions",
        "Interactions",
        "JobOptions",
        "OperatorOptions",
        "Samples",
        "StoreWriter",
        "ingest",
    ],
    "headrace.images": ["ImageTransform"],
    "headrace.interactions": ["InteractionOptions"],
    "headrace.tokens": ["load_tokenizer", "train_tokenizer"],
    "headrace.store": ["SampleStore", "Store"],
    "headrace.load": ["Batch", "BatchOptions", "Loader", "ReadOptions", "mix"],
    "headrace.model": ["GPT", "GPTConfig", "load_model"],
    "headrace.training": [
        "CheckpointOptions",
        "DataOptions",
        "EvaluationOptions",
        "OptimizerOptions",
        "ParallelOptions",
        "RunOptions",
        "train",
    ],
    "headrace.generation": [
        "EngineOptions",
        "OutputOptions",
        "PrefixCacheOptions",
        "PromptOptions",
        "SamplingOptions",
        "generate",
    ],
    "headrace.sink": ["read_predictions"],
    "headrace.profile": ["report"],
    "headrace.errors": [
        "CheckpointError",
        "ConfigError",
        "DocumentError",
        "HeadraceError",
        "InputError",
        "ManifestError",
        "OrderError",
        "ResumeError",
        "ShardError",
        "SinkError",
        "SourceError",
        "SpaceError",
        "StorageError",
        "StoreError",
        "TokenizerError",
        "WorkerError",
    ],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "GPT",
    "Batch",
    "BatchOptions",
    "CheckpointError",
    "CheckpointOptions",
    "ConfigError",
    "DataOptions",
    "DiagnoseOptions",
    "Diagnosis",
    "DocumentError",
    "EngineOptions",
    "EvaluationOptions",
    "FieldOptions",
    "FilterOptions",
    "GPTConfig",
    "HeadraceError",
    "ImageTransform",
    "InputError",
    "InteractionOptions",
    "Interactions",
    "JobOptions",
    "Loader",
    "ManifestError",
    "OperatorOptions",
    "OptimizerOptions",
    "OrderError",
    "OutputOptions",
    "ParallelOptions",
    "PrefixCacheOptions",
    "PromptOptions",
    "ReadOptions",
    "ResumeError",
    "RunOptions",
    "SampleStore",
    "Samples",
    "SamplingOptions",
    "ShardError",
    "SinkError",
    "SourceError",
    "SpaceError",
    "StorageError",
    "Store",
    "StoreError",
    "StoreWriter",
    "TokenizerError",
    "WorkerError",
    "diagnose",
    "generate",
    "ingest",
    "load_model",
    "load_tokenizer",
    "mix",
    "read_predictions",
    "report",
    "train",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
