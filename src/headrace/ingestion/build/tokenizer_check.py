"""A tokenizer and a sample of the corpus -> whether the fast engine gives the reference's ids."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from headrace.errors import HeadraceError, WorkerError
from headrace.ingestion.options import ContentOptions
from headrace.ingestion.parse.reader import open_reader
from headrace.ingestion.read.sources import SourceFile
from headrace.tokens import Mismatch, Tokenizer, first_mismatch
from headrace.tokens import tricky_texts
from headrace.tokens import Ids, Offsets
from headrace.workers import recv, send

SAMPLE_SOURCES = 16
SAMPLE_BYTES = 128 << 10
DOCUMENT_BYTES = 8 << 10


def sample_texts(sources: Sequence[SourceFile], options: ContentOptions) -> list[bytes]:
    """First documents of up to 16 sources spread over the corpus, 128 KiB in all, long documents cut."""
    chosen = sources[:: max(len(sources) // SAMPLE_SOURCES, 1)][:SAMPLE_SOURCES]
    texts: list[bytes] = []
    for source in chosen:
        size = 0
        try:
            reader = open_reader(source, options.fields)
        except HeadraceError:
            continue  # the job reads the file as well, and its error says what is wrong
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


def engine_mismatch(tokenizer: Tokenizer, sources: Sequence[SourceFile], options: ContentOptions) -> Mismatch | None:
    """First sampled text whose ids are not the reference's; None when all are equal."""
    reference = tokenizer.as_reference()
    if reference.engine == tokenizer.engine:
        return None
    return TokenizerCheck.of(reference, sources, options).mismatch(tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerCheck:
    """Texts, and the reference's ids of them. To compute them takes 0.3 s, and can be done by another process."""

    texts: list[bytes]
    ids: Ids
    offsets: Offsets

    @classmethod
    def of(cls, reference: Tokenizer, sources: Sequence[SourceFile], options: ContentOptions) -> TokenizerCheck:
        """Texts on which engines are known to differ, and a sample of the corpus."""
        texts = tricky_texts(reference.added_tokens()) + sample_texts(sources, options)
        ids, offsets = reference.encode_batch(texts)
        return cls(texts=texts, ids=ids, offsets=offsets)

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """The reference's ids, of its own texts only."""
        assert texts is self.texts
        return self.ids, self.offsets

    def mismatch(self, tokenizer: Tokenizer) -> Mismatch | None:
        """First text whose ids are not the reference's; None when all are equal."""
        return first_mismatch(tokenizer, self, self.texts)


def send_check(pipe: Connection, *, reference: Tokenizer) -> None:
    """Compute a check in a process of its own; the pipe delivers the corpus, and takes the check or the error."""
    try:
        reference.encode_batch([b"a"])  # most of it is loading: done before the corpus is known
        sources, options = recv(pipe)
        send(pipe, TokenizerCheck.of(reference, sources, options))
    except (EOFError, ConnectionError):
        return  # no check is needed any more
    except Exception as error:  # noqa: BLE001 - the other side raises it
        with suppress(ConnectionError):
            send(pipe, error)


def request_check(pipe: Connection, *, sources: Sequence[SourceFile], options: ContentOptions) -> None:
    """Tell `send_check` the corpus; if that process died, `receive_check` says so."""
    with suppress(ConnectionError):
        send(pipe, (tuple(sources), options))


def receive_check(pipe: Connection) -> TokenizerCheck:
    """The check that `send_check` computed.

    Raises:
        TokenizerError: the tokenizer's own library refuses its definition.
        WorkerError: that process died.
    """
    try:
        received: TokenizerCheck | Exception = recv(pipe)
    except (EOFError, ConnectionError):
        raise WorkerError(
            "the process that computes the reference's ids died. Out of memory? Run the same command again"
        ) from None
    if isinstance(received, Exception):
        raise received
    return received
