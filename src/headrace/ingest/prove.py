"""A tokenizer and a sample of the very corpus -> is the fast engine exact on it?"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import HeadraceError
from headrace.ingest.options import Options
from headrace.ingest.reader import open_reader
from headrace.ingest.sources import Source
from headrace.tokens import Mismatch, Tokenizer, first_mismatch
from headrace.tokens.probe import tricky_texts

SAMPLE_SOURCES = 16
SAMPLE_BYTES = 128 << 10
DOCUMENT_BYTES = 8 << 10


def sample_texts(sources: Sequence[Source], options: Options) -> list[bytes]:
    """First documents of up to 16 sources spread over the corpus, 128 KiB in all, long documents cut."""
    chosen = sources[:: max(len(sources) // SAMPLE_SOURCES, 1)][:SAMPLE_SOURCES]
    texts: list[bytes] = []
    for source in chosen:
        size = 0
        try:
            reader = open_reader(source, options.fields, options.text_mode)
        except HeadraceError:
            continue  # the job meets the fault again, and says where it is
        try:
            for parsed in reader.read():
                for text in parsed.texts:
                    cut = text[:DOCUMENT_BYTES].decode(errors="ignore").encode()
                    texts.append(cut)
                    size += len(cut)
                    if size >= SAMPLE_BYTES // len(chosen):
                        break
                if size >= SAMPLE_BYTES // len(chosen):
                    break
        except HeadraceError:
            continue
        finally:
            reader.close()
    return texts


def engine_mismatch(tokenizer: Tokenizer, sources: Sequence[Source], options: Options) -> Mismatch | None:
    """First sampled text whose ids are not the reference's; None when all are equal."""
    reference = tokenizer.as_reference()
    if reference.engine == tokenizer.engine:
        return None
    texts = tricky_texts(tokenizer.added_tokens()) + sample_texts(sources, options)
    return first_mismatch(tokenizer, reference, texts)
