"""Which group protocol a broker speaks well."""

import socket
import struct
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import ASK_SECONDS, BrokerUnavailable, admin_client

LONGEST_SESSION_MS: Final = 10_000
"""A broker that takes longer to notice a dead member is spoken to in the classic protocol, where we decide."""
SESSION_MS: Final = 6000
"""Classic protocol: the least that brokers allow by default."""


def session_timeout_ms(settings: KafkaSettings) -> int | None:
    """How long the broker waits for a silent member of the new protocol; None where we may not know."""
    name, admin = "group.consumer.session.timeout.ms", admin_client(settings)
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
