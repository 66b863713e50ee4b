"""Shards <-> rows of tokens: one stream of tokens, local or on an object store, every block checked.

In reading order:

    format               names, limits, types
    arrow/               plain columns <-> the bytes of an Arrow IPC file
    codec                a block <-> its stored bytes
    shard                tokens -> a shard's files
    manifest, table, index   a snapshot, its shards, their blocks
    commit               shards' entries -> a snapshot
    megatron/            Megatron's files: read in place, and written from a store
    read/                positions -> rows
        source           shards as they are stored
        mapped, mapped_blocks   files of a local disk, mapped and checked
        fetch            blocks behind a URL
        decode, block_cache, belady, lru   decoded blocks, bounded and shared by threads
        gather, lookup   rows of a batch, of many batches
    store                `Store`
    verify, inspect      every byte checked; a summary of a store
    samples/             the other kind of store: rows with typed columns, such as images and labels
"""

from headrace.store.codec import decode_into, encode
from headrace.store.commit import commit_store, current_manifest, has_manifest
from headrace.store.format import BLOCK_TOKENS, MANIFEST, ShardEntry, token_dtype
from headrace.store.inspect import DocumentSample, StoreReport, TextPiece, inspect_store
from headrace.store.manifest import Manifest
from headrace.store.megatron.export import export_megatron
from headrace.store.megatron.source import is_megatron
from headrace.store.read.lookup import RowLookup
from headrace.store.samples.columns import (
    Column,
    Columns,
    Ragged,
    columns_of_rows,
    concatenate_columns,
    row_nbytes,
)
from headrace.store.samples.commit import commit_samples, current_samples, is_sample_store
from headrace.store.samples.features import (
    Array,
    ClassLabel,
    Feature,
    Features,
    Image,
    List,
    Tokens,
    Value,
    describe_feature,
    features_to_json,
)
from headrace.store.samples.inspect import SampledRow, SampleReport, inspect_samples
from headrace.store.samples.manifest import SampleManifest
from headrace.store.samples.shard import write_sample_shard
from headrace.store.samples.store import SampleStore
from headrace.store.samples.table import SampleShardEntry
from headrace.store.samples.verify import verify_samples
from headrace.store.shard import write_shard
from headrace.store.store import Store
from headrace.store.verify import verify_store

__all__ = [
    "BLOCK_TOKENS",
    "MANIFEST",
    "Array",
    "ClassLabel",
    "Column",
    "Columns",
    "DocumentSample",
    "Feature",
    "Features",
    "Image",
    "List",
    "Manifest",
    "Ragged",
    "RowLookup",
    "SampleManifest",
    "SampleReport",
    "SampleShardEntry",
    "SampleStore",
    "SampledRow",
    "ShardEntry",
    "Store",
    "StoreReport",
    "TextPiece",
    "Tokens",
    "Value",
    "columns_of_rows",
    "commit_samples",
    "commit_store",
    "concatenate_columns",
    "current_manifest",
    "current_samples",
    "decode_into",
    "describe_feature",
    "encode",
    "export_megatron",
    "features_to_json",
    "has_manifest",
    "inspect_samples",
    "inspect_store",
    "is_megatron",
    "is_sample_store",
    "row_nbytes",
    "token_dtype",
    "verify_samples",
    "verify_store",
    "write_sample_shard",
    "write_shard",
]
