"""What is sent: generated transactions, or those of a recording with the gaps between them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from fraudscale.arrays import Floats
from fraudscale.clock import parse_instant
from fraudscale.errors import InputError
from fraudscale.load.arrivals import RecordedArrivals
from fraudscale.scoring import codec
from fraudscale.scoring.records import Transaction
from fraudscale.synthetic import SyntheticTransactions

if TYPE_CHECKING:
    import polars as pl

_AHEAD: Final = 100
"""Drawn at a time: one by one costs ten times as much, and many more would hold up the sends."""


class BadRecording(InputError):
    """The file can't be replayed; the message says which row and why."""


def generated(seed: int) -> Iterator[Transaction]:
    """Yield transactions of this moment, without end; each seed has ids of its own."""
    generator = SyntheticTransactions(seed)
    while True:
        for labelled in generator.at(datetime.now(UTC), _AHEAD):
            yield labelled.transaction


class Recording:
    """A file of transactions, in order of time; all of its rows are known to be good."""

    def __init__(self, path: Path) -> None:
        """Read and check a CSV or Parquet file with the seven fields of a transaction and `at`.

        `at` is an instant, ISO 8601 in a CSV, UTC where no zone is given. Other columns are ignored. Columns stay in
        polars' compact form; rows are converted as they are sent.

        Raises:
            BadRecording: unreadable, empty, a column is missing, a value is not allowed, or an id occurs twice.
        """
        frame = _read(path)
        at = _instants(path, frame["at"].to_list())
        order = np.argsort(at, kind="stable")
        self._at = at[order]
        self._frame = frame.drop("at")
        self._check(path)
        self._frame = self._frame[order]

    def schedule(self, speed: float, seconds: float | None) -> RecordedArrivals:
        """Keep the gaps, `speed` times as fast; leave out what comes after so many seconds of the run."""
        times = (self._at - self._at[0]) / speed
        if seconds is not None:
            times = times[times < seconds]
        return RecordedArrivals(times, seconds or max(float(times[-1]), 1.0))

    def transactions(self) -> Iterator[Transaction]:
        for row in self._frame.iter_rows(named=True):
            yield _convert(row)

    def _check(self, path: Path) -> None:
        for number, row in enumerate(self._frame.iter_rows(named=True), 1):
            try:
                _convert(row)
            except msgspec.ValidationError as error:
                raise BadRecording(f"{path}: row {number}: {error}") from error
        ids = self._frame["transaction_id"]
        if ids.n_unique() < len(ids):
            twice = ids.filter(ids.is_duplicated())[0]
            raise BadRecording(
                f"{path}: transaction_id {twice!r} occurs more than once; scores are matched by it, so give each row its own"
            )


def _convert(row: dict[str, object]) -> Transaction:
    return msgspec.convert(row, Transaction, strict=False)


def _read(path: Path) -> "pl.DataFrame":
    import polars as pl  # noqa: PLC0415 - only a replay needs it

    wanted = [*Transaction.__struct_fields__, "at"]
    try:
        if path.suffix.lower() == ".parquet":
            frame = pl.read_parquet(path)
        elif path.suffix.lower() == ".csv":
            frame = pl.read_csv(path, infer_schema=False)
        else:
            raise BadRecording(f"{path}: the name must end in .csv or .parquet")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadRecording(f"{path}: can't be read: {str(error).splitlines()[0]}") from error
    if missing := [name for name in wanted if name not in frame.columns]:
        raise BadRecording(f"{path}: missing column {', '.join(missing)}; wanted: {', '.join(wanted)}")
    if frame.is_empty():
        raise BadRecording(f"{path}: no rows")
    return frame.select(wanted)


def _instants(path: Path, values: list[object]) -> Floats:
    seconds = np.empty(len(values))
    for index, value in enumerate(values):
        try:
            seconds[index] = parse_instant(str(value)).timestamp()
        except ValueError as error:
            raise BadRecording(
                f"{path}: row {index + 1}, column at: {value!r}, wanted an instant such as 2026-03-01T12:00:00Z"
            ) from error
    return seconds


def encoded(transactions: Iterator[Transaction]) -> Iterator[tuple[bytes, bytes]]:
    """Yield id and JSON of each."""
    for transaction in transactions:
        yield transaction.transaction_id.encode(), codec.encode_transaction(transaction)
