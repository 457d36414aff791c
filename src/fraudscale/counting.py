"""Plain numbers that a process counts, and the shape in which Prometheus reads them.

A value is a plain number that its one writer updates without a lock; a collector reads it at scrape. That is five
times cheaper than the client library's own objects, and the exposition is still the library's.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as ClientMetric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

MANY: Final = 100
"""So many observations at once are counted by numpy, whose call costs more than it saves for fewer."""


@dataclass(frozen=True)
class Metric:
    """One row of the table: name, kind, meaning, labels; upper edges of a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()


class Counter:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self, metric: Metric) -> None:
        del metric
        self.value = 0.0

    def add_to(self, family: Any, labels: tuple[str, ...]) -> None:
        family.add_metric(labels, self.value)


class Gauge(Counter):
    """A number that is set."""

    __slots__ = ()


class Histogram:
    """Counts between edges, and the sum. `le` of each bucket includes its edge."""

    __slots__ = ("counts", "edges", "exemplars", "sum")

    def __init__(self, metric: Metric) -> None:
        self.edges = metric.edges
        self.counts = [0] * (len(metric.edges) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.edges, value)] += times
        self.sum += value * times

    def observe_all(self, values: Sequence[float]) -> None:
        """As `observe` for each of them; many at once cost a tenth of it."""
        if len(values) < MANY:
            for value in values:
                self.observe(value)
            return
        buckets = np.searchsorted(self.edges, values, side="left")
        for bucket, count in enumerate(np.bincount(buckets, minlength=len(self.counts)).tolist()):
            self.counts[bucket] += count
        self.sum += sum(values)

    def exemplify(self, value: float, labels: dict[str, str]) -> None:
        """Keep the labels of something observed as the latest example of its bucket; OpenMetrics shows it."""
        self.exemplars[bisect_left(self.edges, value)] = Exemplar(labels, value, time.time())

    def add_to(self, family: Any, labels: tuple[str, ...]) -> None:
        bounds = [*map(floatToGoString, self.edges), "+Inf"]
        examples = map(self.exemplars.get, range(len(bounds)))
        buckets = list(zip(bounds, accumulate(self.counts), examples, strict=True))
        family.add_metric(labels, buckets, self.sum)


V = TypeVar("V", Counter, Gauge, Histogram)
_FAMILIES: Final[dict[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Family(Generic[V]):
    """All series of one metric: a value for each combination of label values."""

    def __init__(self, metric: Metric, kind: type[V], *series: Sequence[str]) -> None:
        """Start the given series (label values each) at 0, so that an alert sees their first increase."""
        self.metric = metric
        self._kind: type[V] = kind
        self._values: dict[tuple[str, ...], V] = {}
        for labels in series if metric.labels else [()]:
            self.labels(*labels)

    def labels(self, *values: str) -> V:
        """Return the value of one series, at 0 if it is new."""
        found = self._values.get(values)
        if found is None:
            if len(values) != len(self.metric.labels):
                raise ValueError(f"{self.metric.name} has the labels {self.metric.labels}, not {values}")
            found = self._values[values] = self._kind(self.metric)
        return found

    def retain(self, keep: Iterable[Sequence[str]]) -> None:
        """Drop every series but those of these label values."""
        kept = {tuple(labels) for labels in keep}
        self._values = {labels: value for labels, value in self._values.items() if labels in kept}

    def collect(self) -> ClientMetric:
        family: ClientMetric = _FAMILIES[self.metric.kind](
            self.metric.name, self.metric.help, labels=self.metric.labels
        )
        for labels, value in list(self._values.items()):
            value.add_to(family, labels)
        return family


class MetricGroup(Collector):
    """A collector of the `Family` attributes of a class."""

    def collect(self) -> Iterator[ClientMetric]:
        for value in list(vars(self).values()):
            if isinstance(value, Family):
                yield value.collect()
