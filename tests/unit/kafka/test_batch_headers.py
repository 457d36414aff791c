"""What a broker answers about batches of records, in bytes."""

import socket
import struct
import time
from contextlib import contextmanager
from threading import Thread

import pytest

from fraudscale.kafka import batch_headers as module
from fraudscale.kafka.batch_headers import BatchHeader, Fetched, FirstRecord, batch_at, fetch, first_record


def answer(*, first=5, delta=3, magic=2, attributes=4, error=0, aborted=(), empty=False):
    head = struct.pack(">iiih2sii", 7, 0, 1, 2, b"in", 1, 3)
    head += struct.pack(">hqqi", error, 99, 98, len(aborted))
    head += b"".join(struct.pack(">qq", *one) for one in aborted)
    batch = struct.pack(">qiibIhiqqq", first, 4600, 0, magic, 0, attributes, delta, 1000, 2000, 77)
    body = head + (struct.pack(">i", 0) if empty else struct.pack(">i", 4612) + batch + b"\0" * 5000)
    return struct.pack(">i", len(body)) + body


@contextmanager
def broker(reply):
    """Answers one request; gives what was asked."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(reply)
                if len(reply) > 4 and len(reply) == 4 + int.from_bytes(reply[:4], "big"):
                    connection.recv(1)  # who knows how long an answer is asks for no more

        thread = Thread(target=serve)
        thread.start()
        yield server.getsockname(), asked
        thread.join()


HEADER = BatchHeader(5, 8, 4600, "zstd", control=False, producer=77, timestamp=1000)


@pytest.mark.parametrize("committed", [False, True])
def test_a_batch_is_known_by_its_header(committed):
    with broker(answer(aborted=[(77, 5), (78, 1)])) as (address, asked):
        found = fetch(address, "in", 3, 6, committed=committed)
    assert found == Fetched(99, 98, ((77, 5), (78, 1)), HEADER)
    assert struct.pack(">iiiibi", -1, 0, 0, 1, committed, 1) in asked[0]
    assert asked[0].endswith(struct.pack(">iiqi", 1, 3, 6, 1))


def test_where_nothing_is_there_is_no_batch():
    with broker(answer(empty=True)) as (address, _):
        assert fetch(address, "in", 3, 6) == Fetched(99, 98, (), None)


@pytest.mark.parametrize(
    ("attributes", "codec", "control", "timestamp"),
    [
        (0, "nothing", False, 1000),
        (1 | 32, "gzip", True, 1000),
        (3 | 8, "lz4", False, 2000),
        (7, "?", False, 1000),
    ],
)
def test_its_attributes_are_bits(attributes, codec, control, timestamp):
    with broker(answer(attributes=attributes)) as (address, _):
        batch = batch_at(address, "in", 3, 5)
    assert (batch.codec, batch.control, batch.timestamp) == (codec, control, timestamp)


@pytest.mark.parametrize(
    "reply",
    [answer(error=6), answer(magic=1), answer(first=7), answer(delta=0), answer()[:20], answer()[:60], b""],
)
def test_anything_else_is_no_answer(reply):
    with broker(reply) as (address, _), pytest.raises(OSError, match=r"broker|format"):
        batch_at(address, "in", 3, 6)


# --- the first record


def batch(first, last, *, control=False, producer=-1, timestamp=1000):
    return BatchHeader(first, last, 100, "gzip", control, producer, timestamp)


LOG = [
    batch(0, 3, producer=1),
    batch(4, 4, control=True, producer=1),
    batch(5, 6, producer=2),
    batch(7, 9, timestamp=-1),
    batch(12, 15, producer=2, timestamp=5),
]
"""Offsets 10 and 11 were removed."""


@pytest.mark.parametrize(
    ("start", "aborted", "found"),
    [
        (0, (), FirstRecord(0, there=True, timestamp=1000)),
        (2, (), FirstRecord(2, there=True, timestamp=1000)),
        (0, ((1, 0), (2, 5)), FirstRecord(7, there=True, timestamp=None)),
        (4, ((2, 8),), FirstRecord(5, there=True, timestamp=1000)),
        (10, (), FirstRecord(12, there=True, timestamp=5)),
        (12, ((2, 12),), FirstRecord(20, there=False, timestamp=None)),
        (25, (), FirstRecord(25, there=False, timestamp=None)),
    ],
)
def test_marks_and_what_was_rolled_back_are_passed_over(monkeypatch, start, aborted, found):
    def ask(address, topic, partition, offset, *, committed):
        return Fetched(30, 20, aborted, next((b for b in LOG if b.last >= offset), None))

    monkeypatch.setattr(module, "fetch", ask)
    assert first_record(("h", 9), "in", 0, start, committed=True) == found


def test_read_uncommitted_the_end_is_the_last_offset(monkeypatch):
    monkeypatch.setattr(module, "fetch", lambda *_, **__: Fetched(30, 20, (), None))
    assert first_record(("h", 9), "in", 0, 4, committed=False) == FirstRecord(30, there=False, timestamp=None)


def test_a_look_ends_after_so_many_batches_and_says_where(monkeypatch):
    def ask(address, topic, partition, offset, *, committed):
        return Fetched(10**9, 10**9, (), batch(offset, offset, control=True))

    monkeypatch.setattr(module, "fetch", ask)
    found = first_record(("h", 9), "in", 0, 4, committed=True, most=3)
    assert found == FirstRecord(7, there=False, timestamp=None, over=False)


def test_a_look_whose_time_is_over_ends_behind_the_batch_that_it_is_at(monkeypatch):
    def ask(address, topic, partition, offset, *, committed):
        return Fetched(10**9, 10**9, (), batch(offset, offset, control=True))

    monkeypatch.setattr(module, "fetch", ask)
    found = first_record(("h", 9), "in", 0, 4, committed=True, until=time.monotonic() - 1)
    assert found == FirstRecord(5, there=False, timestamp=None, over=False)
