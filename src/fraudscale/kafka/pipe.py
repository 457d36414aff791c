"""From the input topic to the outputs, exactly once: the outputs of a batch and its offsets are one Kafka transaction.

Readers of committed records see the scores of a record once, whatever dies. While one batch commits, the next is read
and scored.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import (
    ASK_SECONDS,
    FENCED,
    SETTLE_SECONDS,
    TRANSACTION_SECONDS,
    BrokerUnavailable,
    Link,
    NotDelivered,
    ProducerFenced,
    client_settings,
    commits,
)
from fraudscale.kafka.messages import Batch, Output, Record, records_of
from fraudscale.kafka.protocol import LONGEST_SESSION_MS, SESSION_MS, group_version, session_timeout_ms
from fraudscale.kafka.transactions import sweep, transactional_producer
from fraudscale.metrics import KafkaMetrics
from fraudscale.telemetry.logs import Logger, LogLimiter

LINGER_SECONDS: Final = 0.002
"""How long a batch waits for one more record when nothing is being committed: calm readers shouldn't wait."""
STEP_SECONDS: Final = 0.005
"""How often a batch that fills while another commits looks whether that is done."""
CHUNK_RECORDS: Final = 1000
"""Taken from the client at once: so often the size of a batch is looked at."""
BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch whose values are that large is full, whatever its number of records."""
LOOK_UP_SECONDS: Final = 0.3
"""Limit of one look for the places of our partitions: those that have one wait meanwhile."""
LOOK_AGAIN_SECONDS: Final = 0.7
"""From a look in vain to the next, while other partitions can be read: one had a transaction open when its owner died."""


@dataclass(frozen=True)
class _InFlight:
    """A transaction that a thread of its own commits: not its records, whose memory the next batch takes."""

    records: int
    on_committed: Callable[[], None]
    until: float
    """`time.monotonic()` when it is given up."""
    done: Future[None]


class Pipe:
    """Reads batches, writes their outputs and commits their offsets, one transaction each; survives the broker.

    One thread calls it; only `hurry` may come from another. At most one transaction is open: `deliver` starts its
    commit, and the next `deliver`, a rebalance or a `read` that finds nothing waits for the end of it.

    Three rules carry the guarantee. A producer whose transaction failed is never used again, not even to abort: the
    next one asks for the same transactional id, and when the broker grants it, the old one is fenced with all that
    is still on its way, and its transaction is committed or rolled back. The first transaction of each producer ends
    what earlier ones left open (`sweep`). And a partition is read only from a place that the broker named as the
    group's stable commit; until then it is paused.
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
            metrics: counts records read, transactions and rebalances.
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
        self._log_limiter = LogLimiter(60)
        self._deadline = float("inf")
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._candidate: Producer | None = None
        self._swept = False
        self._in_flight: _InFlight | None = None
        self._chosen: dict[str, object] = {}
        self._owned: frozenset[int] = frozenset()
        self._taken: set[int] = set()
        self._astray: set[int] = set()
        self._look_again = 0.0
        self._fatal = False

    def read(self, max_records: int, seconds: float) -> Batch:
        """Wait up to `seconds` for a record; return it with what else is there: possibly nothing.

        A batch ends when it is full, or when the one before it is committed: calm it is small, behind it grows.

        Raises:
            NotDelivered: the batch before was rolled back, and nothing was read since.
        """
        consumer = self._connect(seconds)
        if consumer is None:
            return Batch([], time.perf_counter())
        self._taken.clear()
        self._fatal = False
        records: list[Record] = []
        try:
            self._gather(consumer, records, max_records, seconds)
        except KafkaException as error:
            # what the client had taken out of its queue went with the exception: begin again from the commit
            self._complain(error.args[0])
            self._fatal = True
        read_at = time.perf_counter()
        if self._fatal:
            self._disconnect()
            return Batch([], read_at)
        batch = Batch(records, read_at)
        return _without(batch, self._taken) if self._taken else batch

    def deliver(
        self, batch: Batch, outputs: Iterable[Output], on_committed: Callable[[], None] = lambda: None
    ) -> None:
        """Write the outputs and the batch's offsets in one transaction; its commit goes on after the return.

        Args:
            batch: what the outputs are made of; as it was read, and nothing was read since.
            outputs: at least one.
            on_committed: called, from a later call of ours, once the transaction is committed.

        Raises:
            NotDelivered: this batch or the one before it failed; both are read again as far as needed.
        """
        self._settle()
        self._transact(batch, outputs, on_committed)

    def finish(self) -> None:
        """Wait for the commit that is going on, if any.

        Raises:
            NotDelivered: it was rolled back.
        """
        self._settle()

    def give_back(self, batch: Batch) -> None:
        """Let the next `read` begin with this batch again, as far as its partitions are still ours.

        Raises:
            NotDelivered: the batch before it failed too; both are read again.
        """
        self._settle()
        self._lose_places(batch.partitions)

    def hurry(self, deadline: float) -> None:
        """Wait for the broker until this `time.monotonic()` only: we are stopping."""
        self._deadline = deadline

    def close(self) -> None:
        """Leave the group. What was not committed is read by whoever gets the partitions."""
        self._disconnect()

    # --- connecting

    def _connect(self, seconds: float) -> Consumer | None:
        """Get what is missing: the transactional id, a place in the group, the places of our partitions."""
        try:
            protocol = None if self._consumer else self._choose_protocol()
            if self._producer is None:
                self._producer = self._granted()
            if protocol is not None:
                self._consumer = self._member(protocol)
        except (BrokerUnavailable, KafkaException) as error:
            self._link.lost(error.args[0].str() if isinstance(error, KafkaException) else str(error))
            self._wait(seconds)
            return None
        if not self._find_places():
            self._wait(seconds)
            return None
        return self._consumer

    def _granted(self) -> Producer:
        """Ask for our transactional id: from now on the transaction before has an outcome, and its producer no say."""
        producer = self._candidate = self._candidate or transactional_producer(
            self._settings, self._name, self._transactional_id
        )
        try:
            producer.init_transactions(ASK_SECONDS)
        except KafkaException as error:
            if not error.args[0].retriable():
                self._candidate = None
                self._complain(error.args[0])
            raise
        self._candidate, self._swept = None, False
        return producer

    def _member(self, protocol: str) -> Consumer:
        consumer = _consumer(self._settings, self._name, protocol)
        consumer.subscribe(
            [self._settings.kafka_topic],
            on_assign=self._assigned,
            on_revoke=lambda _, partitions: self._taken_away("revoked", partitions),
            on_lost=lambda _, partitions: self._taken_away("lost", partitions),
        )
        return consumer

    def _wait(self, seconds: float) -> None:
        """Let time pass. All our partitions are paused then, but the group goes on, and may take or give some."""
        if self._consumer is None:
            time.sleep(seconds)
            return
        self._fatal = False
        try:
            messages = self._consumer.consume(1, seconds)
            self._lose_places({r.partition for r in records_of(messages, self._complain, 0)})
        except KafkaException as error:
            self._complain(error.args[0])
            self._fatal = True
        if self._fatal:
            self._disconnect()

    def _choose_protocol(self) -> str:
        version = group_version(self._settings.kafka_bootstrap_servers)
        session_ms = session_timeout_ms(self._settings) if version >= 1 else None
        protocol = "consumer" if session_ms is not None and session_ms <= LONGEST_SESSION_MS else "classic"
        chosen = {
            "protocol": protocol,
            "group_version": version,
            "session_timeout_ms": session_ms if protocol == "consumer" else SESSION_MS,
        }
        if self._chosen != chosen:
            self._log.info("group_protocol_chosen", **chosen)
            self._chosen = chosen
        return protocol

    def _disconnect(self) -> None:
        """Forget both clients; the next ones begin with what the broker knows."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        with suppress(NotDelivered):
            self._settle()
        self._producer = None
        self._astray.clear()
        self._own(frozenset())

    # --- reading

    def _gather(self, consumer: Consumer, records: list[Record], max_records: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        size = 0
        while len(records) < max_records and size < BATCH_BYTES:
            count, wait, committing = CHUNK_RECORDS, STEP_SECONDS, self._committing()
            if not committing and records:
                wait = LINGER_SECONDS
            elif not committing:
                self._settle()
                count, wait = 1, seconds
            chunk = consumer.consume(min(count, max_records - len(records)), wait)
            records += records_of(chunk, self._complain, int(time.time() * 1000))
            size += sum(map(len, chunk))
            late = time.monotonic() > until
            # error events come as messages, and could go on for ever
            if late if committing else len(chunk) < count or (late and not records):
                return

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called by the client from within `read`.

        We say ourselves where to begin: the client, when the assignment changes while it asks for a commit that is
        not stable yet, takes the partition for one without a commit and begins at its start (librdkafka 2.16).
        """
        new = {p.partition for p in partitions}
        consumer.incremental_assign([self._place(p, 0) for p in new])
        self._own(self._owned | new)
        self._lose_places(new)
        self._note_change("assigned", new)

    def _taken_away(self, kind: str, partitions: Iterable[TopicPartition]) -> None:
        """Called by the client from within `read` or `close`: no batch is being scored, but one may commit."""
        gone = {p.partition for p in partitions}
        self._await_commit()  # the next owner begins at our commit, or at none of it
        self._taken |= gone
        self._astray -= gone
        self._own(self._owned - gone)
        self._note_change(kind, gone)

    def _note_change(self, kind: str, changed: set[int]) -> None:
        self._metrics.rebalances.labels(kind).value += 1
        self._log.info("partitions_changed", kind=kind, partitions=sorted(changed), owned=sorted(self._owned))

    def _own(self, partitions: frozenset[int]) -> None:
        self._owned = partitions
        self._on_owned(partitions)

    def _place(self, partition: int, offset: int) -> TopicPartition:
        return TopicPartition(self._settings.kafka_topic, partition, offset)

    def _lose_places(self, partitions: Iterable[int]) -> None:
        """Read nothing more of these partitions before the broker has said where the group is."""
        lost = self._owned.intersection(partitions)
        if self._consumer is not None and lost:
            self._consumer.pause([self._place(p, 0) for p in lost])
        self._astray |= lost
        self._look_again = 0.0

    def _find_places(self) -> bool:
        """Go on at the group's commit where we lost our place; say whether there is anything to read from.

        Where the commit is not stable yet, we look again later.
        """
        consumer = self._consumer
        if consumer is None or not self._astray or time.monotonic() < self._look_again:
            return True
        if not self._swept and not self._sweep(consumer):
            return False
        try:
            for commit in commits(consumer, [self._place(p, 0) for p in self._astray], LOOK_UP_SECONDS):
                # where there is none, the group begins at the beginning
                offset = commit.offset if commit.offset >= 0 else OFFSET_BEGINNING
                place = self._place(commit.partition, offset)
                consumer.seek(place)
                consumer.resume([place])
                self._astray.discard(place.partition)
        except KafkaException as error:
            self._complain(error.args[0])
            if self._astray < self._owned:
                self._look_again = time.monotonic() + LOOK_AGAIN_SECONDS
        return self._astray != self._owned

    def _sweep(self, consumer: Consumer) -> bool:
        """Once per producer, before it commits anything, and as a member of the group: others may not add offsets."""
        assert self._producer is not None  # noqa: S101 - it was granted
        outputs = (self._settings.scored_topic, self._settings.dead_letter_topic)
        unread = TopicPartition(self._settings.dead_letter_topic, 0, 0)
        try:
            sweep(self._producer, outputs, unread, consumer.consumer_group_metadata())
        except KafkaException as error:
            self._complain(error.args[0])
            self._producer = None
            return False
        self._swept = True
        return True

    def _complain(self, error: KafkaError) -> None:
        self._fatal = self._fatal or error.fatal()
        if self._log_limiter.allows(error.name()):
            self._log.warning("kafka_error", code=error.name(), reason=error.str())

    # --- writing

    def _transact(self, batch: Batch, outputs: Iterable[Output], on_committed: Callable[[], None]) -> None:
        producer, consumer = self._producer, self._consumer
        assert producer is not None  # noqa: S101 - both are here as long as a batch is
        assert consumer is not None  # noqa: S101
        offsets = [self._place(partition, offset) for partition, offset in batch.next_offsets().items()]
        try:
            producer.begin_transaction()
            self._write(producer, outputs)
            group = consumer.consumer_group_metadata()
        except KafkaException as error:
            raise self._failed(_failure(error.args[0])) from error
        until = time.monotonic() + SETTLE_SECONDS
        self._in_flight = _InFlight(len(batch.records), on_committed, until, Future())
        # a daemon: a broker that is gone must not hold the end of the process up
        commit = Thread(target=_commit, args=(producer, offsets, group, self._in_flight.done), daemon=True)
        commit.start()

    def _write(self, producer: Producer, outputs: Iterable[Output]) -> None:
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
            NotDelivered: it failed, or nobody knows; all partitions are read on from the group's commit.
        """
        self._await_commit()
        flight, self._in_flight = self._in_flight, None
        if flight is None:
            return
        if not flight.done.done():
            raise self._failed(NotDelivered("the broker took too long to commit"))
        error = flight.done.exception()
        if isinstance(error, NotDelivered):
            raise self._failed(error)
        if error is not None:
            raise error
        self._link.back()
        self._metrics.transactions.labels("committed").value += 1
        self._metrics.consumed.labels(self._settings.kafka_topic).value += flight.records
        flight.on_committed()

    def _failed(self, error: NotDelivered) -> NotDelivered:
        """Give the producer up, and all our places with it."""
        self._metrics.transactions.labels("aborted").value += 1
        if isinstance(error, ProducerFenced):
            self._log.warning("producer_fenced", transactional_id=self._transactional_id, reason=str(error))
        self._producer = None
        self._lose_places(self._owned)
        return error


def _consumer(settings: KafkaSettings, name: str, protocol: str) -> Consumer:
    config = client_settings(settings, name) | {
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


def _commit(producer: Producer, offsets: list[TopicPartition], group: Any, done: "Future[None]") -> None:
    """Add the offsets and commit; runs in a thread of its own. Whoever waits for it gives up after `SETTLE_SECONDS`."""
    try:
        producer.send_offsets_to_transaction(offsets, group, TRANSACTION_SECONDS)
        producer.commit_transaction()
    except KafkaException as error:
        done.set_exception(_failure(error.args[0]))
    except BaseException as error:  # whatever it is, the waiting thread must learn it
        done.set_exception(error)
    else:
        done.set_result(None)


def _failure(error: KafkaError) -> NotDelivered:
    return (ProducerFenced if error.code() in FENCED else NotDelivered)(error.str())


def _without(batch: Batch, partitions: set[int]) -> Batch:
    """Leave out partitions that were revoked while the batch was read: their new owner has these records."""
    return Batch([r for r in batch.records if r.partition not in partitions], batch.read_at)
