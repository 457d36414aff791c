"""What the autoscaler of a machine did beside the rehearsal of the same CPU: its log becomes a trace, and both go tick by tick.

Everything comes from its `hpa_synced` lines. The rehearsal is given the CPU of a replica that counted, times the ready replicas,
and how long the first new replica took to be ready; number, raw answer and reasons of every tick are its own.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from fraudscale.hpa import MEBIBYTE_MILLI
from fraudscale.local.scaling.autoscaler import SYNC_SECONDS, Synced
from fraudscale.local.scaling.manifests import Scaling
from fraudscale.rehearsal.rehearse import Rehearsal, whole
from fraudscale.rehearsal.trace import LoadTrace, Segment, Setup, of_load

_EVENT = b'"event":"hpa_synced"'


class Sync(Synced, frozen=True):
    """A line `hpa_synced` of the log."""

    timestamp: datetime


class Tick(NamedTuple):
    """A sync, of the run or of the rehearsal."""

    t: float
    """Seconds of the autoscaler's clock since the first."""
    current: int
    target: int
    want: int | None
    """The metrics' raw answer."""
    cpu: int | None
    """Percent of the request, of the replicas that counted."""
    ready: int


class Step(msgspec.Struct, frozen=True):
    """A change of scale that both made."""

    current: int
    target: int
    t: float
    """Of the run: seconds of the autoscaler's clock since the first sync."""
    rehearsed_t: float

    @property
    def ticks_apart(self) -> int:
        return round((self.rehearsed_t - self.t) / SYNC_SECONDS)


class Comparison(msgspec.Struct, frozen=True):
    """The run beside its rehearsal."""

    went: list[int]
    """Numbers of replicas, one after the other."""
    rehearsed: list[int]
    steps: list[Step]
    """Empty where they did not go the same way."""
    ticks: int
    same_target: int
    """Ticks after which both have the same number of replicas."""
    same_want: int
    """Ticks at which the metrics gave both the same raw answer."""


def read(log: Path) -> list[Sync]:
    """Read the syncs that the autoscaler's log tells of, in order; none where there is no log."""
    syncs = []
    with suppress(FileNotFoundError):
        for line in log.read_bytes().splitlines():
            if _EVENT in line:
                with suppress(msgspec.DecodeError):  # the last one, half written
                    syncs.append(msgspec.json.decode(line, type=Sync))
    return syncs


def ran(syncs: Sequence[Sync]) -> list[Tick]:
    first = syncs[0].at
    return [
        Tick(_grid(s.at - first), s.current_replicas, s.target_replicas, s.want, s.cpu_usage, s.ready)
        for s in syncs
    ]


def rehearsed(rehearsal: Rehearsal) -> list[Tick]:
    return [
        Tick(
            d.at,
            d.current,
            d.target,
            d.want,
            next((p.value for p in d.proposals if p.metric.name == "cpu"), None),
            # What goes because of a decision was still there when it was made.
            sum(change for at, change in rehearsal.ready_steps if at < d.at or (at == d.at and change > 0)),
        )
        for d in rehearsal.decisions
    ]


def trace(syncs: Sequence[Sync], scaling: Scaling) -> LoadTrace:
    """Make a trace of what was measured, one segment a sync."""
    ticks = ran(syncs)
    request = {name: sum(r[name] for r in scaling.requests.values()) for name in ("cpu", "memory")}
    ends = [*(tick.t for tick in ticks[1:]), ticks[-1].t + SYNC_SECONDS]
    load = [
        Segment(
            whole(end),
            # Rounded up for the rehearsal, which rounds down, to come to the same percentage.
            math.ceil((tick.cpu or 0) * request["cpu"] / 100) * tick.ready,
            sync.memory_mi,
            0.0 if tick.cpu is None else 1.0,
        )
        for end, tick, sync in zip(ends, ticks, syncs, strict=True)
    ]
    setup = Setup(
        cpu_request_m=request["cpu"],
        memory_request_mi=request["memory"] / MEBIBYTE_MILLI,
        sync_period_s=SYNC_SECONDS,
        initial_replicas=ticks[0].current,
        pod_ready_after_s=_ready_after(ticks),
    )
    return of_load("the autoscaler's log", load, setup)


def compare(run: Sequence[Tick], rehearsal: Sequence[Tick]) -> Comparison:
    theirs = {tick.t: tick for tick in rehearsal}
    pairs = [(tick, theirs[tick.t]) for tick in run]
    same_way = _way(run) == _way(rehearsal)
    changes = zip(_changes(run), _changes(rehearsal), strict=True) if same_way else ()
    return Comparison(
        went=_way(run),
        rehearsed=_way(rehearsal),
        steps=[Step(mine.current, mine.target, mine.t, its.t) for mine, its in changes],
        ticks=len(pairs),
        same_target=sum(mine.target == its.target for mine, its in pairs),
        same_want=sum(mine.want == its.want for mine, its in pairs),
    )


def _ready_after(ticks: Sequence[Tick]) -> float:
    """How long the first new replica took: seconds up to the middle between the two syncs that saw it unready and ready.

    Only the first one's time decides anything: until it is ready, the way further up is closed. At the maximum there is none.
    """
    started = next((tick for tick in ticks if tick.target > tick.current), None)
    if started is None:
        return 0.0
    for before, after in pairwise(tick for tick in ticks if tick.t >= started.t):
        if after.ready >= started.target:
            return (before.t + after.t) / 2 - started.t
    return ticks[-1].t - started.t + SYNC_SECONDS


def _grid(seconds: float) -> float:
    # A restarted autoscaler has a grid of its own.
    return SYNC_SECONDS * round(seconds / SYNC_SECONDS)


def _changes(ticks: Sequence[Tick]) -> list[Tick]:
    return [tick for tick in ticks if tick.target != tick.current]


def _way(ticks: Sequence[Tick]) -> list[int]:
    return [ticks[0].current, *(tick.target for tick in _changes(ticks))]
