"""Kafka, the only room that knows the client: topics, the pipe from input to output, watermarks and lag.

The pipe is exactly-once: the outputs of a batch and its offsets are one Kafka transaction, so readers of committed
records see the scores of a record once, whatever dies. While one batch commits, the next is read and scored.
"""

import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any, Final

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from fraudscale.config import KafkaSettings
from fraudscale.logs import Logger
from fraudscale.metrics import KafkaMetrics

Header = tuple[str, str | bytes | None]
"""The client reads bytes, and writes text as UTF-8."""

LINGER_SECONDS: Final = 0.002
"""How long a batch waits for one more record when nothing is being committed: calm readers shouldn't wait."""
STEP_SECONDS: Final = 0.005
"""How often a batch that fills while another commits looks whether that is done."""
CHUNK_RECORDS: Final = 1000
"""Taken from the client at once: so often the size of a batch is looked at."""
BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch whose values are that large is full, whatever its number of records."""
ASK_SECONDS: Final = 3.0
"""Limit of one question to the broker."""
LOOK_SECONDS: Final = 1.0
"""Limit of a look at the first waiting records."""
DELIVERY_SECONDS: Final = 60
"""A single record that the broker doesn't take within it is given up."""
TRANSACTION_SECONDS: Final = 5.0
"""A transaction that takes longer is rolled back, by us or by the broker: so long a scorer that died holds readers up."""
SETTLE_SECONDS: Final = TRANSACTION_SECONDS + 1
"""A commit that takes longer is given up, with its client: the broker has rolled it back, or nobody knows."""
ATTEMPTS: Final = 3
"""Of a step of a transaction that the client calls worth repeating."""
LONGEST_SESSION_MS: Final = 10_000
"""A broker that takes longer to notice a dead member is spoken to in the classic protocol, where we decide."""
SILENCE_SECONDS: Final = 30.0
"""A replay that is sent nothing for so long, though there is more, gives up."""
SESSION_MS: Final = 6000
"""Classic protocol: the least that brokers allow by default."""
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""Far above a broker's default of 1 MiB: an output is a record of any allowed size, and some fields or headers more."""
RETENTION_MS: Final = 7 * 24 * 3600 * 1000
RETENTION_BYTES: Final = 64 * 1024 * 1024
"""Of one partition."""
SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Retention drops whole segments only: a quarter of what is kept."""


class BrokerUnavailable(Exception):
    """No broker answered in time; it is asked again."""


class NotDelivered(Exception):
    """A batch was rolled back; its records, and what was read since, will be read again."""


class OutcomeUnknown(NotDelivered):
    """A transaction may be committed or not: only new clients learn which, from the broker."""


class ProducerFenced(OutcomeUnknown):
    """The broker gave our transactional id to another producer, or rolled our transaction back because it took too long."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as it was read. `timestamp` is in milliseconds since 1970, of its producer or its broker."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    timestamp: int


class Output(msgspec.Struct, frozen=True, gc=False):
    """A record to write."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class Batch(msgspec.Struct, frozen=True):
    """Records read together, per partition in order; `read_at` is the `perf_counter()` when they were here."""

    records: list[Record]
    read_at: float

    def first_offsets(self) -> dict[tuple[str, int], int]:
        """Where each partition of the batch begins: it is read again from there."""
        return {(r.topic, r.partition): r.offset for r in reversed(self.records)}

    def next_offsets(self) -> dict[tuple[str, int], int]:
        """Where each partition of the batch goes on: what is committed."""
        return {(r.topic, r.partition): r.offset + 1 for r in self.records}


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


class Seldom:
    """Says whether something may be logged again: once per key in `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(key, -self._seconds) < self._seconds:
            return False
        self._last[key] = now
        return True


class Link:
    """Whether the broker answers. Any thread tells what it sees; only changes are logged."""

    def __init__(self, servers: str, log: Logger) -> None:
        self._servers = servers
        self._log = log
        self._lock = Lock()
        self._down_since: float | None = None

    def lost(self, reason: str) -> None:
        with self._lock:
            if self._down_since is None:
                self._down_since = time.monotonic()
                self._log.warning("broker_unavailable", servers=self._servers, reason=reason)

    def back(self) -> None:
        if self._down_since is None:  # asked for every batch, so the usual case takes no lock
            return
        with self._lock:
            if self._down_since is not None:
                seconds = round(time.monotonic() - self._down_since, 1)
                self._log.info("broker_back", servers=self._servers, seconds=seconds)
                self._down_since = None


class _ClientLog(logging.Filter):
    """The client library repeats a line at every attempt: one of each kind a minute is enough."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom(60)

    def filter(self, record: logging.LogRecord) -> bool:
        facility = record.args[0] if isinstance(record.args, tuple) and record.args else record.msg
        return self._seldom.due(str(facility))


_FENCED: Final = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001
_client_log: Final = logging.getLogger("kafka.client")
_client_log.addFilter(_ClientLog())


def _client(settings: KafkaSettings, name: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": name,
        "logger": _client_log,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2000,
        # a topic that is made after we subscribed is seen this soon
        "topic.metadata.refresh.interval.ms": 10_000,
        # by default the client forgets all brokers when all are down, and a transaction's offsets, on their way to a
        # coordinator that it knew before, are never sent nor refused (librdkafka 2.16)
        "metadata.recovery.strategy": "none",
    }


def _consumer(settings: KafkaSettings, name: str, protocol: str) -> Consumer:
    config = _client(settings, name) | {
        "group.id": settings.kafka_group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # full, the client stops fetching until a batch is taken out: what is in memory doesn't grow with the backlog
        "queued.max.messages.kbytes": 32 * 1024,
        # by default a full queue stops fetching for a second: longer than it takes to score what is in it
        "fetch.queue.backoff.ms": 10,
    }
    if protocol == "classic":
        config |= {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": 2000,
        }
    return Consumer(config)


def _producer(settings: KafkaSettings, name: str, more: dict[str, Any]) -> Producer:
    return Producer(
        _client(settings, name)
        | {
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            # the Java client's choice of partition, so that a key has the same number in every topic
            "partitioner": "murmur2_random",
            "message.max.bytes": MAX_RECORD_BYTES,
            # a callback for each acknowledged record would cost more than its encoding
            "delivery.report.only.error": True,
        }
        | more
    )


class Sender:
    """Writes single records as they come, for sample traffic: never waits for the broker, may lose some."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self._producer = _producer(settings, name, {"message.timeout.ms": DELIVERY_SECONDS * 1000})

    def send(self, topic: str, key: str, value: bytes) -> None:
        """Take a record on.

        Raises:
            BrokerUnavailable: so many wait for the broker that there is no room.
        """
        self._producer.poll(0)
        try:
            self._producer.produce(topic, value, key)
        except BufferError as error:
            raise BrokerUnavailable("records wait for the broker, and there is no room for more") from error

    def close(self, seconds: float) -> None:
        """Let what waits go out, for so long at most."""
        self._producer.flush(seconds)


@dataclass(frozen=True)
class _InFlight:
    """A transaction that a thread of its own commits."""

    batch: Batch
    outputs: Sequence[Output]
    on_committed: Callable[[], None]
    until: float
    """`time.monotonic()` when it is given up."""
    done: Future[None]


class Pipe:
    """Reads batches, writes their outputs and commits their offsets, one transaction each; survives the broker.

    One thread calls it; only `hurry` may come from another. At most one transaction is open: `deliver` starts its
    commit, and the next `deliver`, a rebalance or a `read` that finds nothing waits for the end of it. After a
    failure all partitions concerned are read on from the group's commit, which the broker alone knows for sure.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        replica_id: str,
        *,
        metrics: KafkaMetrics,
        link: Link,
        log: Logger,
        on_owned: Callable[[frozenset[int]], None],
    ) -> None:
        """Prepare, without connecting: the first `read` does.

        Args:
            settings: broker, topic, group.
            replica_id: names us to the broker; with the group it is the transactional id, so it must be ours alone.
            metrics: counts records, transactions and rebalances.
            link: is told whether the broker answers.
            log: for rebalances and failures.
            on_owned: called with all partitions that are ours now, whenever that changes.
        """
        self._settings = settings
        self._name = f"fraudscale-{replica_id}"
        self._transactional_id = f"{settings.kafka_group}-{replica_id}"
        self._metrics = metrics
        self._link = link
        self._log = log
        self._on_owned = on_owned
        self._seldom = Seldom(60)
        self._deadline = float("inf")
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._in_flight: _InFlight | None = None
        self._owned: frozenset[int] = frozenset()
        self._taken: set[int] = set()
        self._fatal = False

    def read(self, max_records: int, seconds: float) -> Batch:
        """Wait up to `seconds` for a record; return it with what else is there: possibly nothing.

        A batch ends when it is full, or when the one before it is committed: calm it is small, behind it grows.

        Raises:
            NotDelivered: the batch before was rolled back, and nothing was read since.
        """
        consumer = self._consumer or self._connect(seconds)
        if consumer is None:
            return Batch([], time.perf_counter())
        self._taken.clear()
        self._fatal = False
        messages: list[Any] = []
        try:
            self._gather(consumer, messages, max_records, seconds)
        except KafkaException as error:
            # what the client had taken out of its queue went with the exception: begin again from the commit
            self._complain(error.args[0])
            self._fatal = True
        read_at = time.perf_counter()
        batch = Batch(_records(messages, self._complain, int(time.time() * 1000)), read_at)
        if self._fatal:
            self._disconnect()
            return Batch([], read_at)
        return self._without(batch, self._taken) if self._taken else batch

    def deliver(
        self, batch: Batch, outputs: Sequence[Output], on_committed: Callable[[], None] = lambda: None
    ) -> None:
        """Write the outputs and the batch's offsets in one transaction; its commit goes on after the return.

        Args:
            batch: what the outputs are made of; as it was read, and nothing was read since.
            outputs: at least one.
            on_committed: called, from a later call of ours, once the transaction is committed.

        Raises:
            NotDelivered: this batch or the one before it was rolled back; both are read again as far as needed.
        """
        try:
            self._settle()
            self._transact(batch, outputs, on_committed)
        except NotDelivered:
            self._rewind(batch)
            raise

    def finish(self) -> None:
        """Wait for the commit that is going on, if any.

        Raises:
            NotDelivered: it was rolled back.
        """
        self._settle()

    def give_back(self, batch: Batch) -> None:
        """Let the next `read` begin with this batch again, as far as its partitions are still ours.

        Raises:
            NotDelivered: the batch before it was rolled back too.
        """
        try:
            self._settle()
        finally:
            self._rewind(batch)

    def hurry(self, deadline: float) -> None:
        """Wait for the broker until this `time.monotonic()` only: we are stopping."""
        self._deadline = deadline

    def close(self) -> None:
        """Leave the group. What was not committed is read by whoever gets the partitions."""
        self._disconnect()

    # --- connecting

    def _connect(self, seconds: float) -> Consumer | None:
        """Get the transactional id first: that ends what an earlier process left open under it."""
        try:
            protocol = self._choose_protocol()
            self._producer = self._producer or self._transactional_producer()
            self._producer.init_transactions(ASK_SECONDS)
        except BrokerUnavailable as error:
            self._wait_for_broker(str(error), seconds)
            return None
        except KafkaException as error:
            if not error.args[0].retriable():
                self._producer = None
                self._complain(error.args[0])
            self._wait_for_broker(error.args[0].str(), seconds)
            return None
        self._consumer = _consumer(self._settings, self._name, protocol)
        self._consumer.subscribe(
            [self._settings.kafka_topic],
            on_assign=lambda _, partitions: self._rebalanced("assigned", partitions),
            on_revoke=lambda _, partitions: self._rebalanced("revoked", partitions),
            on_lost=lambda _, partitions: self._rebalanced("lost", partitions),
        )
        return self._consumer

    def _wait_for_broker(self, reason: str, seconds: float) -> None:
        self._link.lost(reason)
        time.sleep(seconds)

    def _choose_protocol(self) -> str:
        version = group_version(self._settings.kafka_bootstrap_servers)
        session_ms = _session_timeout_ms(self._settings) if version >= 1 else None
        protocol = "consumer" if session_ms is not None and session_ms <= LONGEST_SESSION_MS else "classic"
        if self._producer is None:
            self._log.info(
                "group_protocol_chosen",
                protocol=protocol,
                group_version=version,
                session_timeout_ms=session_ms if protocol == "consumer" else SESSION_MS,
            )
        return protocol

    def _transactional_producer(self) -> Producer:
        milliseconds = int(TRANSACTION_SECONDS * 1000)
        return _producer(
            self._settings,
            self._name,
            {
                "transactional.id": self._transactional_id,
                "transaction.timeout.ms": milliseconds,
                "message.timeout.ms": milliseconds,
                # full, `deliver` waits, and with it reading
                "queue.buffering.max.kbytes": 64 * 1024,
            },
        )

    def _disconnect(self) -> None:
        """Forget both clients; the next ones begin with what the broker knows."""
        if self._consumer is not None:
            self._consumer.close()
        self._await_commit()
        self._consumer = self._producer = self._in_flight = None
        self._own(frozenset())

    # --- reading

    def _gather(self, consumer: Consumer, messages: list[Any], max_records: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        size = 0
        while len(messages) < max_records and size < BATCH_BYTES:
            count, wait, committing = CHUNK_RECORDS, STEP_SECONDS, self._committing()
            if not committing and messages:
                wait = LINGER_SECONDS
            elif not committing:
                self._settle()
                count, wait = 1, seconds
            chunk = consumer.consume(min(count, max_records - len(messages)), wait)
            messages += chunk
            size += sum(map(len, chunk))
            if time.monotonic() > until if committing else len(chunk) < count:
                return

    def _rebalanced(self, kind: str, partitions: Iterable[TopicPartition]) -> None:
        """Called by the client from within `read` or `close`: no batch is being scored, but one may commit."""
        changed = frozenset(p.partition for p in partitions)
        self._metrics.rebalances.labels(kind).value += 1
        if kind == "assigned":
            self._own(self._owned | changed)
        else:
            self._await_commit()  # the next owner begins at our commit, or at none of it
            self._taken |= changed
            self._own(self._owned - changed)
        self._log.info("partitions_changed", kind=kind, partitions=sorted(changed), owned=sorted(self._owned))

    def _own(self, partitions: frozenset[int]) -> None:
        self._owned = partitions
        self._on_owned(partitions)

    def _without(self, batch: Batch, taken: set[int]) -> Batch:
        """Leave out partitions that were revoked while the batch was read: their new owner has these records."""
        dropped = Batch([r for r in batch.records if r.partition in taken], batch.read_at)
        self._rewind(dropped)  # for those that came back to us at once
        return Batch([r for r in batch.records if r.partition not in taken], batch.read_at)

    def _rewind(self, batch: Batch) -> None:
        """Read on from the group's commit in all partitions of the batch that are ours."""
        places = [TopicPartition(t, p) for t, p in batch.first_offsets() if p in self._owned]
        if self._consumer is None or not places:
            return
        try:
            for place in self._consumer.committed(places, ASK_SECONDS):
                # without a commit we began at the beginning, as `auto.offset.reset` says
                offset = place.offset if place.offset >= 0 else OFFSET_BEGINNING
                self._consumer.seek(TopicPartition(place.topic, place.partition, offset))
        except KafkaException as error:
            # going on would skip these records; a new member begins at the group's commit
            self._complain(error.args[0])
            self._disconnect()

    def _complain(self, error: KafkaError) -> None:
        self._fatal = self._fatal or error.fatal()
        if self._seldom.due(error.name()):
            self._log.warning("kafka_error", code=error.name(), reason=error.str())

    # --- writing

    def _transact(self, batch: Batch, outputs: Sequence[Output], on_committed: Callable[[], None]) -> None:
        producer, consumer = self._producer, self._consumer
        assert producer is not None  # noqa: S101 - both are here as long as a batch is
        assert consumer is not None  # noqa: S101
        offsets = [TopicPartition(t, p, offset) for (t, p), offset in batch.next_offsets().items()]
        try:
            producer.begin_transaction()
            self._write(producer, outputs)
            group = consumer.consumer_group_metadata()
        except KafkaException as error:
            raise self._failed(_roll_back(producer, error.args[0])) from error
        until = time.monotonic() + SETTLE_SECONDS
        self._in_flight = _InFlight(batch, outputs, on_committed, until, Future())
        # a daemon: a broker that is gone must not hold the end of the process up
        commit = Thread(target=_commit, args=(producer, offsets, group, self._in_flight.done), daemon=True)
        commit.start()

    def _write(self, producer: Producer, outputs: Sequence[Output]) -> None:
        produce = producer.produce
        for output in outputs:
            try:
                # by position it takes 0.7 µs less: partition, two names of a callback, timestamp
                produce(output.topic, output.value, output.key, -1, None, None, 0, output.headers)
            except BufferError:
                self._write_slowly(producer, output)

    def _write_slowly(self, producer: Producer, output: Output) -> None:
        """Wait for room; what fails in the queue meanwhile makes `produce` raise."""
        until = min(self._deadline, time.monotonic() + TRANSACTION_SECONDS)
        while True:
            producer.poll(0.05)
            try:
                producer.produce(output.topic, output.value, output.key, headers=output.headers)
            except BufferError:
                if time.monotonic() > until:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no room")) from None  # noqa: SLF001
            else:
                return

    def _committing(self) -> bool:
        flight = self._in_flight
        return flight is not None and not flight.done.done() and time.monotonic() < flight.until

    def _await_commit(self) -> None:
        """Wait until the transaction in flight has an outcome, or took so long that it is given up."""
        while (flight := self._in_flight) and self._committing() and time.monotonic() < self._deadline:
            with suppress(TimeoutError):
                flight.done.exception(0.1)  # in steps, so that `hurry` is noticed

    def _settle(self) -> None:
        """Take note of how the transaction in flight ended.

        Raises:
            NotDelivered: rolled back, or nobody knows; its partitions are read on from the group's commit.
        """
        self._await_commit()
        flight, self._in_flight = self._in_flight, None
        if flight is None:
            return
        if not flight.done.done():
            raise self._failed(OutcomeUnknown("the broker took too long to commit"))
        error = flight.done.exception()
        if isinstance(error, NotDelivered):
            failure = self._failed(error)
            self._rewind(flight.batch)
            raise failure
        if error is not None:
            raise error
        self._link.back()
        self._count(flight)
        flight.on_committed()

    def _failed(self, error: NotDelivered) -> NotDelivered:
        self._metrics.transactions.labels("aborted").value += 1
        if isinstance(error, ProducerFenced):
            self._log.warning("producer_fenced", transactional_id=self._transactional_id, reason=str(error))
        if isinstance(error, OutcomeUnknown):
            self._disconnect()
        return error

    def _count(self, flight: _InFlight) -> None:
        metrics, topic = self._metrics, self._settings.scored_topic
        metrics.transactions.labels("committed").value += 1
        metrics.consumed.labels(self._settings.kafka_topic).value += len(flight.batch.records)
        scored = [output.topic for output in flight.outputs].count(topic)
        metrics.produced.labels(topic).value += scored
        metrics.produced.labels(self._settings.dead_letter_topic).value += len(flight.outputs) - scored


def _commit(producer: Producer, offsets: list[TopicPartition], group: Any, done: "Future[None]") -> None:
    """Add the offsets and commit, or roll back; runs in a thread of its own."""
    try:
        _insist(lambda: producer.send_offsets_to_transaction(offsets, group, TRANSACTION_SECONDS))
    except KafkaException as error:
        done.set_exception(_roll_back(producer, error.args[0]))
        return
    try:
        _insist(producer.commit_transaction)
    except KafkaException as error:
        # only an error that asks for a roll-back says that the commit did not happen
        abortable = error.args[0].txn_requires_abort()
        done.set_exception(
            _roll_back(producer, error.args[0]) if abortable else OutcomeUnknown(error.args[0].str())
        )
    except BaseException as error:  # whatever it is, the waiting thread must learn it
        done.set_exception(error)
    else:
        done.set_result(None)


def _insist(call: Callable[[], object]) -> None:
    """Call again what the broker may answer better soon; the client limits each attempt by the transaction's time."""
    for _ in range(ATTEMPTS - 1):
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
        else:
            return
    call()


def _roll_back(producer: Producer, error: KafkaError) -> NotDelivered:
    """Abort; return what that leaves us with."""
    reason = error.str()
    if not error.fatal():
        try:
            _insist(producer.abort_transaction)
        except KafkaException as second:
            error = second.args[0]
            reason += f"; then the roll-back failed: {error.str()}"
        else:
            return NotDelivered(reason)
    return (ProducerFenced if error.code() in _FENCED else OutcomeUnknown)(reason)


def _records(messages: list[Any], complain: Callable[[KafkaError], None], now: int) -> list[Record]:
    """Convert the client's messages (untyped: only those that are errors lack topic and offset)."""
    records = []
    for m in messages:
        if (error := m.error()) is not None:
            complain(error)
            continue
        _, timestamp = m.timestamp()
        records.append(
            Record(
                m.topic(),
                m.partition(),
                m.offset(),
                m.key(),
                m.value(),
                m.headers() or (),
                timestamp if timestamp >= 0 else now,
            )
        )
    return records


def create_topics(settings: KafkaSettings) -> list[str]:
    """Create our topics as far as they are missing; return those that were.

    Raises:
        BrokerUnavailable: no broker answered, or it refused.
    """
    wanted = {
        settings.kafka_topic: settings.kafka_partitions,
        settings.scored_topic: settings.kafka_partitions,
        settings.dead_letter_topic: 1,
        settings.labels_topic: settings.kafka_partitions,
    }
    config = {
        "retention.ms": str(RETENTION_MS),
        "retention.bytes": str(RETENTION_BYTES),
        "segment.bytes": str(SEGMENT_BYTES),
    }
    large = {"max.message.bytes": str(MAX_RECORD_BYTES)}
    larger = {settings.scored_topic: large, settings.dead_letter_topic: large}
    topics = [
        NewTopic(topic, partitions, config=config | larger.get(topic, {}))
        for topic, partitions in wanted.items()
    ]
    created = []
    admin = _admin(settings)  # must live until the answers are here
    for topic, future in admin.create_topics(topics, request_timeout=ASK_SECONDS * 3).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerUnavailable(
                    f"topic {topic} can't be created at {settings.kafka_bootstrap_servers}: {error.args[0].str()}"
                ) from error
        else:
            created.append(topic)
    return created


class Watermarks:
    """What waits for our group, asked of the broker: the same answer to every process, member of the group or not."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = _admin(settings)
        self._oldest: dict[int, tuple[int, int]] = {}
        # It never subscribes, so it is no member. AdminClient.list_consumer_group_offsets would do, but its process
        # dies (SIGSEGV in rd_kafka_cgrp_op, librdkafka 2.16.0) when the coordinator has just moved or restarted.
        self._observer = Consumer(
            _client(settings, "fraudscale-observer")
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
            BrokerUnavailable: no broker answered in time, or the topic is missing.
        """
        # hands the clients' log lines over; they would pile up
        self._admin.poll(0)
        self._observer.poll(0)
        try:
            partitions = [TopicPartition(self._settings.kafka_topic, p) for p in self._partitions()]
            # commits before ends: the other way round a commit in between would make a lag below zero
            committed = {p.partition: p.offset for p in self._observer.committed(partitions, ASK_SECONDS)}
            low = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            end = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        except KafkaException as error:
            servers = self._settings.kafka_bootstrap_servers
            raise BrokerUnavailable(f"{servers}: {error.args[0].str()}") from error
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
                    partition, (kind, timestamp) = int(m.partition()), m.timestamp()  # type: ignore[arg-type]
                    if m.error() is None and partition not in found and kind != TIMESTAMP_NOT_AVAILABLE:
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


def _admin(settings: KafkaSettings) -> AdminClient:
    return AdminClient(_client(settings, "fraudscale-admin"))


def _session_timeout_ms(settings: KafkaSettings) -> int | None:
    """How long the broker waits for a silent member of the new protocol; None where we may not know."""
    name, admin = "group.consumer.session.timeout.ms", _admin(settings)
    try:
        brokers = admin.list_topics(timeout=ASK_SECONDS).brokers
        asked = ConfigResource(ConfigResource.Type.BROKER, str(min(brokers)))
        (answer,) = admin.describe_configs([asked], request_timeout=ASK_SECONDS).values()
        return int(answer.result()[name].value)
    except (KafkaException, KeyError, ValueError):
        return None


_API_VERSIONS: Final = 18
_FINALIZED_FEATURES: Final = 2


def group_version(servers: str) -> int:
    """Ask for the cluster's finalized feature `group.version`: from 1 on it speaks the protocol of KIP-848.

    The client library doesn't tell features, and where the protocol is missing a member just never receives a
    record. So this asks itself: ApiVersions, version 3 (KIP-584), which every broker answers before anything else.

    Raises:
        BrokerUnavailable: none of the servers answered.
    """
    reasons = []
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            return _finalized(_ask_versions(host.strip("[]"), int(port))).get("group.version", 0)
        except (OSError, EOFError, struct.error, IndexError) as error:
            reasons.append(f"{server}: {error}")
    raise BrokerUnavailable("; ".join(reasons))


def _ask_versions(host: str, port: int) -> bytes:
    name = b"fraudscale"
    compact = bytes([len(name) + 1]) + name
    head = struct.pack(">hhih", _API_VERSIONS, 3, 1, len(name)) + name + b"\0"
    request = head + compact + b"\x021" + b"\0"
    with (
        socket.create_connection((host, port), ASK_SECONDS) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", answer.read(4))
        return answer.read(min(size, 1 << 20))


def _finalized(answer: bytes) -> dict[str, int]:
    """Read the finalized features out of an ApiVersions answer: name → level; older brokers have none."""
    _, error_code = struct.unpack_from(">ih", answer)
    if error_code:
        return {}
    length, at = _varint(answer, 6)
    for _ in range(length - 1):
        _, at = _varint(answer, at + 6)  # one API: key and two versions, then its tags, of which it has none
    tags, at = _varint(answer, at + 4)  # the throttle time
    for _ in range(tags):
        tag, at = _varint(answer, at)
        size, at = _varint(answer, at)
        if tag == _FINALIZED_FEATURES:
            return _features(answer[at : at + size])
        at += size
    return {}


def _features(content: bytes) -> dict[str, int]:
    features = {}
    length, at = _varint(content, 0)
    for _ in range(length - 1):
        size, at = _varint(content, at)
        name = content[at : at + size - 1].decode()
        at += size - 1
        (features[name],) = struct.unpack_from(">h", content, at)
        _, at = _varint(content, at + 4)
    return features


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


class TimedSender:
    """Writes records at their moment, for load tests: hardly lingers, waits where there is no room, tells every failure."""

    def __init__(
        self, settings: KafkaSettings, name: str, on_failure: Callable[[bytes | None, str], None]
    ) -> None:
        """Prepare, without connecting.

        Args:
            settings: broker.
            name: names us to the broker.
            on_failure: called from within `send` and `close` with the key of a record that was not written, and why.
        """
        self._on_failure = on_failure
        self._producer = Producer(
            _client(settings, name)
            | {
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                # a producer's lingering would be part of every latency that is measured
                "linger.ms": 1,
                "message.timeout.ms": DELIVERY_SECONDS * 1000,
                "delivery.report.only.error": True,
            }
        )

    def send(self, topic: str, key: bytes, value: bytes, timestamp: int) -> bool:
        """Take a record on, or wait a moment and return False where there is no room.

        Args:
            topic: where to.
            key: of the record.
            value: of the record.
            timestamp: milliseconds since 1970.
        """
        self._producer.poll(0)
        try:
            self._producer.produce(topic, value, key, on_delivery=self._report, timestamp=timestamp)
        except BufferError:
            self._producer.poll(0.1)
            return False
        return True

    def close(self, seconds: float) -> None:
        """Let what waits go out, for so long at most; what is left then is a failure."""
        if self._producer.flush(seconds):
            self._producer.purge()
            self._producer.flush(1)

    def _report(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._on_failure(message.key(), error.name())


class Score(msgspec.Struct, frozen=True, gc=False):
    """A committed record of `<topic>.scored`: its key, its partition, and the input record that it belongs to."""

    key: bytes | None
    partition: int
    source_partition: int
    source_offset: int


class ScoreReader:
    """Reads the scores that are committed from now on, without a group: nothing about it stays at the broker."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        """Take a place at the end of every partition.

        Raises:
            BrokerUnavailable: no broker answered, or the topic is missing.
        """
        self._consumer = Consumer(
            _client(settings, name)
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

    def read(self, max_records: int, seconds: float) -> list[Score]:
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


def _score(message: Any) -> Score:
    headers = dict(message.headers() or ())
    return Score(
        message.key(),
        message.partition(),
        int(headers.get("source-partition", -1)),
        int(headers.get("source-offset", -1)),
    )


class TooLarge(NotDelivered):
    """The target topic doesn't take a record for its size; nothing of the transaction was written."""


@dataclass(frozen=True)
class Place:
    """One partition that is replayed: its first and next offset, and the commit with its metadata, if there is one."""

    low: int
    end: int
    committed: int | None
    metadata: str


class Replayer:
    """Reads a topic up to its present end; writes records elsewhere and its own place as one transaction.

    It gives up on the first thing that fails: what was committed stays, and the next one goes on from there.
    """

    def __init__(self, settings: KafkaSettings, topic: str, group: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group = group
        self._producer: Producer | None = None
        self._ends: dict[int, int] = {}
        self._refusal: KafkaError | None = None
        self.reached: dict[int, int] = {}
        """Partition → offset up to which all was read, marks of transactions included; only once it was read to its end."""
        # It is given its partitions and joins nothing, so that the group stays free for commits from outside.
        self._consumer = Consumer(
            _client(settings, group)
            | {
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )

    def open(self, *, write: bool) -> dict[int, Place]:
        """Look where each partition stands; to write, first fence whoever else replays.

        Raises:
            BrokerUnavailable: no broker answered in time, or the topic is missing.
        """
        try:
            partitions = [TopicPartition(self._topic, p) for p in self._partitions()]
            if write:
                self._producer = self._fencing_producer()
            commits = {p.partition: p for p in self._consumer.committed(partitions, ASK_SECONDS)}
            places = {p.partition: self._place(p, commits[p.partition]) for p in partitions}
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from error
        return places

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

    def send(self, outputs: Sequence[Output], places: Mapping[int, tuple[int, str]]) -> None:
        """Write the outputs, and commit the places (partition → offset, metadata), as one transaction.

        Raises:
            TooLarge: one of the outputs is; nothing was written.
            NotDelivered: it failed; whether it was written the next `open` finds out.
        """
        producer = self._producer
        assert producer is not None  # noqa: S101 - opened to write
        offsets = [
            TopicPartition(self._topic, p, offset, metadata) for p, (offset, metadata) in places.items()
        ]
        self._refusal = None
        try:
            producer.begin_transaction()
            for output in outputs:
                self._produce(producer, output)
            producer.flush(TRANSACTION_SECONDS)
            producer.send_offsets_to_transaction(
                offsets, self._consumer.consumer_group_metadata(), TRANSACTION_SECONDS
            )
            producer.commit_transaction(TRANSACTION_SECONDS)
        except KafkaException as error:
            raise self._rolled_back(producer, error.args[0]) from error

    def close(self) -> None:
        """Let go; a transaction that is still open is rolled back."""
        if self._producer is not None:
            with suppress(KafkaException):  # there is none, or the broker is gone and ends it by itself
                self._producer.abort_transaction(ASK_SECONDS)
        self._consumer.close()

    def _fencing_producer(self) -> Producer:
        milliseconds = int(TRANSACTION_SECONDS * 1000)
        limits = {"transaction.timeout.ms": milliseconds, "message.timeout.ms": milliseconds}
        producer = _producer(self._settings, self._group, limits | {"transactional.id": self._group})
        producer.init_transactions(SETTLE_SECONDS)
        return producer

    def _partitions(self) -> list[int]:
        found = self._consumer.list_topics(self._topic, ASK_SECONDS).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def _place(self, partition: TopicPartition, commit: TopicPartition) -> Place:
        low, end = self._consumer.get_watermark_offsets(partition, ASK_SECONDS)
        self._ends[partition.partition] = end
        return Place(low, end, commit.offset if commit.offset >= 0 else None, commit.metadata or "")

    def _up_to_the_end(self, messages: list[Any]) -> list[Record]:
        records = []
        for record in _records(
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

    def _check(self, error: KafkaError) -> None:
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
        if self._refusal is None or (error and error.code() == KafkaError.MSG_SIZE_TOO_LARGE):
            self._refusal = error

    def _rolled_back(self, producer: Producer, error: KafkaError) -> NotDelivered:
        with suppress(KafkaException):  # what can't be rolled back now is when the next one opens
            producer.abort_transaction(TRANSACTION_SECONDS)
        cause = self._refusal or error
        if cause.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            # librdkafka 2.16 counts the refused record's sequence number, the broker doesn't: this producer is spent
            self._producer = self._fencing_producer()
            return TooLarge(cause.str())
        if error.code() in _FENCED or cause.code() in _FENCED:
            return ProducerFenced("another replay of this group has begun, so this one ends")
        return NotDelivered(f"a transaction failed ({cause.str()}); run it again: nothing is sent twice")

    def _unavailable(self, error: KafkaError) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._settings.kafka_bootstrap_servers}, topic {self._topic}: {error.str()}"
        )
