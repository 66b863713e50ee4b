"""What users can set of an ingest of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.ingestion.options import check_choice

SampleLayout: TypeAlias = Literal[
    "auto", "folders", "masks", "tar", "table", "csv", "jsonl", "voc", "coco", "yolo", "idx", "pairs"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples.

    How images and what belongs to them are laid out, or that records are pairs of texts.
    """

    layout: Annotated[
        SampleLayout,
        Doc(
            "folders: a folder per class; masks: images/ and masks/; tar: WebDataset; table: Parquet or datasets; csv, "
            "jsonl: paths and labels; voc: Pascal VOC .xml; coco: COCO .json; yolo: images/ and labels/; idx: MNIST's "
            "files. auto: by the names. "
            "pairs: records of source and target, prompt and completion, question and answers, or chosen and rejected, "
            "in any format of text; they become columns of tokens."
        ),
    ] = "auto"
    image_field: Annotated[str, Doc("The column with the image, or its path.")] = "image"
    label_field: Annotated[str, Doc("The column with the label.")] = "label"
    shard_bytes: int = 128 << 20
    """Bytes of rows in a shard, and in a unit of work."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        check_choice("layout", self.layout, SampleLayout)
        if self.shard_bytes < 1:
            raise ConfigError(f"shard_bytes is {self.shard_bytes}; expected 1 or more")
