"""Shards <-> bytes: one stream of tokens, local or on an object store, every block checked.

format      names, limits, types            arrowfile  plain columns <-> an Arrow IPC file's bytes
shard       tokens -> a shard's files       commit     shards' entries -> a snapshot
manifest, table, index                      what a store, its shards and their blocks are
blob, remote                                bytes by name under a URL
codec       a block <-> its stored bytes    slots      decoded blocks, bounded and shared by threads
mapped, local                               files of a local disk, mapped and checked
gather, read                                positions -> rows: `Store`
"""

from headrace.store.blob import Blob, open_blob
from headrace.store.commit import commit_store
from headrace.store.format import BLOCK_TOKENS, ShardEntry, token_dtype
from headrace.store.read import Store
from headrace.store.shard import write_shard

__all__ = [
    "BLOCK_TOKENS",
    "Blob",
    "ShardEntry",
    "Store",
    "commit_store",
    "open_blob",
    "token_dtype",
    "write_shard",
]
