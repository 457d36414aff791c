"""Outputs and offsets of one batch as one Kafka transaction, committed while the next batch is read and scored.

Two rules carry the guarantee. A producer whose transaction failed is never used again, not even to abort: the next one
asks for the same transactional id, and when the broker grants it, the old one is fenced with all that is still on its
way, and its transaction is committed or aborted. And the first transaction of each producer ends what earlier ones
left open (docs/decisions/0011-a-failed-transaction-ends-its-producer.md).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import (
    ASK_SECONDS,
    FENCED,
    SETTLE_SECONDS,
    TRANSACTION_SECONDS,
    BrokerLink,
    NotDelivered,
    ProducerFenced,
)
from fraudscale.kafka.messages import Output
from fraudscale.kafka.producers import REFUSALS, transactional_producer
from fraudscale.metrics import KafkaMetrics
from fraudscale.telemetry.logs import Logger

ABORT_SECONDS: Final = 15.0
"""Whatever a new producer has to abort: longer than the client's own limits for it, one after the other, usually take."""
GroupMetadata = Any
"""What the client makes of a member, its generation included: an offset of a member that was replaced is refused."""


Refusal = tuple[Output, KafkaError]


class OutputRefused(NotDelivered):
    """The broker will never take some output of a batch; nothing of the batch was committed."""

    def __init__(self, reason: str, refused: Sequence[Refusal] = (), records: int = 0) -> None:
        super().__init__(reason)
        self.refused = refused
        """Which, and why; none where that isn't known, since requests hold many records."""
        self.records = records
        """Of the batch."""


@dataclass(frozen=True)
class _InFlight:
    """A transaction that a thread of its own commits: not its records, whose memory the next batch takes."""

    records: int
    on_committed: Callable[[], None]
    until: float
    """`time.monotonic()` when it is given up."""
    done: Future[None]


class Delivery:
    """The producer of one replica, and the one transaction that may be open. One thread uses it."""

    def __init__(
        self,
        settings: KafkaSettings,
        name: str,
        transactional_id: str,
        *,
        metrics: KafkaMetrics,
        link: BrokerLink,
        log: Logger,
    ) -> None:
        self._settings = settings
        self._name = name
        self._transactional_id = transactional_id
        self._link = link
        self._log = log
        self._consumed = metrics.consumed.labels(settings.kafka_topic)
        self._outcomes = metrics.transactions
        self._producer: Producer | None = None
        self._candidate: Producer | None = None
        self._open_aborted = False
        self._in_flight: _InFlight | None = None
        self._singly = False
        self.deadline = float("inf")
        """`time.monotonic()` until which the broker is waited for; another thread may set it, as we stop."""

    def ask_for_id(self) -> None:
        """Get our transactional id, unless we have it: the transaction before has an outcome then, its producer no say.

        Raises:
            KafkaException: the broker doesn't grant it, or not yet.
        """
        if self._producer is not None:
            return
        producer = self._candidate = self._candidate or transactional_producer(
            self._settings, self._name, self._transactional_id, singly=self._singly
        )
        try:
            producer.init_transactions(ASK_SECONDS)
        except KafkaException as error:
            # one that timed out goes on asking in the background: a new one would begin anew behind it
            if not error.args[0].retriable():
                self._candidate = None
            raise
        self._producer, self._candidate, self._open_aborted = producer, None, False

    def write_singly(self, singly: bool) -> bool:
        """Say whether producers write each output in a request of its own; return whether that is new."""
        if singly == self._singly:
            return False
        self.drop()
        self._singly, self._candidate = singly, None
        return True

    def abort_open(self, group: Callable[[], GroupMetadata]) -> None:
        """Abort what an earlier producer left open; once per producer, before it commits anything.

        Args:
            group: of a member, since the coordinator refuses offsets of others.

        Raises:
            KafkaException: it failed, and the producer is dropped.
        """
        if self._open_aborted:
            return
        assert self._producer is not None  # noqa: S101 - it was granted
        producer, member = self._producer, group()
        topics = self._settings.scored_topic, self._settings.dead_letter_topic
        # partition 0 of the dead letters: nobody reads it in our group
        unread = TopicPartition(self._settings.dead_letter_topic, 0, 0)
        try:
            within(ABORT_SECONDS, lambda: abort_open_transactions(producer, topics, unread, member))
        except KafkaException:
            self._producer = None
            raise
        self._open_aborted = True

    def begin(
        self,
        records: int,
        outputs: Iterable[Output],
        offsets: list[TopicPartition],
        group: Callable[[], GroupMetadata],
        on_committed: Callable[[], None],
    ) -> None:
        """Write a batch's outputs, and start the commit of them and its offsets; nothing is in flight before.

        Args:
            records: how many the batch has.
            outputs: at least one.
            offsets: where each of its partitions goes on.
            group: asked after the outputs are written, when it is as new as can be.
            on_committed: called by `settle` once the transaction is committed.

        Raises:
            OutputRefused: the broker will never take one; the producer is dropped.
            NotDelivered: it failed otherwise; likewise.
        """
        producer = self._producer
        assert producer is not None  # noqa: S101 - here as long as a batch is
        try:
            producer.begin_transaction()
            (self._write_singly if self._singly else self._write)(producer, outputs)
            metadata = group()
        except OutputRefused as error:
            raise self._failed(error, records) from None
        except KafkaException as error:
            failure = _failure(_cause(producer, error.args[0]))
            raise self._failed(failure, records) from error
        self._in_flight = _InFlight(records, on_committed, time.monotonic() + SETTLE_SECONDS, Future())
        # in a thread, because a commit takes as long as scoring a batch; a daemon, because a broker that is gone must
        # not hold the end of the process up
        commit = Thread(target=_commit, args=(producer, offsets, metadata, self._in_flight.done), daemon=True)
        commit.start()

    @property
    def committing(self) -> bool:
        """Whether a transaction is in flight that has no outcome yet."""
        flight = self._in_flight
        return flight is not None and not flight.done.done() and time.monotonic() < flight.until

    def await_commit(self) -> None:
        """Wait until the transaction in flight has an outcome, or took so long that it is given up."""
        while (flight := self._in_flight) and self.committing and time.monotonic() < self.deadline:
            with suppress(TimeoutError):
                flight.done.exception(0.1)  # in steps, so that a new deadline is noticed

    def settle(self) -> None:
        """Wait for the transaction in flight, if any, and take note of how it ended.

        Raises:
            NotDelivered: it failed, or nobody knows; the producer is dropped.
        """
        self.await_commit()
        flight, self._in_flight = self._in_flight, None
        if flight is None:
            return
        if not flight.done.done():
            # it may be committed yet: the next producer's id settles it, and the group's commit says how
            raise self._failed(NotDelivered("the broker took too long to commit"))
        error = flight.done.exception()
        if isinstance(error, NotDelivered):
            raise self._failed(error, flight.records)
        if error is not None:
            raise error
        self._link.back()
        self._outcomes.labels("committed").value += 1
        self._consumed.value += flight.records
        flight.on_committed()

    def drop(self) -> None:
        """Forget the producer; the next one begins with what the broker knows."""
        with suppress(NotDelivered):
            self.settle()
        self._producer = None

    def _failed(self, error: NotDelivered, records: int = 0) -> NotDelivered:
        # Aborting could hang (librdkafka 2.16, messages that timed out), and wouldn't end what is still on its way.
        self._producer = None
        self._outcomes.labels("aborted").value += 1
        if isinstance(error, OutputRefused):
            error.records = records
        if isinstance(error, ProducerFenced):
            self._log.warning("producer_fenced", transactional_id=self._transactional_id, reason=str(error))
        return error

    def _write(self, producer: Producer, outputs: Iterable[Output]) -> None:
        produce = producer.produce
        refused: list[Refusal] = []
        for output in outputs:
            try:
                # by position it takes 0.7 µs less: partition, two names of a callback, timestamp
                produce(output.topic, output.value, output.key, -1, None, None, 0, output.headers)
            except BufferError:
                self._write_slowly(producer, output)
            except KafkaException as error:
                # refused by the client itself, which goes on: the others of the batch are learnt of at once
                refused.append((output, _refusal(error)))
        _raise_if(refused)

    def _write_singly(self, producer: Producer, outputs: Iterable[Output]) -> None:
        """Await the report on each; the first refusal may keep those behind it from being sent, or written."""
        refused: list[Refusal] = []
        stopped: tuple[Output, KafkaException] | None = None
        for output in outputs:

            def note(error: KafkaError | None, _: Any, output: Output = output) -> None:
                if error is not None and error.code() in REFUSALS:
                    refused.append((output, error))

            try:
                self._write_slowly(producer, output, note)
            except KafkaException as error:
                stopped = output, error
                break
        producer.flush(TRANSACTION_SECONDS)  # the reports come with it
        if stopped and not refused:
            output, failure = stopped
            refused.append((output, _refusal(failure)))
        _raise_if(refused)

    def _write_slowly(
        self, producer: Producer, output: Output, on_delivery: Callable[..., None] | None = None
    ) -> None:
        """Wait for room; what fails in the queue meanwhile makes `produce` raise."""
        until = min(self.deadline, time.monotonic() + TRANSACTION_SECONDS)
        while True:
            try:
                producer.produce(
                    output.topic, output.value, output.key, on_delivery=on_delivery, headers=output.headers
                )
            except BufferError:
                if time.monotonic() > until:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no room")) from None  # noqa: SLF001
                producer.poll(0.05)
            else:
                return


def abort_open_transactions(
    producer: Producer, topics: Iterable[str], offset: TopicPartition, group: GroupMetadata
) -> None:
    """Abort whatever an earlier producer of this id left open, wherever that may be.

    A broker that was killed in a transaction and is back may call the transaction aborted without having told any
    partition (Kafka 4.3.1: CompleteAbort in the coordinator's log, no marker in any other). Its records and offsets
    stay open there, hold readers up, and the next commit under the same id would commit them too: outputs twice, or
    offsets without outputs. So the first transaction touches every partition that an earlier one may have touched,
    and is aborted: that marker ends them all.

    Args:
        producer: was granted its id.
        topics: all that it writes to.
        offset: of a partition that nobody reads in this group; where the group's offsets are kept is told, too.
        group: the consumer's metadata, as a member.

    Raises:
        KafkaException: it failed; the producer is of no use.
    """
    failed: list[KafkaError] = []
    producer.begin_transaction()
    for topic in topics:
        found = producer.list_topics(topic, ASK_SECONDS).topics[topic]
        if found.error is not None:  # without partitions, as if there were nothing to end
            raise KafkaException(found.error)
        for partition in found.partitions:
            # with a key, or a compacted topic would refuse it
            producer.produce(
                topic,
                key=b"open",
                partition=partition,
                on_delivery=lambda error, _: failed.extend([error] if error else ()),
            )
    producer.send_offsets_to_transaction([offset], group, TRANSACTION_SECONDS)
    if producer.flush(TRANSACTION_SECONDS):  # an abort forgets what was not sent yet
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "records wait to be rolled back"))  # noqa: SLF001
    if failed:  # the client counts what was refused, the broker doesn't: this producer is spent
        raise KafkaException(failed[0])
    producer.abort_transaction(TRANSACTION_SECONDS)


def within(seconds: float, call: Callable[[], None]) -> None:
    """Call, and wait no longer than that.

    A transaction's offsets whose coordinator goes away between two of the client's requests are never sent nor refused
    (librdkafka 2.16): that must not take our only thread with it.

    Raises:
        KafkaException: what the call raised, or that it took too long; it goes on in a thread of its own then.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # whatever it is, the waiting thread must learn it
            done.set_exception(error)
        else:
            done.set_result(None)

    Thread(target=run, daemon=True).start()
    try:
        done.result(seconds)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the call didn't return")) from None  # noqa: SLF001


def _commit(
    producer: Producer, offsets: list[TopicPartition], group: GroupMetadata, done: "Future[None]"
) -> None:
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
    if error.code() in REFUSALS:
        return OutputRefused(error.str())
    return (ProducerFenced if error.code() in FENCED else NotDelivered)(error.str())


def _refusal(error: KafkaException) -> KafkaError:
    """Return what the client says of an output that will always be refused; raise anything else."""
    found: KafkaError = error.args[0]
    if found.code() not in REFUSALS:
        raise error
    return found


def _raise_if(refused: Sequence[Refusal]) -> None:
    if refused:
        output, error = refused[0]
        raise OutputRefused(f"{output.topic}: {error.str()}", refused)


def _cause(producer: Producer, error: KafkaError) -> KafkaError:
    """Learn why a producer takes nothing more: asked to begin again, it says what its transaction failed of."""
    if error.code() != KafkaError._STATE:  # noqa: SLF001
        return error
    try:
        producer.begin_transaction()
    except KafkaException as cause:
        error = cause.args[0]
    return error
