"""A tokenizer and a sample of the very corpus -> is the fast engine exact on it?"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from headrace.errors import HeadraceError, WorkerError
from headrace.ingestion.options import Options
from headrace.ingestion.parse.reader import open_reader
from headrace.ingestion.read.sources import Source
from headrace.tokens import Mismatch, Tokenizer, first_mismatch
from headrace.tokens.probe import tricky_texts
from headrace.tokens.protocol import Ids, Offsets

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
    return Proof.of(reference, sources, options).mismatch(tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Texts, and the reference's ids of them; it takes a third of a second to make, and can be made elsewhere."""

    texts: list[bytes]
    ids: Ids
    offsets: Offsets

    @classmethod
    def of(cls, reference: Tokenizer, sources: Sequence[Source], options: Options) -> Proof:
        """Text that is known to part engines, and a sample of the corpus."""
        texts = tricky_texts(reference.added_tokens()) + sample_texts(sources, options)
        ids, offsets = reference.encode_batch(texts)
        return cls(texts=texts, ids=ids, offsets=offsets)

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """The reference's ids, of its own texts only."""
        assert texts is self.texts
        return self.ids, self.offsets

    def mismatch(self, tokenizer: Tokenizer) -> Mismatch | None:
        """First text whose ids are not the reference's."""
        return first_mismatch(tokenizer, self, self.texts)


def send_proof(pipe: Connection, *, reference: Tokenizer) -> None:
    """Make a proof, in a process of its own; the pipe brings the corpus, and takes the proof or the error."""
    try:
        reference.encode_batch([b"a"])  # most of it is loading: done before the corpus is known
        sources, options = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own parent
        pipe.send_bytes(pickle.dumps(Proof.of(reference, sources, options)))
    except (EOFError, ConnectionError):
        return  # nobody wants it
    except Exception as error:  # noqa: BLE001 - the other side raises it
        with suppress(ConnectionError):
            pipe.send_bytes(pickle.dumps(error))


def ask_for_proof(pipe: Connection, *, sources: Sequence[Source], options: Options) -> None:
    """Tell `send_proof` the corpus; a process that died is met by `receive_proof`."""
    with suppress(ConnectionError):
        pipe.send_bytes(pickle.dumps((tuple(sources), options)))


def receive_proof(pipe: Connection) -> Proof:
    """What `send_proof` has sent.

    Raises:
        TokenizerError: the tokenizer's definition is not one for its own library.
        WorkerError: that process died.
    """
    try:
        found: Proof | Exception = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own fork
    except (EOFError, ConnectionError):
        raise WorkerError(
            "the process that computes the reference's ids died. Out of memory? Run the same command again"
        ) from None
    if isinstance(found, Exception):
        raise found
    return found
