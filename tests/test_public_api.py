"""The public names: which there are, that each is documented, and that none hides a folder."""

from __future__ import annotations

from pathlib import Path

import headrace


def test_every_public_name_can_be_imported_and_is_documented():
    for name in headrace.__all__:
        value = getattr(headrace, name)
        assert value.__doc__, name
        assert name in headrace.__doc__ or issubclass(value, headrace.HeadraceError), name


def test_public_names_change_only_on_purpose():
    assert headrace.__all__ == [
        "GPT", "Batch", "BatchOptions", "CheckpointError", "CheckpointOptions", "ConfigError", "DataOptions",
        "DiagnoseOptions", "Diagnosis", "DocumentError", "EngineOptions", "EvaluationOptions", "FieldOptions",
        "FilterOptions", "GPTConfig", "HeadraceError", "ImageTransform", "InputError", "InteractionOptions",
        "Interactions", "JobOptions", "Loader",
        "ManifestError", "OperatorOptions", "OptimizerOptions", "OrderError", "OutputOptions", "ParallelOptions",
        "PrefixCacheOptions", "PromptOptions", "ReadOptions", "ResumeError", "RunOptions", "SampleStore", "Samples",
        "SamplingOptions", "ShardError", "SinkError", "SourceError", "SpaceError", "StorageError", "Store",
        "StoreError", "StoreWriter", "TokenizerError", "WorkerError", "diagnose", "generate", "ingest",
        "load_model", "load_tokenizer", "mix", "read_predictions", "report", "train", "train_tokenizer",
    ]  # fmt: skip


def test_no_public_name_is_also_a_folder():
    """`import headrace.training` never changes what `headrace.train` is."""
    folders = {path.name for path in Path(headrace.__file__).parent.iterdir()}
    assert not folders & set(headrace.__all__)
