"""What is read from topics and written to them."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaError

Header = tuple[str, str | bytes | None]
"""The client reads bytes, and writes text as UTF-8."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as it was read. `timestamp` is in milliseconds since 1970, of its producer or its broker."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    timestamp: int


class Output(msgspec.Struct, frozen=True, gc=False):
    """A record to write."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class UnreadableRange(msgspec.Struct, frozen=True):
    """Records that nobody can unpack, from the first to the last offset, and why."""

    topic: str
    partition: int
    first: int
    last: int
    why: str

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Batch(msgspec.Struct, frozen=True):
    """Records read together, per partition in order; `read_at` is the `perf_counter()` when they were here."""

    records: list[Record]
    read_at: float
    unreadable: UnreadableRange | None = None
    """Instead of records."""

    @property
    def partitions(self) -> set[int]:
        return set(self.next_offsets())

    def next_offsets(self) -> dict[int, int]:
        """Where each partition of the batch goes on: what is committed."""
        if self.unreadable is not None:
            return {self.unreadable.partition: self.unreadable.last + 1}
        return {r.partition: r.offset + 1 for r in self.records}


def records_of(messages: list[Any], complain: Callable[[KafkaError, Any], None], now: int) -> list[Record]:
    """Convert the client's messages (untyped: only those that are errors lack topic and offset).

    `complain` is called with each error and its message.
    """
    records = []
    for m in messages:
        if (error := m.error()) is not None:
            complain(error, m)
            continue
        try:
            headers = m.headers() or ()
        except SystemError:  # a header's name that is not UTF-8: the client (2.16) gives none of them then
            headers = ()
        _, timestamp = m.timestamp()
        records.append(
            Record(
                m.topic(),
                m.partition(),
                m.offset(),
                m.key(),
                m.value(),
                headers,
                timestamp if timestamp >= 0 else now,
            )
        )
    return records
