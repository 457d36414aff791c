"""When a partition is read apart, and what is skipped."""

from types import SimpleNamespace

import pytest
import structlog
from confluent_kafka import KafkaError
from scored_records import record
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka import suspects as module
from fraudscale.kafka.apart import BROKEN, GIVEN, NOTHING, SILENT, Apart
from fraudscale.kafka.batch_headers import BatchHeader, FirstRecord
from fraudscale.kafka.suspects import BAD_READS, ERRORS, GOOD_READS, Suspects

END = BatchHeader(5, 8, 4600, "zstd", False, -1, 0)
CAN_NOT_UNPACK = KafkaError(KafkaError._BAD_COMPRESSION)


class FakeConsumer:
    """A topic of one partition, from offset 3 to 9."""

    def __init__(self, end=9):
        self.end = end

    def get_watermark_offsets(self, partition, seconds):
        return 3, self.end

    def list_topics(self, topic, seconds):
        partitions = {0: SimpleNamespace(leader=1)}
        return SimpleNamespace(
            topics={topic: SimpleNamespace(partitions=partitions)},
            brokers={1: SimpleNamespace(host="h", port=9)},
        )


def commit(offset=5, partition=0):
    return SimpleNamespace(partition=partition, offset=offset)


def suspect(suspects, *commits):
    """Let the client complain often enough."""
    for one in commits:
        for _ in range(ERRORS):
            suspects.note(CAN_NOT_UNPACK, one.partition)
    suspects.examine(FakeConsumer(), commits)


@pytest.fixture
def suspects():
    return Suspects(KafkaSettings(kafka_topic="in"), structlog.get_logger())


def test_a_child_reads_what_the_client_can_not_unpack_again_and_again(suspects):
    assert not suspects.note(KafkaError(KafkaError._TRANSPORT), 0)
    assert [suspects.note(CAN_NOT_UNPACK, 0) for _ in range(ERRORS)] == [False] * (ERRORS - 1) + [True]
    suspects.examine(FakeConsumer(), [commit()])
    suspects.forget([0], errors=False)
    assert 0 not in suspects
    suspects.examine(FakeConsumer(), [commit()])
    assert 0 in suspects
    suspects.forget([0])
    suspects.examine(FakeConsumer(), [commit()])
    assert 0 not in suspects


def test_without_anything_behind_the_commit_no_child_reads(suspects):
    suspect(suspects, commit(9))
    assert 0 not in suspects


def test_other_partitions_have_every_other_turn(suspects):
    suspect(suspects, commit())
    assert [suspects.their_turn() for _ in range(4)] == [True, False, True, False]


def test_a_child_reads_from_where_the_partition_begins_by_now(suspects):
    suspect(suspects, commit(1))
    assert suspects._places[0].offset == 3, "no broker has a batch at what retention removed"


# --- what it finds


@pytest.fixture
def reads(suspects, monkeypatch):
    """`reads(*found)`: what children find, one after the other → where each began, and what came of each."""

    def run(*found, end=END, most=100, gap=0):
        begun_at, children = [], iter(found)

        def read_apart(client, topic, partition, offset):
            assert "logger" not in client
            begun_at.append(offset)
            return next(children)

        def batch_at(address, topic, partition, offset):
            if isinstance(end, Exception):
                raise end
            return end

        monkeypatch.setattr(module, "read_apart", read_apart)

        def first_record(address, topic, partition, offset, *, committed):
            return FirstRecord(offset + gap, there=True, timestamp=None)

        monkeypatch.setattr(module, "first_record", first_record)
        monkeypatch.setattr(module, "batch_at", batch_at)
        suspect(suspects, commit())
        with capture_logs() as run.log:
            return begun_at, [suspects.read(FakeConsumer(), most) for _ in found]

    return run


def given(*offsets):
    return Apart([record(offset) for offset in offsets], GIVEN)


DEAD = Apart([], BROKEN, "too much")


def test_what_it_can_read_goes_on_and_then_we_read_ourselves(suspects, reads):
    begun_at, found = reads(given(5, 6), *[given(7 + i) for i in range(GOOD_READS - 1)])
    assert begun_at == [5, 7, 8]
    assert [[r.offset for r in batch.records] for batch, _ in found] == [[5, 6], [7], [8]]
    assert [position and position.offset for _, position in found] == [None, None, 9]
    assert 0 not in suspects


def test_no_more_is_taken_than_fits(reads):
    begun_at, found = reads(given(5, 6, 7), given(7), most=2)
    assert begun_at == [5, 7]
    assert [r.offset for r in found[0][0].records] == [5, 6]


def test_what_no_child_can_read_is_skipped_to_the_end_of_its_batch(reads):
    begun_at, found = reads(*[DEAD] * BAD_READS, given(9), Apart([], NOTHING))
    ranges = [batch.unreadable for batch, _ in found]
    assert ranges[: BAD_READS - 1] == [None] * (BAD_READS - 1), "one may have died of something else"
    skipped = ranges[BAD_READS - 1]
    assert (skipped.first, skipped.last, skipped.count) == (5, 8, 4)
    assert skipped.why == "4 records in 4600 bytes of zstd: too much"
    assert found[BAD_READS - 1][0].next_offsets() == {0: 9}
    assert begun_at == [5, 5, 9, 10]
    assert found[-1][1].offset == 10


def test_what_is_skipped_begins_at_a_record(reads):
    _, found = reads(*[DEAD] * BAD_READS, gap=2)
    skipped = found[-1][0].unreadable
    assert (skipped.first, skipped.last, skipped.why) == (7, 8, "2 records in 4600 bytes of zstd: too much")


def test_a_child_that_dies_once_skips_nothing(reads):
    _, found = reads(DEAD, given(5), DEAD)
    assert [batch.unreadable for batch, _ in found] == [None] * 3


@pytest.mark.parametrize(
    ("child", "end"), [(Apart([], SILENT), BatchHeader(5, 8, 1, "gzip", False, -1, 0)), (DEAD, OSError("no"))]
)
def test_without_proof_or_without_its_end_nothing_is_skipped(suspects, reads, child, end):
    _, found = reads(*[child] * 4, end=end)
    assert [(batch.records, batch.unreadable, position) for batch, position in found] == [
        ([], None, None)
    ] * 4
    assert 0 in suspects


def test_a_child_that_can_not_read_at_all_is_told_and_proves_nothing(reads):
    _, found = reads(*[Apart([], SILENT, "no child can be started")] * 3)
    assert [batch.unreadable for batch, _ in found] == [None] * 3
    assert [line["reason"] for line in reads.log] == ["no child can be started"]


def test_suspects_take_turns(suspects, monkeypatch):
    """One whose leader is away must not keep a child from the others."""
    asked = []

    def read_apart(client, topic, partition, offset):
        asked.append(partition)
        return Apart([], SILENT)

    monkeypatch.setattr(module, "read_apart", read_apart)
    suspect(suspects, commit(), commit(partition=1))
    for _ in range(4):
        suspects.read(FakeConsumer(), 100)
    assert asked == [0, 1, 0, 1]
