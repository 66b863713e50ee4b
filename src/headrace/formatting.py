"""Numbers -> text for people: counts, sizes, durations, shares, ratios."""

# ruff: noqa: RUF001, RUF002 - the multiplication sign is meant

from __future__ import annotations


def count(number: float) -> str:
    """A number with a comma between thousands.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,.0f}"


def approximate(value: float) -> str:
    """A count with three digits and a word.

    >>> approximate(412_345)
    '412 thousand'
    """
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}"


def nbytes(value: float) -> str:
    """A number of bytes in decimal units.

    >>> [nbytes(v) for v in (12, 1_234_567, 345_600_000, 12_345_678_901)]
    ['12 B', '1.2 MB', '346 MB', '12.3 GB']
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """A number of seconds in the unit that fits.

    >>> [duration(s) for s in (0.0123, 3.21, 59.96, 100, 7500)]
    ['12.3 ms', '3.2 s', '1 min 00 s', '1 min 40 s', '2 h 05 min']
    """
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float) -> str:
    """A share in percent.

    >>> [percent(s) for s in (0.932, 0.0042, 0.0001)]
    ['93 %', '0.4 %', 'under 0.1 %']
    """
    hundredths = share * 100
    if 0 < hundredths < 0.1:
        return "under 0.1 %"
    return f"{hundredths:.1f} %" if hundredths < 0.95 else f"{hundredths:.0f} %"


def ratio(value: float, better: str = "", worse: str = "") -> str:
    """A ratio with the word for its direction; below 1 the inverse is shown.

    >>> ratio(300.4, "sooner", "later"), ratio(0.5, "sooner", "later"), ratio(12.3)
    ('300 × sooner', '2.0 × later', '12 ×')
    """
    word = better if value >= 1 else worse
    value = value if value >= 1 else 1 / value
    return (f"{value:,.0f} × {word}" if value >= 9.95 else f"{value:.1f} × {word}").rstrip()
