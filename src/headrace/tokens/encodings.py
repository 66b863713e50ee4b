"""gpt2, cl100k_base and tiktoken's other encodings: its own files -> a tokenizer; nothing is ever downloaded.

Files are looked for in TIKTOKEN_CACHE_DIR (under tiktoken's names, which are SHA-1 hashes of addresses, or
under their plain names), and in tiktoken's default cache; their SHA-256 is checked.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from headrace.errors import TokenizerError
from headrace.tokens.bytelevel import byte_of_char
from headrace.tokens.gigatoken import Gigatoken
from headrace.tokens.merges import MERGES, build_with_merges
from headrace.tokens.probe import first_mismatch, tricky_texts
from headrace.tokens.protocol import DESCRIPTION, Ids, Offsets, bytes_to_text, fingerprint_of, join_ids

RANKS = "ranks.tiktoken"
_NOT_RANKED = ("<|endoftext|>",)
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    plain_name: str
    cached_name: str
    sha256: str


# The scheme names are gigatoken's; which one belongs to which encoding is checked against tiktoken on load.
_SCHEMES = {
    "gpt2": "gpt2",
    "r50k_base": "gpt2",
    "p50k_base": "gpt2",
    "p50k_edit": "gpt2",
    "cl100k_base": "gpt4",
    "o200k_base": "o200k",
    "o200k_harmony": "o200k",
}
_P50K = _File(
    plain_name="p50k_base.tiktoken",
    cached_name="ec7223a39ce59f226a68acc30dc1af2788490e15",
    sha256="94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
)
_O200K = _File(
    plain_name="o200k_base.tiktoken",
    cached_name="fb374d419588a4632f3f557e76b4b70aebbca790",
    sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)
_FILES = {
    "gpt2": (
        _File(
            plain_name="vocab.bpe",
            cached_name="6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
            sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
        _File(
            plain_name="encoder.json",
            cached_name="6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
            sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
    ),
    "r50k_base": (
        _File(
            plain_name="r50k_base.tiktoken",
            cached_name="0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
            sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        ),
    ),
    "p50k_base": (_P50K,),
    "p50k_edit": (_P50K,),
    "cl100k_base": (
        _File(
            plain_name="cl100k_base.tiktoken",
            cached_name="9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
    ),
    "o200k_base": (_O200K,),
    "o200k_harmony": (_O200K,),
}
ENCODINGS = tuple(_FILES)
ENCODING_OF_SHA256 = {
    _FILES[name][0].sha256: name for name in ("r50k_base", "p50k_base", "cl100k_base", "o200k_base")
}
"""The encoding whose file has this hash."""


class EncodingTokenizer:
    """One of tiktoken's encodings, by gigatoken where its ids are tiktoken's."""

    def __init__(
        self,
        *,
        name: str,
        pattern: str,
        ranks_file: bytes,
        specials: Mapping[str, int],
        eos_id: int,
        scheme: str | None = None,
        engine: Literal["auto", "fast", "tiktoken"] = "auto",
    ) -> None:
        """Take the definition.

        Args:
            name: tiktoken's name for it.
            pattern: the regular expression that splits text.
            ranks_file: tiktoken's format, a token in base 64 and its rank a line, ascending.
            specials: ids of special tokens.
            eos_id: the one that ends a document.
            scheme: gigatoken's name of the pattern, or MERGES; None: it has none, or the encoding is one of ENCODINGS.
            engine: which library computes the ids; "fast" is gigatoken, unchecked.
        """
        self.name = name
        self._pattern = pattern
        self._ranks_file = ranks_file
        self._specials = dict(specials)
        self._scheme = scheme or _SCHEMES.get(name)
        self._requested_engine = engine
        self.eos_id = eos_id
        try:
            largest = int(ranks_file.rsplit(maxsplit=1)[1])
        except (IndexError, ValueError):
            raise TokenizerError(
                f"{name}: its ranks do not end with a token and its rank. Truncated?"
            ) from None
        numbers = [largest, eos_id, *self._specials.values()]
        if not all(isinstance(number, int) and 0 <= number < 1 << 32 for number in numbers):
            raise TokenizerError(f"{name}: an id of its special tokens is no number from 0 to 2**32 - 1")
        self.vocab_size = 1 + max(numbers)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hex digits of pattern, ranks and end of document."""
        end = str(self.eos_id).encode()
        return fingerprint_of(b"tiktoken", self._pattern.encode(), self._ranks_file, end)

    @functools.cached_property
    def _ranks(self) -> dict[bytes, int]:
        fields = self._ranks_file.split()
        try:
            ranks = dict(zip(map(base64.b64decode, fields[::2]), map(int, fields[1::2]), strict=True))
        except ValueError as error:  # binascii's errors too
            raise TokenizerError(f"{self.name}: its file of ranks is damaged: {error}") from error
        taken = set(ranks.values())
        if not len(taken) == len(ranks) == len(fields) // 2 or not all(
            bytes([i]) in ranks for i in range(256)
        ):
            raise TokenizerError(
                f"{self.name}: its file of ranks is damaged: a token or a rank is there twice, or one of the 256 "
                f"bytes is missing"
            )
        if self.eos_id in taken:
            raise TokenizerError(
                f"{self.name}: its end-of-document id {self.eos_id} is the rank of an ordinary token; "
                f"expected another id"
            )
        return ranks

    @functools.cached_property
    def _tiktoken(self) -> Any:
        import tiktoken

        try:
            return tiktoken.Encoding(
                self.name, pat_str=self._pattern, mergeable_ranks=self._ranks, special_tokens=self._specials
            )
        except (ValueError, TypeError) as error:
            raise TokenizerError(f"{self.name}: not an encoding of tiktoken: {error}") from error

    @functools.cached_property
    def _fast(self) -> Gigatoken | None:
        """The fast engine, or None where it is not asked for, not able, or not exact."""
        if self._requested_engine == "tiktoken" or self._scheme is None:
            return None
        try:
            if self._scheme == MERGES:
                fast = Gigatoken(functools.partial(build_with_merges, self._ranks, self._pattern))
            else:
                dense, first_id = _dense_ranks(self._ranks_file)
                fast = Gigatoken(functools.partial(_build_gigatoken, dense, self._scheme), first_id=first_id)
        except (RuntimeError, ValueError):
            return None  # ranks that it does not take
        if self._requested_engine == "fast":
            return fast
        texts = tricky_texts(self.added_tokens())
        return fast if first_mismatch(fast, self.as_reference(), texts) is None else None

    @property
    def engine(self) -> str:
        """Gigatoken or tiktoken."""
        return "tiktoken" if self._fast is None else "gigatoken"

    def encode_batch(self, texts: Sequence[bytes]) -> tuple[Ids, Offsets]:
        """See `Tokenizer.encode_batch`."""
        if self._fast is not None:
            return self._fast.encode_batch(texts)
        encode = self._tiktoken.encode_ordinary
        return join_ids([encode(text.decode()) for text in texts])

    def encode(self, text: str) -> Ids:
        """Encode one text: uint32 [n]."""
        return self.encode_batch([text.encode()])[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """See `Tokenizer.decode`."""
        return bytes_to_text(self._table, ids)

    @functools.cached_property
    def _table(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        for token, rank in self._ranks.items():
            table[rank] = token
        return table

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; b"" for special tokens and unused ids."""
        return list(self._table)

    def added_tokens(self) -> list[str]:
        """The special ones, up to 64."""
        return list(self._specials)[:64]

    def special_tokens(self) -> dict[str, int]:
        """Those of the encoding, such as <|endoftext|>."""
        return dict(self._specials)

    def files(self) -> dict[str, bytes]:
        """Ranks in tiktoken's format, and what that format does not say."""
        about = {
            "kind": "tiktoken",
            "name": self.name,
            "eos_id": self.eos_id,
            "pattern": self._pattern,
            "special_tokens": self._specials,
            **({} if self._scheme == _SCHEMES.get(self.name) else {"scheme": self._scheme}),
        }
        return {DESCRIPTION: orjson.dumps(about, option=orjson.OPT_SORT_KEYS), RANKS: self._ranks_file}

    def as_reference(self) -> EncodingTokenizer:
        """The same encoding by tiktoken."""
        if self._requested_engine == "tiktoken":
            return self
        return EncodingTokenizer(
            name=self.name,
            pattern=self._pattern,
            ranks_file=self._ranks_file,
            specials=self._specials,
            eos_id=self.eos_id,
            scheme=self._scheme,
            engine="tiktoken",
        )


def named_encoding(
    name: str, *, directory: Path | None = None, engine: Literal["auto", "fast", "tiktoken"] = "auto"
) -> EncodingTokenizer:
    """One of ENCODINGS from tiktoken's files.

    Args:
        name: of tiktoken's.
        directory: looked at first.
        engine: which library computes the ids.

    Raises:
        TokenizerError: a file is missing or damaged; says which, and where to put it.
    """
    found = [_find(name, file, directory) for file in _FILES[name]]
    ranks_file = found[0] if len(found) == 1 else _ranks_of_encoder(found[1])
    return encoding_from_ranks(name, ranks_file, engine=engine)


def encoding_from_ranks(
    name: str, ranks_file: bytes, *, engine: Literal["auto", "fast", "tiktoken"] = "auto"
) -> EncodingTokenizer:
    """One of ENCODINGS from its ranks in tiktoken's format."""
    pattern, specials = _definition(name)
    return EncodingTokenizer(
        name=name,
        pattern=pattern,
        ranks_file=ranks_file,
        specials=specials,
        eos_id=specials["<|endoftext|>"],
        engine=engine,
    )


def encoding_from_files(
    files: Mapping[str, bytes], *, engine: Literal["auto", "fast", "tiktoken"] = "auto"
) -> EncodingTokenizer:
    """The encoding whose `files()` these are."""
    about = orjson.loads(files[DESCRIPTION])
    return EncodingTokenizer(
        name=about["name"],
        pattern=about["pattern"],
        ranks_file=files[RANKS],
        specials=about["special_tokens"],
        eos_id=about["eos_id"],
        scheme=about.get("scheme"),
        engine=engine,
    )


def _definition(name: str) -> tuple[str, dict[str, int]]:
    """Pattern and special tokens of an encoding, from tiktoken, which would download its ranks as well."""
    openai_public = import_module("tiktoken_ext.openai_public")
    loaders = ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks")
    with _LOCK:
        before = {loader: getattr(openai_public, loader) for loader in loaders}
        try:
            for loader in loaders:
                setattr(openai_public, loader, lambda *_, **__: {})
            definition = openai_public.ENCODING_CONSTRUCTORS[name]()
        finally:
            for loader, real in before.items():
                setattr(openai_public, loader, real)
    return definition["pat_str"], definition["special_tokens"]


def _ranks_of_encoder(encoder: bytes) -> bytes:
    """GPT-2's encoder.json -> tiktoken's format: its ids are the ranks, but for the end of document."""
    as_latin1 = {ord(char): byte for char, byte in byte_of_char().items()}
    ids = {
        token.translate(as_latin1).encode("latin-1"): i
        for token, i in orjson.loads(encoder).items()
        if token not in _NOT_RANKED
    }
    by_rank = sorted(ids.items(), key=lambda item: item[1])
    return b"".join([b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in by_rank])


def _directories(first: Path | None) -> list[Path]:
    places = [first] if first is not None else []
    places += [
        Path(os.environ[key]) for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if os.environ.get(key)
    ]
    return [*places, Path(tempfile.gettempdir()) / "data-gym-cache"]


def _find(name: str, file: _File, directory: Path | None) -> bytes:
    places = _directories(directory)
    for place in places:
        for path in (place / file.cached_name, place / file.plain_name):
            if path.is_file():
                data = path.read_bytes()
                got = hashlib.sha256(data).hexdigest()
                if got != file.sha256:
                    raise TokenizerError(
                        f"{path}: sha256 is {got}, that of {name}'s {file.plain_name} is {file.sha256}. "
                        f"Damaged? Delete it and fetch it again"
                    )
                return data
    raise TokenizerError(
        f"tokenizer {name}: its file {file.plain_name} is in none of {', '.join(map(str, places))}. Put it "
        f"there as {file.plain_name} (or {file.cached_name}, tiktoken's own name for it), or set "
        f"TIKTOKEN_CACHE_DIR to the directory that has it; nothing is downloaded. "
        f"A tokenizer.json works too: --tokenizer PATH"
    )


def _dense_ranks(ranks_file: bytes) -> tuple[bytes, int]:
    """Ranks from 0 on without a gap, as gigatoken needs them, and the id of the first.

    A gap gets bytes that no UTF-8 text holds (p50k_base has one, at 50256).
    """
    lines = ranks_file.split(b"\n")
    fields = [line.split() for line in lines if line.strip()]
    first = int(fields[0][1])
    if first == 0 and int(fields[-1][1]) == len(fields) - 1:
        return ranks_file, 0
    token_of = {int(rank) - first: token for token, rank in fields}
    never = base64.b64encode(b"\xff\xff")
    return b"".join(b"%s %d\n" % (token_of.get(i, never), i) for i in range(max(token_of) + 1)), first


def _build_gigatoken(ranks_file: bytes, scheme: str) -> Any:
    from gigatoken.gigatoken_rs import BPETokenizer

    with tempfile.TemporaryDirectory(prefix="headrace-gigatoken-") as directory:
        path = Path(directory) / RANKS
        path.write_bytes(ranks_file)
        # No special tokens: a literal "<|endoftext|>" in a document stays text.
        return BPETokenizer.from_tiktoken(str(path), scheme, {})
