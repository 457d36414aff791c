"""The picture of a run over time: rate, latency, what waits, replicas; one below the other on the same clock."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from fraudscale.load.report import Report

_BLUE, _RED, _GREY, _LIGHT, _GREEN = "#1f5fa8", "#c23b22", "#6b6b6b", "#9db9dc", "#2e7d4f"

_DrawPanel = Callable[[Axes, Report], None]


def draw(report: Report, path: Path) -> None:
    """Write the picture; the suffix (.png, .svg) says which kind.

    Raises:
        OSError: the file can't be written.
    """
    panels: list[tuple[_DrawPanel, float]] = [(_rates, 2), (_latencies, 2.2), (_waiting, 1.4)]
    if report.replicas:
        panels.append((_replicas, 0.8))
    heights = [height for _, height in panels]
    # A figure of its own instead of pyplot: no global state, no display, safe in any thread.
    figure = Figure(figsize=(9, 1.2 + 1.25 * sum(heights)), dpi=130, layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (panel, _) in zip(grid[:, 0], panels, strict=True):
        _prepare(axes)
        panel(axes, report)
    grid[-1, 0].set_xlabel("seconds since the start")
    grid[-1, 0].set_xlim(0, max(report.run.seconds, 1))
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11)
    figure.savefig(path)


def _title(report: Report) -> str:
    run, latency = report.run, report.latency_ms
    kept = "rate kept" if report.kept_rate else "RATE NOT KEPT"
    quantiles = "" if latency.p50 is None else f"; p50 {latency.p50:.1f} ms, p99 {latency.p99:.1f} ms"
    return (
        f"{run.shape} load over {run.over}: {report.achieved_rate:,.0f}/s of {report.offered_rate:,.0f}/s, {kept}\n"
        f"{report.ok:,} of {report.sent:,} scored{quantiles}  ({run.started_at})"
    )


def _prepare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _middles(report: Report) -> list[float]:
    return [point.t + report.window_seconds / 2 for point in report.over_time]


def _rates(axes: Axes, report: Report) -> None:
    at, points = _middles(report), report.over_time
    axes.plot(at, [p.offered_rate for p in points], color=_LIGHT, linewidth=5, label="offered")
    axes.plot(at, [p.achieved_rate for p in points], color=_BLUE, linewidth=1.4, label="achieved")
    if report.errors:
        errors = [p.errors / report.window_seconds for p in points]
        axes.plot(at, errors, color=_RED, linewidth=1.4, label="errors")
    axes.set_ylabel("transactions/s")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend(axes)


def _latencies(axes: Axes, report: Report) -> None:
    known = [(t, p.latency_ms) for t, p in zip(_middles(report), report.over_time, strict=True) if p.ok]
    at = [t for t, _ in known]
    for name, color in (("p50", _GREEN), ("p95", _BLUE), ("p99", _RED), ("max", _GREY)):
        style = ":" if name == "max" else "-"
        values = [getattr(quantiles, name) for _, quantiles in known]
        axes.plot(at, values, style, color=color, linewidth=1.4, label=name)
    axes.set_ylabel("latency, ms")
    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    if known:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    _legend(axes)


def _waiting(axes: Axes, report: Report) -> None:
    axes.plot(
        _middles(report),
        [p.in_flight for p in report.over_time],
        color=_BLUE,
        linewidth=1.4,
        label="sent, not answered",
    )
    if report.queue and report.run.over == "kafka":
        at, values = zip(*report.queue, strict=True)
        axes.plot(
            at, values, color=_RED, marker="o", markersize=3, linewidth=1, label="queue length (Prometheus)"
        )
    axes.set_ylabel("waiting")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend(axes)


def _replicas(axes: Axes, report: Report) -> None:
    at, values = zip(*report.replicas, strict=True)
    axes.step(at, values, where="post", color=_BLUE, linewidth=1.4)
    axes.set_ylabel("replicas")
    axes.set_ylim(0, max(values) + 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
