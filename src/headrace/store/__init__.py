"""Shards <-> bytes: one stream of tokens, local or on an object store, every block checked.

In reading order:

    format               names, limits, types
    arrowfile, arrowread plain columns <-> the bytes of an Arrow IPC file
    codec                a block <-> its stored bytes
    shard                tokens -> a shard's files
    manifest, table, index   what a store, its shards and their blocks are
    commit               shards' entries -> a snapshot
    source, megatron     shards as they are stored, ours and Megatron's
    mapped, local        files of a local disk, mapped and checked
    fetch                blocks behind a URL, fetched once per machine
    slots                decoded blocks, bounded and shared by threads
    gather, read         positions -> rows: `Store`
    verify, inspect      everything checked; what is in it
"""

from headrace.store.commit import commit_store
from headrace.store.format import BLOCK_TOKENS, ShardEntry, token_dtype
from headrace.store.megatron import export_megatron
from headrace.store.read import Store
from headrace.store.shard import write_shard

__all__ = [
    "BLOCK_TOKENS",
    "ShardEntry",
    "Store",
    "commit_store",
    "export_megatron",
    "token_dtype",
    "write_shard",
]
