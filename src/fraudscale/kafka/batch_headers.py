"""Asks a broker for the headers of batches of records: no client gives them without unpacking what is behind them.

A batch of 5 kB may unpack to 100 MB. Whoever only wants to know where a batch begins and ends, or when it was written,
must not die of it.
"""

import socket
import struct
import time
from dataclasses import dataclass
from math import inf
from typing import BinaryIO, Final, NamedTuple

ANSWER_SECONDS: Final = 3.0
FETCH: Final = 1
VERSION: Final = 4
"""Of the request: the oldest that Kafka 4 has, and one that Kafka 0.11 has too."""
MAGIC: Final = 2
CODECS: Final = ("nothing", "gzip", "snappy", "lz4", "zstd")
_CODEC, _LOG_APPEND_TIME, _CONTROL = 7, 8, 32
"""Bits of a batch's attributes."""
_PARTITION: Final = struct.Struct(">hqqi")
"""Error, high watermark, last stable offset, number of aborted transactions."""
_BATCH: Final = struct.Struct(">qiibIhiqqq")
"""First offset, size, leader's epoch, magic, CRC, attributes, last offset's delta, first and last timestamp, producer."""


@dataclass(frozen=True)
class BatchHeader:
    """A batch of records as it lies in the log."""

    first: int
    last: int
    """Offsets; compaction may have removed the records that had them."""
    size: int
    """Bytes, compressed."""
    codec: str
    control: bool
    """It holds no record, but the end of a transaction."""
    producer: int
    timestamp: int
    """Of its first record, milliseconds since 1970; negative where it has none."""


class Fetched(NamedTuple):
    """What a broker has from an offset on."""

    end: int
    stable: int
    """Up to here no transaction is open."""
    aborted: tuple[tuple[int, int], ...]
    """Producer and first offset of transactions that were rolled back; only asked `committed`."""
    batch: BatchHeader | None
    """The one that has the offset, or the next; None where there is none that may be read."""


class FirstRecord(NamedTuple):
    """What a look found."""

    offset: int
    """Of the record; where there is none, where the look ended."""
    there: bool
    timestamp: int | None
    """Of the first record of its batch."""
    over: bool = True
    """Whether there is nothing more to look at now."""


def fetch(
    address: tuple[str, int], topic: str, partition: int, offset: int, *, committed: bool = False
) -> Fetched:
    """Ask for what is at an offset.

    Args:
        address: host and port of the partition's leader, spoken to as it is: without TLS or SASL.
        topic: to look at.
        partition: of it.
        offset: from here on.
        committed: leave out what no reader of committed records is given, as long as its transaction is open.

    Raises:
        OSError: the broker doesn't answer, or with an error.
    """
    with socket.create_connection(address, ANSWER_SECONDS) as connection:
        connection.sendall(_request(topic, partition, offset, committed=committed))
        with connection.makefile("rb") as answer:
            (size,) = struct.unpack(">i", _exactly(answer, 4))
            # correlation, throttle time, topics; name, partitions; number
            before = 4 + 4 + 4 + 2 + len(topic) + 4 + 4
            _exactly(answer, before)
            error, end, stable, many = _PARTITION.unpack(_exactly(answer, _PARTITION.size))
            aborted = _exactly(answer, 16 * max(0, many))
            _exactly(answer, 4)
            rest = size - before - _PARTITION.size - len(aborted) - 4
            head = answer.read(min(rest, _BATCH.size))
    if error:
        raise OSError(f"{topic}/{partition}/{offset}: the broker says error {error}")
    found = tuple(struct.iter_unpack(">qq", aborted))
    return Fetched(end, stable, found, _header(head) if len(head) == _BATCH.size else None)


def first_record(
    address: tuple[str, int],
    topic: str,
    partition: int,
    start: int,
    *,
    committed: bool,
    most: int = 100,
    until: float = inf,
) -> FirstRecord:
    """Find the first record at or behind an offset, which isn't the end of a transaction or rolled back.

    Args:
        address: as of `fetch`.
        topic: as of `fetch`.
        partition: as of `fetch`.
        start: the offset.
        committed: as of `fetch`.
        most: batches to look at; without a record in those the look isn't over.
        until: `time.monotonic()` after which no further batch is asked for; likewise.

    Raises:
        OSError: as `fetch`.
    """
    offset = start
    for _ in range(most):
        found = fetch(address, topic, partition, offset, committed=committed)
        batch = found.batch
        if batch is None:
            return FirstRecord(
                max(offset, found.stable) if committed else found.end, there=False, timestamp=None
            )
        rolled_back = any(batch.producer == producer and batch.first >= at for producer, at in found.aborted)
        if not batch.control and not rolled_back:
            timestamp = batch.timestamp if batch.timestamp >= 0 else None
            return FirstRecord(max(offset, batch.first), there=True, timestamp=timestamp)
        offset = batch.last + 1
        if time.monotonic() > until:
            break
    return FirstRecord(offset, there=False, timestamp=None, over=False)


def batch_at(address: tuple[str, int], topic: str, partition: int, offset: int) -> BatchHeader:
    """Ask for the batch that has this offset.

    Raises:
        OSError: as `fetch`, or there is no such batch.
    """
    batch = fetch(address, topic, partition, offset).batch
    if batch is None or not batch.first <= offset <= batch.last:
        raise OSError(f"{topic}/{partition}/{offset}: the broker has no such batch")
    return batch


def _header(head: bytes) -> BatchHeader:
    first, size, _, magic, _, attributes, delta, began, ended, producer = _BATCH.unpack(head)
    if magic != MAGIC:
        raise OSError(f"offset {first}: a batch of format {magic}")
    codec = attributes & _CODEC
    return BatchHeader(
        first,
        first + delta,
        size,
        CODECS[codec] if codec < len(CODECS) else "?",
        bool(attributes & _CONTROL),
        producer,
        ended if attributes & _LOG_APPEND_TIME else began,
    )


def _exactly(answer: BinaryIO, size: int) -> bytes:
    content = answer.read(size)
    if len(content) < size:
        raise ConnectionError("the broker ended the connection")
    return content


def _request(topic: str, partition: int, offset: int, *, committed: bool) -> bytes:
    """One partition, as little as a broker sends: one batch, at once."""
    name, client = topic.encode(), b"fraudscale"
    head = struct.pack(">hhih", FETCH, VERSION, 0, len(client)) + client
    body = struct.pack(">iiiibi", -1, 0, 0, 1, int(committed), 1)
    body += struct.pack(">h", len(name)) + name + struct.pack(">iiqi", 1, partition, offset, 1)
    return struct.pack(">i", len(head + body)) + head + body
