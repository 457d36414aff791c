"""Which protocol a consumer joins its group with: classic, or that of KIP-848, where the broker knows the rules."""

from typing import Final, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import ASK_SECONDS, BrokerUnavailable, admin_client

LONGEST_SESSION_MS: Final = 10_000
"""A broker that takes longer to notice a dead member is spoken to in the classic protocol, where we decide."""
SESSION_MS: Final = 6000
"""Classic protocol: the least that brokers allow by default."""
_PROTOCOLS: Final = "group.coordinator.rebalance.protocols"
_SESSION: Final = "group.consumer.session.timeout.ms"


class GroupProtocol(NamedTuple):
    """What was chosen, and what the broker said about it."""

    name: Literal["classic", "consumer"]
    session_timeout_ms: int | None
    """So long a silent member keeps its partitions; None where the broker doesn't say."""
    group_version: int | None
    """The cluster's feature `group.version`: 1 where it has the protocol of KIP-848; None if it was not asked."""


def choose_protocol(settings: KafkaSettings, *, refused: bool = False) -> GroupProtocol:
    """Follow the setting; where it is `auto`, ask the broker.

    A broker that lacks the protocol of KIP-848 may leave a member that speaks it without records and without an
    error (Kafka 3.9 with ZooKeeper). So `auto` wants the broker's word before it speaks it.

    Args:
        settings: broker, and which protocol is wanted.
        refused: whether the broker refused a member of the protocol of KIP-848, in spite of its word: the protocol
            is configured, but the cluster's feature `group.version` is 0.

    Raises:
        BrokerUnavailable: it didn't answer.
    """
    wanted = settings.kafka_group_protocol
    if wanted == "classic":
        return GroupProtocol("classic", SESSION_MS, None)
    configs = _broker_configs(settings)
    session = configs.get(_SESSION, "")
    session_ms = int(session) if session.isdigit() else None
    # the client doesn't tell features, and where the feature is 1, the broker is configured for the protocol too
    version = int("consumer" in configs.get(_PROTOCOLS, "").split(",") and not refused)
    if wanted == "consumer" or (version and session_ms is not None and session_ms <= LONGEST_SESSION_MS):
        return GroupProtocol("consumer", session_ms, version)
    return GroupProtocol("classic", SESSION_MS, version)


def _broker_configs(settings: KafkaSettings) -> dict[str, str]:
    """Ask one broker for its configuration; it is empty where we may not know, or the broker can't say."""
    admin = admin_client(settings)
    try:
        brokers = admin.list_topics(timeout=ASK_SECONDS).brokers
        if not brokers:  # a broker whose controller takes it for dead names none, itself neither
            raise BrokerUnavailable(f"{settings.kafka_bootstrap_servers}: the cluster names no broker")
        asked = ConfigResource(ConfigResource.Type.BROKER, str(min(brokers)))
        (answer,) = admin.describe_configs([asked], request_timeout=ASK_SECONDS).values()
        return {name: entry.value or "" for name, entry in answer.result().items()}
    except KafkaException as error:
        reason = error.args[0]
        # the broker's own errors are positive: it answered, and refused
        if reason.code() > 0 or reason.code() == KafkaError._UNSUPPORTED_FEATURE:  # noqa: SLF001
            return {}
        raise BrokerUnavailable(f"{settings.kafka_bootstrap_servers}: {reason.str()}") from error
