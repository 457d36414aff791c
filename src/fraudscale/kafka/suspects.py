"""Partitions whose next records our client can't unpack, and what is done about them.

Where it says so again and again, a child reads first (`apart.py`). What a child can't read either is named by the header
of its batch, and skipped.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.apart import BROKEN, NOTHING, UNREADABLE, read_apart
from fraudscale.kafka.batch_headers import batch_at, first_record
from fraudscale.kafka.client import ASK_SECONDS, client_settings
from fraudscale.kafka.messages import Batch, UnreadableRange
from fraudscale.telemetry.logs import Logger, LogLimiter

ERRORS: Final = 3
"""After so many answers of the client that it can't unpack what comes next, a child reads first."""
GOOD_READS: Final = 3
"""So many times in a row a child must read well until we read ourselves again: more than one answer of a broker holds."""
BAD_READS: Final = 2
"""So many children must fail at the same place: one may have been killed by something else."""


class _Place(msgspec.Struct):
    offset: int
    good: int = 0
    bad: int = 0


class Suspects:
    """Of one reader. One thread uses it."""

    def __init__(self, settings: KafkaSettings, log: Logger) -> None:
        self._topic = settings.kafka_topic
        client = client_settings(settings, "fraudscale-apart")
        self._client = {name: value for name, value in client.items() if name != "logger"}
        self._log = log
        self._log_limiter = LogLimiter(60)
        self._errors: Counter[int] = Counter()
        self._places: dict[int, _Place] = {}
        self._turn = False

    def __contains__(self, partition: int) -> bool:
        """Tell whether a child reads this partition."""
        return partition in self._places

    def their_turn(self) -> bool:
        """Tell whether a child is to read now: every other time, so that other partitions go on."""
        self._turn = bool(self._places) and not self._turn
        return self._turn

    def note(self, error: KafkaError, partition: int) -> bool:
        """Take an error into account; return whether its partition has become a suspect."""
        if error.code() not in UNREADABLE:
            return False
        self._errors[partition] += 1
        return self._errors[partition] == ERRORS

    def examine(self, consumer: Consumer, commits: Iterable[TopicPartition]) -> None:
        """Take the partitions for suspects whose records the client could not unpack, and note where a child is to begin.

        Raises:
            KafkaException: the broker doesn't say where such a partition begins or ends.
        """
        for commit in commits:
            if self._errors[commit.partition] < ERRORS:
                continue
            partition = TopicPartition(self._topic, commit.partition)
            low, end = consumer.get_watermark_offsets(partition, ASK_SECONDS)
            if end > commit.offset:
                self._places[commit.partition] = _Place(max(low, commit.offset))

    def forget(self, partitions: Iterable[int], *, errors: bool = True) -> None:
        """Forget places, since their partitions are gone, or (without `errors`) are looked for anew."""
        for partition in partitions:
            self._places.pop(partition, None)
            if errors:
                self._errors.pop(partition, None)

    def read(self, consumer: Consumer, max_records: int) -> tuple[Batch, TopicPartition | None]:
        """Let a child read: return what it gave or couldn't read, and a partition with the offset where we go on ourselves."""
        partition, place = next(iter(self._places.items()))
        self._places[partition] = self._places.pop(partition)  # to the end: they take turns
        found = read_apart(self._client, self._topic, partition, place.offset)
        batch = Batch(found.records[:max_records], time.perf_counter())
        if batch.records:
            place.offset, place.bad = batch.records[-1].offset + 1, 0
            place.good += 1
        elif found.outcome == BROKEN:
            place.good, place.bad = 0, place.bad + 1
            if place.bad >= BAD_READS and (
                unreadable := self._unreadable(consumer, partition, place.offset, found.why)
            ):
                batch = Batch([], batch.read_at, unreadable)
                self._places[partition] = _Place(unreadable.last + 1)
        elif found.why:
            self._complain(found.why)
        if found.outcome != NOTHING and place.good < GOOD_READS:
            return batch, None
        self.forget([partition])
        return batch, TopicPartition(self._topic, partition, place.offset)

    def _unreadable(
        self, consumer: Consumer, partition: int, offset: int, why: str
    ) -> UnreadableRange | None:
        """Name the rest of the batch of the first record from this offset on; None while nobody says where it ends."""
        try:
            found = consumer.list_topics(self._topic, ASK_SECONDS)
            leader = found.brokers[found.topics[self._topic].partitions[partition].leader]
            address = leader.host, leader.port
            # the offset itself may be the end of a transaction, or have been compacted
            first, there, *_ = first_record(address, self._topic, partition, offset, committed=True)
            if not there:
                return None
            batch = batch_at(address, self._topic, partition, first)
        except (KafkaException, KeyError, OSError) as error:
            self._complain(str(error))
            return None
        why = f"{batch.last + 1 - first} records in {batch.size} bytes of {batch.codec}: {why}"
        return UnreadableRange(self._topic, partition, first, batch.last, why)

    def _complain(self, reason: str) -> None:
        """Tell why nothing is read or skipped."""
        if self._log_limiter.allows(""):
            self._log.warning("kafka_error", code="unreadable", reason=reason)
