"""Sends over Kafka: one thread writes to the input topic, one reads the committed scores and matches them by id."""

import threading
from collections.abc import Callable
from time import perf_counter, sleep, time
from typing import Final

from fraudscale.config import KafkaSettings
from fraudscale.kafka.producers import TimedSender
from fraudscale.kafka.scores import CommittedScore, ScoreReader
from fraudscale.load.measure import Item, Items, Measures, StopRequest

CLIENT: Final = "fraudscale-load"
READ_RECORDS: Final = 2000
READ_SECONDS: Final = 0.05
NAP_SECONDS: Final = 0.05
"""Longest sleep, so that a stop is seen soon."""
QUIET_SECONDS: Final = 30.0
"""Without a single score for so long, what is missing is missing; longer than a takeover after a kill."""
STOPPING_SECONDS: Final = 5.0
"""What unanswered transactions get after Ctrl-C."""
FLUSH_SECONDS: Final = 10.0
MAX_PENDING: Final = 2_000_000
"""Transactions waited for; beyond it the oldest count as missing, so that a run against dead replicas stays bounded."""


class Pending:
    """Which transactions wait for their score: one thread adds, another takes."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._due: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: bytes, due: float) -> None:
        if len(self._due) >= MAX_PENDING:
            self._due.pop(next(iter(self._due)), None)
        self._due[key] = due

    def failed(self, key: bytes | None, kind: str) -> None:
        due = self._due.pop(key or b"", None)
        if due is not None:
            self._measures.failed(due, kind)

    def take(self, key: bytes | None) -> float | None:
        """When the transaction was due; None if it isn't one of ours, or had its score."""
        return self._due.pop(key or b"", None)


class Repeats:
    """Finds input records that were scored twice, in constant memory.

    A record is scored again only if its partition is read again from some offset, and its key leads to the same output
    partition: so there, among the scores of one input partition, a source offset that doesn't grow is a repetition.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], int] = {}

    def is_repeated(self, score: CommittedScore) -> bool:
        if score.source is None:
            return False
        way = (score.source.partition, score.partition)
        if score.source.offset <= self._last.get(way, -1):
            return True
        self._last[way] = score.source.offset
        return False


class KafkaLoad:
    """Sends items when they are due, and waits for their committed scores."""

    def __init__(self, settings: KafkaSettings, items: Items, measures: Measures, stop: StopRequest) -> None:
        self._settings = settings
        self._items = items
        self._measures = measures
        self._stop = stop
        self._pending = Pending(measures)
        self._repeats = Repeats()
        self._start = self._last_score = 0.0
        self._done = threading.Event()

    def run(self, started: Callable[[float], None]) -> None:
        """Send, and wait for the scores; `started` is told the start, a `perf_counter()`.

        Raises:
            BrokerUnavailable: no broker answered at the start, or the topics are missing.
        """
        reader = ScoreReader(self._settings, CLIENT)
        sender = TimedSender(self._settings, CLIENT, self._pending.failed)
        self._start = self._last_score = perf_counter()
        started(self._start)
        thread = threading.Thread(target=self._read, args=(reader,), name="scores", daemon=True)
        thread.start()
        self._send(sender)
        sender.close(STOPPING_SECONDS if self._stop.asked else FLUSH_SECONDS)
        self._wait_for_the_last()
        self._done.set()
        thread.join()
        reader.close()
        m = self._measures
        m.missing = max(0, m.sent - m.ok - sum(m.errors.values()))

    def _send(self, sender: TimedSender) -> None:
        epoch = time() - (perf_counter() - self._start)
        for item in self._items:
            if not (self._until(item.due) and self._hand_over(sender, item, epoch)):
                self._stop.at = perf_counter() - self._start
                return
            self._measures.took(item.due, perf_counter() - self._start)

    def _hand_over(self, sender: TimedSender, item: Item, epoch: float) -> bool:
        """Give an item to the client, stamped with its intended time; False if a stop came before there was room."""
        self._pending.add(item.key, item.due)
        stamp = round((epoch + item.due) * 1000)
        while not sender.send(self._settings.kafka_topic, item.key, item.body, stamp):
            if self._stop.asked:
                self._pending.take(item.key)
                return False
        return True

    def _until(self, due: float) -> bool:
        """Sleep until an instant; False if a stop came first."""
        while not self._stop.asked:
            left = due - (perf_counter() - self._start)
            if left <= 0:
                return True
            sleep(min(left, NAP_SECONDS))
        return False

    def _read(self, reader: ScoreReader) -> None:
        while not self._done.is_set():
            scores = reader.read(READ_RECORDS, READ_SECONDS)
            now = perf_counter()
            for score in scores:
                self._take(score, now)

    def _take(self, score: CommittedScore, now: float) -> None:
        if self._repeats.is_repeated(score):
            self._measures.duplicates += 1
        due = self._pending.take(score.key)
        if due is not None:
            self._measures.scored(due, now - self._start)
            self._last_score = now

    def _wait_for_the_last(self) -> None:
        began = perf_counter()
        while len(self._pending) and self._stop.asked < 2:
            now = perf_counter()
            if self._stop.asked and now - began > STOPPING_SECONDS:
                return
            if now - max(began, self._last_score) > QUIET_SECONDS:
                return
            sleep(NAP_SECONDS)
