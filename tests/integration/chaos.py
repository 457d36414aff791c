"""Tools of the chaos tests: real scorers that are killed, transactions that are counted one by one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import NamedTuple

import msgspec
import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from test_stream_kafka import wait_for

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.headers import read_source
from fraudscale.kafka.watermarks import Watermarks
from fraudscale.registry.copies import store, write_pointer
from fraudscale.scoring.model import Version

KEPT_DRAWS = Path(__file__).with_name("chaos_seeds.txt")
POISON_EVERY = 101
FORGOTTEN = {KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART}
"""What a broker with ZooKeeper says in its first moment, before its controller has told it of any topic."""
POISONS = (b"{", b"\xff\xfe", None, b'{"transaction_id": "t"}', b"[" * 2000)
GOOD = {
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 13,
    "day_of_week": 2,
    "user_age": 34,
    "account_balance": 100.0,
}


def say(line: str) -> None:
    """Shown by `pytest -s`, as `make chaos` runs it."""
    print(line, flush=True)  # noqa: T201


class Draw(NamedTuple):
    """Which faults are drawn at random: those of a seed, for so many rounds, on one kind of Kafka."""

    kafka: str
    seed: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.kafka} {self.seed} {self.rounds}"

    @property
    def command(self) -> str:
        """What a person types to draw them again."""
        kind = "" if self.kafka == "kraft" else f" KAFKA={self.kafka}"
        return f"make chaos SEED={self.seed} ROUNDS={self.rounds}{kind}"

    @classmethod
    def kept(cls) -> list["Draw"]:
        """Those that failed before, in the order of the file."""
        lines = [line.partition("#")[0].split() for line in KEPT_DRAWS.read_text().splitlines()]
        return [cls(kafka, int(seed), int(rounds)) for kafka, seed, rounds in filter(None, lines)]

    @contextmanager
    def kept_if_it_fails(self) -> Iterator[None]:
        """Add it to the file, so that it is a case from now on."""
        try:
            yield
        except (Exception, pytest.fail.Exception):
            if self not in self.kept():
                with KEPT_DRAWS.open("a") as file:
                    file.write(f"{self}\n")
            say(f"{self} has failed; it is a case in {KEPT_DRAWS.name} now, and `{self.command}` repeats it")
            raise


class Flow:
    """Sends numbered transactions, one in a hundred of which can't be scored; survives the broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.sent = 0
        self.resent = 0
        self._failed: list[KafkaError] = []
        self._forgotten: list[tuple[bytes | None, bytes]] = []
        self._topic = settings.kafka_topic
        self._stop = Event()
        self._lock = Lock()
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "enable.idempotence": True,
                "message.timeout.ms": 300_000,
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )

    def send(self, count: int) -> None:
        with self._lock:  # a test sends a lump while the thread sends its rate
            for number in range(self.sent, self.sent + count):
                self._send(number)
            self.sent += count

    def _send(self, number: int) -> None:
        if number % POISON_EVERY == 0:
            value = POISONS[number // POISON_EVERY % len(POISONS)]
        else:
            value = msgspec.json.encode(GOOD | {"transaction_id": f"t{number}"})
        self._produce(value, b"t%d" % number)

    def _produce(self, value: bytes | None, key: bytes) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                return self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() not in FORGOTTEN or time.monotonic() > until:
                    raise
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, message) -> None:
        if error and error.code() in FORGOTTEN:
            self._forgotten.append((message.value(), message.key()))
        elif error:
            self._failed.append(error)

    def run(self, rate: int) -> None:
        """Send so many a second from a thread, until `end`."""
        self._thread = Thread(target=self._run, args=[rate])
        self._thread.start()

    def _run(self, rate: int) -> None:
        while not self._stop.wait(0.05):
            self.send(rate // 20)
            self._producer.poll(0)

    def end(self) -> None:
        """Stop sending; everything sent is acknowledged then."""
        self._stop.set()
        if hasattr(self, "_thread"):
            self._thread.join()
        while (unwritten := self._producer.flush(60)) == 0 and self._forgotten:
            again, self._forgotten = self._forgotten, []
            self.resent += len(again)
            for value, key in again:
                self._produce(value, key)
        assert not unwritten, f"the test's own producer could not write {unwritten} of {self.sent} records"
        assert not self._failed, f"the test's own producer failed: {self._failed[0]}"


class Scorers:
    """`fraudscale stream` as real processes, one a replica slot (0 to 5)."""

    def __init__(self, settings: KafkaSettings, ports: tuple[int, ...], models: Path, logs: Path) -> None:
        self._settings = settings
        self._ports = ports
        self._models = models
        self._logs = logs
        self._log_starts: dict[int, int] = {}
        self.running: dict[int, subprocess.Popen] = {}

    def start(self, *slots: int) -> None:
        for slot in slots:
            env = os.environ | {
                "REPLICA_ID": f"replica-{slot + 1}",
                "KAFKA_BOOTSTRAP_SERVERS": self._settings.kafka_bootstrap_servers,
                "KAFKA_TOPIC": self._settings.kafka_topic,
                "KAFKA_GROUP": self._settings.kafka_group,
                "KAFKA_BATCH_RECORDS": str(self._settings.kafka_batch_records),
                "METRICS_PORT": str(self._ports[slot]),
                "MODEL_CACHE_DIR": str(self._models),
                "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nothing answers: the last good copy scores
                "MODEL_POLL_SECONDS": "3600",
                "LOG_PREDICTIONS_SAMPLE": "0",
                "LOG_FORMAT": "json",
            }
            command = [sys.executable, "-m", "fraudscale.cli", "stream"]
            with self.log(slot).open("ab") as log:
                self._log_starts[slot] = log.tell()
                self.running[slot] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def kill(self, slot: int) -> None:
        process = self.running.pop(slot)
        process.kill()
        process.wait(10)

    def stop(self, *slots: int) -> None:
        """Ask them to end, as a supervisor does, and see them do it."""
        processes = [self.running.pop(slot) for slot in slots]
        for process in processes:
            process.terminate()
        assert [process.wait(20) for process in processes] == [0] * len(processes)

    def freeze(self, slot: int) -> None:
        self.running[slot].send_signal(signal.SIGSTOP)

    def thaw(self, slot: int) -> None:
        self.running[slot].send_signal(signal.SIGCONT)

    def owns(self, slot: int) -> bool:
        """Whether it said, since its last start, that it has partitions."""
        content = self.log(slot).read_bytes()[self._log_starts[slot] :]
        lines = [msgspec.json.decode(x) for x in content.splitlines() if x[:1] == b"{" and x[-1:] == b"}"]
        changes = [x for x in lines if x["event"] == "partitions_changed"]
        return bool(changes and changes[-1]["owned"])

    def log(self, slot: int) -> Path:
        return self._logs / f"replica-{slot + 1}.log"

    def close(self) -> None:
        for slot in list(self.running):
            self.thaw(slot)
            self.kill(slot)


def lay_model(cache: Path, make_artifact) -> Path:
    """A last good copy of a model, for scorers that have no registry to ask."""
    version = Version("7", "champion", make_artifact(cache / "draft"))
    store(cache, cache / "draft", version)
    write_pointer(cache, version)
    return cache


class Observer:
    """Reads what the topics hold, as others see it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._watermarks = Watermarks(settings)
        self._admin = self._new_admin()
        self._outputs = (settings.scored_topic, settings.dead_letter_topic)

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._settings.kafka_bootstrap_servers,
                "group.id": "observer",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )

    def _new_admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._settings.kafka_bootstrap_servers, "log_level": 0})

    def transaction_is_open(self) -> bool:
        """Whether there are scores that aren't committed yet: somebody is in the middle of a batch."""
        return self.uncommitted() > 0

    def batch_is_open(self) -> bool:
        """Whether it is more than what each producer begins with: a record and its roll-back in every partition."""
        return self.uncommitted() > 2 * self._settings.kafka_partitions

    def uncommitted(self) -> int:
        """Scores that aren't committed yet, and what was written behind them; 0 while the broker doesn't say."""
        try:
            ends = self._ends(IsolationLevel.READ_UNCOMMITTED)
            stable = self._ends(IsolationLevel.READ_COMMITTED)  # asked later: what it lacks is open still
        except KafkaException:
            self._admin = (
                self._new_admin()
            )  # after a restart of the broker it asks for an epoch of before, for good
            return 0
        return sum(max(end - stable[partition], 0) for partition, end in ends.items())

    def _ends(self, isolation: IsolationLevel) -> dict[int, int]:
        topic, partitions = self._settings.scored_topic, range(self._settings.kafka_partitions)
        asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in partitions}
        futures = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=10)
        return {place.partition: future.result().offset for place, future in futures.items()}

    def waiting(self) -> int | None:
        """Records that nobody has scored yet; None while the broker doesn't say."""
        try:
            return sum(w.lag for w in self._watermarks.waiting().values())
        except BrokerUnavailable:
            return None

    def read(self, topic: str, *, committed: bool = True) -> list:
        """All records of a topic up to its end, each once, whatever the reader itself does after a broker's restart."""
        consumer = self._consumer("read_committed" if committed else "read_uncommitted")
        try:
            open_ = set(consumer.list_topics(topic, 30).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, p, 0) for p in open_])
            found: dict = {}
            while open_:
                for message in consumer.consume(10_000, 0.5):
                    if message.error() is None:
                        found[message.partition(), message.offset()] = message
                    elif message.error().code() == KafkaError._PARTITION_EOF:
                        open_.discard(message.partition())
            return list(found.values())
        finally:
            consumer.close()

    def check(self, flow: Flow, seconds: float = 120) -> None:
        """Wait until all is scored; then count every record."""
        flow.end()
        wait_for(lambda: self.waiting() == 0, seconds)
        # the scorer's answer to a commit may have been lost, and then its last transaction is still open
        wait_for(lambda: not self.transaction_is_open(), seconds)
        scored, dead = (self.read(topic) for topic in self._outputs)
        inputs = {(m.partition(), m.offset()): m for m in self.read(self._settings.kafka_topic)}
        # what was sent again may have been written before
        assert flow.sent <= len(inputs) <= flow.sent + flow.resent, "the test itself lost or doubled a record"
        assert len({m.key() for m in inputs.values()}) == flow.sent, "the test itself lost a record"
        places: dict[tuple[int, int], list] = defaultdict(list)
        for m in scored + dead:
            places[_source(m)].append(
                (m.topic().rpartition(".")[2], m.partition(), m.offset(), m.timestamp()[1])
            )
        doubled = {source: found for source, found in places.items() if len(found) > 1}
        assert not doubled, f"{len(doubled)} doubled, such as {dict(list(doubled.items())[:5])}"
        assert inputs.keys() - places.keys() == set(), "lost"
        assert len(scored) + len(dead) == len(inputs)
        assert len(dead) == sum(int(m.key()[1:]) % POISON_EVERY == 0 for m in inputs.values())
        assert all(inputs[_source(m)].key() == m.key() for m in scored + dead)
        assert all(inputs[_source(m)].value() == m.value() for m in dead)
        written = sum(len(self.read(topic, committed=False)) for topic in self._outputs)
        self.rolled_back = written - len(inputs)
        say(
            f"{flow.sent} sent = {len(scored)} scored + {len(dead)} dead-lettered, none twice; "
            f"{self.rolled_back} outputs were rolled back on the way"
        )


def freeze_in_a_transaction(scorers: Scorers, slot: int, flow: Flow, observer: Observer) -> int:
    """Freeze the only scorer while a transaction of it is open: looked at before and after, so it isn't luck.

    Returns: how many scores it had written in that transaction.
    """
    wait_for(lambda: scorers.owns(slot), 60)  # what its predecessor left open is rolled back by then
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        flow.send(1_000)
        wait_for(observer.batch_is_open, 60)
        scorers.freeze(slot)
        time.sleep(0.5)  # a commit that was on its way is there by now
        if observer.batch_is_open():
            return observer.uncommitted()
        scorers.thaw(slot)
    raise AssertionError("no transaction was open whenever the scorer was frozen")


def _source(message) -> tuple[int, int]:
    source = read_source(dict(message.headers())["source-record"])
    return source.partition, source.offset


class Faults:
    """What can happen to a platform, one at a time, drawn from a seed."""

    def __init__(self, scorers: Scorers, kafka, seed: int) -> None:
        self._scorers = scorers
        self._kafka = kafka
        self._random = random.Random(seed)

    def next(self) -> str:
        """Do one; return what it was."""
        fault = self._random.choice(
            [self.kill, self.kill, self.kill_two, self.freeze, self.scale, self.broker]
        )
        return fault()

    def wait(self) -> None:
        """Let the platform work for a while, or hardly at all."""
        Event().wait(self._random.uniform(0.2, 6))

    def kill(self) -> str:
        slot = self._random.choice(sorted(self._scorers.running))
        self._scorers.kill(slot)
        self._scorers.start(slot)
        return f"killed replica-{slot + 1}"

    def kill_two(self) -> str:
        return f"{self.kill()}, {self.kill()}"

    def freeze(self) -> str:
        """Longer than a session and a transaction may last: it comes back as one of the dead."""
        slot = self._random.choice(sorted(self._scorers.running))
        self._scorers.freeze(slot)
        Event().wait(9)
        self._scorers.thaw(slot)
        return f"froze replica-{slot + 1} for 9 s"

    def scale(self) -> str:
        if len(self._scorers.running) > 4:
            slots = sorted(self._scorers.running)[4:]
            self._scorers.stop(*slots)
        else:
            free = [slot for slot in range(6) if slot not in self._scorers.running]
            self._scorers.start(*free)
        return f"scaled to {len(self._scorers.running)}"

    def broker(self) -> str:
        self._kafka.stop()
        Event().wait(self._random.uniform(0, 3))
        self._kafka.start()
        return "restarted the broker"
