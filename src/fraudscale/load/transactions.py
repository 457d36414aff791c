"""What is sent: generated transactions, or those of a recording with the gaps between them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fraudscale.load.arrivals import RecordedArrivals
from fraudscale.scoring import codec
from fraudscale.scoring.records import Transaction
from fraudscale.synthetic import SyntheticTransactions

_AHEAD: Final = 100
"""Drawn at a time: one by one costs ten times as much, and many more would hold up the sends."""


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

        Columns stay in polars' compact form; rows are converted as they are sent.

        Raises:
            DataError: as `read_transactions`, or an id occurs twice.
        """
        from fraudscale.scoring import tables  # noqa: PLC0415 - only a replay needs polars

        frame = tables.read_transactions(path, times=True).sort("at", maintain_order=True)
        if again := tables.repeated(frame):
            raise tables.DataError(
                f"{path}: transaction_id {again[0]!r} occurs more than once; scores are matched by it, so give each row its own"
            )
        self._at = frame["at"].to_numpy()
        self._frame = frame.select(Transaction.__struct_fields__)

    def schedule(self, speed: float, seconds: float | None) -> RecordedArrivals:
        """Keep the gaps, `speed` times as fast; leave out what comes after so many seconds of the run."""
        times = (self._at - self._at[0]) / speed
        if seconds is not None:
            times = times[times < seconds]
        return RecordedArrivals(times, seconds or max(float(times[-1]), 1.0))

    def transactions(self) -> Iterator[Transaction]:
        return (Transaction(*row) for row in self._frame.iter_rows())


def encoded(transactions: Iterator[Transaction]) -> Iterator[tuple[bytes, bytes]]:
    """Yield id and JSON of each."""
    for transaction in transactions:
        yield transaction.transaction_id.encode(), codec.encode_transaction(transaction)
