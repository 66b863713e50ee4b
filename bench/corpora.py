"""Compressed text, or nothing -> the same tokens for every contestant.

Loading: one .npy of uint16 GPT-2 tokens with the documents' ends. Ingest: .jsonl.gz files. Without --corpus,
loading gets synthetic tokens with the frequencies of text (Zipf), so that it runs anywhere.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from measure import DATA, number, say, waited

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

EOS = 50256
VOCABULARY = 50257


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A stream of tokens on disk, for every contestant to convert into its own format."""

    folder: Path
    """Holds tokens.npy (uint16 [n]), ends.npy (int64, one past each end) and the converted formats."""
    name: str
    num_tokens: int

    @property
    def tokens(self) -> NDArray[np.uint16]:
        """All tokens, mapped."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r")

    @property
    def ends(self) -> NDArray[np.int64]:
        """One past each document's end-of-document token."""
        return np.load(self.folder / "ends.npy")


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """--corpus and --tokenizer, or HEADRACE_BENCH_CORPUS and HEADRACE_BENCH_TOKENIZER."""
    parser.add_argument(
        "--corpus",
        nargs="*",
        default=os.environ.get("HEADRACE_BENCH_CORPUS", "").split(),
        help=".jsonl.gz files or folders of them, one {'text': ...} a line (default: $HEADRACE_BENCH_CORPUS)",
    )
    parser.add_argument(
        "--tokenizer",
        default=os.environ.get("HEADRACE_BENCH_TOKENIZER"),
        help="GPT-2's tokenizer.json (default: $HEADRACE_BENCH_TOKENIZER)",
    )


def files_of(corpus: list[str]) -> list[Path]:
    """The .jsonl.gz files named, and those in the folders named, in order."""
    found: list[Path] = []
    for name in corpus:
        path = Path(name).expanduser()
        found += sorted(path.glob("*.jsonl.gz")) if path.is_dir() else [path]
    if missing := [path for path in found if not path.is_file()]:
        raise SystemExit(
            f"{missing[0]}: no such corpus file; give .jsonl.gz files, or folders that hold some"
        )
    return found


def tokens_for_loading(corpus: list[str], tokenizer: str | None, *, num_tokens: int) -> Tokens:
    """The first GPT-2 tokens of a corpus, or as many synthetic ones; made once, then found again."""
    if tokenizer:
        os.environ["HEADRACE_BENCH_TOKENIZER"] = tokenizer  # where the making of stores looks for it
    files = files_of(corpus)
    label = "+".join(dict.fromkeys(path.parent.name for path in files)) if files else "zipf"
    key = hashlib.blake2b(
        json.dumps([[str(p), p.stat().st_size] for p in files] + [num_tokens, tokenizer]).encode(),
        digest_size=4,
    ).hexdigest()
    folder = DATA / f"load-{label}-{num_tokens // 10**6}M-{key}"
    if not (folder / "ends.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with waited(f"tokens of {label}"):
            ids, ends = (
                _tokenized(files, tokenizer, num_tokens)
                if files
                else _zipf(num_tokens, np.random.default_rng(7))
            )
        np.save(folder / "tokens.npy", ids)
        np.save(folder / "ends.npy", ends)
    ids = np.load(folder / "tokens.npy", mmap_mode="r")
    return Tokens(folder=folder, name=label if files else "synthetic (Zipf)", num_tokens=len(ids))


def _zipf(num_tokens: int, random: np.random.Generator) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    weights = 1.0 / np.arange(1, EOS + 1)
    ids = random.choice(EOS, size=num_tokens, p=weights / weights.sum()).astype(np.uint16)
    lengths = np.maximum(2, random.lognormal(6.2, 1.2, size=num_tokens // 400)).astype(np.int64)
    ends = np.cumsum(lengths)
    ends = np.append(ends[ends < num_tokens], num_tokens)
    ids[ends - 1] = EOS
    return ids, ends


def _tokenized(
    files: list[Path], tokenizer: str | None, num_tokens: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    from headrace.tokens import load_tokenizer

    engine = load_tokenizer(tokenizer or "gpt2")
    if engine.vocab_size > 2**16:
        raise SystemExit(
            f"{tokenizer}: {engine.vocab_size:,} ids; loading is compared on 2-byte tokens, so at most 65,536"
        )
    parts: list[NDArray[np.uint16]] = []
    lengths: list[NDArray[np.int64]] = []
    total = 0
    for path in files:
        with gzip.open(path, "rb") as lines:
            texts = [json.loads(line)["text"].encode() for line in lines]
        for start in range(0, len(texts), 2000):
            flat, offsets = engine.encode_batch(texts[start : start + 2000])
            sizes = np.diff(offsets)
            ids = np.empty(len(flat) + len(sizes), np.uint16)
            ends = np.cumsum(sizes + 1)
            body = np.ones(len(ids), bool)
            body[ends - 1] = False
            ids[body], ids[~body] = flat, engine.eos_id
            parts.append(ids)
            lengths.append(sizes + 1)
            total += len(ids)
            if total >= num_tokens:
                whole, ends = np.concatenate(parts)[:num_tokens], np.cumsum(np.concatenate(lengths))
                whole[-1] = engine.eos_id  # the cut document ends here
                return whole, np.append(ends[ends < num_tokens], num_tokens)
    say(f"only {number(total)} of {number(num_tokens)} tokens in the corpus")
    return np.concatenate(parts), np.cumsum(np.concatenate(lengths))
