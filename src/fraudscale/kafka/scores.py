"""Committed scores, read as they come."""

from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import ASK_SECONDS, BrokerUnavailable, client_settings
from fraudscale.kafka.headers import SOURCE, SourceRecord, read_source


class CommittedScore(msgspec.Struct, frozen=True, gc=False):
    """A committed record of `<topic>.scored`: its key, its partition, and the input record that it belongs to."""

    key: bytes | None
    partition: int
    source: SourceRecord | None
    """None for somebody else's record, that doesn't say what it belongs to."""


class ScoreReader:
    """Reads the scores that are committed from now on, without a group: nothing about it stays at the broker."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        """Begin at the end of every partition.

        Raises:
            BrokerUnavailable: no broker answered, or the topic is missing.
        """
        self._consumer = Consumer(
            client_settings(settings, name)
            | {
                # the client wants a group; it is never joined and never commits
                "group.id": f"{settings.kafka_group}-observer",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # bounds how late an answer of the broker that misses a commit is
                "fetch.wait.max.ms": 50,
            }
        )
        try:
            self._consumer.assign(self._ends(settings))
        except KafkaException as error:
            self._consumer.close()
            raise BrokerUnavailable(f"{settings.kafka_bootstrap_servers}: {error.args[0].str()}") from error

    def read(self, max_records: int, seconds: float) -> list[CommittedScore]:
        """Wait up to `seconds` for a score; return it with what else is there: possibly nothing."""
        messages: list[Any] = list(self._consumer.consume(1, seconds))
        if messages:
            messages += self._consumer.consume(max_records - 1, 0)
        return [_score(m) for m in messages if m.error() is None]

    def close(self) -> None:
        self._consumer.close()

    def _ends(self, settings: KafkaSettings) -> list[TopicPartition]:
        topic = settings.scored_topic
        found = self._consumer.list_topics(topic, ASK_SECONDS).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        partitions = [TopicPartition(topic, p) for p in found.partitions]
        for p in partitions:
            _, p.offset = self._consumer.get_watermark_offsets(p, ASK_SECONDS)
        return partitions


def _score(message: Any) -> CommittedScore:
    try:
        source = read_source(dict(message.headers() or ()).get(SOURCE))
    except SystemError:  # as for any record: a name that is not UTF-8
        source = None
    return CommittedScore(message.key(), message.partition(), source)
