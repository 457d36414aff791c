"""What a rehearsal found: figures, the answer for programs, and tables for people."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np

from fraudscale.arrays import Bools, Floats
from fraudscale.hpa import KUBERNETES, MEBIBYTE_MILLI, Hpa, MetricSpec, ScalingDecision
from fraudscale.rehearsal.queueing import LatencyEstimate, Service
from fraudscale.rehearsal.rehearse import Rehearsal, whole

OSCILLATION_S: Final = 600.0
OSCILLATION_TURNS: Final = 2
"""Changes of direction within ten minutes from which on it is called oscillation: up, down and up again."""

MOST_LINES: Final = 20
"""Changes of scale that the table tells about, for each HPA."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one HPA; times in seconds unless the name says otherwise."""

    pod_seconds: float
    """Replicas that the controller asks for, over time."""
    pod_hours: float
    seconds_over_target: float
    """Time in which a ready pod uses more of any resource than the HPA aims at, or none is ready for the load."""
    least_replicas: int
    most_replicas: int
    scale_ups: int
    scale_downs: int
    seconds_at_max: float
    ticks_without_decision: int
    """Syncs at which metrics failed and the controller stopped."""
    direction_changes_per_10_min: int
    """The most in any ten minutes."""
    oscillates: bool
    requests: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    worst_p95_ms: float
    worst_at_s: float
    """The moment at which a request waits longest."""
    most_waiting: float
    """Requests in the backlog, at its longest."""
    seconds_waiting: float
    """Time in which requests wait because ready pods can't do more."""
    waiting_at_end: float


def summarise(rehearsal: Rehearsal, estimate: LatencyEstimate) -> Summary:
    """Work out the figures of a rehearsal and of its latency estimate."""
    replicas = _replicas(rehearsal)
    spans = [(end - t, n) for (t, n), (end, _) in pairwise([*replicas, (rehearsal.trace.seconds, 0)])]
    pod_seconds = sum(span * n for span, n in spans)
    changes = rehearsal.changes
    turns = most_turns(changes)
    slowest = np.where(estimate.requests > 0, estimate.quantiles(0.95), 0.0)
    worst = int(slowest.argmax())
    lasting = [n for span, n in spans if span > 0]
    return Summary(
        pod_seconds=whole(pod_seconds),
        pod_hours=round(pod_seconds / 3600, 3),
        seconds_over_target=whole(float(estimate.length[_over_target(rehearsal, estimate)].sum())),
        least_replicas=min(lasting),
        most_replicas=max(lasting),
        scale_ups=sum(d.target > d.current for d in changes),
        scale_downs=sum(d.target < d.current for d in changes),
        seconds_at_max=whole(sum(span for span, n in spans if n >= rehearsal.hpa.max_replicas)),
        ticks_without_decision=sum(d.want is None and not d.changed for d in rehearsal.decisions),
        direction_changes_per_10_min=turns,
        oscillates=turns >= OSCILLATION_TURNS,
        requests=round(float(estimate.requests.sum())),
        p50_ms=_ms(estimate.quantile(0.50)),
        p95_ms=_ms(estimate.quantile(0.95)),
        p99_ms=_ms(estimate.quantile(0.99)),
        worst_p95_ms=_ms(float(slowest[worst])),
        worst_at_s=whole(float(estimate.start[worst])),
        most_waiting=round(float(estimate.backlog.max())),
        seconds_waiting=whole(float(estimate.length[estimate.busy].sum())),
        waiting_at_end=round(float(estimate.backlog[-1])),
    )


def most_turns(changes: Sequence[ScalingDecision]) -> int:
    """Count the changes of direction within the ten minutes that have most of them."""
    turns = np.array(
        [
            after.at
            for before, after in pairwise(changes)
            if (before.target > before.current) != (after.target > after.current)
        ]
    )
    within = np.searchsorted(turns, turns + OSCILLATION_S) - np.arange(len(turns))
    return int(within.max(initial=0))


def answer(rehearsal: Rehearsal, summary: Summary) -> dict[str, Any]:
    """What `--json` prints for one HPA."""
    return {
        "kubernetes": KUBERNETES,
        "hpa": rehearsal.file,
        "replicas": [[t, n] for t, n in _replicas(rehearsal)],
        "decisions": [_decision(d) for d in rehearsal.decisions],
        "summary": summary,
    }


def as_json(answers: Sequence[dict[str, Any]], suggestion: Mapping[str, object] | None) -> bytes:
    """One HPA's answer as it is; those of several in `rehearsals`, in the order given, and so with a suggestion."""
    if len(answers) == 1 and suggestion is None:
        return msgspec.json.encode(answers[0])
    found: dict[str, Any] = {"kubernetes": KUBERNETES, "rehearsals": answers}
    return msgspec.json.encode(found | ({"suggestion": suggestion} if suggestion else {}))


def as_text(rehearsals: Sequence[Rehearsal], summaries: Sequence[Summary], service: Service) -> str:
    """A table of the figures, one column per HPA, and below it what each HPA did and why."""
    head = ["", *(r.file for r in rehearsals)]
    rows = [head, *([name, *(show(s) for s in summaries)] for name, show in _ROWS)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    trace = rehearsals[0].trace
    capacity = service.capacity(trace.cpu_request_m)
    model = f"one M/M/1 queue per replica, {service.cpu_ms_per_request:g} ms of CPU per request, at most {capacity:g}m per pod"
    lines += ["", f"Latency estimate: {model}. Trust differences more than absolute figures."]
    for rehearsal in rehearsals:
        lines += ["", f"{rehearsal.file}:", *_story(rehearsal)]
    return "\n".join(lines)


def clock(t: float) -> str:
    """Show seconds since the start as `1d 02:03:04`, without the days where there are none."""
    days, rest = divmod(round(t), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{f'{days}d ' if days else ''}{hours:02}:{minutes:02}:{seconds:02}"


def _replicas(rehearsal: Rehearsal) -> list[tuple[float, int]]:
    return [(0, rehearsal.initial_replicas), *((d.at, d.target) for d in rehearsal.changes)]


def _story(rehearsal: Rehearsal) -> list[str]:
    changes = rehearsal.changes
    if not changes:
        return [f"  {rehearsal.initial_replicas} replicas all the time"]
    lines = [
        f"  {clock(d.at):>12}  {d.current} → {d.target}  {d.reason}: {d.message}"
        for d in changes[:MOST_LINES]
    ]
    rest = len(changes) - MOST_LINES
    return [*lines, f"  … and {rest} more; --json has all of them"] if rest > 0 else lines


def _decision(d: ScalingDecision) -> dict[str, Any]:
    return {
        "t": d.at,
        "from": d.current,
        "to": d.target,
        "reason": d.reason,
        "metrics": {p.metric.name: _proposal(p.metric, p.value, p.replicas, p.error) for p in d.proposals},
        "want": d.want,
        "stabilized": None if d.stabilised is None else d.stabilised.value,
        "why": d.why,
        "conditions": {name: f"{c.status}/{c.reason}" for name, c in d.conditions.items()},
    }


def _proposal(metric: MetricSpec, value: int | None, replicas: int | None, error: str) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value, "target": metric.target.value, "replicas": replicas}
    return found | {"error": error} if error else found


def _over_target(rehearsal: Rehearsal, estimate: LatencyEstimate) -> Bools:
    """One truth value a piece of `estimate`."""
    over: Bools = (estimate.ready == 0) & (estimate.cpu_m > 0)
    for metric in rehearsal.hpa.metrics:
        over |= (estimate.ready > 0) & (_use(metric, rehearsal, estimate) > metric.target.value)
    return over


def _use(metric: MetricSpec, rehearsal: Rehearsal, estimate: LatencyEstimate) -> Floats:
    """What a ready pod uses, in the unit of the metric's target."""
    if metric.name == "cpu":
        # The controller's view of a pod: milli-cores rounded down.
        used, request = estimate.cpu_m // np.maximum(estimate.ready, 1), rehearsal.trace.cpu_request_m
    else:
        used = estimate.memory_mi * MEBIBYTE_MILLI
        request = rehearsal.trace.memory_request_mi * MEBIBYTE_MILLI
    return 100 * used / request if metric.target.type == "Utilization" else used


def cpu_target(hpa: Hpa, request_m: float) -> float | None:
    """Percent of the request that the HPA aims at; None if it doesn't look at CPU."""
    for metric in hpa.metrics:
        if metric.name == "cpu":
            value = metric.target.value
            return value if metric.target.type == "Utilization" else 100 * value / request_m
    return None


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _time(value: float) -> str:
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:,.1f} s"


_ROWS: Final[Sequence[tuple[str, Callable[[Summary], str]]]] = (
    ("replicas, least to most", lambda s: f"{s.least_replicas} to {s.most_replicas}"),
    ("steps up, down", lambda s: f"{s.scale_ups}, {s.scale_downs}"),
    ("pod-hours", lambda s: f"{s.pod_hours:,.2f}"),
    ("time over target", lambda s: clock(s.seconds_over_target)),
    ("time at the maximum", lambda s: clock(s.seconds_at_max)),
    ("latency p50", lambda s: _time(s.p50_ms)),
    ("latency p95", lambda s: _time(s.p95_ms)),
    ("latency p99", lambda s: _time(s.p99_ms)),
    ("latency p95, worst moment", lambda s: f"{_time(s.worst_p95_ms)} at {clock(s.worst_at_s)}"),
    ("time beyond capacity", lambda s: clock(s.seconds_waiting)),
    ("longest backlog, requests", lambda s: _count(s.most_waiting)),
    ("backlog at the end, requests", lambda s: _count(s.waiting_at_end)),
    ("ticks without a decision", lambda s: _count(s.ticks_without_decision)),
    (
        "direction changes in 10 min",
        lambda s: f"{s.direction_changes_per_10_min}{' OSCILLATES' if s.oscillates else ''}",
    ),
)
