"""How near exactly-once scoring from Kafka comes to a bare loop, and what the guarantee costs when it is calm.

A real broker on one core; on the other, one after the other in each round, each from its own group:

- `bare`: consume → decode → model → encode → produce; no transactions, no offsets, no metrics, no validation,
  no headers; at each of its batch sizes, of which the best counts;
- `stream`: `fraudscale stream` as it is deployed, without a line of log for each prediction;
- `stream, all logged`: the same with LOG_PREDICTIONS_SAMPLE=1, as it is by default.

Behind: all records are there before a candidate starts; its rate is that of the middle 80 % of its outputs, by their
timestamps. Calm: 1,000 records/s; from a record's timestamp until a reader of committed records has its score. There
the yardstick is a bare transactional loop: consume → produce, the same guarantee, no model.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import msgspec
import psutil
from confluent_kafka import OFFSET_END, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

HERE = Path(__file__).parent
# the broker runner and the trained model that others use too
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "integration")]
from http_predict import free_port, prepare_model  # noqa: E402

from conftest import KafkaServer  # noqa: E402
from fraudscale.config import KafkaSettings, LocalSettings  # noqa: E402
from fraudscale.kafka.topics import create_topics  # noqa: E402
from fraudscale.kafka.watermarks import Watermarks  # noqa: E402
from fraudscale.local.install.download import kafka_tools  # noqa: E402
from fraudscale.local.install.ports import Ports, claim_block  # noqa: E402
from fraudscale.registry import copies  # noqa: E402
from fraudscale.scoring.codec import encode_transaction  # noqa: E402
from fraudscale.scoring.model import Model, build  # noqa: E402
from fraudscale.synthetic import SyntheticTransactions  # noqa: E402

RATE_FLOOR = 0.8
"""Least share of the bare loop's rate that `stream` must reach when behind."""
CALM_P50_MS = 50.0
CALM_P99_RATIO = 3.0
"""Most that `stream`'s p99 may be of the bare transactional loop's, at 1,000 records/s."""
CALM_RATE = 1000
BARE_BATCHES = (500, 2000, 5000, 10_000)
CORE = "0"
"""Of the candidates; the broker, and we, have the rest."""
RESULTS = HERE / "results" / "kafka_stream.json"
TOPIC = "transactions"
CALM_TOPIC = "calm"
"""Its own, or a candidate would first have to take the backlog."""
PARTITIONS = 12
PARTITIONER = "murmur2_random"
"""Of whoever writes: a key has the same number in the input and in the outputs, as with Java's producers and ours."""
WARM_SECONDS = 3
"""After its first output a candidate is fed, but not measured yet."""
FIRST_SECONDS = 120
"""Longest wait for a calm candidate's first output."""


class Plain(msgspec.Struct, gc=False):
    """A transaction, taken on trust."""

    transaction_id: str
    amount: float
    merchant_category: str
    hour: int
    day_of_week: int
    user_age: int
    account_balance: float


class PlainScored(msgspec.Struct, gc=False):
    transaction_id: str
    amount: float
    merchant_category: str
    hour: int
    day_of_week: int
    user_age: int
    account_balance: float
    is_fraud: bool
    fraud_probability: float
    confidence: float
    model_version: str
    prediction_time: str
    processing_time_ms: float
    replica_id: str
    event_time: str
    schema_version: int = 1


def bare(bootstrap: str, models: Path, group: str, batch: int, total: int) -> None:
    """The loop that `stream` is compared with."""
    model = load_model(models)
    config = {"bootstrap.servers": bootstrap}
    consumer = Consumer(
        config
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 10,
        }
    )
    producer = Producer(
        config
        | {
            "acks": "all",
            "compression.type": "lz4",
            "delivery.report.only.error": True,
            "partitioner": PARTITIONER,
        }
    )
    consumer.subscribe([TOPIC])
    decode, encode = msgspec.json.Decoder(Plain).decode, msgspec.json.Encoder().encode
    produce, version, threshold = producer.produce, model.version, model.threshold
    done, begun = 0, 0.0
    while done < total:
        messages = consumer.consume(batch, 0.1)
        if not messages:
            continue
        begun = begun or time.process_time()
        transactions = [decode(m.value()) for m in messages]
        now = datetime.now(UTC).isoformat()
        for m, t, p in zip(messages, transactions, model.probabilities(transactions), strict=True):
            value = encode(
                PlainScored(
                    t.transaction_id,
                    t.amount,
                    t.merchant_category,
                    t.hour,
                    t.day_of_week,
                    t.user_age,
                    t.account_balance,
                    p >= threshold,
                    p,
                    p if p >= 0.5 else 1 - p,
                    version,
                    now,
                    1.0,
                    "replica-1",
                    now,
                )
            )
            while True:
                try:
                    produce(f"{TOPIC}.scored", value, m.key())
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.poll(0)
        done += len(messages)
    producer.flush()
    print((time.process_time() - begun) / total * 1e6)


def bare_transactional(bootstrap: str, group: str) -> None:
    """Consume → produce, one transaction for whatever is there; until SIGTERM, which ends no transaction half-way.

    What a killed producer leaves open holds readers of committed records up until the broker times it out, a minute
    later: the next candidate's scores stand behind it.
    """
    enough = Event()
    signal.signal(signal.SIGTERM, lambda *_: enough.set())
    config = {"bootstrap.servers": bootstrap}
    consumer = Consumer(
        config | {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "latest"}
    )
    producer = Producer(config | {"transactional.id": group, "compression.type": "lz4"})
    producer.init_transactions()
    consumer.subscribe([CALM_TOPIC])
    while not enough.is_set():
        messages = consumer.consume(1, 0.1)
        if not messages:
            continue
        messages += consumer.consume(999, 0)
        producer.begin_transaction()
        for m in messages:
            producer.produce(f"{CALM_TOPIC}.scored", m.value(), m.key(), timestamp=m.timestamp()[1])
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
        )
        producer.commit_transaction()
    consumer.close()


def load_model(models: Path) -> Model:
    version = copies.last_good(models)[0]
    manifest, files = copies.read_copy(models, version.digest)
    return build(manifest, files, version=version.version, alias=version.alias)


def values() -> Iterator[bytes]:
    """Encoded transactions, some thousand of them over and over, without end."""
    made = SyntheticTransactions(1).at(datetime(2026, 1, 5, 12, tzinfo=UTC), 20_000)
    return cycle([encode_transaction(m.transaction) for m in made])


def stamp_at_broker(bootstrap: str, topic: str) -> None:
    """A producer's own timestamps would count what still waits in its queue as written."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    entry = ConfigEntry(
        "message.timestamp.type",
        "LogAppendTime",
        incremental_operation=AlterConfigOpType.SET,
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def fill(bootstrap: str, count: int) -> None:
    # a topic that is new is reported as an oddity, once a moment
    config = {"bootstrap.servers": bootstrap, "log_level": 3}
    producer = Producer(config | {"compression.type": "lz4", "linger.ms": 50, "partitioner": PARTITIONER})
    for number, value in enumerate(islice(values(), count)):
        while True:
            try:
                producer.produce(TOPIC, value, f"tx-{number}")
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush()


@contextmanager
def pinned(
    command: list[str], env: dict[str, str] | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        command = ["taskset", "-c", CORE, *command]
        process = subprocess.Popen(command, env=os.environ | (env or {}), stdout=stdout or log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


class Figures(NamedTuple):
    """Of a candidate that is behind: records a second, and CPU a record in microseconds."""

    rate: float
    cpu: float


class Bench:
    """A filled broker and a model, and what is measured on them."""

    def __init__(self, bootstrap: str, models: Path, records: int) -> None:
        self._bootstrap = bootstrap
        self._models = models
        self._records = records
        self._runs = 0

    def settings(self, topic: str = TOPIC) -> KafkaSettings:
        """A group of its own for each run."""
        self._runs += 1
        return KafkaSettings(
            kafka_bootstrap_servers=self._bootstrap, kafka_topic=topic, kafka_group=f"run-{self._runs}"
        )

    def bare(self, batch: int) -> Figures:
        settings = self.settings()
        begin = self._ends(settings)
        arguments = [self._bootstrap, str(self._models), settings.kafka_group, str(batch), str(self._records)]
        with pinned([sys.executable, __file__, "--bare", *arguments], stdout=subprocess.PIPE) as process:
            printed, _ = process.communicate(timeout=180)
        return Figures(self._rate(begin), float(printed))

    def stream(self, sample: str) -> Figures:
        settings = self.settings()
        begin = self._ends(settings)
        with self._streaming(settings, sample) as process:
            cpu = self._cpu_until_done(psutil.Process(process.pid), Watermarks(settings))
        return Figures(self._rate(begin), cpu)

    def _cpu_until_done(self, process: psutil.Process, watermarks: Watermarks) -> float:
        """Microseconds a record, from the first commit that we see on."""
        deadline = time.monotonic() + 180
        seen: list[tuple[int, float]] = []
        while not seen or seen[-1][0]:
            if time.monotonic() > deadline:
                raise SystemExit("the stream did not take all records within 180 s")
            time.sleep(0.2)
            lag, times = sum(w.lag for w in watermarks.waiting().values()), process.cpu_times()
            if lag < self._records:
                seen.append((lag, times.user + times.system))
        (first, begun), (_, ended) = seen[0], seen[-1]
        return (ended - begun) / max(first, 1) * 1e6

    def calm_stream(self, seconds: int) -> dict[str, float]:
        settings = self.settings(CALM_TOPIC)
        with self._streaming(settings, "0"):
            return self._latencies(settings.scored_topic, seconds, _event_time)

    def calm_bare(self, seconds: int) -> dict[str, float]:
        settings = self.settings(CALM_TOPIC)
        arguments = [self._bootstrap, settings.kafka_group]
        with pinned([sys.executable, __file__, "--bare-transactional", *arguments]):
            return self._latencies(settings.scored_topic, seconds, lambda message: message.timestamp()[1])

    def _streaming(self, settings: KafkaSettings, sample: str) -> AbstractContextManager[Any]:
        env = {
            "KAFKA_BOOTSTRAP_SERVERS": self._bootstrap,
            "KAFKA_TOPIC": settings.kafka_topic,
            "KAFKA_GROUP": settings.kafka_group,
            "METRICS_PORT": str(free_port()),
            "MODEL_CACHE_DIR": str(self._models),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nothing answers: the last good copy serves
            "MODEL_POLL_SECONDS": "3600",
            "REPLICA_ID": "replica-1",
            "LOG_PREDICTIONS_SAMPLE": sample,
        }
        return pinned([sys.executable, "-m", "fraudscale.cli", "stream"], env)

    def _ends(self, settings: KafkaSettings) -> list[TopicPartition]:
        consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": "ends"})
        try:
            partitions = [TopicPartition(settings.scored_topic, p) for p in range(PARTITIONS)]
            return [
                TopicPartition(p.topic, p.partition, consumer.get_watermark_offsets(p, 10)[1])
                for p in partitions
            ]
        finally:
            consumer.close()

    def _rate(self, begin: list[TopicPartition]) -> float:
        consumer = reader(self._bootstrap)
        consumer.assign(begin)
        stamps: list[int] = []
        deadline = time.monotonic() + 60
        while len(stamps) < self._records and time.monotonic() < deadline:
            stamps += [m.timestamp()[1] for m in consumer.consume(10_000, 1)]
        consumer.close()
        if len(stamps) != self._records:
            raise SystemExit(f"{len(stamps)} outputs for {self._records} records")
        stamps.sort()
        low, high = len(stamps) // 10, len(stamps) * 9 // 10
        return (high - low) / max(stamps[high] - stamps[low], 1) * 1000

    def _latencies(self, topic: str, seconds: int, sent_at: Callable[[Message], float]) -> dict[str, float]:
        """Feed at the calm rate; milliseconds from a record's timestamp until a reader has what became of it."""
        consumer = reader(self._bootstrap)
        consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in range(PARTITIONS)])
        enough = Event()
        feeder = Thread(target=feed, args=(self._bootstrap, enough))
        found: list[tuple[float, float]] = []
        begin = float("inf")
        feeder.start()
        deadline = time.time() + FIRST_SECONDS
        while time.time() < min(begin + seconds, deadline):
            messages = consumer.consume(1, 0.1)
            messages += consumer.consume(10_000, 0) if messages else []
            now = time.time()
            if messages and begin == float("inf"):
                begin, deadline = now + WARM_SECONDS, float("inf")
            found += [(sent, now * 1000 - sent) for m in messages if (sent := sent_at(m))]
        enough.set()
        feeder.join()
        consumer.close()
        kept = sorted(latency for sent, latency in found if sent >= begin * 1000)
        if len(kept) < 0.9 * seconds * CALM_RATE:
            raise SystemExit(f"{len(kept)} of {seconds * CALM_RATE} records arrived: not calm at all")
        return {f"p{q}_ms": round(kept[len(kept) * q // 100], 1) for q in (50, 99)}


def reader(bootstrap: str) -> Consumer:
    config = {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False}
    return Consumer(config | {"isolation.level": "read_committed", "fetch.wait.max.ms": 50})


def _event_time(message: Message) -> float:
    return datetime.fromisoformat(msgspec.json.decode(message.value())["event_time"]).timestamp() * 1000


def feed(bootstrap: str, enough: Event) -> None:
    """Send at the calm rate, in steps of 5 ms, each record stamped with the time when it is due."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    began = time.time()
    for number, value in enumerate(values()):
        if enough.is_set():
            break
        due = began + number // 5 * 5 / CALM_RATE
        if (wait := due - time.time()) > 0:
            producer.poll(0)
            time.sleep(wait)
        producer.produce(CALM_TOPIC, value, f"calm-{number}", timestamp=int(due * 1000))
    producer.flush()


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    tools = kafka_tools(LocalSettings.read(fraudscale_kafka="kraft"), print)
    with claim_block() as base:
        server = KafkaServer(tools, Ports.at(base), folder)
        server.format()
        try:
            server.start()
            yield server.bootstrap
        finally:
            server.stop()


def measure(bench: Bench, rounds: int, seconds: int) -> dict[str, Any]:
    behind: dict[str, list[Figures]] = {"bare": [], "stream": [], "stream, all logged": []}
    best = 0
    for number in range(rounds):
        # which batch suits the bare loop is found once
        bare = {size: bench.bare(size) for size in (BARE_BATCHES if number == 0 else (best,))}
        best = max(bare, key=lambda size: bare[size].rate)
        row = (bare[best], bench.stream("0"), bench.stream("1"))
        for figures, one in zip(behind.values(), row, strict=True):
            figures.append(one)
        print("round", number + 1, *(f"{one.rate:,.0f}/s {one.cpu:.1f} µs" for one in row), file=sys.stderr)
    return {
        "bare_batch": best,
        "behind": {name: summary(figures, behind["bare"]) for name, figures in behind.items()},
        "calm": {"bare transactional": bench.calm_bare(seconds), "stream": bench.calm_stream(seconds)},
    }


def summary(figures: list[Figures], bare: list[Figures]) -> dict[str, float]:
    pairs = list(zip(figures, bare, strict=True))
    return {
        "records_per_second": round(statistics.median(f.rate for f in figures)),
        "ratio": round(statistics.median(f.rate / b.rate for f, b in pairs), 3),
        "cpu_us": round(statistics.median(f.cpu for f in figures), 2),
        "ratio_by_cpu": round(statistics.median(b.cpu / f.cpu for f, b in pairs), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--seconds", type=int, default=10, help="of each calm candidate")
    parser.add_argument("--bare", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--bare-transactional", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bootstrap, models, group, batch, total = options.bare
        bare(bootstrap, Path(models), group, int(batch), int(total))
        return 0
    if options.bare_transactional:
        bare_transactional(*options.bare_transactional)
        return 0
    rest = set(range(os.cpu_count() or 1)) - {int(CORE)}
    os.sched_setaffinity(0, rest or {0})  # children inherit it: the broker, and what we do here
    with tempfile.TemporaryDirectory() as name, broker(Path(name)) as bootstrap:
        prepare_model(Path(name))
        bench = Bench(bootstrap, Path(name) / "models", options.records)
        create_topics(bench.settings())
        create_topics(KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic=CALM_TOPIC))
        stamp_at_broker(bootstrap, f"{TOPIC}.scored")
        fill(bootstrap, options.records)
        figures = measure(bench, options.rounds, options.seconds)
    report(figures)
    return verdict(figures)


def report(figures: dict[str, Any]) -> None:
    print(
        f"{'behind':22}{'records/s':>12}{'of bare':>9}{'CPU µs':>9}{'by CPU':>9}   (bare loop: batches of {figures['bare_batch']})"
    )
    for name, row in figures["behind"].items():
        print(
            f"{name:22}{row['records_per_second']:12,}{row['ratio']:9.2f}{row['cpu_us']:9.1f}{row['ratio_by_cpu']:9.2f}"
        )
    print(f"{'calm, 1,000/s':22}{'p50 ms':>12}{'p99 ms':>9}")
    for name, row in figures["calm"].items():
        print(f"{name:22}{row['p50_ms']:12.1f}{row['p99_ms']:9.1f}")
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    RESULTS.write_text(json.dumps({"measured_at": measured_at, **machine, **figures}, indent=2) + "\n")


def verdict(figures: dict[str, Any]) -> int:
    """0 if every floor is reached."""
    ratio, calm = figures["behind"]["stream"]["ratio"], figures["calm"]["stream"]
    slower = calm["p99_ms"] / figures["calm"]["bare transactional"]["p99_ms"]
    print(f"behind: {ratio:.2f} of the bare loop; the floor is {RATE_FLOOR}")
    print(
        f"calm: p50 {calm['p50_ms']:.0f} ms, at most {CALM_P50_MS:.0f}; p99 {slower:.1f} x, at most {CALM_P99_RATIO:.0f}"
    )
    return int(ratio < RATE_FLOOR or calm["p50_ms"] > CALM_P50_MS or slower > CALM_P99_RATIO)


if __name__ == "__main__":
    sys.exit(main())
