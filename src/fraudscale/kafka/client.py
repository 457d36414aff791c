"""What all our clients have in common: their settings, their failures, and how those are told."""

import logging
import time
from threading import Lock
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from fraudscale.config import KafkaSettings
from fraudscale.errors import FraudscaleError
from fraudscale.telemetry.logs import Logger, LogLimiter

ASK_SECONDS: Final = 3.0
"""Limit of one question to the broker."""
DELIVERY_SECONDS: Final = 60
"""A single record that the broker doesn't take within it is given up."""
TRANSACTION_SECONDS: Final = 5.0
"""A transaction that takes longer is rolled back, by us or by the broker: so long a process that died holds readers up."""
SETTLE_SECONDS: Final = TRANSACTION_SECONDS + 1
"""A commit that takes longer is given up, with its client: the broker has rolled it back, or nobody knows."""
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""Far above a broker's default of 1 MiB: an output is a record of any allowed size, and some fields or headers more."""


class BrokerUnavailable(FraudscaleError):
    """No broker answered in time; it is asked again."""


class BrokerRefused(BrokerUnavailable):
    """A broker answered, and its answer was no: a topic or a right is missing; it is asked again."""


class NotDelivered(FraudscaleError):
    """A batch was not committed, as far as we know: we go on where the broker says that the group is."""


class ProducerFenced(NotDelivered):
    """The broker gave our transactional id to another producer, or rolled our transaction back because it took too long."""


class BrokerLink:
    """Whether the broker answers, and what it refuses. Any thread tells what it sees; only changes are logged."""

    def __init__(self, servers: str, log: Logger) -> None:
        self._servers = servers
        self._log = log
        self._lock = Lock()
        self._down_since: float | None = None
        self._refusals: dict[str, str] = {}

    def lost(self, reason: str) -> None:
        with self._lock:
            if self._down_since is None:
                self._down_since = time.monotonic()
                self._log.warning("broker_unavailable", servers=self._servers, reason=reason)

    def refused(self, what: str, reason: str) -> None:
        """Note that a question has no usable answer although the broker may be well; `granted` ends that."""
        with self._lock:
            if self._refusals.get(what) != reason:
                self._log.warning("broker_question_failed", servers=self._servers, reason=f"{what}: {reason}")
            self._refusals[what] = reason

    def granted(self, what: str) -> None:
        """Note that this question was answered: the next refusal is news."""
        if self._refusals:
            with self._lock:
                self._refusals.pop(what, None)

    def back(self) -> None:
        if self._down_since is None:  # asked for every batch, so the usual case takes no lock
            return
        with self._lock:
            if self._down_since is not None:
                seconds = round(time.monotonic() - self._down_since, 1)
                self._log.info("broker_back", servers=self._servers, seconds=seconds)
                self._down_since = None


def answered(error: KafkaError) -> bool:
    """Tell whether an error is a broker's answer: those are positive, the client's own negative."""
    return error.code() > 0


class _ClientLog(logging.Filter):
    """The client library repeats a line at every attempt: one of each kind a minute is enough."""

    def __init__(self) -> None:
        super().__init__()
        self._log_limiter = LogLimiter(60)

    def filter(self, record: logging.LogRecord) -> bool:
        facility = record.args[0] if isinstance(record.args, tuple) and record.args else record.msg
        return self._log_limiter.allows(str(facility))


_client_log: Final = logging.getLogger("kafka.client")
_client_log.addFilter(_ClientLog())
# In a command that sets up no logs Python would write its lines to the person's terminal; the command's own error says it all.
_client_log.addHandler(logging.NullHandler())
FENCED: Final = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001


def client_settings(settings: KafkaSettings, name: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": name,
        "logger": _client_log,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2000,
        # a topic that is made after we subscribed is seen this soon
        "topic.metadata.refresh.interval.ms": 10_000,
    }


def admin_client(settings: KafkaSettings) -> AdminClient:
    return AdminClient(client_settings(settings, "fraudscale-admin"))


def commits(consumer: Consumer, partitions: list[TopicPartition], seconds: float) -> list[TopicPartition]:
    """Ask for the group's commits; the offset is negative where there is none.

    Raises:
        KafkaException: not all are known for sure.
    """
    found = consumer.committed(partitions, seconds)
    for commit in found:
        if commit.error is not None:  # its offset looks like that of a partition without a commit
            raise KafkaException(commit.error)
    return found
