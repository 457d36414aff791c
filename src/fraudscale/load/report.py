"""The result of a run: one record for table, JSON and picture, and the verdict on whether the run was what it promised."""

from typing import Final

import msgspec

from fraudscale.load.arrivals import Schedule, offered
from fraudscale.load.history import History
from fraudscale.load.measure import Measures, Times

KEPT_SHARE: Final = 0.99
"""Least share of the offered rate that was achieved."""
KEPT_LATENESS_MS: Final = 100.0
"""Most that one send in a hundred may be late."""


class Quantiles(msgspec.Struct, frozen=True):
    """Of times in milliseconds; None where there is nothing."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, times: Times) -> "Quantiles":
        return cls(times.ms(50), times.ms(95), times.ms(99), times.ms(100))


class Point(msgspec.Struct, frozen=True):
    """A window of the run, from `t` seconds after the start."""

    t: float
    offered_rate: float
    achieved_rate: float
    ok: int
    errors: int
    in_flight: int
    latency_ms: Quantiles


class Run(msgspec.Struct, frozen=True):
    """What was asked for."""

    over: str
    target: str
    shape: str
    arrivals: str
    seconds: float
    started_at: str


class Report(msgspec.Struct, frozen=True):
    """What came of it. Rates are per second, latencies are those of `ok`, counted from the intended send time."""

    run: Run
    offered_rate: float
    achieved_rate: float
    kept_rate: bool
    interrupted: bool
    scheduled: int
    sent: int
    ok: int
    errors: dict[str, int]
    """By HTTP status, or by what happened instead of one."""
    missing: int
    """Sent over Kafka, and no score seen."""
    duplicates: int
    """Scores of an input record that had one; counted over all that passed, those of other senders too."""
    latency_ms: Quantiles
    lateness_ms: Quantiles
    """How long after its intended time a transaction was sent: part of the latency."""
    window_seconds: float
    over_time: list[Point]
    queue: list[tuple[float, float]]
    """Seconds after the start, transactions that waited on the topic; from Prometheus."""
    replicas: list[tuple[float, float]]
    """Seconds after the start, replicas that answered; from Prometheus."""

    @property
    def good(self) -> bool:
        """Whether the run was what it promised: the rate was kept, something was scored, nothing was lost or doubled."""
        return self.kept_rate and self.ok > 0 and not self.missing and not self.duplicates


def build(
    run: Run, schedule: Schedule, measures: Measures, stopped_at: float | None, past: History
) -> Report:
    """Put the figures together; `stopped_at` is when Ctrl-C ended the sending, seconds after the start."""
    until = schedule.seconds if stopped_at is None else max(stopped_at, 0.001)
    counts = offered(schedule, until, measures.width)
    scheduled = sum(counts)
    offered_rate = scheduled / until
    achieved_rate = measures.sent / max(until, measures.last_send)
    lateness = Quantiles.of(measures.lateness)
    return Report(
        run=run,
        offered_rate=round(offered_rate, 2),
        achieved_rate=round(achieved_rate, 2),
        kept_rate=achieved_rate >= KEPT_SHARE * offered_rate and (lateness.p99 or 0) <= KEPT_LATENESS_MS,
        interrupted=stopped_at is not None,
        scheduled=scheduled,
        sent=measures.sent,
        ok=measures.ok,
        errors=dict(measures.errors.most_common()),
        missing=measures.missing,
        duplicates=measures.duplicates,
        latency_ms=Quantiles.of(measures.latency),
        lateness_ms=lateness,
        window_seconds=measures.width,
        over_time=_over_time(counts, until, measures),
        queue=list(zip(*past.queue, strict=True)),
        replicas=list(zip(*past.replicas, strict=True)),
    )


def _over_time(counts: list[int], until: float, measures: Measures) -> list[Point]:
    points = []
    for index, (count, window) in enumerate(zip(counts, measures.windows, strict=False)):
        begin = index * measures.width
        seconds = min(measures.width, until - begin)  # the last one may be shorter
        points.append(
            Point(
                t=begin,
                offered_rate=round(count / seconds, 2),
                achieved_rate=round(window.sent / seconds, 2),
                ok=window.ok,
                errors=window.errors,
                in_flight=window.in_flight,
                latency_ms=Quantiles.of(window.latency),
            )
        )
    return points


def table(report: Report) -> str:
    """Write the report for a person."""
    run = report.run
    failed = sum(report.errors.values())
    by_kind = ", ".join(f"{kind}: {count:,}" for kind, count in report.errors.items())
    rows = [
        ("offered", f"{report.offered_rate:,.1f}/s", f"{report.scheduled:,} transactions"),
        ("achieved", f"{report.achieved_rate:,.1f}/s", f"{report.sent:,} sent; {_rate_verdict(report)}"),
        ("ok", f"{report.ok:,}", "scored"),
        ("errors", f"{failed:,}", by_kind),
    ]
    if run.over == "kafka":
        rows += [
            ("missing", f"{report.missing:,}", "sent, and no committed score seen"),
            ("duplicates", f"{report.duplicates:,}", "scores of an input record that had one"),
        ]
    lines = [f"{name:<11}{figure:>14}   {note}".rstrip() for name, figure, note in rows]
    ended = ", interrupted" if report.interrupted else ""
    head = (
        f"{run.shape} load over {run.over} to {run.target}, {run.seconds:g} s, {run.arrivals} arrivals{ended}"
    )
    return "\n".join(
        [
            head,
            "",
            *lines,
            "",
            f"{'ms':<20}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
            f"{'latency':<20}{_row(report.latency_ms)}   from the intended send time to the {_end(run)}",
            f"{'late sends':<20}{_row(report.lateness_ms)}   part of the latency",
        ]
    )


def _rate_verdict(report: Report) -> str:
    if report.kept_rate:
        return "kept the rate"
    if report.achieved_rate < KEPT_SHARE * report.offered_rate:
        return "DID NOT KEEP THE RATE: the figures are those of a lower load than ordered"
    return f"DID NOT KEEP THE RATE: one send in a hundred was over {KEPT_LATENESS_MS:g} ms late"


def _end(run: Run) -> str:
    return "committed score" if run.over == "kafka" else "answer"


def _row(quantiles: Quantiles) -> str:
    values = (quantiles.p50, quantiles.p95, quantiles.p99, quantiles.max)
    return "".join(f"{'–' if value is None else f'{value:,.1f}':>9}" for value in values)
