"""What waits for our group, as the broker sees it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, TopicCollection, TopicPartition
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


@dataclass(frozen=True)
class Waiting:
    """One partition as the broker sees it: first and next offset, and the group's commit, if there is one."""

    low: int
    end: int
    committed: int | None

    @property
    def retained(self) -> int:
        return max(0, self.end - self.low)

    @property
    def next(self) -> int:
        """Offset where the group goes on: those that retention removed don't wait."""
        return self.low if self.committed is None else max(self.low, self.committed)

    @property
    def lag(self) -> int:
        """Records that wait for the group; there can't be fewer than none."""
        return max(0, self.end - self.next)


class Watermarks:
    """What waits for our group, asked of the broker: the same answer to every process, member of the group or not."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = admin_client(settings)
        self._oldest: dict[int, tuple[int, int]] = {}
        # It never subscribes, so it is no member. AdminClient.list_consumer_group_offsets would do, but its process
        # dies (SIGSEGV in rd_kafka_cgrp_op, librdkafka 2.16.0) when the coordinator has just moved or restarted.
        self._observer = Consumer(
            client_settings(settings, "fraudscale-observer")
            | {
                "group.id": settings.kafka_group,
                "enable.auto.commit": False,
                # else an answer waits for the end of every transaction that is open
                "isolation.level": "read_uncommitted",
                # it looks at one record a partition
                "fetch.message.max.bytes": 16 * 1024,
                "queued.max.messages.kbytes": 1024,
                "queued.min.messages": 1,
                "auto.offset.reset": "earliest",
            }
        )

    def waiting(self) -> dict[int, Waiting]:
        """Ask for each partition's watermarks and commit, by partition.

        Raises:
            BrokerUnavailable: no broker answered in time.
            BrokerRefused: the topic is missing, or the right to ask.
        """
        # hands the clients' log lines over; they would pile up
        self._admin.poll(0)
        self._observer.poll(0)
        try:
            partitions = [TopicPartition(self._settings.kafka_topic, p) for p in self._partitions()]
            # commits before ends: the other way round a commit in between would make a lag below zero
            committed = {p.partition: p.offset for p in commits(self._observer, partitions, ASK_SECONDS)}
            low = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            end = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        except KafkaException as error:
            servers = self._settings.kafka_bootstrap_servers
            kind = BrokerRefused if answered(error.args[0]) else BrokerUnavailable
            raise kind(f"{servers}: {error.args[0].str()}") from error
        return {p: Waiting(low[p], end[p], c if c >= 0 else None) for p, c in committed.items()}

    def oldest(self, waiting: Mapping[int, Waiting]) -> int | None:
        """Look at the first waiting record of each partition; return the oldest timestamp, milliseconds since 1970.

        None where none waits, or none could be read in time. What was read before is not read again, and a partition
        that doesn't answer is left out: the age that follows is never too high.
        """
        wanted = {p: w.next for p, w in waiting.items() if w.lag}
        known = {p: seen for p, seen in self._oldest.items() if seen[0] == wanted.get(p)}
        if missing := wanted.keys() - known.keys():
            known |= self._first_records({p: wanted[p] for p in missing})
        self._oldest = known
        return min((timestamp for _, timestamp in known.values()), default=None)

    def _first_records(self, offsets: dict[int, int]) -> dict[int, tuple[int, int]]:
        topic = self._settings.kafka_topic
        found: dict[int, tuple[int, int]] = {}
        until = time.monotonic() + LOOK_SECONDS
        try:
            self._observer.assign([TopicPartition(topic, p, offset) for p, offset in offsets.items()])
            while len(found) < len(offsets) and (rest := until - time.monotonic()) > 0:
                for m in self._observer.consume(len(offsets), min(rest, 0.05)):
                    if m.error() is not None:  # it may have no partition
                        continue
                    partition, (kind, timestamp) = int(m.partition()), m.timestamp()  # type: ignore[arg-type]
                    if partition not in found and kind != TIMESTAMP_NOT_AVAILABLE:
                        found[partition] = offsets[partition], timestamp
                        self._observer.incremental_unassign([TopicPartition(topic, partition)])
            self._observer.unassign()
        except KafkaException:
            return {}
        return found

    def _partitions(self) -> list[int]:
        topic = self._settings.kafka_topic
        futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=ASK_SECONDS)
        return [p.id for p in futures[topic].result().partitions]

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        futures = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ASK_SECONDS)
        return {p.partition: future.result().offset for p, future in futures.items()}
