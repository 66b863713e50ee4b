"""The table compares what was measured for both loaders, and says which one is ahead."""

from __future__ import annotations

from headrace.profile.comparison import comparison_rows


def test_a_quantity_that_one_loader_lacks_is_left_out():
    rows = comparison_rows({"naive": {"tokens_per_s": 10, "peak_bytes": 5}, "headrace": {"tokens_per_s": 5}})
    assert [(row.quantity, row.ratio) for row in rows] == [("tokens/s", "2.0 \N{MULTIPLICATION SIGN} slower")]


def test_ingest_is_not_said_to_pay_back_where_the_naive_loader_is_as_fast():
    measured = {"tokens_per_s": 10.0}
    rows = comparison_rows({"naive": measured, "headrace": measured, "once_s": 2.0, "epoch_tokens": 100})
    assert [row.ratio for row in rows if row.quantity == "tokenizing"] == [""]


def test_values_that_are_no_numbers_are_left_out():
    assert comparison_rows({"naive": {"tokens_per_s": "fast"}, "headrace": {"tokens_per_s": 3}}) == []
