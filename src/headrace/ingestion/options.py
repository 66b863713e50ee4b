"""What users can set of an ingest: fields, operators and the job; and what of it determines the store's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, get_args

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.types import Flag

Codec: TypeAlias = Literal["none", "lz4", "zstd"]
Distribute: TypeAlias = Literal["local", "ray"]
TextMode: TypeAlias = Literal["auto", "file", "line", "block"]
Format: TypeAlias = Literal["auto", "jsonl", "json", "text", "csv", "tsv", "parquet", "arrow", "tar", "warc"]
Dedup: TypeAlias = Literal["none", "exact", "minhash", "url", "lines", "sentences"]
RecordKind: TypeAlias = Literal["auto", "text", "messages", "prompt", "source", "question", "preference"]
Learn: TypeAlias = Literal["answers", "last", "all"]

RECORD_FIELDS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "source": ("source", "target"),
    "question": ("question", "answers"),
    "preference": ("chosen", "rejected"),
}
"""Fields that make a record one of a kind that is not text."""
OTHER_FIELDS = ("tools", "context")
"""Fields that such a record may have as well."""

SHARD_TEXT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How conversations become text: found by `ingest` before it starts."""

    template: str
    """The Jinja2 template itself."""
    variables: tuple[tuple[str, str], ...] = ()
    """Names of tokens and the tokens: bos_token, eos_token."""
    special_tokens: tuple[str, ...] = ()
    """Of the tokenizer: they are special in a template's text, and a message that holds one is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOptions:
    """Records are cut into columns of tokens instead of being joined to documents: found by `ingest`."""

    reserved: tuple[str, ...] = ()
    """Texts that the tokenizer encodes to its special tokens, such as "</s>": records with one are rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOptions:
    """Fields.

    What a document of a file is, which part of it is its text, and what is kept beside it.
    """

    format: Annotated[Format, Doc("What the files hold; auto: by their first bytes and their names.")] = (
        "auto"
    )
    text_field: Annotated[
        str,
        Doc(
            "The column or JSON field with the text; a dotted name (a.b, a.0.b) looks inside objects and lists."
        ),
    ] = "text"
    text_mode: Annotated[
        TextMode,
        Doc(
            "What a document of a text file is: the file, a line, a block between blank lines; auto: a file up to "
            "1 MiB is one document, a longer one is cut into blocks."
        ),
    ] = "auto"
    csv_delimiter: Annotated[
        str | None,
        Doc(
            "The character between two fields of CSV (tab is one too). Default: the one of , ; | and tab with which "
            "the first row has the named columns."
        ),
    ] = None
    csv_header: Annotated[
        bool, Doc("Does the first row of CSV and TSV name the columns? If not, their names are 1, 2, 3, ...")
    ] = True
    record: Annotated[
        RecordKind,
        Doc(
            "What a record is: text; messages of a conversation; prompt and completion; source and target; question, "
            "answers and context; preference: chosen and rejected. auto: text where there is the text field, else by "
            "the names of its fields."
        ),
    ] = "auto"
    names: Annotated[
        tuple[str, ...],
        Flag("--field"),
        Doc("Another name of such a field, as messages=conversations; may be given several times."),
    ] = ()
    template: Annotated[
        str | None,
        Doc(
            "File with the chat template (Jinja2), also for records without messages; chat: the tokenizer's own for "
            "them too. Default: the tokenizer's own for messages."
        ),
    ] = None
    learn: Annotated[
        Learn,
        Doc("What is learned of a conversation: its answers, the last one only, or all. The rest is given."),
    ] = "answers"
    keep: Annotated[
        tuple[str, ...],
        Doc("Another field to keep as metadata, as a string or JSON; may be given several times."),
    ] = ()
    max_document_bytes: Annotated[
        int, Doc("Longer documents are rejected. One of this size takes about 8 times as much memory.")
    ] = 16 << 20
    chat: ChatOptions | None = None
    """Found by `ingest`: the template that `template` names, or the tokenizer's own."""
    pairs: PairOptions | None = None
    """Found by `ingest`, where samples have layout pairs."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        keep: Any = self.keep  # callers without a type checker give a string or a list
        object.__setattr__(self, "keep", (keep,) if isinstance(keep, str) else tuple(keep))
        names: Any = self.names
        object.__setattr__(self, "names", (names,) if isinstance(names, str) else tuple(names))
        known = [*(name for fields in RECORD_FIELDS.values() for name in fields), *OTHER_FIELDS]
        for one in self.names:
            if one.partition("=")[0] not in known or not one.partition("=")[2]:
                raise ConfigError(f"names is {one!r}; expected FIELD=NAME, FIELD one of {', '.join(known)}")
        check_choice("format", self.format, Format)
        check_choice("record", self.record, RecordKind)
        check_choice("learn", self.learn, Learn)
        check_choice("text_mode", self.text_mode, TextMode)
        delimiter = {"tab": "\t", "\\t": "\t"}.get(self.csv_delimiter or "", self.csv_delimiter)
        object.__setattr__(self, "csv_delimiter", delimiter)
        if delimiter is not None and (
            len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'
        ):
            raise ConfigError(
                f"csv_delimiter is {delimiter!r}; expected one ASCII character other than a quote and a line end"
            )
        if self.max_document_bytes < 1:
            raise ConfigError(f"max_document_bytes is {self.max_document_bytes}; expected 1 or more")

    def names_of(self, name: str) -> tuple[str, ...]:
        """Other names that a field may have."""
        return tuple(one.partition("=")[2] for one in self.names if one.partition("=")[0] == name)

    @property
    def max_record_bytes(self) -> int:
        r"""Longer records are rejected unread: JSON writes three bytes of UTF-8 as six (\uXXXX)."""
        return 2 * self.max_document_bytes + (64 << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterOptions:
    """Filters.

    Limits; None switches a rule off. The defaults are mild: they drop tables, logs and keyword lists.

    Source: the repetition and symbol rules follow Rae et al. 2021 (MassiveText, appendix A), without the parts
    that need English words.
    """

    min_chars: int | None = 200
    """Shorter texts are dropped as "short"."""
    max_chars: int | None = None
    """Longer ones as "long"."""
    max_symbols: float | None = 0.3
    """Share of characters that are neither letters, digits, underscores nor blanks: "symbols"."""
    max_repeated_lines: float | None = 0.3
    """Share of characters in lines that occurred earlier in the text: "repeated_lines"."""
    max_repeated_words: float | None = 0.5
    """Share of runs of five words that occurred earlier in the text: "repeated_words"."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        for name in ("max_symbols", "max_repeated_lines", "max_repeated_words"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"filters: {name} is {share}; expected a share between 0 and 1, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOptions:
    """Operators.

    What is done to documents before they are tokenized, in this order.
    """

    map: Annotated[
        str | None,
        Doc(
            "Your own function, as module:function, from a text to a text, or to None to leave the document out."
        ),
    ] = None
    normalise: Annotated[bool, Doc("Bring text to Unicode NFC, and line ends to a newline.")] = False
    language: Annotated[
        tuple[str, ...],
        Doc(
            "Drop documents in other languages; codes of two letters (ISO 639-1); may be given several times."
        ),
    ] = ()
    language_min_score: Annotated[
        float, Doc("Drop documents whose language is less certain than this, 0 to 1.")
    ] = 0.0
    filters: FilterOptions | None = None
    """Drop documents that break one of these rules; `FilterOptions()` has mild limits."""
    sample: Annotated[float, Doc("Share of the documents to take, chosen by a hash of the text.")] = 1.0
    dedup: Annotated[
        Dedup,
        Doc(
            "Drop documents equal (exact) or near-equal (minhash) to an earlier one, or with its URL (url); or "
            "remove lines or sentences of earlier documents. Reads sources twice."
        ),
    ] = "none"
    dedup_field: Annotated[str, Doc("The kept field with a document's URL, where dedup is url.")] = "url"
    dedup_min_chars: Annotated[
        int, Doc("Shorter lines and sentences stay, where dedup is lines or sentences.")
    ] = 20
    dedup_threshold: Annotated[
        float, Doc("Estimated Jaccard similarity from which minhash drops the later document.")
    ] = 0.8
    validation_share: Annotated[
        float, Doc("Share of the documents that goes to --validation-out, chosen by a hash of the text.")
    ] = 0.0
    validation_out: Annotated[str | None, Doc("The store for that share: a directory or a URL.")] = None
    seed: Annotated[int, Doc("Random seed of the sample and of the validation share.")] = 0

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        check_choice("dedup", self.dedup, Dedup)
        language: Any = self.language  # callers without a type checker give a string or a list
        object.__setattr__(self, "language", (language,) if isinstance(language, str) else tuple(language))
        if not 0 <= self.language_min_score <= 1 or (self.language_min_score and not self.language):
            raise ConfigError(
                f"language_min_score is {self.language_min_score}; expected 0 to 1, and a language with it"
            )
        if self.map is not None and not all(self.map.partition(":")):
            raise ConfigError(f"map is {self.map!r}; expected module:function")
        if not 0 < self.sample <= 1:
            raise ConfigError(f"sample is {self.sample}; expected a share above 0, up to 1")
        if self.dedup_min_chars < 1:
            raise ConfigError(f"dedup_min_chars is {self.dedup_min_chars}; expected 1 or more")
        if not 0.1 <= self.dedup_threshold <= 1:
            raise ConfigError(f"dedup_threshold is {self.dedup_threshold}; expected 0.1 to 1")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"validation_share is {self.validation_share}; expected a share from 0 to below 1"
            )
        if (self.validation_share > 0) != (self.validation_out is not None):
            raise ConfigError(
                f"validation_share is {self.validation_share} and validation_out is {self.validation_out!r}; "
                f"expected both or neither"
            )

    @property
    def changes_texts(self) -> bool:
        """Is a text changed or left out by itself, before it is tokenized?"""
        return bool(
            self.map or self.normalise or self.language or self.filters is not None or self.sample < 1
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Job.

    When a job stops, and how its work is divided.
    """

    strict: Annotated[bool, Doc("Stop at the first bad document instead of listing it.")] = False
    max_reject_share: Annotated[float, Doc("Fail if more than this share of the documents is bad.")] = 0.05
    skip_damaged: Annotated[
        bool,
        Doc(
            "List a damaged or truncated file and leave out what cannot be read of it (from up to 1 MiB before the "
            "damage on), instead of stopping."
        ),
    ] = False
    shard_text_bytes: int | None = None
    """Bytes of text in a shard, and in a unit of work; None takes 16 to 64 MiB, more for larger corpora."""
    block_tokens: int | None = None
    """Tokens in a block of a shard; None takes the store's own, or 256 KiB of tokens."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        if not 0 <= self.max_reject_share <= 1:
            raise ConfigError(
                f"max_reject_share is {self.max_reject_share}; expected a share between 0 and 1"
            )
        for name in ("shard_text_bytes", "block_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentOptions:
    """What determines the bytes of a store, beside sources and tokenizer; compared when a job is continued.

    The number of workers and the number of interruptions are no part of it.
    """

    fields: FieldOptions = field(default_factory=FieldOptions)
    operators: OperatorOptions = field(default_factory=OperatorOptions)
    codec: Codec = "zstd"
    block_tokens: int = 131_072
    shard_text_bytes: int = SHARD_TEXT_BYTES
    """Text in a shard, and in a unit of work."""
    minhash_algorithm: int | None = None
    """rensa's version of the algorithm, where dedup is minhash: a job is not continued with another one."""

    map_fingerprint: str | None = None
    """Hash of the source of the module of `operators.map`."""
    language_model: str | None = None
    """The library and its version that tell languages, where operators.language names some."""
    html_extractor: str | None = None
    """The library that extracts the text of pages, where a source is a web archive; see `html_text`."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        check_choice("codec", self.codec, Codec)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values; the name of the validation store changes no bytes."""
        values = asdict(self)
        del values["operators"]["validation_out"]
        for name in ("dedup_field", "dedup_min_chars", "language", "language_min_score"):
            if getattr(self.operators, name) == getattr(OperatorOptions(), name):
                del values["operators"][name]
        # Left out where they are the default: jobs of stores that were made before they existed have none of them.
        default = FieldOptions()
        for name in ("record", "names", "template", "learn", "chat", "pairs"):
            if getattr(self.fields, name) == getattr(default, name):
                del values["fields"][name]
        for name in ("html_extractor", "language_model"):
            if values[name] is None:
                del values[name]
        if self.fields.chat is not None:
            parts = repr(
                (self.fields.chat.template, self.fields.chat.variables, self.fields.chat.special_tokens)
            )
            values["fields"]["chat"] = hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
        return values


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a Literal's.

    Raises:
        ConfigError: naming the option.
    """
    if value not in get_args(choices):
        *others, last = get_args(choices)
        raise ConfigError(f"{name} is {value!r}; expected {', '.join(others)} or {last}")
