"""When each transaction is to be sent: a rate that has a shape, or the gaps of a recording; fixed before the first send.

That makes the loop open: a slow answer delays no later arrival, so waiting shows up as latency instead of as a lower rate.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import numpy as np

from fraudscale.arrays import Floats

SPIKE: Final = 3.0
"""How many times the rate the middle fifth of a spike has."""
SWING: Final = 0.5
"""How far a sine goes above and below the rate, as a share of it."""
WAVES: Final = 2
_CHUNK: Final = 4096
_STEPS: Final = 10_000


class Shape(StrEnum):
    """How the rate goes over the run."""

    CONSTANT = "constant"
    """The rate, all the time."""
    RAMP = "ramp"
    """From nothing to the rate, evenly."""
    SPIKE = "spike"
    """The rate, and three times the rate in the middle fifth."""
    SINE = "sine"
    """The rate and half of it more and less, in two waves."""
    RECORDED = "recorded"
    """The gaps of a file."""


_FACTOR: Final[Mapping[Shape, Callable[[Floats], Floats]]] = {
    Shape.CONSTANT: np.ones_like,
    Shape.RAMP: lambda x: x,
    Shape.SPIKE: lambda x: np.where((x >= 0.4) & (x < 0.6), SPIKE, 1.0),
    Shape.SINE: lambda x: 1 + SWING * np.sin(2 * np.pi * WAVES * x),
}
"""Share of the rate that was asked for, by the share of the run that has passed."""


class Schedule(Protocol):
    """Instants at which to send."""

    @property
    def seconds(self) -> float:
        """Length of the run."""
        ...

    def chunks(self) -> Iterator[Floats]:
        """Seconds since the start, ascending; the same ones at each call."""
        ...


@dataclass(frozen=True)
class ShapedArrivals:
    """Arrivals at a rate that has a shape."""

    shape: Shape
    rate: float
    """Transactions per second."""
    seconds: float
    even: bool
    """Evenly spaced; else a Poisson process, as independent senders make it."""
    seed: int = 1

    def chunks(self) -> Iterator[Floats]:
        """Invert the expected count (Çinlar 1975): a unit-rate process, mapped to the instants where it is reached."""
        times, expected = self._expected()
        random = np.random.default_rng(self.seed)
        count = -0.5 if self.even else 0.0
        while count < expected[-1]:
            gaps = np.ones(_CHUNK) if self.even else random.exponential(size=_CHUNK)
            counts = count + np.cumsum(gaps)
            count = counts[-1]
            yield np.interp(counts[counts < expected[-1]], expected, times)

    def _expected(self) -> tuple[Floats, Floats]:
        """Instants, and how many arrivals are expected by then."""
        edges = np.linspace(0, 1, _STEPS + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        each = _FACTOR[self.shape](middles) * self.rate * self.seconds / _STEPS
        return edges * self.seconds, np.concatenate([[0.0], np.cumsum(each)])


@dataclass(frozen=True)
class RecordedArrivals:
    """Arrivals with the gaps of a recording."""

    times: Floats
    """Seconds since the first one, ascending, at the speed of the replay."""
    seconds: float

    def chunks(self) -> Iterator[Floats]:
        for begin in range(0, len(self.times), _CHUNK):
            yield self.times[begin : begin + _CHUNK]


def instants(schedule: Schedule) -> Iterator[float]:
    """Yield the instants one by one."""
    for chunk in schedule.chunks():
        yield from chunk.tolist()


def offered(schedule: Schedule, until: float, width: float) -> list[int]:
    """Count the arrivals before `until`, in windows of `width` seconds."""
    windows = max(1, int(np.ceil(until / width)))
    counts = np.zeros(windows, dtype=np.int64)
    # The last of a recording is at its very end, and belongs to the last window.
    limit = until if until < schedule.seconds else np.inf
    for chunk in schedule.chunks():
        within = chunk[chunk < limit]
        places = np.minimum((within / width).astype(np.int64), windows - 1)
        counts += np.bincount(places, minlength=windows)
        if len(within) < len(chunk):
            break
    return [int(count) for count in counts]
