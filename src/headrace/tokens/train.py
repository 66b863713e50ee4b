"""Texts -> tokenizer.json: byte-level BPE, trained by the `tokenizers` library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from headrace.errors import ConfigError, SourceError
from headrace.paths import output_file

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCAB = 257


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    out: str | os.PathLike[str],
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Path:
    """Train byte-level BPE with GPT-2's splitting; the same texts in the same order give the same file.

    Args:
        texts: documents; read once, never all in memory.
        vocab_size: number of ids, 257 (all bytes and the end of document) or more; small texts may give fewer.
        out: path of the tokenizer.json to write; replaced in one step.
        progress: called now and then with (bytes read, None, what is going on).

    Returns:
        The path written.

    Raises:
        ConfigError: vocab_size is below 257, or `out` cannot be a file.
        SourceError: there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCAB:
        raise ConfigError(
            f"vocab_size is {vocab_size}; byte-level BPE needs {SMALLEST_VOCAB} or more: "
            f"256 bytes and the end of document"
        )
    path = output_file(out, name="tokenizer train: out", example="tokenizer.json")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # the end of document comes last, so that ids are merge ranks
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    read = _Counted(texts, progress)
    tokenizer.train_from_iterator(iter(read), trainer=trainer)
    if read.nbytes == 0:
        raise SourceError("no text to train a tokenizer on: every document is empty, or there is none")
    tokenizer.add_special_tokens([END_OF_TEXT])
    partial = path.with_name(path.name + ".partial")
    partial.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    partial.replace(path)
    if progress is not None:
        progress(read.nbytes, read.nbytes, f"{tokenizer.get_vocab_size()} ids")
    return path


class _Counted:
    """Texts, counted as they pass."""

    def __init__(self, texts: Iterable[str], progress: Callable[[int, int | None, str], None] | None) -> None:
        self._texts = texts
        self._progress = progress
        self.nbytes = 0

    def __iter__(self) -> Iterator[str]:
        reported = 0
        for text in self._texts:
            self.nbytes += len(text)
            if self._progress is not None and self.nbytes - reported >= 1 << 20:
                reported = self.nbytes
                self._progress(self.nbytes, None, "reading")
            yield text
