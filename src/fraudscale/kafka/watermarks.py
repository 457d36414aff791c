"""What waits for our group, as the broker sees it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import (
    ASK_SECONDS,
    BrokerRefused,
    BrokerUnavailable,
    admin_client,
    answered,
    client_settings,
    commits,
)

LOOK_SECONDS: Final = 1.0
"""Limit of a look at the first waiting records."""
RENEW_SECONDS: Final = 30.0
"""Clients that got no answer for so long are replaced: what they believe of the brokers may be the reason."""


@dataclass(frozen=True)
class Waiting:
    """One partition as the broker sees it: first and next offset, the group's commit, if any, and what a look found."""

    low: int
    end: int
    committed: int | None
    first: int | None = None
    """Nothing that the group could read lies between `next` and this offset; None where nobody has looked so far."""
    readable: bool = False
    """Whether a record lies at `first` that the group is given now; one of an open transaction is not."""
    timestamp: int | None = None
    """Of the record at `first`, milliseconds since 1970; None where there is none, or it has none."""

    @property
    def retained(self) -> int:
        return max(0, self.end - self.low)

    @property
    def next(self) -> int:
        """Offset where the group goes on: those that retention removed don't wait."""
        return self.low if self.committed is None else max(self.low, self.committed)

    @property
    def lag(self) -> int:
        """Records that wait for the group; there can't be fewer than none.

        Offsets without a record (the end of a transaction, what was rolled back or compacted) don't wait. Behind the
        first record that waits they are counted, since telling them apart would take reading all of it.
        """
        return max(0, self.end - max(self.next, self.first or 0))


class FirstWaiting(NamedTuple):
    """What a look found."""

    start: int
    """Where the look began."""
    offset: int
    """Of the record; where there is none, where the partition ended."""
    there: bool
    timestamp: int | None


class Scout:
    """Looks for the first record of partitions, a moment at a time: where a look is not over, the next one goes on."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        """Take a consumer that is told of ends of partitions, and is nobody else's."""
        self._consumer = consumer
        self._topic = topic
        self._found: dict[int, FirstWaiting] = {}
        self._looking: dict[int, int] = {}
        """Assigned partitions, and where the look at each began."""

    def look(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, FirstWaiting]:
        """Find the first record at or behind each start; partitions whose look goes on are left out.

        What was found before is not looked for again, unless it was an end and the partition has grown.

        Raises:
            KafkaException: the client refused.
        """
        known = {p: found for p, found in self._found.items() if found.start == starts.get(p)}
        grown = {p: f.offset for p, f in known.items() if not f.there and f.offset < ends[p]}
        self._found = {p: found for p, found in known.items() if p not in grown}
        self._assign({p: start for p, start in starts.items() if p not in self._found}, grown)
        until = time.monotonic() + LOOK_SECONDS
        while self._looking and (rest := until - time.monotonic()) > 0:
            for message in self._consumer.consume(len(self._looking), min(rest, 0.05)):
                self._take(message)
        return self._found

    def serve(self) -> None:
        """Hand the client's log lines over; they would pile up."""
        if (message := self._consumer.poll(0)) is not None:
            self._take(message)

    def _assign(self, wanted: Mapping[int, int], further: Mapping[int, int]) -> None:
        if left := [p for p, start in self._looking.items() if wanted.get(p) != start]:
            self._leave(left)
        if new := wanted.keys() - self._looking.keys():
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, p, further.get(p, wanted[p])) for p in new]
            )
            self._looking |= {p: wanted[p] for p in new}

    def _leave(self, partitions: list[int]) -> None:
        self._consumer.incremental_unassign([TopicPartition(self._topic, p) for p in partitions])
        for partition in partitions:
            del self._looking[partition]

    def _take(self, message: Any) -> None:
        error, partition = message.error(), message.partition()
        ended = error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001
        if partition not in self._looking or (error is not None and not ended):
            return
        kind, timestamp = (TIMESTAMP_NOT_AVAILABLE, None) if ended else message.timestamp()
        self._found[partition] = FirstWaiting(
            self._looking[partition],
            message.offset(),
            not ended,
            None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
        )
        self._leave([partition])


class Watermarks:
    """What waits for our group, asked of the broker: the same answer to every process, member of the group or not."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._connect()

    def _connect(self) -> None:
        settings = self._settings
        self._answered = time.monotonic()
        self._admin = admin_client(settings)
        # It never subscribes, so it is no member. AdminClient.list_consumer_group_offsets would do, but its process
        # dies (SIGSEGV in rd_kafka_cgrp_op, librdkafka 2.16.0) when the coordinator has just moved or restarted.
        # Read committed, an answer would wait for the end of every transaction that is open.
        self._observer = _onlooker(settings, "fraudscale-observer", "read_uncommitted")
        scout = _onlooker(settings, "fraudscale-scout", "read_committed")
        self._closed_records = Scout(scout, settings.kafka_topic)
        self._open_records = Scout(self._observer, settings.kafka_topic)

    def waiting(self) -> dict[int, Waiting]:
        """Ask for each partition's watermarks and commit, and look at its first record that waits, by partition.

        Raises:
            BrokerUnavailable: no broker answered in time.
            BrokerRefused: the topic is missing, or the right to ask.
        """
        self._admin.poll(0)
        try:
            for scout in (self._closed_records, self._open_records):
                scout.serve()
            found = self._look(self._ask())
        except KafkaException as error:
            servers = self._settings.kafka_bootstrap_servers
            kind = BrokerRefused if answered(error.args[0]) else BrokerUnavailable
            if kind is BrokerUnavailable and time.monotonic() - self._answered > RENEW_SECONDS:
                self._connect()
            raise kind(f"{servers}: {error.args[0].str()}") from error
        self._answered = time.monotonic()
        return found

    def _ask(self) -> dict[int, Waiting]:
        partitions = [TopicPartition(self._settings.kafka_topic, p) for p in self._partitions()]
        # commits before ends: the other way round a commit in between would make a lag below zero
        committed = {p.partition: p.offset for p in commits(self._observer, partitions, ASK_SECONDS)}
        low = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {p: Waiting(low[p], end[p], c if c >= 0 else None) for p, c in committed.items()}

    def _look(self, waiting: dict[int, Waiting]) -> dict[int, Waiting]:
        """Say where the first record is that the group could read; where an open transaction is in the way, its first."""
        ends = {p: w.end for p, w in waiting.items()}
        closed = self._closed_records.look({p: w.next for p, w in waiting.items() if w.lag}, ends)
        behind = {p: f.offset for p, f in closed.items() if not f.there and f.offset < ends[p]}
        opened = self._open_records.look(behind, ends)
        return waiting | {
            p: replace(
                waiting[p],
                first=found.offset,
                readable=found.there,
                timestamp=(opened.get(p) or found).timestamp,
            )
            for p, found in closed.items()
        }

    def _partitions(self) -> list[int]:
        topic = self._settings.kafka_topic
        futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=ASK_SECONDS)
        return [p.id for p in futures[topic].result().partitions]

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        futures = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ASK_SECONDS)
        return {p.partition: future.result().offset for p, future in futures.items()}


def oldest(waiting: Mapping[int, Waiting]) -> int | None:
    """Return the oldest timestamp of the first waiting records, milliseconds since 1970; None where none is known.

    A partition whose look is not over is left out: the age that follows is never too high.
    """
    return min((w.timestamp for w in waiting.values() if w.lag and w.timestamp is not None), default=None)


def _onlooker(settings: KafkaSettings, name: str, isolation: str) -> Consumer:
    return Consumer(
        client_settings(settings, name)
        | {
            "group.id": settings.kafka_group,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            # it looks at one record a partition
            "fetch.message.max.bytes": 16 * 1024,
            "queued.max.messages.kbytes": 1024,
            "queued.min.messages": 1,
            # the end of a partition is told after so long without a record
            "fetch.wait.max.ms": 100,
            "auto.offset.reset": "earliest",
        }
    )
