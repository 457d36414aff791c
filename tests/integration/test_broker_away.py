# ruff: noqa: F401, F811 - one of the imports is a fixture
"""What our Kafka clients do while the broker is away or hangs: they wait without haste, and go on by themselves."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import structlog
from test_stream_kafka import (
    Door,
    committed,
    model,
    on_both_kafkas,
    process,
    produce,
    settings,
    value,
    wait_for,
)

from fraudscale.kafka.client import BrokerLink, BrokerUnavailable
from fraudscale.kafka.lag import LagReporter
from fraudscale.kafka.producers import Sender
from fraudscale.kafka.watermarks import Watermarks
from fraudscale.metrics import QueueMetrics

SWITCHES_PER_SECOND = 5_000
"""Of all threads of the clients of a scorer, an exporter of the queue and a sender; one client without a pause makes more."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="counts threads' turns as Linux does"
)


def switches() -> int:
    """How often a thread of this process has given up the processor, or lost it."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it ended just now
            lines = (task / "status").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return found


@contextmanager
def everyone(settings, model) -> Iterator[tuple[Door, Callable[[str], bool]]]:
    """A scorer, an exporter that is no scorer, and a sender: all roles of a client that there are; and a way to send."""
    sender = Sender(settings, "sender")
    link = BrokerLink(settings.kafka_bootstrap_servers, structlog.get_logger())
    exporter = LagReporter(settings, QueueMetrics(), link, Watermarks(settings))

    def send(key: str) -> bool:
        try:
            sender.send(settings.kafka_topic, key, value(0))
        except BrokerUnavailable:
            return False
        return True

    with Door(settings, model).running() as door:
        exporter.start()
        try:
            yield door, send
        finally:
            exporter.stop()
            sender.close(1)


def scores_again(door: Door, send: Callable[[str], bool], seconds: float) -> None:
    """Wait until what is sent now is scored; a sender that lost records may say so for some of them."""
    before = door.consumed()
    wait_for(lambda: send("k") and door.consumed() > before, seconds)


@on_both_kafkas
def test_no_client_tries_without_a_pause_while_the_broker_is_away_and_all_go_on_after_it(
    settings, model, kafka
):
    with everyone(settings, model) as (door, send):
        scores_again(door, send, 30)
        kafka.stop()
        try:
            time.sleep(1)  # each may try at once
            before, began = switches(), time.monotonic()
            time.sleep(5)
            each_second = (switches() - before) / (time.monotonic() - began)
        finally:
            kafka.start()
        scores_again(door, send, 60)
    assert each_second < SWITCHES_PER_SECOND


def test_all_go_on_by_themselves_after_a_broker_that_hung_and_was_taken_for_dead(settings, model, kafka):
    """While it counts as dead it names no broker, itself neither, to whoever asks: a client must not end up with none."""
    with everyone(settings, model) as (door, send):
        scores_again(door, send, 30)
        with kafka.frozen():
            time.sleep(8)  # its registration ends after 3 s
        scores_again(door, send, 30)
        wait_for(lambda: door.queue() == 0)


HANGING = """
from fraudscale.kafka import worker
from fraudscale.kafka.worker import Worker
worker.UNREADY_SECONDS, worker.STUCK_SECONDS = 0.5, 3.0
take_through = Worker._take_through
def hang_at_the_second(self, batch, seen=[]):
    if seen:
        import time
        time.sleep(600)
    seen.append(batch)
    take_through(self, batch)
Worker._take_through = hang_at_the_second
"""


def answer(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as found:
            return found.status, found.read().decode()
    except HTTPError as refused:
        return refused.code, refused.read().decode()


def test_a_scorer_that_stands_still_while_records_wait_is_not_ready_and_then_not_alive(
    settings, kafka, make_artifact, tmp_path
):
    port = kafka.ports.stream[0]
    with process(settings, kafka, make_artifact, tmp_path, HANGING):
        produce(settings, [value(0)])
        wait_for(lambda: sum(committed(settings).values()) == 1)
        wait_for(lambda: answer(port, "/readyz")[0] == answer(port, "/livez")[0] == 200)
        produce(settings, [value(1)])
        wait_for(lambda: answer(port, "/readyz")[0] == 503)
        assert "records wait, and none was scored for" in answer(port, "/readyz")[1]
        wait_for(lambda: answer(port, "/livez")[0] == 503)
