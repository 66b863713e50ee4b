"""Small stores of samples."""

from __future__ import annotations

import numpy as np

from headrace.store import (
    Array,
    ClassLabel,
    Image,
    List,
    Tokens,
    Value,
    columns_of_rows,
    commit_samples,
    write_sample_shard,
)

FEATURES = {
    "image": Image(),
    "label": ClassLabel(("cat", "dog")),
    "boxes": List(Array((4,), "float32")),
    "classes": List(ClassLabel(("cat", "dog"))),
    "name": Value("string"),
    "words": List(Value("string")),
    "size": Array((2, 2), "int16"),
    "score": Value("float64"),
    "ids": Tokens("uint16"),
}


def sample_rows(count):
    """Rows of all column types, without a random generator; some of their values are empty."""
    return [
        {
            "image": bytes((i * 7 + j) % 256 for j in range(i * 37 % 200)),
            "label": ["cat", "dog", -1][i % 3],
            "boxes": [[i, j, i + 1.5, j + 2] for j in range(i % 4)],
            "classes": [j % 2 for j in range(i % 4)],
            "name": f"número {i}" if i % 5 else "",
            "words": ["ab" * j for j in range(i % 3)],
            "size": [[i, -i], [2, 3]],
            "score": i / 8,
            "ids": [i, 65_535][: i % 3],
        }
        for i in range(count)
    ]


def make_samples(url, rows, *, sizes=None, codec="none", block_bytes=512, features=FEATURES):
    """Write rows as shards of these sizes (one by default), and commit them."""
    entries, at = [], 0
    for i, size in enumerate(sizes or [len(rows)]):
        columns = columns_of_rows(rows[at : at + size], features)
        entries.append(
            write_sample_shard(url, f"s{i}", columns, features, codec=codec, block_bytes=block_bytes)
        )
        at += size
    commit_samples(url, entries, features=features)
    return entries


def same(got, row):
    """Whether a row that was read is the one that was written."""
    names = {"cat": 0, "dog": 1}
    for name, value in got.items():
        expected = names.get(row[name], row[name]) if name == "label" else row[name]
        if isinstance(value, np.ndarray):
            if not np.array_equal(value, np.asarray(expected).reshape(value.shape)):
                return False
        elif value != expected:
            return False
    return True
