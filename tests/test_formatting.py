"""Numbers as people read them, at the values where the unit changes."""

# ruff: noqa: RUF001 - the multiplication sign is meant

from __future__ import annotations

import pytest

from headrace.formatting import approximate, duration, nbytes, percent, ratio


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (5e15, "5,000 TB"),
    ],
)
def test_bytes_never_show_a_thousand_of_a_unit(value, expected):
    assert nbytes(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 ms"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min")],
)
def test_durations_change_their_unit_where_rounding_would_reach_it(seconds, expected):
    assert duration(seconds) == expected


def test_a_share_that_is_not_zero_is_never_shown_as_zero():
    assert [percent(s) for s in (0, 1e-6, 0.0094, 0.0096, 1)] == [
        "0.0 %",
        "under 0.1 %",
        "0.9 %",
        "1 %",
        "100 %",
    ]


def test_a_ratio_names_its_direction():
    assert (ratio(1, "faster", "slower"), ratio(0.25, "faster", "slower")) == ("1.0 × faster", "4.0 × slower")


def test_counts_have_three_digits():
    assert [approximate(v) for v in (7, 1234, 5_677_000, 2.5e9)] == [
        "7",
        "1.23 thousand",
        "5.68 million",
        "2.5 billion",
    ]
