"""Our topics."""

from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import ASK_SECONDS, MAX_RECORD_BYTES, BrokerUnavailable, admin_client

RETENTION_MS: Final = 7 * 24 * 3600 * 1000
RETENTION_BYTES: Final = 64 * 1024 * 1024
"""Of one partition."""
SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Retention drops whole segments only: a quarter of what is kept."""


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
    admin = admin_client(settings)  # must live until the answers are here
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
