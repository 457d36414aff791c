# ruff: noqa: F401, F811 - two of the imports are fixtures
"""A group whose commit the broker does not have: where scoring goes on, and that it is told."""

import shutil
from contextlib import contextmanager

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs
from test_stream_kafka import (
    Door,
    committed,
    model,
    on_both_kafkas,
    produce,
    read,
    settings,
    value,
    wait_for,
)


def score_all(settings, model, seconds: float = 30) -> tuple[Door, list[dict]]:
    """Let a scorer run until nothing waits; return it, and what it logged of resets."""
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.reporter.progress._commits is not None and door.queue() == 0, seconds)
    return door, [line for line in log if line["event"] == "offset_reset"]


def scores(settings, count: int) -> list[str]:
    return sorted(
        msgspec.json.decode(m.value())["transaction_id"] for m in read(settings, settings.scored_topic, count)
    )


def ids(*numbers: int) -> list[str]:
    return sorted(f"t{n}" for n in numbers)


def resets(door: Door) -> dict[str, float]:
    return {kind: door.metrics.offset_resets.labels(kind).value for kind in ("back", "lost")}


@contextmanager
def rolled_back_afterwards(kafka, settings, folder):
    """The input topic's records are those of the beginning again afterwards, as of a broker restored from a copy."""
    data = next((kafka._folder / "data").rglob(f"{settings.kafka_topic}-0")).parent
    partitions = [f"{settings.kafka_topic}-{p}" for p in range(settings.kafka_partitions)]
    kafka.stop()
    for name in partitions:
        shutil.copytree(data / name, folder / name)
    kafka.start()
    yield
    kafka.stop()
    for name in partitions:
        shutil.rmtree(data / name)
        shutil.copytree(folder / name, data / name)
    kafka.start()


@pytest.mark.parametrize("kafka", ["kraft"], indirect=True)
def test_after_a_broker_was_restored_scoring_goes_on_where_it_differs_from_what_was_committed(
    settings, model, kafka, tmp_path
):
    produce(settings, [value(i) for i in range(90)])
    score_all(settings, model)
    with rolled_back_afterwards(kafka, settings, tmp_path):
        produce(settings, [value(i) for i in range(90, 180)])
        score_all(settings, model)
    # more than were lost: no commit lies beyond the end any more
    produce(settings, [value(i) for i in range(200, 500)])
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() >= 300)
    told = [line for line in log if line["event"] == "offset_reset"]
    assert scores(settings, 480) == ids(*range(180), *range(200, 500)), "each once, and none left out"
    assert [line["kind"] for line in told] == ["back"] * settings.kafka_partitions
    assert resets(door) == {"back": settings.kafka_partitions, "lost": 0}


@on_both_kafkas
def test_a_commit_beyond_the_end_that_nobody_can_place_begins_the_partition_anew_and_is_told(settings, model):
    produce(settings, [value(i) for i in range(30)], partition=0)
    score_all(settings, model)
    by_hand = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.kafka_group}
    )
    by_hand.commit(offsets=[TopicPartition(settings.kafka_topic, 0, 1000)], asynchronous=False)
    by_hand.close()
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 30)
    told = [line for line in log if line["event"] == "offset_reset"]
    assert [(x["kind"], x["partition"], x["expected"], x["position"]) for x in told] == [("back", 0, 1000, 0)]
    assert scores(settings, 60) == ids(*range(30), *range(30))


@on_both_kafkas
def test_records_that_retention_took_before_they_were_scored_are_told(settings, model):
    produce(settings, [value(i) for i in range(30)], partition=0)
    score_all(settings, model)
    produce(settings, [value(i) for i in range(30, 60)], partition=0)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for future in admin.delete_records([TopicPartition(settings.kafka_topic, 0, 40)]).values():
        future.result(10)
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 20)
    told = [line for line in log if line["event"] == "offset_reset"]
    assert [(x["kind"], x["partition"], x["expected"], x["position"]) for x in told] == [("lost", 0, 30, 40)]
    assert resets(door) == {"back": 0, "lost": 1}
