"""Producers: of transactions, and of single records for sample traffic and load tests."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import (
    DELIVERY_SECONDS,
    MAX_RECORD_BYTES,
    TRANSACTION_SECONDS,
    BrokerUnavailable,
    client_settings,
)

TOO_LARGE: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)
REFUSALS: Final = TOO_LARGE | {
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
}
"""A broker that says one of these of a record will always say it: trying again is in vain."""
QUEUE_KBYTES: Final = 64 * 1024
"""Room for what waits to be sent: full, writing waits, and with it reading."""


def idempotent_producer(settings: KafkaSettings, name: str, more: dict[str, Any]) -> Producer:
    return Producer(
        client_settings(settings, name)
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


def transactional_producer(
    settings: KafkaSettings, name: str, transactional_id: str, *, singly: bool = False
) -> Producer:
    """Make a producer; it may write once the broker has granted it the id (`init_transactions`).

    `singly`, each record is a request of its own: slow, but what is refused then is that record.
    """
    milliseconds = int(TRANSACTION_SECONDS * 1000)
    return idempotent_producer(
        settings,
        name,
        {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": milliseconds,
            "message.timeout.ms": milliseconds,
            "queue.buffering.max.kbytes": QUEUE_KBYTES,
        }
        | ({"batch.num.messages": 1} if singly else {}),
    )


class Sender:
    """Writes single records as they come, for sample traffic: never waits for the broker, may lose some."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        # they are few, and who sends wants to know when the broker takes none, and when it does again
        more = {"message.timeout.ms": DELIVERY_SECONDS * 1000, "delivery.report.only.error": False}
        self._make = partial(idempotent_producer, settings, name, more)
        self._producer = self._make()
        self._failure: KafkaError | None = None
        """Of the last record whose fate is known."""

    def send(self, topic: str, key: str, value: bytes) -> None:
        """Take a record on.

        Raises:
            BrokerUnavailable: so many wait for the broker that there is no room; or the producer takes none; or this one
                waits too, and the last one of which we know was given up.
        """
        self._producer.poll(0)
        try:
            self._producer.produce(topic, value, key, on_delivery=self._delivered)
        except BufferError as error:
            raise BrokerUnavailable(
                "the producer's queue is full, and the broker takes no records"
            ) from error
        except KafkaException as error:
            reason = error.args[0]
            if reason.fatal() or reason.code() == KafkaError._FATAL:  # noqa: SLF001
                # such as after a broker came back without our last records: this producer takes nothing more
                self._producer = self._make()
            raise BrokerUnavailable(f"the broker takes no records: {reason.str()}") from error
        if self._failure is not None:
            raise BrokerUnavailable(f"the broker takes no records: {self._failure.str()}")

    def _delivered(self, error: KafkaError | None, _: Any) -> None:
        self._failure = error

    def close(self, seconds: float) -> None:
        """Let what waits go out, for so long at most."""
        self._producer.flush(seconds)


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
        # a producer's lingering would be part of every latency that is measured
        more = {"linger.ms": 1, "message.timeout.ms": DELIVERY_SECONDS * 1000}
        self._producer = idempotent_producer(settings, name, more)

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
