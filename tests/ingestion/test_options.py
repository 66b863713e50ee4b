"""Options of ingest: what makes no sense is refused by its name when it is made."""

import pytest

from headrace.errors import ConfigError
from headrace.ingestion import FieldOptions, FilterOptions, JobOptions, OperatorOptions
from headrace.ingestion.options import ContentOptions


@pytest.mark.parametrize(
    ("options", "values", "says"),
    [
        (FieldOptions, {"text_mode": "page"}, "text_mode is 'page'; expected auto, file, line or block"),
        (FieldOptions, {"max_document_bytes": 0}, "max_document_bytes is 0; expected 1 or more"),
        (
            OperatorOptions,
            {"dedup": "near"},
            "dedup is 'near'; expected none, exact, minhash, url, lines or sentences",
        ),
        (OperatorOptions, {"dedup_threshold": 1.5}, r"dedup_threshold is 1\.5; expected 0\.1 to 1"),
        (FilterOptions, {"max_symbols": 3}, "max_symbols is 3; expected a share between 0 and 1, or None"),
        (
            JobOptions,
            {"max_reject_share": 1.5},
            r"max_reject_share is 1\.5; expected a share between 0 and 1",
        ),
        (JobOptions, {"shard_text_bytes": 0}, "shard_text_bytes is 0; expected 1 or more"),
        (JobOptions, {"block_tokens": -1}, "block_tokens is -1; expected 1 or more"),
        (ContentOptions, {"codec": "gzip"}, "codec is 'gzip'; expected none, lz4 or zstd"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(options, values, says):
    with pytest.raises(ConfigError, match=says):
        options(**values)


@pytest.mark.parametrize(("keep", "kept"), [("id", ("id",)), (["id", "url"], ("id", "url"))])
def test_keep_takes_one_name_or_several(keep, kept):
    assert FieldOptions(keep=keep).keep == kept


def test_the_place_of_the_validation_store_is_no_part_of_what_determines_the_bytes():
    first, second = (
        ContentOptions(operators=OperatorOptions(validation_share=0.1, validation_out=out))
        for out in ("a", "b")
    )
    assert first.to_json() == second.to_json()
