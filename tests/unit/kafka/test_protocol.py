"""Which features a cluster says it has."""

import struct

import pytest

from fraudscale.kafka import protocol
from fraudscale.kafka.client import BrokerUnavailable


def answer(features: bytes | None, error: int = 0) -> bytes:
    """An ApiVersions answer, version 3, with two APIs and one tag before that of the finalized features."""
    apis = b"\x03" + struct.pack(">hhhb", 0, 0, 9, 0) + struct.pack(">hhhb", 18, 0, 4, 0)
    tags = [b"\x01\x08" + bytes(8)] + ([b"\x02" + bytes([len(features)]) + features] if features else [])
    return struct.pack(">ih", 1, error) + apis + bytes(4) + bytes([len(tags)]) + b"".join(tags)


def test_finalized_features_are_read_from_the_answer():
    content = b"\x03" + b"\x0egroup.version" + bytes([0, 1, 0, 1, 0]) + b"\x04abc" + bytes([0, 7, 0, 7, 0])
    assert protocol._finalized(answer(content)) == {"group.version": 1, "abc": 7}


@pytest.mark.parametrize("content", [answer(None), answer(b"\x02\x04abc" + bytes([0, 7, 0, 7, 0]), error=35)])
def test_a_broker_without_features_or_with_an_error_has_none(content):
    assert protocol._finalized(content) == {}


def test_no_server_to_ask_is_said_with_its_address():
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1: "):
        protocol.group_version("127.0.0.1:1")
