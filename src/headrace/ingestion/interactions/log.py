"""CSV, JSON lines and Parquet files -> one table of users, items, times and features; bad rows as rejects."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import ConfigError, SourceError
from headrace.ingestion.document import Reject
from headrace.ingestion.interactions.options import Interactions
from headrace.paths import given_path
from headrace.storage import refuse_encrypted

if TYPE_CHECKING:
    import polars as pl

USER, ITEM, TIME = "user", "item", "time"
_KNOWN = {
    USER: ("user", "userid", "uid", "visitorid", "customerid", "reviewerid"),
    ITEM: ("item", "itemid", "iid", "movieid", "productid", "articleid", "trackid", "songid", "asin"),
    TIME: ("time", "timestamp", "ts", "datetime", "date", "eventtime", "unixtime"),
}
"""Names of columns that are recognised, in lower case and without "_" and "-"."""
_TYPE_SUFFIXES = (":token", ":token_seq", ":float", ":float_seq")
"""RecBole's files write a column's type behind its name."""
_CSV, _JSONL, _PARQUET = (".csv", ".tsv", ".inter", ".txt"), (".jsonl", ".ndjson"), (".parquet",)
_COMPRESSED = (".gz", ".zst")
_SEPARATORS = "\t,;|"
_ISO = r"^\s*(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d{1,9})?)?)?\s*(Z|[+-]\d{2}:?\d{2})?\s*$"
_BAD_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionLog:
    """All valid rows of a log, in its order."""

    table: pl.DataFrame
    """user and item as strings, time as int64 or float64, and the features."""
    rejects: list[Reject]
    dates: bool
    """Whether the log's times are dates, and those of the table microseconds since 1970 in UTC."""
    columns: dict[str, str]
    """user, item, time -> the log's name of the column."""


@dataclass(slots=True)
class _Times:
    """How the log writes times; all files the same way."""

    dates: bool | None = None
    first: str = ""
    kinds: dict[str, bool] = field(default_factory=dict)


def log_files(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files of a log, sorted inside each directory and pattern; the order breaks ties between equal times.

    Raises:
        ConfigError: a URL, or a file of another kind.
        SourceError: no such file, or none in a directory.
    """
    files: list[Path] = []
    for source in sources:
        name = given_path(source, name="ingest: a source")
        if "://" in name:
            raise ConfigError(f"{name}: logs of interactions are read from local files; fetch them first")
        path = Path(name)
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if one.is_file() and _kind(one) is not None)
            if not found:
                raise SourceError(f"{path}: no {', '.join((*_CSV, *_JSONL, *_PARQUET))} in it")
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(one) for one in glob.glob(name, recursive=True))  # noqa: PTH207  # absolute too
            if not found:
                raise SourceError(f"{name}: no such file or directory")
        files += found
    if not files:
        raise SourceError("no sources were given; expected files of interactions")
    for file in files:
        if _kind(file) is None:
            raise ConfigError(
                f"{file}: expected {', '.join((*_CSV, *_JSONL, *_PARQUET))}, the first two kinds also with .gz or .zst"
            )
    return files


def read_log(files: Sequence[Path], options: Interactions) -> InteractionLog:
    """Read all files.

    Raises:
        ConfigError: a column is not there, or two could be it.
        SourceError: a file cannot be read, or files differ in how they write times.
    """
    pl = import_polars()
    times, rejects, parts, columns = _Times(), list[Reject](), list[Any](), dict[str, str]()
    for file in files:
        try:
            scanned, line = _scan(file)
            names = scanned.collect_schema().names()
            columns = _columns(file, [name for name in names if name != "__row"], options)
            chosen = [pl.col("__row"), *(pl.col(name).alias(as_) for as_, name in columns.items())]
            table = scanned.select(chosen).collect()
        except pl.exceptions.PolarsError as error:
            raise SourceError(
                f"{file}: cannot be read as {_kind(file)}: {str(error).splitlines()[0]:.300}. Truncated, or not what "
                "its name says?"
            ) from error
        parts.append(_checked(file, table, times, line, rejects))
    try:
        joined = pl.concat(parts, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{files[0]} and others: columns of different types: {error!s:.300}") from error
    return InteractionLog(
        table=joined,
        rejects=rejects,
        dates=bool(times.dates),
        columns={name: columns[name] for name in (USER, ITEM, TIME)},
    )


def parse_moment(text: str, *, dates: bool, name: str) -> float | int:
    """A moment that a user typed, in the unit of the log.

    Raises:
        ConfigError: it is not written as the log writes times.
    """
    pl = import_polars()
    values, is_date = _parse_times(pl.Series([text]), dates=dates)
    if is_date != dates or values[0] is None:
        expected = "a date such as 2024-05-31 or 2024-05-31T12:00:00Z" if dates else "a number"
        raise ConfigError(f"{name} is {text!r}; expected {expected}, as the log writes times")
    moment: float | int = values[0]
    return moment


def import_polars() -> Any:
    """The library that reads and sorts logs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import polars as pl
    except ImportError as error:
        raise ConfigError(
            "interactions are read by Polars, which is not installed. Run: pip install 'headrace[interactions]'"
        ) from error
    return pl


def _kind(file: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
        if suffixes and suffixes[-1] in _PARQUET:
            return None
    last = suffixes[-1] if suffixes else ""
    kinds = {"CSV": _CSV, "JSON lines": _JSONL, "Parquet": _PARQUET}
    return next((kind for kind, names in kinds.items() if last in names), None)


def _scan(file: Path) -> tuple[pl.LazyFrame, int]:
    """A file's rows, with their numbers, and the line of the first one."""
    pl = import_polars()
    kind = _kind(file)
    if kind == "Parquet":
        with file.open("rb") as raw:
            refuse_encrypted(raw, str(file))
        return pl.scan_parquet(file, row_index_name="__row", glob=False), 1
    if kind == "JSON lines":
        return pl.scan_ndjson(file, row_index_name="__row", infer_schema_length=None), 1
    header = pl.read_csv(
        file, separator="\x01", quote_char=None, has_header=False, n_rows=1, infer_schema=False
    )
    line = header.item(0, 0) or "" if header.height else ""
    separator = max(_SEPARATORS, key=line.count)
    scanned = pl.scan_csv(file, separator=separator, infer_schema=False, row_index_name="__row", glob=False)
    return scanned, 2


def _columns(file: Path, names: Sequence[str], options: Interactions) -> dict[str, str]:
    """Column of the table -> the log's name."""
    plain = {_without_type(name): name for name in names}
    shown = ", ".join(names[:20]) or "none"
    columns = {}
    for what, given in (
        (USER, options.user_field),
        (ITEM, options.item_field),
        (TIME, options.time_field),
    ):
        option = f"--{what}-field ({what}_field=)"
        if given is not None:
            if given not in names and given not in plain:
                raise ConfigError(f"{file}: no column {given!r} ({option}); its columns: {shown}")
            columns[what] = given if given in names else plain[given]
            continue
        found = [name for short, name in plain.items() if short.lower().translate(_NO_DASHES) in _KNOWN[what]]
        if len(found) != 1:
            fault = (
                f"columns {' and '.join(found)} could be the {what}"
                if found
                else f"no column for the {what} is recognised"
            )
            raise ConfigError(f"{file}: {fault}; name it with {option}. Its columns: {shown}")
        columns[what] = found[0]
    for name in options.features:
        if name not in names and name not in plain:
            raise ConfigError(f"{file}: no column {name!r} (--feature, features=); its columns: {shown}")
        if name in columns or name.startswith(("history", "target", "__")) or name in _OWN_COLUMNS:
            raise ConfigError(f"{file}: the column {name!r} has the name of one of the store's; rename it")
        columns[name] = name if name in names else plain[name]
    return columns


_NO_DASHES = str.maketrans("", "", "_-")
_OWN_COLUMNS = ("items", "times", "user_events", "item_events", "negatives")


def _without_type(name: str) -> str:
    return next((name.removesuffix(end) for end in _TYPE_SUFFIXES if name.endswith(end)), name)


def _checked(
    file: Path, table: pl.DataFrame, times: _Times, first_line: int, rejects: list[Reject]
) -> pl.DataFrame:
    """The valid rows of a file; others are appended to the rejects."""
    pl = import_polars()
    for name in (USER, ITEM):
        if table[name].dtype.is_nested():
            raise SourceError(
                f"{file}: the column of the {name} holds {table[name].dtype}; expected numbers or strings"
            )
    stamps, dates = _parse_times(table[TIME], dates=times.dates)
    if stamps.null_count() < len(stamps):
        if times.dates is not None and times.dates != dates:
            kinds = ("dates", "numbers") if dates else ("numbers", "dates")
            raise SourceError(
                f"{file}: its times are {kinds[0]}, those of {times.first} are {kinds[1]}; expected one kind"
            )
        times.dates, times.first = dates, times.first or str(file)
    raw = table[TIME].cast(pl.String, strict=False)
    checked = table.with_columns(
        pl.col(USER).cast(pl.String, strict=False),
        pl.col(ITEM).cast(pl.String, strict=False),
        stamps.alias(TIME),
        raw.alias("__raw"),
    )
    fault = (
        pl.when(pl.col(USER).is_null() | (pl.col(USER) == ""))
        .then(pl.lit("no_user"))
        .when(pl.col(ITEM).is_null() | (pl.col(ITEM) == ""))
        .then(pl.lit("no_item"))
        .when(pl.col("__raw").is_null() | (pl.col("__raw") == ""))
        .then(pl.lit("no_time"))
        .when(pl.col(TIME).is_null())
        .then(pl.lit("bad_time"))
    )
    checked = checked.with_columns(fault.alias("__fault"))
    for row, reason, value in (
        checked.filter(pl.col("__fault").is_not_null()).select("__row", "__fault", "__raw").iter_rows()
    ):
        detail = f"no value for the {reason[3:]}"
        if reason == "bad_time":
            expected = "a date such as 2024-05-31T12:00:00Z" if dates else "a number"
            detail = f"time {value[:_BAD_SHOWN]!r}, expected {expected}"
        rejects.append(
            Reject(source=str(file), offset=row, line=row + first_line, reason=reason, detail=detail)
        )
    return checked.filter(pl.col("__fault").is_null()).drop("__row", "__fault", "__raw")


def _parse_times(values: pl.Series, *, dates: bool | None) -> tuple[pl.Series, bool]:
    """Times as int64 or float64, null where one cannot be read; and whether they are dates.

    Args:
        values: as the log has them.
        dates: what earlier files have; None where this is the first.
    """
    pl = import_polars()
    kind = values.dtype
    if kind == pl.String:
        return _parse_texts(values.str.strip_chars(), dates=dates)
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        return values.cast(pl.Datetime("us")).to_physical(), True
    if kind.is_integer():
        return values.cast(pl.Int64, strict=False), False
    if kind.is_float():
        return _whole(values.cast(pl.Float64)), False
    return pl.Series(values.name, [None] * len(values), dtype=pl.Int64), bool(dates)


def _parse_texts(text: pl.Series, *, dates: bool | None) -> tuple[pl.Series, bool]:
    """The same of texts; the first one says whether they are dates, where no earlier file does."""
    pl = import_polars()
    if dates is None:
        known = text.drop_nulls()
        first = known.filter(known != "").head(1)
        dates = bool(first.str.contains(_ISO).any())
    if dates:
        return _parse_dates(text), True
    whole = text.cast(pl.Int64, strict=False)
    numbers = text.cast(pl.Float64, strict=False)
    if bool((whole.is_null() & numbers.is_not_null()).any()):
        return _whole(numbers), False
    return whole, False


def _whole(numbers: pl.Series) -> pl.Series:
    """Floats as int64 where all are whole; what is not finite becomes null."""
    pl = import_polars()
    finite = numbers.set(~numbers.is_finite().fill_null(value=False), None)
    known = finite.drop_nulls()
    if len(known) and bool(((known == known.floor()) & (known.abs() < 2**53)).all()):
        return finite.cast(pl.Int64)
    return finite


def _parse_dates(text: pl.Series) -> pl.Series:
    """ISO 8601 -> microseconds since 1970; without an offset the time is UTC."""
    pl = import_polars()
    frame = text.alias("t").to_frame()
    parts = pl.col("t").str.extract_groups(_ISO)
    day, minute, second, zone = (parts.struct.field(str(i)) for i in range(1, 5))
    written = pl.concat_str(
        day,
        pl.lit("T"),
        minute.fill_null("00:00"),
        second.fill_null(":00"),
        zone.fill_null("+00:00").replace("Z", "+00:00").str.replace(r"^([+-]\d{2})(\d{2})$", "${1}:${2}"),
    )
    moments = written.str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC"
    )
    return frame.select(moments.dt.replace_time_zone(None).to_physical().alias("t")).to_series()
