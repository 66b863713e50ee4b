"""Options of a loader: what a batch carries, how it is read; each checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Annotated, Any, Generic, Literal, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Doc, TypedDict, TypeVar

from headrace.errors import ConfigError
from headrace.images import ImageTransform
from headrace.interactions import InteractionOptions
from headrace.order import Shuffle

ShuffleOption = Shuffle | Literal["auto"] | bool
Packing = Literal["none", "best_fit"]
Framework = Literal["auto", "torch", "numpy"]
LastBatch = Literal["keep", "drop", "repeat"]
LabelMask = Callable[[NDArray[Any]], NDArray[np.bool_]]

FrameworkT_co = TypeVar("FrameworkT_co", bound=Framework, default=Literal["auto"], covariant=True)

_AUTO: Any = "auto"  # the default of a field whose type is the class's parameter

MAX_SEQ_LEN = 2**31 - 2
"""A row of seq_len + 1 tokens has offsets of 32 bits: cu_seqlens, and the lengths in a packing plan."""
MAX_EPOCHS = 2**31 - 1
MAX_POSITION = 2**62
"""Positions are int64, and a batch's end must be one too."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Generic[FrameworkT_co]):
    """What a batch carries, and where its arrays are."""

    framework: Annotated[
        FrameworkT_co, Doc('Arrays of a batch: "torch", "numpy", or "auto": torch where it is installed.')
    ] = _AUTO
    device: Annotated[
        Any,
        Doc(
            "torch device that batches are delivered to: pinned memory, a copy stream of its own and ids widened "
            "there for CUDA. None: host memory."
        ),
    ] = None
    last: Annotated[
        LastBatch,
        Doc(
            'The last, partial batch of a pass: "keep" splits its rows over the ranks (a rank for which none is left '
            'gets one filler row, all labels -100, so that all ranks take the same number of steps), "drop" leaves '
            'it out, "repeat" fills it with the first rows of the next epoch, which reads them again.'
        ),
    ] = "keep"
    document_ids: Annotated[bool, Doc("Add `document_ids`: which document of its row each token is of.")] = (
        False
    )
    position_ids: Annotated[bool, Doc("Add `position_ids`: each token's offset in its document.")] = False
    cu_seqlens: Annotated[bool, Doc("Add `cu_seqlens`: where documents begin in the flattened inputs.")] = (
        False
    )
    padding_free: Annotated[
        bool,
        Doc("Inputs and labels as [1, N]: documents one after the other, no padding; with `cu_seqlens`."),
    ] = False
    mask_document_starts: Annotated[
        bool, Doc("No loss on a document's first token (packed rows never have one).")
    ] = False
    padding: Annotated[
        bool,
        Doc(
            "Columns of tokens of a store of samples as int64 [B, longest of the batch]: `source` as input_ids and "
            "attention_mask, `target` as labels (-100 in padding) and decoder_attention_mask, any other NAME as "
            "NAME_input_ids and NAME_attention_mask. False: (values, offsets)."
        ),
    ] = False
    pad_to_multiple_of: Annotated[int, Doc("Round padded lengths up to a multiple of this.")] = 1
    pad_id: Annotated[
        int | None, Doc("The id in padding. Default: the tokenizer's pad token, else its end of document.")
    ] = None
    max_length: Annotated[
        int | None,
        Doc("Rows of columns of tokens that have more tokens are cut, and keep their last token, the end."),
    ] = None
    label_mask: Annotated[
        LabelMask | None, Doc("From tokens [B, T + 1] to bool [B, T]: True where a label becomes -100.")
    ] = None

    def __post_init__(self) -> None:
        _check_choice("framework", self.framework, ("auto", "torch", "numpy"))
        _check_choice("last", self.last, ("keep", "drop", "repeat"))
        flags = (
            "document_ids",
            "position_ids",
            "cu_seqlens",
            "padding_free",
            "mask_document_starts",
            "padding",
        )
        for name in flags:
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ConfigError(f"{name}={getattr(self, name)!r}: use True or False")
        numbers = {
            "pad_to_multiple_of": checked_int(
                "pad_to_multiple_of", self.pad_to_multiple_of, low=1, high=1 << 20
            ),
            "pad_id": optional_int("pad_id", self.pad_id, low=0, high=MAX_SEQ_LEN),
            "max_length": optional_int("max_length", self.max_length, low=1, high=MAX_SEQ_LEN),
        }
        for name, value in numbers.items():
            object.__setattr__(self, name, value)
        if not self.padding and (self.pad_to_multiple_of != 1 or self.pad_id is not None):
            raise ConfigError(
                "pad_to_multiple_of and pad_id are of padded batches: give padding=True as well"
            )
        if self.label_mask is not None and not callable(self.label_mask):
            raise ConfigError(
                f"label_mask={self.label_mask!r}: a function from tokens [B, T + 1] to bool [B, T], or None"
            )
        if self.device is not None and self.framework == "numpy":
            raise ConfigError(
                f'device={self.device!r} with framework="numpy": a device holds torch tensors. Use '
                'framework="torch", or no device'
            )

    @property
    def of_token_columns(self) -> tuple[str, ...]:
        """Names of the options that were given and are of columns of tokens in a store of samples."""
        given = {"padding": self.padding, "max_length": self.max_length is not None}
        return tuple(name for name, is_given in given.items() if is_given)

    @property
    def needs_documents(self) -> bool:
        """Whether the boundaries of documents must be known."""
        return (
            self.document_ids
            or self.position_ids
            or self.cu_seqlens
            or self.padding_free
            or self.mask_document_starts
        )


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How rows are read: threads, batches made ahead, the window of a block shuffle, packing plans."""

    threads: Annotated[
        int | None,
        Doc(
            "Threads that make batches ahead; 0 makes each batch when it is taken. Default: up to 4; for mapped "
            "stores, and on one core for compressed ones, one thread that works only while steps take longer than "
            "handing a batch over."
        ),
    ] = None
    prefetch: Annotated[int, Doc("Batches made ahead at most; bounds memory.")] = 4
    window: Annotated[
        int | None,
        Doc('Groups of blocks that shuffle="blocks" mixes. Default: as many as decode to 64 MiB.'),
    ] = None
    group_by_length: Annotated[
        int | None,
        Doc(
            "Make batches of rows whose columns of tokens are of similar length: the rows of each this many positions "
            "of the order are sorted and cut into batches, which come in random order. 4096 to 16384 leave little "
            "padding."
        ),
    ] = None
    group_rows: Annotated[
        int | None,
        Doc(
            "Rows of one such group. Default: the batch_size that the loader is made with. It is part of the order: to "
            "resume with another batch_size, give the old one here."
        ),
    ] = None
    packing_dir: Annotated[
        str | os.PathLike[str] | None,
        Doc("Where packing plans are kept. Default: packing/ in the store's directory."),
    ] = None

    def __post_init__(self) -> None:
        values = {
            "threads": optional_int("threads", self.threads, low=0),
            "prefetch": checked_int("prefetch", self.prefetch, low=1),
            "window": optional_int("window", self.window, low=1),
            "group_by_length": optional_int("group_by_length", self.group_by_length, low=1, high=1 << 20),
            "group_rows": optional_int("group_rows", self.group_rows, low=1, high=1 << 20),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.group_rows is not None and self.group_by_length is None:
            raise ConfigError("group_rows is of group_by_length: give both")


def checked_int(name: str, value: object, *, low: int | None = None, high: int | None = None) -> int:
    """An option that is a whole number, as an int (NumPy's integers become one).

    Raises:
        ConfigError: of another type (True, 1.5, None, "8"), or out of range.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name}={value!r}: expected an integer, got {type(value).__name__}")
    number = index(cast("Any", value))
    if (low is not None and number < low) or (high is not None and number > high):
        limits = (
            f"at least {low}" if high is None or (low is not None and number < low) else f"at most {high}"
        )
        raise ConfigError(f"{name}={number}: must be {limits}")
    return number


def optional_int(name: str, value: object, *, low: int | None = None, high: int | None = None) -> int | None:
    """`checked_int`, or None."""
    return None if value is None else checked_int(name, value, low=low, high=high)


def check_packing(packing: object) -> Packing:
    """The way rows are made of the stream: None means "none".

    Raises:
        ConfigError: an unknown one.
    """
    _check_choice("packing", packing, (None, "none", "best_fit"))
    return "best_fit" if packing == "best_fit" else "none"


def _check_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}={value!r}: use {', '.join(repr(choice) for choice in choices)}")


class ColumnOptions(TypedDict, total=False):
    """What a batch of a store of samples has, and what is done to it."""

    image: ImageTransform | None
    columns: Sequence[str] | None
    interactions: InteractionOptions | None
