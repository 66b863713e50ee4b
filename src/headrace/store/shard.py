"""Tokens and document ends -> a shard's three files, and its entry of the shard table."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from headrace.errors import ConfigError, ShardError
from headrace.storage import Blob, open_blob, validate_arrow
from headrace.store.arrow import writer
from headrace.store.arrow.reader import ArrowFileError, read_columns
from headrace.store.arrow.writer import ALIGNMENT, Field
from headrace.store.codec import encode
from headrace.store.format import (
    BLOCK_TOKENS,
    CODECS,
    END_FIELDS,
    INDEX_FIELDS,
    MAX_BLOCK_TOKENS,
    MAX_SPAN_TOKENS,
    ShardEntry,
    check_shard_name,
    data_path,
    docs_path,
    index_path,
    spans_path,
)
from headrace.types import Bytes

if TYPE_CHECKING:
    import pyarrow as pa


def write_shard(
    store_url: str | os.PathLike[str] | Blob,
    name: str,
    tokens: NDArray[Any],
    document_ends: NDArray[np.integer[Any]] | Sequence[int],
    *,
    codec: str = "zstd",
    block_tokens: int = BLOCK_TOKENS,
    metadata: pa.Table | None = None,
    learned: NDArray[np.bool_] | None = None,
) -> ShardEntry:
    """Write a shard's files; `commit_store` makes them part of a store.

    The bytes are the same for the same arguments. A shard of the same name is replaced.

    Args:
        store_url: the store's path or URL, or an open blob.
        name: letters, digits, '.', '_', '-'; unique in the store.
        tokens: uint16 or uint32 [n], n >= 1.
        document_ends: ascending [d], one past each end-of-document token, in (0, n].
        codec: none (one contiguous body that maps as one array) | lz4 | zstd.
        block_tokens: tokens in each block but the last; the same in all shards of a store.
        metadata: d rows of further columns, stored beside the document ends; none named "end".
        learned: bool [n]: tokens that are learned; the others are given, and a loader's labels are -100 for them.
            Given, the end-of-document id may also occur inside documents. None: all are learned.

    Returns:
        The entry to pass to `commit_store`.

    Raises:
        ConfigError: an argument is out of range.
        SpaceError: the device is full; shards that were complete stay complete.
    """
    where = f"{store_url if isinstance(store_url, str | os.PathLike) else store_url.url}: shard {name}"
    check_shard_name(name, where=where)
    tokens = _checked_tokens(tokens, where=where)
    ends = _checked_ends(document_ends, len(tokens), where=where)
    if codec not in CODECS:
        raise ConfigError(f"{where}: codec {codec!r}, expected one of {', '.join(CODECS)}")
    if not 1 <= block_tokens <= MAX_BLOCK_TOKENS:
        raise ConfigError(f"{where}: block_tokens {block_tokens}, expected 1 to {MAX_BLOCK_TOKENS}")

    blob = open_blob(store_url) if isinstance(store_url, str | os.PathLike) else store_url
    parts, index = _data_file(tokens, codec, block_tokens)
    docs = _docs_file(ends, metadata, where=where)
    spans = None if learned is None else spans_of(_checked_learned(learned, len(tokens), where=where))
    spans_file = b"" if spans is None else _spans_file(*spans)
    entry = ShardEntry(
        name=name,
        tokens=len(tokens),
        documents=len(ends),
        codec=codec,
        block_tokens=block_tokens,
        dtype=tokens.dtype.name,
        data_nbytes=sum(memoryview(part).nbytes for part in parts),
        data_xxh3=_hash(parts),
        index_nbytes=len(index),
        index_xxh3=xxhash.xxh3_64_intdigest(index),
        docs_nbytes=len(docs),
        docs_xxh3=xxhash.xxh3_64_intdigest(docs),
        content=content_hash([tokens], ends, spans),
        spans_nbytes=len(spans_file),
        spans_xxh3=xxhash.xxh3_64_intdigest(spans_file) if spans_file else 0,
    )
    blob.put(data_path(name), parts)
    blob.put(docs_path(name), docs)
    if spans_file:
        blob.put(spans_path(name), spans_file)
    blob.put(index_path(name), index)
    return entry


def content_hash(
    tokens: Sequence[NDArray[Any]] | Iterator[NDArray[Any]],
    ends: NDArray[np.uint64],
    spans: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None = None,
) -> str:
    """32 hex digits that depend on the content and not on the codec: XXH3-128 of the tokens, ends and spans."""
    digest = xxhash.xxh3_128()
    for part in tokens:
        digest.update(part.data.cast("B"))
    digest.update(np.ascontiguousarray(ends, "<u8").data.cast("B"))
    for column in spans or ():
        digest.update(np.ascontiguousarray(column, "<u4").data.cast("B"))
    return str(digest.hexdigest())


def spans_of(learned: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The learned spans of a mask: first token, and one past the last, of each run of learned tokens.

    >>> [column.tolist() for column in spans_of(np.array([False, True, True, False, True]))]
    [[1, 4], [3, 5]]
    """
    first, last = learned[:1].tolist() == [True], learned[-1:].tolist() == [True]
    inner = np.flatnonzero(learned[1:] != learned[:-1]) + 1
    edges = np.concatenate(([0] * first, inner, [len(learned)] * last)).astype("<u4")
    return edges[::2], edges[1::2]


def token_fields(dtype: np.dtype[Any]) -> tuple[Field, ...]:
    """The one column of a shard's data file."""
    return (Field("tokens", dtype.name),)


def _checked_tokens(tokens: NDArray[Any], *, where: str) -> NDArray[Any]:
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32) or len(tokens) == 0:
        raise ConfigError(
            f"{where}: tokens are {tokens.dtype} {list(tokens.shape)}, expected uint16 or uint32 [n] with n >= 1"
        )
    return np.ascontiguousarray(tokens, dtype=tokens.dtype.newbyteorder("<"))


def _checked_ends(
    ends: NDArray[np.integer[Any]] | Sequence[int], tokens: int, *, where: str
) -> NDArray[np.uint64]:
    ends = np.asarray(ends, dtype=np.int64).reshape(-1)
    if len(ends) and (int(ends[0]) < 1 or int(ends[-1]) > tokens or bool((np.diff(ends) < 1).any())):
        raise ConfigError(
            f"{where}: document ends must ascend within 1 to {tokens}, one past each document's last token"
        )
    return ends.astype("<u8")


def _checked_learned(learned: NDArray[np.bool_], tokens: int, *, where: str) -> NDArray[np.bool_]:
    learned = np.asarray(learned)
    if learned.dtype != np.bool_ or learned.shape != (tokens,):
        raise ConfigError(
            f"{where}: learned is {learned.dtype} {list(learned.shape)}, expected bool [{tokens}], one for each token"
        )
    if tokens > MAX_SPAN_TOKENS:
        raise ConfigError(
            f"{where}: {tokens} tokens, a shard with learned spans has fewer than 2**32. Write several shards"
        )
    return np.ascontiguousarray(learned)


def _spans_file(begins: NDArray[np.uint32], ends: NDArray[np.uint32]) -> bytes:
    return writer.table_bytes({"begin": ("uint32", begins), "end": ("uint32", ends)})


def _data_file(tokens: NDArray[Any], codec: str, block_tokens: int) -> tuple[list[Bytes], bytes]:
    """A data file's buffers, and its index file."""
    fields = token_fields(tokens.dtype)
    starts = range(0, len(tokens), block_tokens)
    stored = [encode(tokens[start : start + block_tokens], codec) for start in starts]
    lengths = np.array([memoryview(block).nbytes for block in stored], np.uint64)
    offsets = np.zeros(len(stored), np.uint64)

    parts: list[Bytes] = [writer.head(fields)]
    at = len(parts[0])
    batches = []
    # Without a codec one batch holds the whole shard, so that its body is contiguous and maps as one array;
    # with one, each block is a batch, so that it can be read alone.
    groups = [range(len(stored))] if codec == "none" else [range(i, i + 1) for i in range(len(stored))]
    for group in groups:
        nbytes = int(lengths[group.start : group.stop].sum())
        rows = min(len(tokens), group.stop * block_tokens) - group.start * block_tokens
        start = writer.batch_head(at=at, rows=rows, buffers=[0, nbytes], columns=1, codec=codec)
        padding = bytes(-nbytes % ALIGNMENT)
        batches.append(writer.BatchLocation(at, len(start), nbytes + len(padding)))
        at += len(start)
        before = np.cumsum(lengths[group.start : group.stop]) - lengths[group.start : group.stop]
        offsets[group.start : group.stop] = before + np.uint64(at)
        parts += [start, *stored[group.start : group.stop], padding]
        at += nbytes + len(padding)
    parts.append(writer.tail(fields, batches))

    counts = np.minimum(block_tokens, len(tokens) - np.arange(len(stored)) * block_tokens)
    index = writer.table_bytes(
        dict(
            zip(
                (field.name for field in INDEX_FIELDS),
                (
                    ("uint64", offsets),
                    ("uint32", lengths),
                    ("uint32", counts),
                    ("uint32", tokens[::block_tokens]),
                    ("uint64", np.array([xxhash.xxh3_64_intdigest(block) for block in stored], np.uint64)),
                ),
                strict=True,
            )
        )
    )
    return parts, index


def _docs_file(ends: NDArray[np.uint64], metadata: pa.Table | None, *, where: str) -> bytes:
    if metadata is None or metadata.num_columns == 0:
        return writer.table_bytes({"end": ("uint64", ends)})
    import pyarrow as pa

    if metadata.num_rows != len(ends) or "end" in metadata.column_names:
        raise ConfigError(
            f"{where}: metadata has {metadata.num_rows} rows and columns {metadata.column_names}; expected one row "
            f"for each of the {len(ends)} document ends and no column named 'end'"
        )
    schema = pa.schema([pa.field("end", pa.uint64(), nullable=False), *metadata.schema]).remove_metadata()
    metadata = validate_arrow(metadata, where=f"{where}: metadata", error=ConfigError).combine_chunks()
    # A chunked column without rows has no chunk; a batch needs one array for each column.
    arrays = [
        column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in metadata.columns
    ]
    batch = pa.record_batch([pa.array(ends), *arrays], schema=schema)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(batch)
    data = sink.getvalue()
    try:
        read_columns(data, END_FIELDS)
    except ArrowFileError as error:
        raise ShardError(f"{where}: its document file cannot be read back: {error}") from error
    return data


def _hash(parts: Sequence[Bytes]) -> int:
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return int(digest.intdigest())
