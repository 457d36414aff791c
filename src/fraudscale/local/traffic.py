"""Sample traffic: generated transactions at steady rates over HTTP and Kafka, so that a fresh platform has something to do."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from fraudscale.config import KafkaSettings, LogSettings
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.producers import Sender
from fraudscale.net import NoAnswer, Server
from fraudscale.scoring import codec
from fraudscale.scoring.records import Transaction
from fraudscale.stopping import StopSignals
from fraudscale.synthetic import SyntheticTransactions
from fraudscale.telemetry import logs
from fraudscale.telemetry.logs import Logger

HTTP_RATE: Final = 20.0
KAFKA_RATE: Final = 50.0
"""Transactions per second."""
HTTP_TIMEOUT_SECONDS: Final = 2.0
DRAWN_AT_ONCE: Final = 20
"""One by one, drawing them would cost ten times as much."""
CATCH_UP_SECONDS: Final = 1.0
"""What was missed longer ago (the machine slept, the platform hung) is left out instead of sent in one burst."""
STOP_SECONDS: Final = 0.4
"""Seconds that each of the two senders gets to finish."""


class Pace:
    """An even stream on a schedule that does not drift: the n-th is due n / rate seconds after the start."""

    def __init__(self, rate: float, start: float) -> None:
        self._rate = rate
        self._start = start
        self._taken = 0

    def wait(self, now: float) -> float:
        """Seconds until the next one is due; 0 if it is."""
        return max(0.0, self._start + self._taken / self._rate - now)

    def take(self, now: float) -> None:
        """Count one as sent, and those as left out that are too late by now."""
        latest = int((now - self._start - CATCH_UP_SECONDS) * self._rate)
        self._taken = max(self._taken + 1, latest)


class SampleSource:
    """Transactions of this moment, for several threads."""

    def __init__(self, transactions: SyntheticTransactions) -> None:
        self._transactions = transactions
        self._ready: list[Transaction] = []
        self._lock = threading.Lock()

    def next(self) -> Transaction:
        with self._lock:
            if not self._ready:
                drawn = self._transactions.at(datetime.now(UTC), DRAWN_AT_ONCE)
                self._ready = [labelled.transaction for labelled in drawn]
            return self._ready.pop()


class SteadySender:
    """One way in: sends at its pace until it is to stop; logs when sending begins to fail and when it works again."""

    def __init__(self, name: str, send: Callable[[Transaction], None], log: Logger) -> None:
        self._name = name
        self._send = send
        self._log = log
        self._failed = 0

    def run(self, source: SampleSource, rate: float, stop: threading.Event) -> None:
        pace = Pace(rate, time.monotonic())
        while not stop.wait(pace.wait(time.monotonic())):
            self.send(source.next())
            pace.take(time.monotonic())

    def send(self, transaction: Transaction) -> None:
        try:
            self._send(transaction)
        except (NoAnswer, BrokerUnavailable) as error:
            if not self._failed:
                # `door` is the field's name in the log format.
                self._log.warning("traffic_failing", door=self._name, reason=str(error))
            self._failed += 1
        else:
            if self._failed:
                self._log.info("traffic_back", door=self._name, failed=self._failed)
            self._failed = 0


class PredictSender:
    """Posts to `/predict` over one connection, which it makes anew when it breaks."""

    def __init__(self, url: str) -> None:
        self._server = Server(url, seconds=HTTP_TIMEOUT_SECONDS, headers={"Content-Type": "application/json"})

    def send(self, transaction: Transaction) -> None:
        """Send one.

        Raises:
            NoAnswer: none in time, or not 200.
        """
        answer = self._server.ask("POST", "/predict", body=codec.encode_transaction(transaction))
        if answer.status != HTTPStatus.OK:
            raise NoAnswer(f"answer {answer.status}")

    def close(self) -> None:
        self._server.close()


def _to_topic(sender: Sender, topic: str) -> Callable[[Transaction], None]:
    def send(transaction: Transaction) -> None:
        sender.send(topic, transaction.transaction_id, codec.encode_transaction(transaction))

    return send


def run(url: str, kafka: KafkaSettings, log_settings: LogSettings) -> int:
    """Send until SIGTERM or SIGINT; gone within a second of it.

    Args:
        url: the entry, such as http://127.0.0.1:8000.
        kafka: broker and input topic.
        log_settings: of this process.

    Returns:
        Exit code 0.
    """
    log = logs.set_up(log_settings, process="traffic")
    # Ids derive from the seed: each run needs its own, or its transactions would look like duplicates.
    source = SampleSource(SyntheticTransactions(seed=time.time_ns() % 2**32))
    sender = Sender(kafka, "fraudscale-traffic")
    senders = [
        (SteadySender("http", PredictSender(url).send, log), HTTP_RATE),
        (SteadySender("kafka", _to_topic(sender, kafka.kafka_topic), log), KAFKA_RATE),
    ]
    with StopSignals() as signals:
        threads = [
            threading.Thread(target=steady.run, args=(source, rate, signals.stop), daemon=True)
            for steady, rate in senders
        ]
        for thread in threads:
            thread.start()
        log.info("traffic_started", http_rate=HTTP_RATE, kafka_rate=KAFKA_RATE)
        signals.stop.wait()
    for thread in threads:
        thread.join(STOP_SECONDS)
    sender.close(STOP_SECONDS)
    return 0
