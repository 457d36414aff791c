# ruff: noqa: F401, F811 - two of the imports are fixtures
"""Each record is scored once for readers of committed records, whatever dies or goes wrong in between."""

import time
from concurrent.futures import Future

import pytest
from chaos import Observer
from confluent_kafka import Producer
from structlog.testing import capture_logs
from test_stream_kafka import (
    Door,
    committed,
    model,
    on_both_kafkas,
    process,
    produce,
    read,
    settings,
    value,
    wait_for,
)

from fraudscale.kafka import delivery, producers
from fraudscale.kafka.client import NotDelivered
from fraudscale.kafka.watermarks import Watermarks, oldest

HOLD = """
import time
from fraudscale.kafka import delivery
def hold(producer, offsets, group, done):
    producer.send_offsets_to_transaction(offsets, group, 5)
    producer.flush()
    print("held", flush=True)
    time.sleep(60)
delivery._commit = hold
"""
"""Leaves a transaction open with everything in it but its end."""


def sources(settings, count: int) -> list[bytes]:
    """The input record of each committed score."""
    found = [dict(m.headers()) for m in read(settings, settings.scored_topic, count)]
    return sorted(h["source-record"] for h in found)


def each_once(settings, count: int) -> None:
    found = sources(settings, count)
    assert len(found) == len(set(found)) == count


@on_both_kafkas
def test_another_follows_within_ten_seconds_where_a_scorer_was_killed_in_a_transaction(
    settings, kafka, model, make_artifact, tmp_path
):
    produce(settings, [value(i) for i in range(300)])
    with process(settings, kafka, make_artifact, tmp_path, HOLD) as held:
        wait_for(lambda: b"held" in held.stdout.readline())
        with Door(settings, model, "replica-2").running() as door:
            wait_for(lambda: door.metrics.queue_length._values != {})
            held.kill()
            wait_for(lambda: sum(committed(settings).values()) == 300, 10)
    each_once(settings, 300)


@on_both_kafkas
def test_the_same_replica_started_again_ends_what_it_left_open_at_once(
    settings, kafka, make_artifact, tmp_path, model
):
    produce(settings, [value(i) for i in range(100)])
    with process(settings, kafka, make_artifact, tmp_path, HOLD) as held:
        wait_for(lambda: b"held" in held.stdout.readline())
        held.kill()
    with Door(settings, model, "local").running() as door:
        wait_for(lambda: door.consumed() == 100, 10)
    each_once(settings, 100)


@on_both_kafkas
def test_a_fenced_scorer_takes_its_id_back_and_goes_on(settings, model):
    with capture_logs() as log, Door(settings, model).running() as door:
        produce(settings, [value(i) for i in range(100)])
        wait_for(lambda: door.consumed() == 100)
        config = {"bootstrap.servers": settings.kafka_bootstrap_servers}
        other = Producer(config | {"transactional.id": f"{settings.kafka_group}-replica-1"})
        other.init_transactions(10)
        produce(settings, [value(i) for i in range(100, 200)])
        wait_for(lambda: door.consumed() == 200)
    assert "producer_fenced" in [line["event"] for line in log]
    assert door.transactions("aborted") >= 1
    each_once(settings, 200)


@on_both_kafkas
def test_a_commit_that_happened_although_its_answer_was_lost_is_not_done_again(settings, model, monkeypatch):
    produce(settings, [value(i) for i in range(100)])
    commit, losses = delivery._commit, iter([True])

    def losing_once(producer, offsets, group, done):
        if not next(losses, False):
            commit(producer, offsets, group, done)
            return
        commit(producer, offsets, group, real := Future())
        real.result()
        done.set_exception(NotDelivered("the answer was lost"))

    monkeypatch.setattr(delivery, "_commit", losing_once)
    with Door(settings, model).running() as door:
        wait_for(lambda: sum(committed(settings).values()) == 100)
        produce(settings, [value(i) for i in range(100, 150)])
        wait_for(lambda: sum(committed(settings).values()) == 150)
    assert door.transactions("aborted") == 1
    each_once(settings, 150)


@on_both_kafkas
@pytest.mark.parametrize("seconds", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_a_broker_that_restarts_before_the_commit_neither_loses_nor_doubles(
    settings, model, kafka, monkeypatch, seconds
):
    """Gone for longer than a transaction may take, it has rolled that back; else it may not."""
    produce(settings, [value(i) for i in range(200)])
    restarts = iter([True])

    class Restarting(Producer):
        def commit_transaction(self, *args):
            if next(restarts, False):
                kafka.stop()
                time.sleep(seconds)
                kafka.start()
            super().commit_transaction(*args)

    monkeypatch.setattr(producers, "Producer", Restarting)
    with Door(settings, model).running():
        wait_for(lambda: sum(committed(settings).values()) == 200, 60)
    each_once(settings, 200)


@on_both_kafkas
def test_the_first_transaction_of_a_producer_ends_what_is_open_in_any_partition(settings, model):
    """A restarted broker may have forgotten to: docs/decisions/0011."""
    produce(settings, [value(i) for i in range(10)])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 10)
    observer = Observer(settings)
    for topic, partitions in (
        (settings.scored_topic, settings.kafka_partitions),
        (settings.dead_letter_topic, 1),
    ):
        swept = [m for m in observer.read(topic, committed=False) if m.value() is None]
        assert sorted(m.partition() for m in swept) == list(range(partitions))
        assert all(m.offset() == 0 for m in swept)
        assert all(m.value() is not None for m in observer.read(topic))
    each_once(settings, 10)


@pytest.mark.parametrize(
    ("kafka", "protocol"),
    [
        ("kraft", "consumer"),
        ("kraft", "classic"),
        pytest.param("zookeeper", "classic", marks=pytest.mark.slow),
    ],
    indirect=["kafka"],
)
def test_scorers_that_come_and_go_neither_lose_nor_double(settings, model, protocol):
    settings = settings.model_copy(update={"kafka_group_protocol": protocol})
    count = 3000
    with Door(settings.model_copy(update={"kafka_batch_records": 50}), model).running() as one:
        wait_for(lambda: len(one.lag()) == 3)
        produce(settings, [value(i) for i in range(count)])
        for name in ("replica-2", "replica-3"):
            with Door(settings, model, name).running() as other:
                wait_for(lambda: other.lag() != {})
        wait_for(lambda: sum(committed(settings).values()) == count)
    each_once(settings, count)


@on_both_kafkas
def test_a_backlog_is_taken_in_few_large_batches(settings, model):
    produce(settings, [value(i) for i in range(5000)])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 5000)
    assert door.transactions("committed") <= 20
    each_once(settings, 5000)


@on_both_kafkas
def test_the_age_of_the_oldest_waiting_message_is_known_without_any_scorer(settings, model):
    watermarks = Watermarks(settings)
    minute_ago = int((time.time() - 60) * 1000)
    produce(settings, [value(0)], timestamp=minute_ago)
    produce(settings, [value(i) for i in range(1, 50)])
    assert oldest(watermarks.waiting()) == minute_ago
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 50)
    assert oldest(watermarks.waiting()) is None
