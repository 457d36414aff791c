"""What waits for our group, as the broker sees it."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from fraudscale.config import KafkaSettings
from fraudscale.kafka.batch_headers import FirstRecord, first_record
from fraudscale.kafka.client import (
    ASK_SECONDS,
    BrokerRefused,
    BrokerUnavailable,
    admin_client,
    answered,
    client_settings,
    commits,
)

LeaderAddress = tuple[str, int]
"""Host and port."""
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


class Scout:
    """Looks for the first record of partitions, a moment at a time: where a look is not over, the next one goes on.

    It reads headers of batches only: unpacked, the records themselves could be the death of whoever looks.
    """

    def __init__(self, topic: str, *, committed: bool) -> None:
        """Take the topic, and whether to leave out what readers of committed records are not given."""
        self._topic = topic
        self._committed = committed
        self._found: dict[int, tuple[int, FirstRecord]] = {}
        """Partition → where the look began, and what it found so far."""

    def look(
        self, leaders: Mapping[int, LeaderAddress], starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> dict[int, FirstRecord]:
        """Find the first record at or behind each start; partitions whose look goes on, or failed, are left out.

        What was found before is not looked for again, unless it was an end and the partition has grown.
        """
        self._found = {p: seen for p, seen in self._found.items() if seen[0] == starts.get(p)}
        until = time.monotonic() + LOOK_SECONDS
        for partition, start in starts.items():
            if time.monotonic() > until:
                break
            _, known = self._found.get(partition, (start, FirstRecord(start, there=False, timestamp=None)))
            if not known.there and known.offset < ends[partition]:
                with suppress(
                    OSError
                ):  # its broker is gone, or another one leads it by now: the next look asks that
                    known = first_record(
                        leaders[partition],
                        self._topic,
                        partition,
                        known.offset,
                        committed=self._committed,
                        until=until,
                    )
                    self._found[partition] = start, known
        return {p: found for p, (_, found) in self._found.items() if found.over}


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
        self._observer = Consumer(
            client_settings(settings, "fraudscale-observer")
            | {
                "group.id": settings.kafka_group,
                "enable.auto.commit": False,
                # else an answer waits for the end of every transaction that is open
                "isolation.level": "read_uncommitted",
            }
        )
        self._closed_records = Scout(settings.kafka_topic, committed=True)
        self._open_records = Scout(settings.kafka_topic, committed=False)

    def waiting(self) -> dict[int, Waiting]:
        """Ask for each partition's watermarks and commit, and look at its first record that waits, by partition.

        Raises:
            BrokerUnavailable: no broker answered in time.
            BrokerRefused: the topic is missing, or the right to ask.
        """
        self._admin.poll(0)
        try:
            self._observer.poll(0)
            leaders = self._leaders()
            found = self._look(leaders, self._ask(list(leaders)))
        except KafkaException as error:
            servers = self._settings.kafka_bootstrap_servers
            kind = BrokerRefused if answered(error.args[0]) else BrokerUnavailable
            if kind is BrokerUnavailable and time.monotonic() - self._answered > RENEW_SECONDS:
                self._connect()
            raise kind(f"{servers}: {error.args[0].str()}") from error
        self._answered = time.monotonic()
        return found

    def _ask(self, numbers: list[int]) -> dict[int, Waiting]:
        partitions = [TopicPartition(self._settings.kafka_topic, p) for p in numbers]
        # commits before ends: the other way round a commit in between would make a lag below zero
        committed = {p.partition: p.offset for p in commits(self._observer, partitions, ASK_SECONDS)}
        low = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {p: Waiting(low[p], end[p], c if c >= 0 else None) for p, c in committed.items()}

    def _look(self, leaders: Mapping[int, LeaderAddress], waiting: dict[int, Waiting]) -> dict[int, Waiting]:
        """Say where the first record is that the group could read; where an open transaction is in the way, its first."""
        ends = {p: w.end for p, w in waiting.items()}
        closed = self._closed_records.look(leaders, {p: w.next for p, w in waiting.items() if w.lag}, ends)
        behind = {p: f.offset for p, f in closed.items() if not f.there and f.offset < ends[p]}
        opened = self._open_records.look(leaders, behind, ends)
        return waiting | {
            p: replace(
                waiting[p],
                first=found.offset,
                readable=found.there,
                timestamp=(opened.get(p) or found).timestamp,
            )
            for p, found in closed.items()
        }

    def _leaders(self) -> dict[int, LeaderAddress]:
        """Partitions, and where each is led; nowhere while it has no leader."""
        topic = self._settings.kafka_topic
        futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=ASK_SECONDS)
        found = futures[topic].result().partitions
        return {p.id: (p.leader.host, p.leader.port) if p.leader else ("", 0) for p in found}

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        futures = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ASK_SECONDS)
        return {p.partition: future.result().offset for p, future in futures.items()}


def oldest(waiting: Mapping[int, Waiting]) -> int | None:
    """Return the oldest timestamp of the first waiting records, milliseconds since 1970; None where none is known.

    A partition whose look is not over is left out: the age that follows is never too high.
    """
    return min((w.timestamp for w in waiting.values() if w.lag and w.timestamp is not None), default=None)
