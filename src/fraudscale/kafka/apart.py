"""Reads a partition in a process of its own, whose memory is bounded: for records that our client can't unpack.

A record batch of 5 kB may unpack to 100 MB, and the client unpacks it whole. A child hands over the records that it can
read, and what kills it is known to be unreadable.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fraudscale.kafka.messages import Record, records_of

UNPACKED_BYTES: Final = 64 * 1024 * 1024
"""Memory for what one batch of records unpacks to: four times the largest output, and what a pod of 384 MiB has left."""
MOST_RECORDS: Final = 1000
MOST_BYTES: Final = 16 * 1024 * 1024
"""A child hands over no more than these."""
READ_SECONDS: Final = 5.0
"""So long a child waits for a record."""
LIFE_SECONDS: Final = 30.0
"""After it a child is killed."""
UNREADABLE: Final = frozenset(
    {
        KafkaError._BAD_COMPRESSION,  # noqa: SLF001
        KafkaError._BAD_MSG,  # noqa: SLF001
        KafkaError._CRIT_SYS_RESOURCE,  # noqa: SLF001
        KafkaError._NOT_IMPLEMENTED,  # noqa: SLF001
        KafkaError._UNDERFLOW,  # noqa: SLF001
        KafkaError.INVALID_MSG,
    }
)
"""What the client says of records that it can't unpack: it stays where it is, and says so again and again."""
GIVEN, NOTHING, BROKEN, SILENT = 0, 3, 4, 5
"""Exit codes of a child: records came; there are none; there are some that can't be read; the broker sent nothing."""
_HEADER: Final = 4


class Apart(msgspec.Struct, frozen=True):
    """What a child could read from an offset on: records, or none and what it found instead."""

    records: list[Record]
    outcome: int
    why: str = ""
    """It is `BROKEN`: how that showed. It is `SILENT`: what kept the child from reading, if that is known."""


class _Request(msgspec.Struct):
    client: dict[str, Any]
    topic: str
    partition: int
    offset: int


def read_apart(client: dict[str, Any], topic: str, partition: int, offset: int) -> Apart:
    """Let a child read a partition from an offset on.

    Args:
        client: settings of the client, without callbacks.
        topic: to read.
        partition: of it.
        offset: of the first record.
    """
    request = msgspec.json.encode(_Request(client, topic, partition, offset))
    try:
        # unpacked, records of the next batch may take the child's life while it hands over those of the first
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],  # -P: no module of the folder that we happen to be in
            input=request,
            capture_output=True,
            check=False,
            timeout=LIFE_SECONDS,
            env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        )
    except subprocess.TimeoutExpired:
        return Apart([], SILENT)
    except OSError as error:
        return Apart([], SILENT, f"no child can be started: {error}")
    if records := list(_unpack(done.stdout)):
        return Apart(records, GIVEN)
    return _without_records(done.returncode, done.stderr)


def _without_records(code: int, stderr: bytes) -> Apart:
    if code in {NOTHING, SILENT}:
        return Apart([], code)
    if code < 0:
        return Apart([], BROKEN, f"they take more than {UNPACKED_BYTES // 2**20} MiB to unpack")
    said = stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
    if code == BROKEN:
        return Apart([], BROKEN, said)
    return Apart([], SILENT, f"the child failed before it read: {said}")


def _unpack(output: bytes) -> Iterator[Record]:
    """Split what a child wrote; the last record may be cut."""
    at = 0
    while at + _HEADER <= len(output):
        end = at + _HEADER + int.from_bytes(output[at : at + _HEADER], "big")
        if end > len(output):
            return
        fields = msgspec.msgpack.decode(output[at + _HEADER : end])
        # a decoder of the type itself would not tell text from bytes
        yield Record(**fields | {"headers": [(name, value) for name, value in fields["headers"]]})
        at = end


def _main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    consumer = Consumer(
        request.client
        | {
            "group.id": f"{request.topic}-apart",  # the client wants one; it is never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            # one batch of records at a time
            "fetch.message.max.bytes": 1,
            "queued.min.messages": 1,
            "log_level": 0,
        }
    )
    try:
        # afterwards the client's threads are there, with their stacks
        consumer.list_topics(request.topic, READ_SECONDS)
    except KafkaException:
        return SILENT
    _bound_memory()
    consumer.assign([TopicPartition(request.topic, request.partition, request.offset)])
    try:
        return _hand_over(consumer)
    except Exception:  # whatever it is, there was too little memory for these records
        return BROKEN


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data + UNPACKED_BYTES, hard))


def _hand_over(consumer: Consumer) -> int:
    until = time.monotonic() + READ_SECONDS
    count = size = 0
    while time.monotonic() < until and count < MOST_RECORDS and size < MOST_BYTES:
        message: Any = consumer.poll(0.2)
        if message is None:
            continue
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                return GIVEN if count else NOTHING
            if error.code() in UNREADABLE:
                sys.stderr.write(f"\n{error.str()}")
                return BROKEN
            continue
        for record in records_of([message], lambda *_: None, int(time.time() * 1000)):
            packed = msgspec.msgpack.encode(record)
            sys.stdout.buffer.write(len(packed).to_bytes(_HEADER, "big") + packed)
            # at once: the next batch may be the one that we don't survive
            sys.stdout.buffer.flush()
            count, size = count + 1, size + len(packed)
    return GIVEN if count else SILENT


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # closing the client could wait for what it is unpacking
