"""From the input topic to the outputs, exactly once: the outputs of a batch and its offsets are one Kafka transaction.

Readers of committed records see the scores of a record once, whatever dies. While one batch commits, the next is read
and scored.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import (
    BrokerLink,
    BrokerUnavailable,
    NotDelivered,
    answered,
    client_settings,
    commits,
)
from fraudscale.kafka.delivery import Delivery
from fraudscale.kafka.group_protocol import SESSION_MS, GroupProtocol, choose_protocol
from fraudscale.kafka.messages import Batch, Output, Record, records_of
from fraudscale.kafka.positions import Positions
from fraudscale.kafka.suspects import Suspects
from fraudscale.metrics import KafkaMetrics
from fraudscale.telemetry.logs import Logger, LogLimiter

LINGER_SECONDS: Final = 0.002
"""How long a batch waits for one more record when nothing is being committed: calm readers shouldn't wait."""
STEP_SECONDS: Final = 0.005
"""How often a batch that fills while another commits looks whether that is done."""
FIRST_RECORDS: Final = 100
CHUNK_RECORDS: Final = 1000
"""Taken from the client at once, and at first: so often the size of a batch is looked at, and of its records."""
BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch whose keys and values are that large is full, whatever its number of records."""
LOOK_UP_SECONDS: Final = 0.3
"""Limit of one question for the group's commits: partitions that are not paused wait meanwhile."""
LOOK_AGAIN_SECONDS: Final = 0.7
"""From a question in vain to the next, while other partitions can be read: one had a transaction open when its owner died."""

QUESTION: Final = "transactional id"


class Pipe:
    """Reads batches, writes their outputs and commits their offsets, one transaction each; survives the broker.

    One thread calls it; only `set_deadline` may come from another. At most one transaction is open: `deliver` starts
    its commit, and the next `deliver`, a rebalance or a `read` that finds nothing waits for the end of it.

    To what `Delivery` guarantees this adds one rule: a partition is read only from a position that the broker named as
    the group's stable commit; until then it is paused.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        replica_id: str,
        *,
        metrics: KafkaMetrics,
        link: BrokerLink,
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
        transactional_id = f"{settings.kafka_group}-{replica_id}"
        self._delivery = Delivery(settings, self._name, transactional_id, metrics=metrics, link=link, log=log)
        self._rebalances = metrics.rebalances
        self._resets = metrics.offset_resets
        self._link = link
        self._log = log
        self._on_owned = on_owned
        self._log_limiter = LogLimiter(60)
        self._consumer: Consumer | None = None
        self._protocol: GroupProtocol | None = None
        self._joined = False
        self._protocol_refused = False
        self._owned: frozenset[int] = frozenset()
        self._revoked: set[int] = set()
        """Since the present read began."""
        self._paused: set[int] = set()
        """Ours, but without a position that the broker has named."""
        self._look_again = 0.0
        self._positions = Positions()
        self._fatal = False
        self._suspects = Suspects(settings, log)

    @property
    def owned(self) -> frozenset[int]:
        """Our partitions."""
        return self._owned

    def read(self, max_records: int, seconds: float) -> Batch:
        """Wait up to `seconds` for a record; return it with what else is there, or a range that is unreadable, or nothing.

        A batch ends when it is full, or when the one before it is committed: calm it is small, behind it grows.

        Raises:
            NotDelivered: the batch before was aborted, and nothing was read since.
        """
        consumer = self._connect(seconds)
        if consumer is None:
            return Batch([], time.perf_counter())
        if self._suspects.their_turn():
            return self._read_apart(consumer, max_records)
        self._revoked.clear()
        self._fatal = False
        records: list[Record] = []
        try:
            self._gather(consumer, records, max_records, seconds)
        except KafkaException as error:
            # what the client had taken out of its queue went with the exception: begin again from the commit
            self._note_consumer_error(error.args[0])
            self._fatal = True
        read_at = time.perf_counter()
        if self._fatal:
            self._disconnect()
            return Batch([], read_at)
        batch = Batch(records, read_at)
        return _without(batch, self._revoked) if self._revoked else batch

    def deliver(
        self, batch: Batch, outputs: Iterable[Output], on_committed: Callable[[], None] = lambda: None
    ) -> None:
        """Write the outputs and the batch's offsets in one transaction; its commit goes on after the return.

        Args:
            batch: what the outputs are made of; as it was read, and nothing was read since.
            outputs: at least one.
            on_committed: called, from a later call of ours, once the transaction is committed.

        Raises:
            OutputRefused: the broker will never take an output of this batch, or of the one before it.
            NotDelivered: this batch or the one before it failed; both are read again as far as needed.
        """
        self._settle()
        consumer = self._consumer
        assert consumer is not None  # noqa: S101 - here as long as a batch is
        offsets = self._next_offsets(consumer, batch)
        try:
            self._delivery.begin(
                len(batch.records), outputs, offsets, consumer.consumer_group_metadata, on_committed
            )
        except NotDelivered:
            self._pause(self._owned)
            raise

    def _next_offsets(self, consumer: Consumer, batch: Batch) -> list[TopicPartition]:
        """Where the batch's partitions go on, each with the epoch of the leader that gave its records.

        By the epoch whoever reads on can tell that a partition lost records since: see docs/decisions/0018.
        """
        following = batch.next_offsets()
        resets = self._positions.follow(
            batch, following, lambda p: consumer.get_watermark_offsets(self._partition(p), cached=True)[0]
        )
        for reset in resets:
            self._resets.labels(reset.kind).value += 1
            self._log.error(
                "offset_reset",
                kind=reset.kind,
                partition=reset.partition,
                expected=reset.expected,
                position=reset.position,
            )
        positions = consumer.position([self._partition(p) for p in following])
        return [self._partition(p.partition, following[p.partition], p.leader_epoch) for p in positions]

    def finish(self) -> None:
        """Wait for the commit that is going on, if any.

        Raises:
            NotDelivered: it was aborted.
        """
        self._settle()

    def write_singly(self, singly: bool) -> None:
        """Write each output of the batches that follow in a request of its own, so that a refusal names it, or no longer."""
        if self._delivery.write_singly(singly):
            self._pause(self._owned)

    def give_back(self, batch: Batch) -> None:
        """Let the next `read` begin with this batch again, as far as its partitions are still ours.

        Raises:
            NotDelivered: the batch before it failed too; both are read again.
        """
        self._settle()
        self._pause(batch.partitions)

    def set_deadline(self, deadline: float) -> None:
        """Wait for the broker until this `time.monotonic()` only: we are stopping."""
        self._delivery.deadline = deadline

    def close(self) -> None:
        """Leave the group. What was not committed is read by whoever gets the partitions."""
        self._disconnect()

    def _settle(self) -> None:
        try:
            self._delivery.settle()
        except NotDelivered:
            # which records were committed only the broker knows now, so no position of ours counts any more
            self._pause(self._owned)
            raise

    # --- connecting

    def _connect(self, seconds: float) -> Consumer | None:
        """Get what is missing: the transactional id, membership in the group, the positions of our partitions."""
        try:
            protocol = None if self._consumer else self._choose_protocol()
            self._delivery.ask_for_id()
            if protocol is not None:
                self._consumer = self._member(protocol)
        except BrokerUnavailable as error:
            self._link.lost(str(error))
            self._wait(seconds)
            return None
        except KafkaException as error:
            self._note_unconnected(error.args[0])
            self._wait(seconds)
            return None
        self._link.granted(QUESTION)
        if not self._find_positions():
            self._wait(seconds)
            return None
        return self._consumer

    def _note_unconnected(self, error: KafkaError) -> None:
        if answered(error):
            self._link.back()
            self._link.refused(QUESTION, error.str())
            return
        if not error.retriable():
            self._note_error(error)
        self._link.lost(error.str())

    def _choose_protocol(self) -> str:
        protocol = choose_protocol(self._settings, refused=self._protocol_refused)
        if self._protocol != protocol:
            self._log.info(
                "group_protocol_chosen",
                protocol=protocol.name,
                group_version=protocol.group_version,
                session_timeout_ms=protocol.session_timeout_ms,
            )
            self._protocol = protocol
        return protocol.name

    def _member(self, protocol: str) -> Consumer:
        self._joined = False
        consumer = _consumer(self._settings, self._name, protocol)
        consumer.subscribe(
            [self._settings.kafka_topic],
            on_assign=self._assigned,
            on_revoke=lambda _, partitions: self._unassigned("revoked", partitions),
            on_lost=lambda _, partitions: self._unassigned("lost", partitions),
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
            self._pause({r.partition for r in records_of(messages, self._note_message_error, 0)})
        except KafkaException as error:
            self._note_consumer_error(error.args[0])
            self._fatal = True
        if self._fatal:
            self._disconnect()

    def _disconnect(self) -> None:
        """Forget both clients; the next ones begin with what the broker knows."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        self._delivery.drop()
        self._paused.clear()
        self._suspects.forget(self._owned)
        self._positions.clear()
        self._own(frozenset())

    def _note_consumer_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            self._fatal = True
            # a broker that has the new protocol, but not switched on, refuses the very first heartbeat
            self._protocol_refused = self._protocol_refused or not self._joined
        self._note_error(error)

    def _note_message_error(self, error: KafkaError, message: Any) -> None:
        self._note_consumer_error(error)
        if self._suspects.note(error, message.partition()):
            self._pause([message.partition()])

    def _note_error(self, error: KafkaError) -> None:
        if self._log_limiter.allows(error.name()):
            self._log.warning("kafka_error", code=error.name(), reason=error.str())

    # --- reading

    def _gather(self, consumer: Consumer, records: list[Record], max_records: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        size = 0
        while len(records) < max_records and size < BATCH_BYTES:
            count, wait, committing = _chunk(len(records), size), STEP_SECONDS, self._delivery.committing
            if not committing and records:
                wait = LINGER_SECONDS
            elif not committing:
                # nothing is read and nothing in flight: wait for the first record only, so that it is scored at once
                self._settle()
                count, wait = 1, seconds
            chunk = consumer.consume(min(count, max_records - len(records)), wait)
            read = records_of(chunk, self._note_message_error, int(time.time() * 1000))
            records += read
            size += sum(map(len, chunk)) + sum(len(record.key or b"") for record in read)
            # error events come as messages, and could go on for ever
            late = time.monotonic() > until
            drained = not committing and len(chunk) < count
            if drained or (late and (committing or not records)):
                return

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called by the client from within `read`.

        We say ourselves where to begin: the client, when the assignment changes while it asks for a commit that is
        not stable yet, takes the partition for one without a commit and begins at its start (librdkafka 2.16).
        """
        new = {p.partition for p in partitions}
        self._joined = True
        # in numbers: a logical offset the client looks up itself, and its late answer would undo our seek
        consumer.incremental_assign([self._partition(p) for p in new])
        self._own(self._owned | new)
        self._pause(new)
        self._note_change("assigned", new)

    def _unassigned(self, kind: str, partitions: Iterable[TopicPartition]) -> None:
        """Called by the client from within `read` or `close`: no batch is being scored, but one may commit."""
        gone = {p.partition for p in partitions}
        self._delivery.await_commit()  # the next owner begins at our commit, or at none of it
        self._revoked |= gone
        self._paused -= gone
        self._suspects.forget(gone)
        self._positions.forget(gone)
        self._own(self._owned - gone)
        self._note_change(kind, gone)

    def _note_change(self, kind: str, changed: set[int]) -> None:
        self._rebalances.labels(kind).value += 1
        self._log.info("partitions_changed", kind=kind, partitions=sorted(changed), owned=sorted(self._owned))

    def _own(self, partitions: frozenset[int]) -> None:
        self._owned = partitions
        self._on_owned(partitions)

    def _partition(self, partition: int, offset: int = 0, epoch: int | None = None) -> TopicPartition:
        unknown = -1
        return TopicPartition(
            self._settings.kafka_topic, partition, offset, leader_epoch=unknown if epoch is None else epoch
        )

    def _pause(self, partitions: Iterable[int]) -> None:
        """Read nothing more of these partitions before the broker has said where the group is."""
        lost = self._owned.intersection(partitions)
        if self._consumer is not None and lost:
            self._consumer.pause([self._partition(p) for p in lost])
        self._paused |= lost
        self._suspects.forget(lost, errors=False)
        self._look_again = 0.0

    def _find_positions(self) -> bool:
        """Go on at the group's commit where a partition is paused; say whether there is anything to read from.

        Where the commit is not stable yet, we look again later.

        Raises:
            NotDelivered: the batch before was aborted.
        """
        consumer = self._consumer
        if consumer is None or not self._paused or time.monotonic() < self._look_again:
            return True
        self._settle()  # or the answer would be the commit before the one that is on its way
        try:
            # before the question: what was left open keeps the group's commit unstable
            self._delivery.abort_open(consumer.consumer_group_metadata)
        except KafkaException as error:
            self._note_error(error.args[0])
            return False
        try:
            found = commits(consumer, [self._partition(p) for p in self._paused], LOOK_UP_SECONDS)
            self._suspects.examine(consumer, found)
            for commit in found:
                if commit.partition in self._suspects:
                    self._paused.discard(commit.partition)
                    continue
                position = self._position_of(commit)
                consumer.seek(position)
                consumer.resume([position])
                self._paused.discard(position.partition)
        except KafkaException as error:
            self._note_error(error.args[0])
            if self._paused < self._owned:
                self._look_again = time.monotonic() + LOOK_AGAIN_SECONDS
        return self._paused != self._owned

    def _position_of(self, commit: TopicPartition) -> TopicPartition:
        if commit.offset < 0:  # the group begins at the beginning
            return self._partition(commit.partition, OFFSET_BEGINNING)
        self._positions.seek(commit.partition, commit.offset)
        # with the epoch the client asks the broker whether it still has all that was committed
        return self._partition(commit.partition, commit.offset, commit.leader_epoch)

    def _read_apart(self, consumer: Consumer, max_records: int) -> Batch:
        """Let a child read a partition that our client can't unpack; it costs a second or two."""
        self._settle()
        batch, position = self._suspects.read(consumer, max_records)
        if position is not None:
            try:
                consumer.seek(position)
                consumer.resume([position])
            except KafkaException as error:
                self._note_error(error.args[0])
                self._pause([position.partition])
        return batch


def _chunk(records: int, size: int) -> int:
    """How many to take at once: as many as fit if they are like those before, since a batch of a producer's may hold 1 GB."""
    fit = (BATCH_BYTES - size) * records // size + 1 if size else CHUNK_RECORDS
    return min(CHUNK_RECORDS, fit, max(FIRST_RECORDS, 4 * records))


def _consumer(settings: KafkaSettings, name: str, protocol: str) -> Consumer:
    config = client_settings(settings, name) | {
        "group.id": settings.kafka_group,
        "group.protocol": protocol,
        # offsets go into the transaction of the outputs, and nowhere else
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


def _without(batch: Batch, partitions: set[int]) -> Batch:
    """Leave out partitions that were revoked while the batch was read: their new owner has these records."""
    return Batch([r for r in batch.records if r.partition not in partitions], batch.read_at)
