"""Queue length, age and lag as metrics, for every process that wants to show them; it needs no model and no group."""

from collections.abc import Collection, Mapping, Sequence
from threading import Event, Lock, Thread
from time import monotonic, time
from typing import Final

from fraudscale.config import KafkaSettings
from fraudscale.counting import Family, Gauge
from fraudscale.kafka.client import BrokerLink, BrokerRefused, BrokerUnavailable
from fraudscale.kafka.watermarks import Waiting, Watermarks, oldest
from fraudscale.metrics import QueueMetrics

QUESTION: Final = "queue length"
UNREADY_SECONDS: Final = 30.0
"""A scorer that makes no progress for so long, while records wait, is not ready."""
STUCK_SECONDS: Final = 120.0
"""… and for so long: only a new process may help. Rebalances, and a machine without time for us, are over before."""


class ScoringProgress:
    """Whether the group's commits move where records wait; from one look of the broker's figures to the next."""

    def __init__(self) -> None:
        self._commits: dict[int, int | None] | None = None
        self._moved_at = 0.0
        self.seconds_stalled = 0.0
        """As of the last look: since when records wait, and none was scored."""

    def see(self, waiting: Mapping[int, Waiting], owned: Collection[int], now: float) -> None:
        """Take note of a look.

        Args:
            waiting: all partitions.
            owned: ours. A scorer that has none is judged by the whole group: perhaps it should have some.
            now: in seconds that only grow.
        """
        ours = {p: w for p, w in waiting.items() if p in owned} or waiting
        commits = {p: w.committed for p, w in ours.items()}
        # where the first record is not to be read (its transaction is open), or not known yet, no scorer is at fault
        if commits != self._commits or not any(w.lag and w.readable for w in ours.values()):
            self._commits, self._moved_at = commits, now
        self.seconds_stalled = now - self._moved_at

    def forget(self) -> None:
        """Nothing is known: the broker gave no answer."""
        self._commits, self.seconds_stalled = None, 0.0

    def missing_for(self, seconds: float) -> str | None:
        """Say so if there has been none for more than `seconds`."""
        if self.seconds_stalled <= seconds:
            return None
        return f"records wait, and none was scored for {self.seconds_stalled:.0f} s"


class LagReporter:
    """A thread that keeps queue length, age and lag current, and sees whether the broker answers.

    It needs no member of the group: only lag by partition is the owners', and without `own` it reports none of that.
    A figure that can't be known is taken away, not left standing: its absence has an alert of its own.
    """

    def __init__(
        self, settings: KafkaSettings, counts: QueueMetrics, link: BrokerLink, watermarks: Watermarks
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._link = link
        self._watermarks = watermarks
        self.progress = ScoringProgress()
        self._lock = Lock()
        self._owned: frozenset[int] = frozenset()
        self._changed = Event()
        self._stopping = False
        self._thread = Thread(target=self._run, name="lag-reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one whose question to a dead broker is still open ends with the process."""
        self._stopping = True
        self._changed.set()
        self._thread.join(1)

    def own(self, partitions: frozenset[int]) -> None:
        """Report lag for these partitions only; those of others vanish at once."""
        with self._lock:
            self._owned = partitions
            self._counts.lag.retain(self._series(partitions))
        self._changed.set()

    def report(self) -> None:
        """Ask the broker once, and set the figures."""
        topic, group = self._settings.kafka_topic, self._settings.kafka_group
        try:
            waiting = self._watermarks.waiting()
        except BrokerRefused as error:
            self._take_away()
            self._link.back()
            self._link.refused(QUESTION, str(error))
            return
        except BrokerUnavailable as error:
            self._take_away()
            self._link.lost(str(error))
            return
        self._link.back()
        self._link.granted(QUESTION)
        with self._lock:
            owned = self._owned
        self.progress.see(waiting, owned, monotonic())
        self._counts.queue_length.labels(topic, group).value = sum(w.lag for w in waiting.values())
        self._counts.topic_messages.labels(topic).value = sum(w.retained for w in waiting.values())
        self._counts.without_commit.labels(topic, group).value = sum(
            w.committed is None for w in waiting.values()
        )
        self._report_age(waiting)
        with self._lock:
            for partition in self._owned & waiting.keys():
                self._counts.lag.labels(topic, group, str(partition)).value = waiting[partition].lag

    def _take_away(self) -> None:
        """Without an answer there are no figures: old ones would look like a queue that doesn't move."""
        self.progress.forget()
        for family in self._totals():
            family.retain([])
        with self._lock:
            self._counts.lag.retain([])

    def _report_age(self, waiting: Mapping[int, Waiting]) -> None:
        labels = self._settings.kafka_topic, self._settings.kafka_group
        if not any(w.lag for w in waiting.values()):
            self._counts.oldest_age.labels(*labels).value = 0
        elif (timestamp := oldest(waiting)) is not None:
            # clocks of producers may be ahead of ours
            self._counts.oldest_age.labels(*labels).value = max(0.0, time() - timestamp / 1000)
        else:
            self._counts.oldest_age.retain([])

    def _totals(self) -> Sequence[Family[Gauge]]:
        counts = self._counts
        return counts.queue_length, counts.topic_messages, counts.oldest_age, counts.without_commit

    def _series(self, partitions: frozenset[int]) -> list[tuple[str, str, str]]:
        return [(self._settings.kafka_topic, self._settings.kafka_group, str(p)) for p in partitions]

    def _run(self) -> None:
        while not self._stopping:
            began = monotonic()
            self._changed.clear()
            try:
                self.report()
            except Exception as error:  # whatever it is, the next report may succeed
                self._take_away()
                self._link.refused(QUESTION, f"{type(error).__name__}: {error}")
            if not self._stopping:
                self._changed.wait(max(0.0, self._settings.kafka_lag_seconds - (monotonic() - began)))
