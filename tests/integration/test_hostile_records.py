# ruff: noqa: F401, F811 - two of the imports are fixtures
"""Records that no output topic takes, or that nobody can unpack: they hold no partition up, on a real broker."""

import random
from collections import Counter
from hashlib import sha256

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from structlog.testing import capture_logs
from test_stream_kafka import Door, committed, model, produce, read, settings, value, wait_for

from fraudscale.kafka.replay import ReplayFilter, ReplayResult, run
from fraudscale.kafka.watermarks import Watermarks

NOISE = random.Random(1).randbytes(5000)
"""Nothing compresses it."""


def configure(settings, topic, **config):
    resource = ConfigResource(ResourceType.TOPIC, topic)
    for name, content in config.items():
        entry = ConfigEntry(name.replace("_", "."), content, incremental_operation=AlterConfigOpType.SET)
        resource.add_incremental_config(entry)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(10)


def send(settings, *records, partition=0, **more):
    """Key and value each, as one batch of records."""
    config = {"message.max.bytes": 1_000_000_000, "batch.size": 1_000_000_000, "linger.ms": 60_000}
    config |= {"queue.buffering.max.kbytes": 2_000_000, "batch.num.messages": 1_000_000}
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers} | config | more)
    for key, content in records:
        producer.produce(settings.kafka_topic, content, key, partition)
    assert producer.flush(60) == 0


def headers_of(settings, count):
    return [dict(m.headers()) | {"key": m.key()} for m in read(settings, settings.dead_letter_topic, count)]


def all_is_scored(settings, count, seconds=30):
    wait_for(lambda: sum(committed(settings).values()) >= count, seconds)
    waiting = Watermarks(settings).waiting()
    assert sum(w.lag for w in waiting.values()) == 0


@pytest.mark.parametrize("valid", [True, False])
def test_a_key_of_17_mib_becomes_a_dead_letter_with_its_hash_and_the_neighbours_are_scored(
    settings, model, valid
):
    key = b"\0" * (17 * 1024 * 1024)
    send(settings, (b"before", value(1)))
    send(settings, (key, value(2) if valid else b"{"), **{"compression.type": "lz4"})
    send(settings, (b"after", value(3)))
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 3, 10)
        wait_for(lambda: door.queue() == 0, 10)
    assert sorted(m.key() for m in read(settings, settings.scored_topic, 2)) == [b"after", b"before"]
    (letter,) = read(settings, settings.dead_letter_topic, 1)
    headers = dict(letter.headers())
    assert letter.value() == (value(2) if valid else b"{"), "what fits is kept"
    assert letter.key() == headers["source-record"] == f"{settings.kafka_topic}/0/1".encode()
    assert (headers["omitted"], headers["key-sha256"]) == (b"key", sha256(key).hexdigest().encode())
    assert headers["reason"] == (b"delivery" if valid else b"validation")
    assert (door.produced(settings.scored_topic), door.produced(settings.dead_letter_topic)) == (2, 1)

    result = ReplayResult(settings.dead_letter_topic, dry_run=False)
    run(settings, ReplayFilter(), from_start=False, rate=None, progress=lambda _: None, result=result)
    assert (result.sent, result.left) == (0, {"incomplete": 1})


@pytest.mark.parametrize("letters_too", [False, True])
def test_what_the_broker_finds_too_large_is_found_among_hundreds(settings, model, letters_too):
    configure(settings, settings.scored_topic, max_message_bytes="4000")
    if letters_too:
        configure(settings, settings.dead_letter_topic, max_message_bytes="4000")
    produce(settings, [value(i) for i in range(300)])
    produce(settings, [b"{"])
    send(settings, (NOISE, value(300)), (b"invalid", NOISE), (b"k", value(301)))
    produce(settings, [value(i) for i in range(302, 600)])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 602, 20)
        produce(settings, [value(i) for i in range(600, 650)])
        wait_for(lambda: door.consumed() == 652, 20)
    keys = [m.key() for m in read(settings, settings.scored_topic, 649)]
    assert (len(keys), NOISE in keys) == (649, False)
    found = {h["reason"]: h for h in headers_of(settings, 3) if h["key"] != b"k0"}
    assert len(found) == 2
    assert b"too large" in found[b"delivery"]["error-detail"]
    assert found[b"delivery"].get("omitted") == (b"key" if letters_too else None)
    assert found[b"validation"].get("omitted") == (b"value" if letters_too else None)


@pytest.mark.parametrize("letters_too", [False, True])
def test_records_without_a_key_do_not_hold_a_compacted_topic_up(settings, model, letters_too):
    configure(settings, settings.scored_topic, cleanup_policy="compact")
    if letters_too:
        configure(settings, settings.dead_letter_topic, cleanup_policy="compact")
    for i in range(40):
        send(settings, (None, value(3 * i)), (b"k%d" % i, value(3 * i + 1)), (None, b"{"), **{"linger.ms": 0})
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 120, 20)
    assert len(read(settings, settings.scored_topic, 40)) == 40
    found = headers_of(settings, 80)
    assert len(found) == 80
    assert {h["key"] for h in found} == ({h["source-record"] for h in found} if letters_too else {None})
    result = ReplayResult(settings.dead_letter_topic, dry_run=False)
    run(settings, ReplayFilter(), from_start=False, rate=None, progress=lambda _: None, result=result)
    assert result.sent == 80
    assert Counter(m.key() for m in read(settings, settings.kafka_topic, 200))[None] == 160


def bomb(settings, codec, megabytes):
    records = [(str(i).encode(), b"\0" * 1_000_000) for i in range(megabytes)]
    send(settings, *records, **{"compression.type": codec})


def test_what_the_client_can_not_unpack_is_skipped_and_its_neighbours_are_scored(settings, model):
    send(settings, (b"before", value(1)))
    bomb(settings, "zstd", 110)
    send(settings, (b"after", value(2)))
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.produced(settings.scored_topic) == 2, 30)
        all_is_scored(settings, 112)
        assert door.metrics.skipped.labels(settings.kafka_topic).value == 110
    (headers,) = headers_of(settings, 1)
    assert headers["reason"] == b"unreadable"
    assert headers["source-record"] == headers["key"] == f"{settings.kafka_topic}/0/1".encode()
    assert headers["last-offset"] == b"110"
    (line,) = [line for line in log if line["event"] == "records_skipped"]
    assert (line["first_offset"], line["last_offset"]) == (1, 110)
    assert "110 records" in line["reason"]
    assert "zstd" in line["reason"]
