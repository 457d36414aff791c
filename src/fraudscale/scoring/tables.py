"""Reads transactions from CSV and Parquet files: one rule for each column, whatever the kind of file.

Only tasks import it: serving has no polars.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import polars as pl

from fraudscale import csv_text
from fraudscale.clock import parse_instant
from fraudscale.errors import InputError

_YEAR_1: Final = -62_135_596_800
_YEAR_10000: Final = 253_402_300_800
"""Seconds since the epoch: the first instant that an ISO date can say, and the end of the last."""
_CHUNK: Final = 50_000
"""Rows of a CSV that are Python's own objects at a time."""


class DataError(InputError):
    """Data that can't be used; the message says the file, the place, and what is wrong."""


@dataclass(frozen=True)
class _Column:
    name: str
    wanted: str
    read: Callable[[pl.Series], pl.Series]
    """Gives null for what can't be read."""
    allowed: Callable[[pl.Series], pl.Series]


def _text(values: pl.Series) -> pl.Series:
    try:
        return values.cast(pl.String, strict=False)
    except pl.exceptions.PolarsError:  # a list, a struct
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)


def _numbers(values: pl.Series) -> pl.Series:
    # A flag or an instant is no number, though polars would make one of it.
    written = values if values.dtype.is_numeric() else _text(values).str.strip_chars()
    return written.cast(pl.Float64, strict=False)


def _integers(values: pl.Series) -> pl.Series:
    """A column of integers with one gap arrives as floats, `14.0`, in many a file; a fraction is still an error."""
    numbers = _numbers(values)
    return numbers.set(numbers != numbers.round(), None).cast(pl.Int64, strict=False)


def _labels(values: pl.Series) -> pl.Series:
    if not values.dtype.is_numeric():
        values = _text(values).str.strip_chars().str.to_lowercase()
        values = values.replace(["true", "false"], ["1", "0"])
    return _integers(values)


def _instants(values: pl.Series) -> pl.Series:
    """Seconds since the epoch; UTC where no zone is given, midnight where only a date is."""
    if isinstance(values.dtype, pl.Datetime | pl.Date):
        return values.dt.timestamp("us") / 1e6
    return pl.Series(values.name, [_seconds(text) for text in _text(values)], dtype=pl.Float64)


def _seconds(text: str | None) -> float | None:
    try:
        return parse_instant((text or "").strip()).timestamp()
    except ValueError:
        return None


def _between(low: float, high: float) -> Callable[[pl.Series], pl.Series]:
    return lambda s: (s >= low) & (s <= high)


def _length(s: pl.Series) -> pl.Series:
    return s.str.len_chars().is_between(1, 128)


# Change together with `records.Transaction`.
_FIELDS: Final = (
    _Column("transaction_id", "1 to 128 characters", _text, _length),
    _Column("amount", "a finite number, at least 0", _numbers, lambda s: (s >= 0) & s.is_finite()),
    _Column("merchant_category", "a name of 1 to 128 characters", _text, _length),
    _Column("hour", "an integer from 0 to 23", _integers, _between(0, 23)),
    _Column("day_of_week", "an integer from 0 (Monday) to 6", _integers, _between(0, 6)),
    _Column("user_age", "an integer from 0 to 130", _integers, _between(0, 130)),
    _Column("account_balance", "a finite number", _numbers, lambda s: s.is_finite()),
)
_LABEL: Final = _Column("is_fraud", "0, 1, true or false", _labels, _between(0, 1))
_AT: Final = _Column(
    "at",
    "an instant such as 2026-03-01T12:00:00Z",
    _instants,
    _between(_YEAR_1, _YEAR_10000),
)


def read_transactions(path: Path, *, labels: bool = False, times: bool = False) -> pl.DataFrame:
    """Read the seven fields of a transaction, in the record's order and types, and what else is asked for.

    Args:
        path: its name ends in .csv or .parquet; other columns of it are ignored.
        labels: also `is_fraud`, 0 or 1.
        times: `at` must be there; else it may be. It is seconds since the epoch.

    Raises:
        DataError: unreadable, without rows, a column is missing or there twice, or a value is not allowed; rows count
            from 1, without the header.
    """
    columns = [*_FIELDS, *([_LABEL] if labels else []), *([_AT] if times else [])]
    frame = _read(path, [*(column.name for column in columns), _AT.name])
    names = [column.name for column in columns]
    if missing := [name for name in names if name not in frame.columns]:
        raise DataError(f"{path}: missing column {', '.join(missing)}; wanted: {', '.join(names)}")
    if frame.is_empty():
        raise DataError(f"{path}: no rows")
    if not times and _AT.name in frame.columns:
        columns.append(_AT)
    return pl.DataFrame([_convert(path, frame[column.name], column) for column in columns])


def repeated(frame: pl.DataFrame) -> tuple[str, int] | None:
    """Tell the first `transaction_id` that occurs more than once, and how many rows have such a one; None without any."""
    ids = frame["transaction_id"]
    again = ids.filter(ids.is_duplicated())
    return (again[0], len(again)) if len(again) else None


def _read(path: Path, names: list[str]) -> pl.DataFrame:
    """Read those of the columns that are there; of a CSV as text, so that a bad value can be shown as it stands."""
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: the name must end in .csv or .parquet")
    try:
        return readers[path.suffix.lower()](path, list(dict.fromkeys(names)))
    except csv_text.CsvError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{path}: can't be read: {str(error).splitlines()[0]}") from error


def _read_parquet(path: Path, names: list[str]) -> pl.DataFrame:
    with path.open("rb") as file:  # of a path polars would make a pattern: payments[1].parquet
        frame = pl.read_parquet(file)
    return frame.select([name for name in names if name in frame.columns])


def _read_csv(path: Path, names: list[str]) -> pl.DataFrame:
    header, rows = csv_text.read_csv(path.read_bytes())
    present = [name for name in names if name in header]
    for name in present:
        if header.count(name) > 1:
            raise csv_text.CsvError(
                "line 1", f"the column {name} is there {header.count(name)} times; keep one"
            )
    schema = dict.fromkeys(present, pl.String)
    places = [header.index(name) for name in present]
    chunks = [pl.DataFrame(schema=schema)]
    while chunk := [[row[place] for place in places] for _, row in islice(rows, _CHUNK)]:
        chunks.append(pl.DataFrame(chunk, schema=schema, orient="row"))
    return pl.concat(chunks)


def _convert(path: Path, values: pl.Series, column: _Column) -> pl.Series:
    converted = column.read(values)
    good = column.allowed(converted).fill_null(value=False)
    if not good.all():
        row = int((~good).arg_max() or 0)
        value = _value(values, row)
        shown = "empty" if value is None or value == "" else f"{value!r:.60}"
        more = csv_text.hint(value) if isinstance(value, str) and converted.dtype != pl.String else ""
        raise DataError(f"{path}: row {row + 1}, column {column.name}: {shown}, wanted {column.wanted}{more}")
    return converted


def _value(values: pl.Series, row: int) -> object:
    one = values.slice(row, 1)
    # Of an instant the number: Python's calendar need not have it.
    return (one.to_physical() if values.dtype.is_temporal() else one).to_list()[0]
