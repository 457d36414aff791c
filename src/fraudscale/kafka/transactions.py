"""Producers with a transactional id, and what an earlier one of the same id may have left behind."""

from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import ASK_SECONDS, TRANSACTION_SECONDS, idempotent_producer

QUEUE_KBYTES: Final = 64 * 1024
"""Room for what waits to be sent: full, writing waits, and with it reading."""


def transactional_producer(settings: KafkaSettings, name: str, transactional_id: str) -> Producer:
    """Make a producer; it may write once the broker has granted it the id (`init_transactions`)."""
    milliseconds = int(TRANSACTION_SECONDS * 1000)
    return idempotent_producer(
        settings,
        name,
        {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": milliseconds,
            "message.timeout.ms": milliseconds,
            "queue.buffering.max.kbytes": QUEUE_KBYTES,
        },
    )


def sweep(producer: Producer, topics: Iterable[str], offset: TopicPartition, group: Any) -> None:
    """Roll back whatever an earlier producer of this id left open, wherever that may be; before the first commit.

    A broker that was killed in a transaction and is back may call the transaction rolled back without having told
    any partition (Kafka 4.3.1: CompleteAbort in the coordinator's log, no marker in any other). Its records and
    offsets stay open there, hold readers up, and the next commit under the same id would commit them too: outputs
    twice, or offsets without outputs. So the first transaction touches every partition that an earlier one may have
    touched, and is rolled back: that marker ends them all.

    Args:
        producer: was granted its id.
        topics: all that it writes to.
        offset: of a partition that nobody reads in this group; where the group's offsets are kept is told, too.
        group: the consumer's metadata, as a member.

    Raises:
        KafkaException: it failed; the producer is of no use.
    """
    producer.begin_transaction()
    for topic in topics:
        found = producer.list_topics(topic, ASK_SECONDS).topics[topic]
        if found.error is not None:  # without partitions, as if there were nothing to end
            raise KafkaException(found.error)
        for partition in found.partitions:
            producer.produce(topic, partition=partition)
    producer.send_offsets_to_transaction([offset], group, TRANSACTION_SECONDS)
    if producer.flush(TRANSACTION_SECONDS):  # a roll-back forgets what was not sent yet
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "records wait to be rolled back"))  # noqa: SLF001
    producer.abort_transaction(TRANSACTION_SECONDS)
