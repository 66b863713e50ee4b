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
"""

from headrace.store.codec import decode_into, encode
from headrace.store.commit import commit_store, current_manifest
from headrace.store.format import BLOCK_TOKENS, MANIFEST, ShardEntry, token_dtype
from headrace.store.inspect import StoreReport, inspect_store
from headrace.store.manifest import Manifest
from headrace.store.megatron.export import export_megatron
from headrace.store.megatron.source import is_megatron
from headrace.store.read.lookup import RowLookup
from headrace.store.shard import write_shard
from headrace.store.store import Store
from headrace.store.verify import verify_store

__all__ = [
    "BLOCK_TOKENS",
    "MANIFEST",
    "Manifest",
    "RowLookup",
    "ShardEntry",
    "Store",
    "StoreReport",
    "commit_store",
    "current_manifest",
    "decode_into",
    "encode",
    "export_megatron",
    "inspect_store",
    "is_megatron",
    "token_dtype",
    "verify_store",
    "write_shard",
]
