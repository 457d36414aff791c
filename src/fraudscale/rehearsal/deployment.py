"""The simulated Deployment: pods that start, get ready, share the load, report metrics, and go."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from fraudscale.hpa import MEBIBYTE_MILLI, Container, Observed, Pods
from fraudscale.rehearsal.trace import LoadTrace, Segment

SAMPLE_WINDOW_S: Final = 15.0
YOUNG_S: Final = 300.0
"""The controller looks at readiness times of pods younger than this, its cpu-initialization period."""

_LONG_AGO: Final = -86_400.0


@dataclass
class _Group:
    """Pods of one birth."""

    count: int
    created: float
    ready_at: float


class Load:
    """The load over time; asked in order of time, so that the whole trace is walked once."""

    def __init__(self, load: Sequence[Segment]) -> None:
        self._load = load
        self._at = 0

    def at(self, t: float) -> Segment:
        """The segment of the second that begins at `t`; the first one before 0."""
        while self._load[self._at].until_s <= t:
            self._at += 1
        return self._load[self._at]


@dataclass
class Deployment:
    """A Deployment under the load of a trace: `observe` what the controller would see, then `scale` to what it says."""

    trace: LoadTrace
    replicas: int
    steps: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, change of the number of ready pods), in order of making; a pod that goes before it is ready has two that
    cancel each other."""

    def __post_init__(self) -> None:
        self._groups = [_Group(self.replicas, _LONG_AGO, _LONG_AGO)]
        self._load = Load(self.trace.load)
        # Ready pods at the time of the newest sample, and the changes that it has not reached yet.
        self._ready, self._coming = 0, [(_LONG_AGO, self.replicas)]
        self.steps.append(self._coming[0])
        self._requests = {
            "cpu": int(self.trace.cpu_request_m),
            "memory": int(self.trace.memory_request_mi * MEBIBYTE_MILLI),
        }
        self._last: tuple[object, Observed] | None = None

    def observe(self, t: float) -> Observed:
        """What the metrics API and the pod list say at `t` (seconds), which never goes back."""
        sampled_at = t - self.trace.metrics_delay_s
        segment = self._load.at(sampled_at)
        while self._coming and self._coming[0][0] <= sampled_at:
            self._ready += heapq.heappop(self._coming)[1]
        self._merge(t, sampled_at)
        # A week has few ticks at which anything changes: the same object again also lets the controller skip its work.
        # A young pod's class depends on the time, so only a fleet that is all old may be shown again.
        key = (self.replicas, segment.total_cpu_m, segment.memory_mi, segment.metrics_share, self._ready)
        settled = len(self._groups) == 1
        if settled and self._last is not None and self._last[0] == key:
            return self._last[1]
        seen = Observed(self.replicas, tuple(self._pods(segment, t, sampled_at)))
        self._last = (key, seen) if settled else None
        return seen

    def scale(self, to: int, t: float) -> None:
        """Create pods at `t`, or remove some: unready ones first, then the newest."""
        if to > self.replicas:
            ready_at = t + self.trace.pod_ready_after_s
            self._groups.append(_Group(to - self.replicas, t, ready_at))
            self._step(ready_at, to - self.replicas)
        else:
            self._remove(self.replicas - to, t)
        self.replicas = to

    def _remove(self, surplus: int, t: float) -> None:
        # Groups are in order of creation and all start equally long: unready ones are the newest too.
        while surplus:
            group = self._groups[-1]
            gone = min(surplus, group.count)
            self._step(max(t, group.ready_at), -gone)
            group.count -= gone
            surplus -= gone
            if not group.count and len(self._groups) > 1:
                self._groups.pop()

    def _step(self, t: float, change: int) -> None:
        self.steps.append((t, change))
        heapq.heappush(self._coming, (t, change))

    def _merge(self, t: float, sampled_at: float) -> None:
        """Make pods of the first group those that the controller can't tell from old ones any more."""
        while len(self._groups) > 1:
            group = self._groups[1]
            fresh = group.ready_at + (SAMPLE_WINDOW_S if group.created + YOUNG_S > t else 0)
            if sampled_at < fresh:
                break
            self._groups[0].count += group.count
            del self._groups[1]

    def _pods(self, segment: Segment, t: float, sampled_at: float) -> Iterator[Pods]:
        share = int(segment.total_cpu_m // self._ready) if self._ready else 0
        memory = int(segment.memory_mi * MEBIBYTE_MILLI)
        reporting = round(segment.metrics_share * self.replicas)
        for group in self._groups:
            sampled = min(group.count, reporting) if group.created <= sampled_at else 0
            reporting = max(0, reporting - group.count)
            usage = {"cpu": share if group.ready_at <= sampled_at else 0, "memory": memory}
            if sampled:
                yield self._class(sampled, group, usage, t, sampled_at)
            if sampled < group.count:
                yield self._class(group.count - sampled, group, None, t, sampled_at)

    def _class(
        self, count: int, group: _Group, usage: dict[str, int] | None, t: float, sampled_at: float
    ) -> Pods:
        ready = group.ready_at <= t
        return Pods(
            count,
            (Container("pod", self._requests, usage),),
            ready="True" if ready else "False",
            started=group.created,
            ready_since=group.ready_at if ready else group.created,
            sampled_at=sampled_at,
            window=SAMPLE_WINDOW_S,
        )
