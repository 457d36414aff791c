"""What happened, counted while it happens: constant memory, however long the run is."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hdrh.histogram import HdrHistogram

MAX_WINDOWS: Final = 300
"""Points of the series over time; a longer run has wider ones."""
_HIGHEST_US: Final = 3600 * 1_000_000
"""A longer time counts as an hour."""


class Item(NamedTuple):
    """One transaction to send."""

    due: float
    """Seconds after the start."""
    key: bytes
    body: bytes


Items = Iterator[Item]


class Times:
    """Durations in a HdrHistogram of microseconds: quantiles are right to `digits` digits."""

    def __init__(self, digits: int) -> None:
        self._histogram = HdrHistogram(1, _HIGHEST_US, digits)

    def add(self, seconds: float) -> None:
        self._histogram.record_value(min(max(int(seconds * 1e6), 1), _HIGHEST_US))

    def ms(self, percent: float) -> float | None:
        """Return a percentile in milliseconds, None while there is nothing; 100 is the maximum."""
        if not self._histogram.total_count:
            return None
        microseconds: int = self._histogram.get_value_at_percentile(percent)
        return round(microseconds / 1e3, 3)


@dataclass
class Window:
    """A stretch of the run. Answers belong to the window in which their transaction was due."""

    sent: int = 0
    ok: int = 0
    errors: int = 0
    in_flight: int = 0
    """Sent and not answered, when it was looked at last."""
    latency: Times = field(default_factory=lambda: Times(2))


class Measures:
    """The counts of a run. Sends are told by one thread and answers by one, which may be another."""

    def __init__(self, seconds: float) -> None:
        self.width = float(max(1, math.ceil(seconds / MAX_WINDOWS)))
        self.windows: list[Window] = [Window() for _ in range(max(1, math.ceil(seconds / self.width)))]
        self.sent = 0
        self.ok = 0
        self.errors: Counter[str] = Counter()
        self.latency = Times(3)
        self.lateness = Times(3)
        self.last_send = 0.0
        """Seconds after the start."""
        self.duplicates = 0
        self.missing = 0

    def took(self, due: float, at: float) -> None:
        """Count a send at this instant; both in seconds after the start."""
        self.sent += 1
        self.last_send = at
        self.lateness.add(at - due)
        self.window(at).sent += 1

    def scored(self, due: float, at: float) -> None:
        self.ok += 1
        self.latency.add(at - due)
        window = self.window(due)
        window.ok += 1
        window.latency.add(at - due)

    def failed(self, due: float, kind: str) -> None:
        """Count an error: the HTTP status, or what happened instead of one."""
        self.errors[kind] += 1
        self.window(due).errors += 1

    @property
    def in_flight(self) -> int:
        return max(0, self.sent - self.ok - sum(self.errors.values()))

    def sample(self, at: float) -> Window:
        """Note how many are in flight at this instant; return its window."""
        window = self.window(at)
        if at < len(self.windows) * self.width:
            window.in_flight = self.in_flight
        return window

    def window(self, at: float) -> Window:
        # what happens after the end (a late send, the wait for the last answers) belongs to the last window
        return self.windows[min(max(int(at / self.width), 0), len(self.windows) - 1)]


class StopRequest:
    """Asked for by Ctrl-C: once to send no more, twice to wait no more for answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.at: float | None = None
        """When the sends ended because of it, in seconds after the start."""

    def ask(self, *_: object) -> None:
        """Count a request; the arguments are those of a caller that tells which signal it was."""
        self.asked += 1
