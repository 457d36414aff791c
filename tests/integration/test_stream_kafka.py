"""The Kafka door on a real broker."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from urllib.request import urlopen
from uuid import uuid4

import msgspec
import pytest
import structlog
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from collector import Collector
from fraudscale.config import KafkaSettings, LogSettings, TracingSettings
from fraudscale.kafka import delivery, group_protocol
from fraudscale.kafka.client import BrokerLink, NotDelivered
from fraudscale.kafka.lag import LagReporter
from fraudscale.kafka.pipe import Pipe
from fraudscale.kafka.topics import create_topics
from fraudscale.kafka.watermarks import Watermarks, oldest
from fraudscale.kafka.worker import Worker
from fraudscale.metrics import KafkaMetrics, ModelMetrics, TraceMetrics
from fraudscale.registry.copies import store, write_pointer
from fraudscale.scoring.model import ENGINE_FILE, GOLDEN_FILE, MANIFEST, Version, build
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.scorer import Scorer
from fraudscale.telemetry.otlp import Otlp
from fraudscale.telemetry.tracing import RecordSpans, Tracer
from sinks import serving

on_both_kafkas = pytest.mark.parametrize(
    "kafka", ["kraft", pytest.param("zookeeper", marks=pytest.mark.slow)], indirect=True
)
"""With KRaft always, with ZooKeeper in `make test-full`."""

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GOOD = {
    "transaction_id": "t",
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 13,
    "day_of_week": 2,
    "user_age": 34,
    "account_balance": 100.0,
}


def value(number: int, **changes) -> bytes:
    return msgspec.json.encode(GOOD | {"transaction_id": f"t{number}"} | changes)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Door:
    """A stream with all its parts, in this process."""

    def __init__(
        self, settings: KafkaSettings, model, replica: str = "replica-1", record: RecordSpans | None = None
    ) -> None:
        log = structlog.get_logger()
        self.settings = settings
        self.counts = ModelMetrics()
        self.metrics = KafkaMetrics(
            consumed=settings.kafka_topic, produced=(settings.scored_topic, settings.dead_letter_topic)
        )
        self.scorer = Scorer(
            self.counts, PredictionLog(LogSettings(log_predictions_sample=0), "stream"), replica
        )
        self.scorer.install(model)
        link = BrokerLink(settings.kafka_bootstrap_servers, log)
        self.reporter = LagReporter(settings, self.metrics, link, Watermarks(settings))
        self.pipe = Pipe(
            settings, replica, metrics=self.metrics, link=link, log=log, on_owned=self.reporter.own
        )
        tracer = Tracer(0.0, 50, record, random.Random())
        self.stream = Worker(self.pipe, self.scorer, self.counts, self.metrics, settings, log, tracer)

    def consumed(self) -> float:
        return self.metrics.consumed.labels(self.settings.kafka_topic).value

    def produced(self, topic: str) -> float:
        return self.metrics.produced.labels(topic).value

    def transactions(self, result: str) -> float:
        return self.metrics.transactions.labels(result).value

    def lag(self) -> dict[str, float]:
        return {labels[2]: gauge.value for labels, gauge in self.metrics.lag._values.items()}

    def queue(self) -> float:
        return self.metrics.queue_length.labels(self.settings.kafka_topic, self.settings.kafka_group).value

    @contextmanager
    def running(self) -> Iterator["Door"]:
        thread = Thread(target=self.stream.run)
        self.reporter.start()
        thread.start()
        try:
            yield self
        finally:
            self.stream.stop()
            thread.join(30)
            self.pipe.close()
            self.reporter.stop()
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def model(make_artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    make_artifact(folder)
    files = {name: (folder / name).read_bytes() for name in (ENGINE_FILE, GOLDEN_FILE)}
    return build((folder / MANIFEST).read_bytes(), files, version="7", alias="champion")


@pytest.fixture
def settings(kafka, request) -> KafkaSettings:
    """Topics and a group of the test's own."""
    name = request.node.name.replace("[", "-").replace("]", "")[:100]
    result = KafkaSettings(
        kafka_bootstrap_servers=kafka.bootstrap,
        kafka_topic=name,
        kafka_group=f"group-{name}",
        kafka_partitions=3,
        kafka_lag_seconds=0.2,
    )
    create_topics(result)
    return result


def produce(settings: KafkaSettings, values: list[bytes | None], **more) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for i, content in enumerate(values):
        producer.produce(settings.kafka_topic, content, f"k{i}", **more)
    assert producer.flush(30) == 0


def read(settings: KafkaSettings, topic: str, count: int) -> list:
    """The first `count` records, and whatever comes after them at once."""
    config = {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "reader"}
    consumer = Consumer(config | {"auto.offset.reset": "earliest", "enable.auto.commit": False})
    found: list = []
    try:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        wait_for(lambda: found.extend(consumer.consume(1000, 0.2)) or len(found) >= count)
        found.extend(consumer.consume(1000, 0.3))
    finally:
        consumer.close()
    return found


def committed(settings: KafkaSettings) -> dict[int, int]:
    """As the group itself would be told: the admin client crashes while a restarted broker loads its groups."""
    config = {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.kafka_group}
    consumer = Consumer(config)
    try:
        asked = [TopicPartition(settings.kafka_topic, p) for p in range(settings.kafka_partitions)]
        return {p.partition: max(0, p.offset) for p in consumer.committed(asked, 10)}
    except KafkaException:
        return {}  # the coordinator is being made, or loads
    finally:
        consumer.close()


@on_both_kafkas
def test_scores_the_good_and_sets_the_bad_aside(settings, model):
    bad = [b"\xff\xfe no text", value(0, amount=None), b'{"amount": NaN}', b"{}", b"", None, b"[" * 100_000]
    produce(settings, [value(i) for i in range(1000)], headers=[("traceparent", SAMPLED)])
    produce(settings, bad, headers=[("traceparent", b"00-c-d-01"), ("own", b"x")])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 1007)
    scored = read(settings, settings.scored_topic, 1000)
    dead = read(settings, settings.dead_letter_topic, len(bad))

    assert sorted(m.key() for m in scored) == sorted(f"k{i}".encode() for i in range(1000))
    assert {m.key(): m.value() for m in dead} == {f"k{i}".encode(): v for i, v in enumerate(bad)}
    first = msgspec.json.decode(scored[0].value())
    assert first["model_version"] == "7"
    assert first["event_time"].endswith("Z")
    assert dict(scored[0].headers())["traceparent"] == SAMPLED.encode()
    headers = dict(dead[0].headers())
    assert headers["reason"] == b"validation"
    assert headers["source-record"].startswith(f"{settings.kafka_topic}/".encode())
    assert headers["traceparent"] == b"00-c-d-01"
    assert headers["own"] == b"x"
    assert headers["first-seen"].endswith(b"Z")
    assert door.counts.errors.labels("validation").value == 7
    assert (door.produced(settings.scored_topic), door.produced(settings.dead_letter_topic)) == (1000, 7)
    assert sum(committed(settings).values()) == 1007


def test_a_sampled_record_is_followed_from_its_producer_to_its_score(settings, model):
    trace, span = SAMPLED.split("-")[1:3]
    produce(settings, [value(0)], headers=[("traceparent", SAMPLED), ("tracestate", "v=1")])
    produce(settings, [value(1)], headers=[("traceparent", SAMPLED[:-1] + "0")])
    produce(settings, [b"{"], headers=[("traceparent", SAMPLED.replace("4b", "5c"))])
    produce(settings, [value(2)])
    with serving(Collector()) as collector:
        sending = TracingSettings(otel_exporter_otlp_endpoint=collector.address, otel_bsp_schedule_delay=50)
        otlp = Otlp(sending, "stream", "replica-1", TraceMetrics(), structlog.get_logger())
        with Door(settings, model, record=otlp.record).running() as door:
            wait_for(lambda: door.consumed() == 4)
        otlp.close(10)
    headers = {
        msgspec.json.decode(m.value())["transaction_id"]: dict(m.headers())
        for m in read(settings, settings.scored_topic, 3)
    }
    of_record = collector.of(trace)[f"process {settings.kafka_topic}"]
    assert (of_record.kind, of_record.parent, of_record.state) == ("consumer", span, "v=1")
    assert of_record.attributes["fraudscale.transaction_id"] == "t0"
    assert headers["t0"]["traceparent"] == f"00-{trace}-{of_record.span_id}-01".encode()
    assert headers["t0"]["tracestate"] == b"v=1"
    assert headers["t1"]["traceparent"] == SAMPLED[:-1].encode() + b"0"
    assert "traceparent" not in headers["t2"]
    (failed,) = [s for s in collector.spans if s.failed]
    assert failed.attributes["fraudscale.dead_letter"] == "validation"

    batches = [s for s in collector.spans if s.name == f"process batch of {settings.kafka_topic}"]
    links = [link for batch in batches for link in batch.links]
    assert sorted(links) == sorted([(trace, span), (failed.trace_id, span)])
    (whole,) = [batch for batch in batches if (trace, span) in batch.links]
    assert of_record.links == [(whole.trace_id, whole.span_id)]
    stages = collector.of(whole.trace_id)
    assert {"decode", "model", "produce"} < stages.keys()
    assert {stages[name].parent for name in ("decode", "model", "produce")} == {whole.span_id}


def test_each_score_names_the_record_it_came_from(settings, model):
    produce(settings, [value(i) for i in range(50)])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 50)
    inputs = {
        f"{m.topic()}/{m.partition()}/{m.offset()}".encode(): m.key()
        for m in read(settings, settings.kafka_topic, 50)
    }
    for m in read(settings, settings.scored_topic, 50):
        assert inputs.pop(dict(m.headers())["source-record"]) == m.key()
    assert not inputs


@on_both_kafkas
def test_goes_on_where_it_stopped(settings, model):
    produce(settings, [value(i) for i in range(300)])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 300)
    produce(settings, [value(i) for i in range(300, 500)])
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 200)
    ids = [
        msgspec.json.decode(m.value())["transaction_id"] for m in read(settings, settings.scored_topic, 500)
    ]
    assert sorted(ids) == sorted(f"t{i}" for i in range(500))


@on_both_kafkas
def test_two_replicas_share_the_partitions_and_report_lag_of_their_own_only(settings, model):
    with Door(settings, model).running() as one:
        wait_for(lambda: len(one.lag()) == 3)
        with Door(settings, model, "replica-2").running() as two:
            wait_for(lambda: one.lag() and two.lag() and len(one.lag()) + len(two.lag()) == 3)
            assert not one.lag().keys() & two.lag().keys()
            produce(settings, [value(i) for i in range(300)])
            wait_for(lambda: one.consumed() + two.consumed() == 300)
        wait_for(lambda: len(one.lag()) == 3)
        assert two.lag() == {}
        assert one.metrics.rebalances.labels("revoked").value >= 1


@on_both_kafkas
def test_outlives_a_broker_that_is_down_at_start_and_goes_away_later(settings, model, kafka):
    kafka.stop()
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: any(line["event"] == "broker_unavailable" for line in log))
        kafka.start()
        produce(settings, [value(i) for i in range(100)])
        wait_for(lambda: door.consumed() == 100)
        kafka.stop()
        wait_for(lambda: door.metrics.queue_length._values == {})
        kafka.start()
        produce(settings, [value(i) for i in range(100, 200)])
        wait_for(lambda: door.consumed() == 200)
    changes = [e for line in log if (e := line["event"]) in {"broker_unavailable", "broker_back"}]
    assert changes[:4] == ["broker_unavailable", "broker_back"] * 2
    assert len(changes) < 8, "only changes are logged, not each attempt"
    assert len(read(settings, settings.scored_topic, 200)) == 200


@on_both_kafkas
def test_a_broker_that_dies_with_a_batch_in_hand_gets_it_when_it_is_back(settings, model, kafka, monkeypatch):
    produce(settings, [value(i) for i in range(50)])
    door = Door(settings, model)
    score, deaths = door.scorer.score, iter([kafka.stop])

    def dying_once(transactions, started, **more):
        next(deaths, lambda: None)()
        return score(transactions, started, **more)

    monkeypatch.setattr(door.scorer, "score", dying_once)
    with capture_logs() as log, door.running():
        wait_for(lambda: any(line["event"] == "batch_not_delivered" for line in log))
        kafka.start()
        wait_for(lambda: door.consumed() == 50)
    assert sorted(m.key() for m in read(settings, settings.scored_topic, 50)) == sorted(
        f"k{i}".encode() for i in range(50)
    )


def test_a_broker_without_the_new_group_protocol_is_spoken_to_in_the_old_one(settings, model, monkeypatch):
    offered = {
        "group.coordinator.rebalance.protocols": "classic",
        "group.consumer.session.timeout.ms": "6000",
    }
    monkeypatch.setattr(group_protocol, "_broker_configs", lambda _: offered)
    produce(settings, [value(i) for i in range(50)])
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 50)
        with Door(settings, model, "replica-2").running() as two:
            wait_for(lambda: two.lag() and len(door.lag()) + len(two.lag()) == 3)
        wait_for(lambda: len(door.lag()) == 3)
    assert next(line for line in log if line["event"] == "group_protocol_chosen")["protocol"] == "classic"


def test_a_batch_that_could_not_be_committed_is_read_again(settings, model, monkeypatch):
    produce(settings, [value(i) for i in range(20)])
    commit, failures = delivery._commit, iter([True, True])

    def failing_twice(producer, offsets, group, done):
        if next(failures, False):
            producer.abort_transaction()
            done.set_exception(NotDelivered("rolled back"))
            return
        commit(producer, offsets, group, done)

    monkeypatch.setattr(delivery, "_commit", failing_twice)
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 20)
        assert door.transactions("aborted") == 2
    assert len(read(settings, settings.scored_topic, 20)) == 20


@on_both_kafkas
def test_queue_length_and_lag_agree_with_the_brokers_own_tool(settings, model, kafka):
    """With no commit yet, under load, in the middle of rebalances, and at rest."""
    group, topic = settings.kafka_group, settings.kafka_topic
    watermarks = Watermarks(settings)
    produce(settings, [value(i) for i in range(150)])
    with Door(settings, model).running() as door:  # the tool knows groups that have a member or a commit
        wait_for(lambda: door.consumed() == 150 and door.queue() == 0)
        assert door.lag() == {"0": 0, "1": 0, "2": 0}
        assert door.metrics.topic_messages.labels(topic).value == 150
        began, checks, deadline = watermarks.waiting(), 0, time.monotonic() + 120
        rebalances, done = Counter(), Event()
        load = Thread(target=_load_and_rebalance, args=(settings, model, done, rebalances))
        load.start()
        try:
            while checks < 3 or not rebalances["joined"]:
                assert time.monotonic() < deadline, "nobody joined"
                checks += 1
                before = watermarks.waiting()
                told = kafka.describe_group(group, topic)
                after = watermarks.waiting()
                assert told.keys() == before.keys()
                for partition, (commit, end, lag) in told.items():
                    first, last = before[partition], after[partition]
                    assert (first.committed or 0) <= (commit or 0) <= (last.committed or 0)
                    assert first.end <= end <= last.end
                    assert lag == (None if commit is None else end - commit)
        finally:
            done.set()
            load.join()
        assert after[0].end > began[0].end, "there was no load"
        wait_for(lambda: door.queue() == 0 and sum(w.lag for w in watermarks.waiting().values()) == 0, 60)
    produce(settings, [value(i) for i in range(40)])
    waiting = watermarks.waiting()
    assert {p: (w.committed, w.end, w.lag) for p, w in waiting.items()} == kafka.describe_group(group, topic)
    assert sum(w.lag for w in waiting.values()) == 40


def _load_and_rebalance(settings, model, done: Event, rebalances: Counter) -> None:
    """Until done: records all the time, and a second member that comes and goes."""
    while not done.is_set():
        with Door(settings, model, "replica-2").running() as other:
            for _ in range(20):
                produce(settings, [value(i) for i in range(100)])
                done.wait(0.05)
            rebalances["joined"] += bool(other.metrics.rebalances.labels("assigned").value)


@on_both_kafkas
def test_without_a_commit_all_that_is_retained_waits(settings, kafka):
    produce(settings, [value(i) for i in range(150)])
    member = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.kafka_group}
        | {"enable.auto.commit": False, "auto.offset.reset": "earliest"}
    )
    try:
        member.subscribe([settings.kafka_topic])  # the tool tells of groups that have members or commits
        wait_for(lambda: member.poll(0.1) is not None)
        told = kafka.describe_group(settings.kafka_group, settings.kafka_topic)
    finally:
        member.close()
    waiting = Watermarks(settings).waiting()
    assert told == {p: (None, w.end, None) for p, w in waiting.items()}
    assert sum(w.lag for w in waiting.values()) == 150


@on_both_kafkas
def test_records_that_retention_removed_do_not_wait(settings):
    produce(settings, [value(i) for i in range(90)])
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    before = Watermarks(settings).waiting()
    cut = [TopicPartition(settings.kafka_topic, p, w.end) for p, w in before.items()]
    for future in admin.delete_records(cut).values():
        future.result(10)
    after = Watermarks(settings).waiting()
    assert sum(w.lag for w in after.values()) == 0
    assert sum(w.retained for w in after.values()) == 0


def upstream(settings, name: str) -> Producer:
    """Somebody's producer that writes the input in transactions."""
    config = {"bootstrap.servers": settings.kafka_bootstrap_servers, "transactional.id": f"{name}-{uuid4()}"}
    producer = Producer(config)
    producer.init_transactions(30)
    return producer


def write(producer: Producer, settings, count: int, *, end: str) -> None:
    """A transaction over all partitions; `end`: how it ends, or "open"."""
    producer.begin_transaction()
    for i in range(count):
        producer.produce(settings.kafka_topic, value(i), f"k{i}", partition=i % settings.kafka_partitions)
    assert producer.flush(30) == 0
    if end != "open":
        getattr(producer, f"{end}_transaction")(30)


@on_both_kafkas
def test_offsets_without_a_record_never_wait(settings, model, kafka):
    """Ends of transactions and what was rolled back: the broker's own tools count them."""
    watermarks = Watermarks(settings)

    def queue() -> int:
        return sum(w.lag for w in watermarks.waiting().values())

    rolled_back = upstream(settings, "rolled-back")
    write(rolled_back, settings, 3000, end="abort")
    wait_for(lambda: queue() == 0)
    write(upstream(settings, "committed"), settings, 30, end="commit")
    # none of the 3,000 before, but the end of each of three partitions' transactions behind
    wait_for(lambda: queue() == 33)
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 30)
        write(rolled_back, settings, 300, end="abort")
        wait_for(lambda: door.queue() == 0 and set(door.lag().values()) == {0})
        assert door.metrics.oldest_age.labels(settings.kafka_topic, settings.kafka_group).value == 0
    told = kafka.describe_group(settings.kafka_group, settings.kafka_topic)
    assert sum(lag for _, _, lag in told.values()) == 300 + 2 * settings.kafka_partitions


@on_both_kafkas
def test_records_of_an_open_transaction_wait_and_age(settings):
    watermarks = Watermarks(settings)
    producer = upstream(settings, "open")
    write(producer, settings, 30, end="open")
    waiting = watermarks.waiting()
    assert sum(w.lag for w in waiting.values()) == 30
    assert not any(w.readable for w in waiting.values())
    assert oldest(waiting) is not None
    producer.abort_transaction(30)
    wait_for(lambda: sum(w.lag for w in watermarks.waiting().values()) == 0)


@on_both_kafkas
@pytest.mark.parametrize("scored", [False, True])
def test_an_output_may_be_larger_than_the_broker_lets_the_input_be(settings, model, scored):
    """A record of the largest size, whose dead letter or score has headers or fields more, holds nothing up."""
    largest = random.Random(1).randbytes(1_048_000)  # nothing compresses it
    key, content = (largest, value(1)) if scored else (b"big", largest)
    producer = Producer(
        {"bootstrap.servers": settings.kafka_bootstrap_servers, "message.max.bytes": 2_000_000}
    )
    producer.produce(settings.kafka_topic, content, key)
    assert producer.flush(30) == 0
    with Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 1)
    topic = settings.scored_topic if scored else settings.dead_letter_topic
    (message,) = read(settings, topic, 1)
    assert (message.key(), scored or message.value()) == (key, scored or content)


@on_both_kafkas
def test_topics_are_created_once(kafka):
    settings = KafkaSettings(kafka_bootstrap_servers=kafka.bootstrap, kafka_topic="fresh")
    assert sorted(create_topics(settings)) == ["fresh", "fresh.dead-letter", "fresh.labels", "fresh.scored"]
    assert create_topics(settings) == []
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).topics
    assert [len(topics[t].partitions) for t in ("fresh", "fresh.scored", "fresh.dead-letter")] == [12, 12, 1]


@pytest.mark.parametrize(
    ("kafka", "protocol"),
    [("kraft", "consumer"), pytest.param("zookeeper", "classic", marks=pytest.mark.slow)],
    indirect=["kafka"],
)
def test_a_broker_is_spoken_to_in_the_newest_group_protocol_that_it_has(settings, model, kafka, protocol):
    produce(settings, [value(0)])
    with capture_logs() as log, Door(settings, model).running() as door:
        wait_for(lambda: door.consumed() == 1)
    assert next(line for line in log if line["event"] == "group_protocol_chosen")["protocol"] == protocol


@contextmanager
def process(settings, kafka, make_artifact, folder, patch: str = "") -> Iterator[subprocess.Popen]:
    """A stream of its own process that starts from a local copy, with no registry to ask; `patch` is run in it first."""
    cache = folder / "models"
    version = Version("7", "champion", make_artifact(cache / "draft"))
    store(cache, cache / "draft", version)
    write_pointer(cache, version)
    code = (
        "import sys; from fraudscale.config import *; from fraudscale.kafka.worker import run;"
        "sys.exit(run(ReplicaSettings(), MetricsSettings(), ModelSettings(), KafkaSettings(), LogSettings(),"
        "TracingSettings()))"
    )
    env = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC": settings.kafka_topic,
        "KAFKA_GROUP": settings.kafka_group,
        "METRICS_PORT": str(kafka.ports.stream[0]),
        "MODEL_CACHE_DIR": str(cache),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "LOG_PREDICTIONS_SAMPLE": "0",
        "STOP_TIMEOUT_SECONDS": "5",
    }
    with subprocess.Popen([sys.executable, "-c", patch + code], env=env, stdout=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


@on_both_kafkas
def test_a_stream_process_shows_its_metrics_and_ends_cleanly_on_a_signal(
    settings, kafka, make_artifact, tmp_path
):
    produce(settings, [value(i) for i in range(500)])
    with process(settings, kafka, make_artifact, tmp_path) as running:
        wait_for(lambda: sum(committed(settings).values()) == 500)
        with urlopen(f"http://127.0.0.1:{kafka.ports.stream[0]}/metrics", timeout=5) as answer:
            body = answer.read().decode()
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=8)
    assert running.returncode == 0
    assert b"stream_stopped" in output
    assert 'ml_model_predictions_total{result="legitimate",version="7"} 500.0' in body


def test_a_stream_process_sends_the_spans_that_wait_before_it_ends(
    settings, kafka, make_artifact, tmp_path, monkeypatch
):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    produce(settings, [value(0)], headers=[("traceparent", SAMPLED)])
    with serving(Collector()) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        with process(settings, kafka, make_artifact, tmp_path) as running:
            wait_for(lambda: sum(committed(settings).values()) == 1)
            running.send_signal(signal.SIGTERM)
            running.communicate(timeout=8)
        assert running.returncode == 0
    (span,) = collector.of(SAMPLED.split("-")[1]).values()
    assert span.resource["fraudscale.process"] == "stream"


def test_a_stream_process_whose_broker_is_gone_ends_in_time(settings, kafka, make_artifact, tmp_path):
    with process(settings, kafka, make_artifact, tmp_path) as running:
        produce(settings, [value(0)])
        wait_for(lambda: sum(committed(settings).values()) == 1)
        kafka.stop()
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=8)
    kafka.start()
    assert running.returncode == 0
    assert b"stream_stopped" in output
