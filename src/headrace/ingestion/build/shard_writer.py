"""Token ids of documents -> shards of one store; a shard is closed after the document that fills it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.ingestion.options import ContentOptions
from headrace.ingestion.build.packer import TokenPacker
from headrace.stats import Stats
from headrace.storage import Blob
from headrace.store import ShardEntry, token_dtype, write_shard
from headrace.tokens import EncodedParts, Ids, Offsets, Tokenizer


class ShardWriter:
    """Writes the shards of one unit at a time; its buffers are reused for the next."""

    def __init__(self, blob: Blob, options: ContentOptions, tokenizer: Tokenizer) -> None:
        self._blob = blob
        self._options = options
        self._packer = TokenPacker(token_dtype(tokenizer.vocab_size), eos_id=tokenizer.eos_id)
        self._prefix = ""
        self._text_bytes = 0
        self._meta: dict[str, list[str | None]] = {}
        self.entries: list[ShardEntry] = []

    def start(self, prefix: str) -> None:
        """Begin a unit; its shards' names start with `prefix`."""
        self._prefix = prefix
        self.entries = []
        self._clear()

    def _clear(self) -> None:
        self._packer.clear()
        self._text_bytes = 0
        self._meta = {name: [] for name in self._options.fields.keep}

    def add(
        self,
        ids: Ids,
        offsets: Offsets,
        lengths: Offsets,
        meta: Mapping[str, list[str | None]],
        stats: Stats,
        parts: EncodedParts | None = None,
    ) -> None:
        """Append documents, and write each shard that is full.

        Args:
            ids: see `TokenPacker.add`.
            offsets: see `TokenPacker.add`.
            lengths: bytes of each text, int64 [documents].
            meta: columns to keep, one value a document.
            stats: takes the seconds of packing and writing.
            parts: which ids are learned, where not all are.
        """
        filled = self._text_bytes + np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            stop = int(np.searchsorted(filled, self._options.shard_text_bytes)) + 1
            full = stop <= len(lengths)
            stop = min(stop, len(lengths))
            first, last = offsets[start], offsets[stop]
            with stats.busy("pack"):
                learned = None
                if parts is not None:
                    learned = parts.learned[first:last], parts.learned_ends[start:stop]
                self._packer.add(ids[first:last], offsets[start : stop + 1] - first, learned)
            for name, values in meta.items():
                self._meta[name] += values[start:stop]
            self._text_bytes = int(filled[stop - 1])
            if full:
                self.flush(stats)
                filled = filled - int(filled[stop - 1])
            start = stop

    def flush(self, stats: Stats) -> None:
        """Write the buffered documents as a shard."""
        if not len(self._packer.tokens):
            return
        with stats.busy("write", items=1):
            entry = write_shard(
                self._blob,
                f"{self._prefix}-{len(self.entries):04d}",
                self._packer.tokens,
                self._packer.document_ends,
                codec=self._options.codec,
                block_tokens=self._options.block_tokens,
                metadata=_table(self._meta),
                learned=self._packer.learned,
            )
        self.entries.append(entry)
        self._clear()


def _table(columns: Mapping[str, list[str | None]]) -> Any:
    """An Arrow table of strings; None without columns."""
    if not columns:
        return None
    import pyarrow as pa  # imported where it is needed: it would double the start-up time of a worker

    return pa.table({name: pa.array(values, type=pa.string()) for name, values in columns.items()})
