"""From one topic to others up to its present end, with our position and the outputs in one transaction."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import (
    ASK_SECONDS,
    FENCED,
    SETTLE_SECONDS,
    TRANSACTION_SECONDS,
    BrokerUnavailable,
    NotDelivered,
    ProducerFenced,
    client_settings,
    commits,
)
from fraudscale.kafka.delivery import abort_open_transactions, within
from fraudscale.kafka.messages import Output, Record, records_of
from fraudscale.kafka.producers import REFUSALS, TOO_LARGE, transactional_producer

CHUNK_RECORDS: Final = 1000
"""Taken from the client at once."""
SILENCE_SECONDS: Final = 30.0
"""A replay that is sent nothing for so long, though there is more, gives up."""
CALL_SECONDS: Final = 4 * TRANSACTION_SECONDS
"""Longer than the client's own limits for a transaction take: a call may never return (see `within`)."""


class RecordRefused(NotDelivered):
    """The target topic will never take some record, for its size or for another reason; nothing was written."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.str())
        self.too_large = error.code() in TOO_LARGE


@dataclass(frozen=True)
class PartitionState:
    """One partition that is replayed: its first and next offset, and the commit with its metadata, if there is one."""

    low: int
    end: int
    committed: int | None
    metadata: str


class Replayer:
    """Reads a topic up to its present end; writes records elsewhere and its own position as one transaction.

    It gives up on the first thing that fails: what was committed stays, and the next one goes on from there.
    """

    def __init__(self, settings: KafkaSettings, topic: str, group: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group = group
        self._producer: Producer | None = None
        self._ends: dict[int, int] = {}
        self._refusal: KafkaError | None = None
        self._topics: dict[str, bool] = {}
        self.reached: dict[int, int] = {}
        """Partition → offset up to which all was read, marks of transactions included; only once it was read to its end."""
        # It is given its partitions and joins nothing, so that the group stays free for commits from outside.
        self._consumer = Consumer(
            client_settings(settings, group)
            | {
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )

    def open(self, *, write: bool) -> dict[int, PartitionState]:
        """Look where each partition stands; to write, first fence whoever else replays.

        Raises:
            BrokerUnavailable: no broker answered in time, or the topic is missing.
        """
        try:
            partitions = [TopicPartition(self._topic, p) for p in self._partitions()]
            if write:
                self._producer = self._fencing_producer()
            known = {p.partition: p for p in commits(self._consumer, partitions, ASK_SECONDS)}
            states = {p.partition: self._state(p, known[p.partition]) for p in partitions}
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from error
        return states

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Begin to read at these offsets; partitions with nothing to read count as read."""
        begun = {p: offset for p, offset in offsets.items() if offset < self._ends[p]}
        self._ends = {p: self._ends[p] for p in begun}
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in begun.items()])

    def read(self) -> list[Record]:
        """Wait for more records; there are none once every partition was read to the end that it had at `open`.

        Raises:
            BrokerUnavailable: it sends nothing more.
        """
        deadline = time.monotonic() + SILENCE_SECONDS
        while self._ends:
            messages: list[Any] = list(self._consumer.consume(1, 0.5))
            messages += self._consumer.consume(CHUNK_RECORDS, 0.01) if messages else []
            if records := self._up_to_the_end(messages):
                return records
            if time.monotonic() > deadline:
                raise self._unavailable(KafkaError(KafkaError._TIMED_OUT, "it sends nothing more"))  # noqa: SLF001
        return []

    def send(self, outputs: Sequence[Output], positions: Mapping[int, tuple[int, str]]) -> None:
        """Write the outputs, and commit the positions (partition → offset, metadata), as one transaction.

        Raises:
            RecordRefused: one of the outputs is, for good; nothing was written.
            NotDelivered: it failed; whether it was written the next `open` finds out.
        """
        producer = self._producer
        assert producer is not None  # noqa: S101 - opened to write
        offsets = [
            TopicPartition(self._topic, p, offset, metadata) for p, (offset, metadata) in positions.items()
        ]
        group = self._consumer.consumer_group_metadata()
        self._refusal = None

        def write() -> None:
            producer.begin_transaction()
            for output in outputs:
                self._produce(producer, output)
            producer.flush(TRANSACTION_SECONDS)
            producer.send_offsets_to_transaction(offsets, group, TRANSACTION_SECONDS)
            producer.commit_transaction(TRANSACTION_SECONDS)

        try:
            within(CALL_SECONDS, write)
        except KafkaException as error:
            raise self._rolled_back(producer, error.args[0]) from error

    def close(self) -> None:
        """Let go; a transaction that is still open is rolled back."""
        if self._producer is not None:
            with suppress(KafkaException):  # there is none, or the broker is gone and ends it by itself
                self._producer.abort_transaction(ASK_SECONDS)
        self._consumer.close()

    def _fencing_producer(self) -> Producer:
        """Make a producer that ends what an earlier one left open: where it wrote, and the position that it committed."""
        producer = transactional_producer(self._settings, self._group, self._group)
        producer.init_transactions(SETTLE_SECONDS)
        topic = self._settings.kafka_topic
        if self.takes(topic):
            group = self._consumer.consumer_group_metadata()
            # nobody reads the input in this group: a position there is of no use to anybody
            within(
                CALL_SECONDS,
                lambda: abort_open_transactions(producer, (topic,), TopicPartition(topic, 0, 0), group),
            )
        return producer

    def takes(self, topic: str) -> bool:
        """Tell whether a topic exists for us; asked once for each.

        Raises:
            BrokerUnavailable: no broker answered.
        """
        if topic not in self._topics:
            try:
                found = self._consumer.list_topics(topic, ASK_SECONDS).topics[topic]
            except KafkaException as error:
                raise self._unavailable(error.args[0]) from error
            self._topics[topic] = found.error is None
        return self._topics[topic]

    def _partitions(self) -> list[int]:
        found = self._consumer.list_topics(self._topic, ASK_SECONDS).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def _state(self, partition: TopicPartition, commit: TopicPartition) -> PartitionState:
        low, end = self._consumer.get_watermark_offsets(partition, ASK_SECONDS)
        self._ends[partition.partition] = end
        return PartitionState(low, end, commit.offset if commit.offset >= 0 else None, commit.metadata or "")

    def _up_to_the_end(self, messages: list[Any]) -> list[Record]:
        records = []
        for record in records_of(
            [m for m in messages if not self._is_end(m)], self._check, int(time.time() * 1000)
        ):
            if record.offset < self._ends.get(record.partition, 0):
                records.append(record)
            else:  # it came after we began
                self._reach(record.partition, record.offset)
        return records

    def _is_end(self, message: Any) -> bool:
        error = message.error()
        if error is None or error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            return False
        self._reach(message.partition(), message.offset())
        return True

    def _reach(self, partition: int, offset: int) -> None:
        if partition in self._ends:
            self.reached[partition] = min(offset, self._ends.pop(partition))

    def _check(self, error: KafkaError, _: Any) -> None:
        if error.fatal():
            raise self._unavailable(error)

    def _produce(self, producer: Producer, output: Output) -> None:
        while True:
            try:
                producer.produce(
                    output.topic,
                    output.value,
                    output.key,
                    on_delivery=self._on_failure,
                    headers=output.headers,
                )
            except BufferError:
                producer.poll(0.1)
            else:
                return

    def _on_failure(self, error: KafkaError | None, _: Any) -> None:
        """One record's failure takes the others of the transaction with it, which are reported too."""
        if self._refusal is None or (error and error.code() in REFUSALS):
            self._refusal = error

    def _rolled_back(self, producer: Producer, error: KafkaError) -> NotDelivered:
        with suppress(KafkaException):  # what can't be rolled back now is when the next one opens
            producer.abort_transaction(TRANSACTION_SECONDS)
        cause = self._refusal or error
        if cause.code() in REFUSALS:
            # librdkafka 2.16 counts the refused record's sequence number, the broker doesn't: this producer is spent
            try:
                self._producer = self._fencing_producer()
            except KafkaException as trouble:
                error = cause = trouble.args[0]
            else:
                return RecordRefused(cause)
        if error.code() in FENCED or cause.code() in FENCED:
            return ProducerFenced("another replay of this group has begun, so this one ends")
        return NotDelivered(f"a transaction failed ({cause.str()}); run it again: nothing is sent twice")

    def _unavailable(self, error: KafkaError) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._settings.kafka_bootstrap_servers}, topic {self._topic}: {error.str()}"
        )
