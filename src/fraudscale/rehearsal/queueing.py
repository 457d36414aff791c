"""The latency estimate: from utilisation to waiting, backlog and response times at the replicas.

Each replica is an M/M/1 queue of its own: a balancer that doesn't see the queues splits a Poisson stream at random, so
each replica gets a Poisson stream, and response times are exponential with mean s / (1 − ρ), where s is the time of one
request on an idle replica and ρ the replica's utilisation (Kleinrock, Queueing Systems I, 1975, section 3.2). A balancer
that knows the queues does better (M/M/c), so this errs on the safe side. Each moment is taken at its own steady state
(pointwise stationary approximation, Green and Kolesar 1991).

What arrives beyond capacity waits in a fluid backlog, first in first out, and is worked off when there is capacity: this
part is exact for the given load. It is a view from outside: work that waits burns its CPU later than the trace says, and
the controller, which sees the trace, doesn't know.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fraudscale.arrays import Bools, Floats
from fraudscale.rehearsal.rehearse import Rehearsal

CORE_M: Final = 1000.0
BUSIEST: Final = 0.99
"""Utilisation at which a queue's steady state is read at most: nearer to 1 it would take hours to come about, and beyond
1 there is none; the backlog tells what happens there."""
DAY_S: Final = 86_400.0
STEPS: Final = 60
"""Bisections that find a quantile: far below a microsecond."""


@dataclass(frozen=True)
class Service:
    """What one request costs, and what one pod can do."""

    cpu_ms_per_request: float = 1.0
    pod_cpu_m: float | None = None
    """Milli-cores that a pod can use at most. None: a core (a replica's endpoint is one thread), or its request if larger."""

    def capacity(self, request_m: float) -> float:
        return self.pod_cpu_m or max(CORE_M, request_m)


@dataclass(frozen=True)
class LatencyEstimate:
    """How long requests take, over the whole time, cut into pieces in which load and ready pods don't change.

    Arrays have one number per piece.
    """

    start: Floats
    """Seconds."""
    length: Floats
    """Seconds."""
    cpu_m: Floats
    """Offered load of all pods together, milli-cores."""
    memory_mi: Floats
    """MiB of each pod."""
    ready: Floats
    """Pods that serve."""
    backlog: Floats
    """Requests that wait beyond capacity, at the piece's end."""
    requests: Floats
    """That arrive in the piece."""
    delay_s: Floats
    """Time in the backlog of what arrives in the middle of the piece."""
    response_s: Floats
    """Mean of the exponential time at the replica, after that delay."""
    busy: Bools
    """Whether more arrives than the ready pods can do, or some still waits."""

    def quantile(self, p: float) -> float:
        """Seconds within which the share `p` of all requests is answered; 0 if there were none."""
        total = self.requests.sum()
        if not total:
            return 0.0
        # The pieces make a mixture of delayed exponentials, whose quantile has no closed form: so bisect. Each piece alone
        # has but a hundredth of the tail left at the upper end.
        low, high = 0.0, float((self.delay_s + self.response_s * -math.log((1 - p) / 100)).max())
        for _ in range(STEPS):
            middle = (low + high) / 2
            late = np.exp(-np.maximum(middle - self.delay_s, 0) / self.response_s)
            low, high = (middle, high) if self.requests @ late > (1 - p) * total else (low, middle)
        return high

    def quantiles(self, p: float) -> Floats:
        """The same of each piece, in seconds."""
        return self.delay_s - self.response_s * math.log(1 - p)


def estimate_latency(rehearsal: Rehearsal, service: Service) -> LatencyEstimate:
    """Estimate how long requests take at the ready pods of a rehearsal."""
    trace = rehearsal.trace
    edges = _edges(rehearsal)
    start, length = edges[:-1], np.diff(edges)
    segment = np.searchsorted([s.until_s for s in trace.load], start, side="right")
    cpu = np.array([s.total_cpu_m for s in trace.load], dtype=np.float64)[segment]
    memory = np.array([s.memory_mi for s in trace.load], dtype=np.float64)[segment]
    # Pods count from their readiness: the Service sends nothing to others.
    ready = _ready(rehearsal.ready_steps, start)
    pod = service.capacity(trace.cpu_request_m)
    backlog = _backlog((cpu - ready * pod) * length)
    before = np.concatenate(([0.0], backlog[:-1]))
    # A piece without pods has no queue to read: its requests wait in the backlog, and then at a full pod.
    use = np.minimum(cpu / np.maximum(ready * pod, 1e-9), BUSIEST)
    return LatencyEstimate(
        start=start,
        length=length,
        cpu_m=cpu,
        memory_mi=memory,
        ready=ready,
        # One milli-core for a second is one millisecond of work.
        backlog=backlog / service.cpu_ms_per_request,
        requests=cpu * length / service.cpu_ms_per_request,
        delay_s=_delay(edges, cpu * length, before, backlog, last_rate=float(ready[-1]) * pod),
        response_s=service.cpu_ms_per_request / pod / (1 - use),
        busy=(backlog > 0) | (before > 0),
    )


def _edges(rehearsal: Rehearsal) -> Floats:
    end = rehearsal.trace.seconds
    # Ticks too: without them a trace of few segments would have pieces too long for one delay.
    times: Sequence[float] = [d.at for d in rehearsal.decisions]
    changes = [t for t, _ in rehearsal.ready_steps]
    edges = np.unique(np.array([*times, *changes, *(s.until_s for s in rehearsal.trace.load), end]))
    return edges[(edges >= 0) & (edges <= end)]


def _ready(steps: Sequence[tuple[float, int]], at: Floats) -> Floats:
    times, counts = np.array([t for t, _ in steps]), np.cumsum([change for _, change in steps])
    return counts[np.searchsorted(times, at, side="right") - 1].astype(np.float64)


def _backlog(surplus: Floats) -> Floats:
    """Work that waits after each piece, from what came in less what could go out: Lindley's recursion in closed form."""
    total = np.cumsum(surplus)
    waiting = total - np.minimum(np.minimum.accumulate(total), 0)
    # Sums of many numbers leave crumbs where nothing waits.
    return np.where(waiting > 1e-6, waiting, 0.0)


def _delay(edges: Floats, arrived: Floats, before: Floats, after: Floats, *, last_rate: float) -> Floats:
    """Time until what arrives in the middle of each piece has been served, first in first out."""
    # Work that came and work that was done, both cumulated: first in first out, so the time at which as much was done as
    # had come by then is the time at which it was served.
    come = np.concatenate(([0.0], np.cumsum(arrived)))
    gone = come - np.concatenate(([0.0], after))
    # What is left at the end is worked off by the pods of the end; where there are none, after a day's idleness.
    idle, rest = (0.0, after[-1] / last_rate) if last_rate else (DAY_S, 0.0)
    times = np.append(edges, (edges[-1] + idle, edges[-1] + idle + rest))
    gone = np.append(gone, (gone[-1], come[-1]))
    middle_work = (come[:-1] + come[1:]) / 2
    # The middle stands for the piece: the load in it is even, and so is the change of the wait.
    middle_time = (edges[:-1] + edges[1:]) / 2
    served_at = np.interp(middle_work, np.maximum.accumulate(gone), times)
    waits = (before > 0) | (after > 0)
    return np.where(waits, np.maximum(served_at - middle_time, 0.0), 0.0)
