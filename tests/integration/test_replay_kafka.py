"""Dead letters back to their topic, on a real broker, with the program itself."""

import json
import os
import subprocess
import sys

import pytest
import test_stream_kafka as stream_tests
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from test_stream_kafka import Door, produce, read, value, wait_for

from fraudscale.kafka.client import BrokerUnavailable, NotDelivered, ProducerFenced
from fraudscale.kafka.replay import ReplayFilter, ReplayResult, run
from fraudscale.kafka.replayer import Replayer

model, settings = stream_tests.model, stream_tests.settings


HELD = """
import sys, time
from confluent_kafka import TopicPartition
from fraudscale.cli import main
from fraudscale.kafka.replayer import Replayer
def hold(self, outputs, positions):
    self._producer.begin_transaction()
    for output in outputs:
        self._produce(self._producer, output)
    self._producer.flush()
    offsets = [TopicPartition(self._topic, p, offset, note) for p, (offset, note) in positions.items()]
    self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), 5)
    print("held", flush=True)
    time.sleep(60)
Replayer.send = hold
sys.argv = ["fraudscale", "replay"]
main()
"""
"""A replay that leaves a transaction open with everything in it but its end."""


def letters(settings, count, *, reason="validation", size=3, **headers):
    """Dead letters as `stream` writes them, in one transaction, so that its mark lies between them."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "transactional.id": f"test-{settings.kafka_topic}",
            "message.max.bytes": 2_000_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for i in range(count):
        head = {"reason": reason, "source-record": f"{settings.kafka_topic}/0/{i}", **headers}
        producer.produce(settings.dead_letter_topic, os.urandom(size), f"k{i}", headers=list(head.items()))
    producer.commit_transaction(30)


def replay(settings, **choice):
    result = ReplayResult(settings.dead_letter_topic, dry_run=False)
    run(settings, ReplayFilter(**choice), from_start=False, rate=None, progress=lambda _: None, result=result)
    return result


def environment(settings):
    return os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC": settings.kafka_topic,
        "KAFKA_GROUP": settings.kafka_group,
    }


def program(settings, *options, code=0):
    command = [sys.executable, "-m", "fraudscale.cli", "replay", *options]
    done = subprocess.run(
        command, env=environment(settings), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if "--json" in options and not code else done.stdout + done.stderr


def keys(settings, count):
    return sorted(m.key().decode() for m in read(settings, settings.kafka_topic, count))


def test_what_a_better_model_scores_comes_back_with_its_trace_and_a_count(settings, model, monkeypatch):
    produce(settings, [b"{", value(1)], headers=[("own", b"x")])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 2)
        (dead,) = read(settings, settings.dead_letter_topic, 1)
        assert replay(settings).sent == 1
        wait_for(lambda: door.consumed() == 3)
    first, again = read(settings, settings.dead_letter_topic, 2)
    before, after = dict(first.headers()), dict(again.headers())
    assert (again.value(), again.key()) == (first.value(), first.key()) == (dead.value(), dead.key())
    assert (after["replays"], after["own"]) == (b"1", b"x")
    assert {n: after[n] for n in ("first-seen", "traceparent")} == {
        n: before[n] for n in ("first-seen", "traceparent")
    }


def test_what_fails_again_is_not_sent_in_circles(settings):
    letters(settings, 3, replays="1")
    assert replay(settings).left["failed_again"] == 3
    assert replay(settings, again=True).sent == 3
    assert keys(settings, 3) == ["k0", "k1", "k2"]


def test_a_second_run_sends_nothing_twice(settings):
    letters(settings, 1200)
    assert replay(settings).sent == 1200
    letters(settings, 2)
    assert replay(settings).sent == 2
    assert replay(settings).sent == 0
    assert len(read(settings, settings.kafka_topic, 1202)) == 1202


def test_what_a_filter_left_behind_goes_with_a_later_run(settings):
    for i in range(4):
        letters(settings, 5, reason="prediction" if i % 2 else "validation")
    assert replay(settings, reason="prediction").sent == 10
    assert program(settings, "--json", "--id", "k1")["sent"] == 2
    assert replay(settings).sent == 8
    assert keys(settings, 20) == sorted(f"k{i}" for i in range(5) for _ in range(4))


def test_a_dry_run_prints_and_sends_nothing(settings):
    letters(settings, 3)
    told = program(settings, "--dry-run", "--limit", "2")
    assert "2 of" in told
    assert "would be sent back" in told
    assert replay(settings).sent == 3


def test_from_the_start_sends_again_what_went_back(settings):
    letters(settings, 3)
    replay(settings)
    assert program(settings, "--json", "--from-start")["sent"] == 3


def test_when_all_went_back_the_groups_lag_is_nothing(settings):
    letters(settings, 5)
    replay(settings)
    replayer = Replayer(settings, settings.dead_letter_topic, f"{settings.kafka_group}-replay")
    (place,) = replayer.open(write=False).values()
    replayer.close()
    assert place.committed == place.end == 6


def test_a_rate_is_kept(settings):
    letters(settings, 20)
    assert program(settings, "--json", "--rate", "20")["seconds"] > 0.7


def test_a_letter_that_its_topic_refuses_stays_and_the_others_go(settings):
    resource = ConfigResource(ResourceType.TOPIC, settings.kafka_topic)
    resource.add_incremental_config(
        ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(10)
    letters(settings, 2)
    letters(settings, 1, size=100_000, key="noise")
    letters(settings, 2)
    assert "1 stay: too large" in program(settings, code=1)
    assert len(keys(settings, 4)) == 4


def test_a_second_replay_ends_the_first(settings):
    letters(settings, 2)
    first = Replayer(settings, settings.dead_letter_topic, f"{settings.kafka_group}-replay")
    first.open(write=True)
    assert replay(settings).sent == 2
    with pytest.raises(ProducerFenced, match="another replay"):
        first.send([], {0: (1, "")})
    first.close()


@pytest.mark.parametrize("with_the_broker", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_replay_that_is_killed_in_a_transaction_sends_nothing_twice_and_holds_nobody_up(
    settings, kafka, with_the_broker
):
    for killed in range(3 if with_the_broker else 1):
        letters(settings, 5)
        with subprocess.Popen(
            [sys.executable, "-c", HELD], env=environment(settings), stdout=subprocess.PIPE
        ) as held:
            wait_for(lambda: b"held" in held.stdout.readline())
            if with_the_broker:
                kafka.stop()
            held.kill()
        if with_the_broker:
            kafka.start()
        wait_for(lambda: sent_back(settings) == 5, 60)
        assert replay(settings).sent == 0
        produce(settings, [value(i) for i in range(30)])  # whoever reads committed records only comes to them
        found = keys(settings, 35 * (killed + 1))
        assert len(found) == 35 * (killed + 1)


def sent_back(settings):
    """What a replay sends; none while the broker, just started, does not answer for the group."""
    try:
        return replay(settings).sent
    except (BrokerUnavailable, NotDelivered):
        return None


def test_a_broker_that_is_away_is_said_with_its_address(settings):
    gone = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    assert "127.0.0.1:1" in program(gone, code=1)


def test_a_transaction_that_fails_sends_nothing_and_the_next_run_does(settings, monkeypatch):
    letters(settings, 3)
    fail = iter([True])
    produce = Replayer._produce

    def failing_once(replayer, producer, output):
        produce(replayer, producer, output)
        if output.key == b"k1" and next(fail, False):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(Replayer, "_produce", failing_once)
    with pytest.raises(NotDelivered, match="run it again"):
        replay(settings)
    assert replay(settings).sent == 3
    assert keys(settings, 3) == ["k0", "k1", "k2"]
