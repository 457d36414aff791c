"""One picture of a rehearsal, a column an HPA: load, utilisation, replicas with reasons, waiting."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from fraudscale.arrays import Floats
from fraudscale.rehearsal.queueing import LatencyEstimate, Service
from fraudscale.rehearsal.rehearse import Rehearsal
from fraudscale.rehearsal.report import clock, cpu_target

MOST_REASONS: Final = 12
"""Changes of scale that are written out; more would cover each other."""

_MILLISECONDS: Final = FuncFormatter(lambda value, _: f"{value:,g}")
# Above the panel, where it hides nothing.
_LEGEND: Final[Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 0.97),
    "frameon": False,
    "fontsize": 7.5,
    "ncols": 5,
    "columnspacing": 1,
    "handlelength": 1.6,
}
_REASON_COLOURS: Final = {
    "ScaleUpStabilized": "#e7b46a",
    "ScaleDownStabilized": "#8fc3a4",
    "ScaleUpLimit": "#d9701f",
    "ScaleDownLimit": "#2c7a4b",
    "TooManyReplicas": "#c23b22",
    "TooFewReplicas": "#3aa6b9",
    "SucceededRescale": "#1f5fa8",
}
BLUE, RED, GREY, GREEN, ORANGE = "#1f5fa8", "#c23b22", "#6b6b6b", "#2c7a4b", "#d98a1f"
_COLUMN_WIDTH: Final = 9.0
_HEIGHT: Final = 10.0
_ENDS: Final = ((3 * 86_400, 86_400, "days"), (3 * 3600, 3600, "hours"), (0, 60, "minutes"))
# Without these, two runs write two different files of the same picture.
_SAME: Final[Any] = {"svg.hashsalt": "fraudscale", "svg.fonttype": "path"}


def draw(
    path: Path, rehearsals: Sequence[Rehearsal], estimates: Sequence[LatencyEstimate], service: Service
) -> None:
    """Write the picture; its format is its name's ending.

    Raises:
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(_COLUMN_WIDTH * len(rehearsals), _HEIGHT), dpi=110, layout="constrained")
    axes = figure.subplots(
        4, len(rehearsals), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 1, 1.6, 1)
    )
    latency = [
        _column(axes[:, column], rehearsal, estimate, service)
        for column, (rehearsal, estimate) in enumerate(zip(rehearsals, estimates, strict=True))
    ]
    # Only now: a limit that is set keeps a row from growing with its other columns.
    for panel in axes.flat:
        panel.set_ylim(0, max(1.0, panel.get_ylim()[1]))
    for panel in latency[1:]:
        panel.sharey(latency[0])
    # No date inside: the picture of the same trace is the same file.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    with rc_context(_SAME):
        figure.savefig(path, metadata=metadata)


def _column(
    axes: npt.NDArray[Any], rehearsal: Rehearsal, estimate: LatencyEstimate, service: Service
) -> Axes:
    load, use, replicas, waiting = axes
    for panel in axes:
        plain(panel)
    load.set_title(rehearsal.file, loc="left", fontsize=11, y=1.1)
    _load(load, rehearsal, estimate, service)
    _use(use, rehearsal, estimate)
    _replicas(replicas, rehearsal)
    latency = _waiting(waiting, estimate)
    time_axis(waiting, rehearsal.trace.seconds)
    return latency


def _load(axes: Axes, rehearsal: Rehearsal, estimate: LatencyEstimate, service: Service) -> None:
    pod = service.capacity(rehearsal.trace.cpu_request_m)
    _steps(axes, estimate, estimate.cpu_m / 1000, color=BLUE, label="load")
    _steps(axes, estimate, estimate.ready * pod / 1000, color=GREY, linestyle=":", label="ready pods can do")
    axes.set(ylabel="CPU, cores")
    legend(axes)


def _use(axes: Axes, rehearsal: Rehearsal, estimate: LatencyEstimate) -> None:
    request = rehearsal.trace.cpu_request_m
    percent = 100 * estimate.cpu_m / np.maximum(estimate.ready, 1) / request
    _steps(axes, estimate, percent, color=BLUE, label="CPU of a ready pod")
    memory = 100 * estimate.memory_mi / rehearsal.trace.memory_request_mi
    _steps(axes, estimate, memory, color=GREEN, linewidth=0.9, label="memory of a pod")
    target = cpu_target(rehearsal.hpa, request)
    if target is not None:
        axes.axhline(target, color=RED, linewidth=0.9, linestyle="--", label=f"CPU target {target:g} %")
        over = np.append(np.maximum(percent, target), target)
        ends = np.append(estimate.start, estimate.start[-1] + estimate.length[-1])
        axes.fill_between(ends, over, target, step="post", color=RED, alpha=0.15, linewidth=0)
    axes.set(ylabel="percent of the request")
    legend(axes)


def _replicas(axes: Axes, rehearsal: Rehearsal) -> None:
    decisions = rehearsal.decisions
    at = [d.at for d in decisions]
    want = [np.nan if d.want is None else d.want for d in decisions]
    stabilised = [np.nan if d.stabilised is None else d.stabilised.value for d in decisions]
    axes.step(at, want, where="post", color=ORANGE, linewidth=0.8, label="metrics want")
    axes.step(at, stabilised, where="post", color=GREEN, linewidth=1, linestyle="--", label="stabilised")
    axes.step(at, [d.target for d in decisions], where="post", color=BLUE, linewidth=2, label="replicas")
    for limit in (rehearsal.hpa.min_replicas, rehearsal.hpa.max_replicas):
        axes.axhline(limit, color=GREY, linewidth=0.7, linestyle=":")
    _reasons(axes, rehearsal)
    axes.set(ylabel="replicas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes)


def _reasons(axes: Axes, rehearsal: Rehearsal) -> None:
    """A strip at the panel's foot with the reason of each tick, and the changes of scale in words where they fit."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for reason, ticks in groupby(rehearsal.decisions, key=lambda d: d.reason):
        run = list(ticks)
        spans.setdefault(reason, []).append(
            (run[0].at, run[-1].at - run[0].at + rehearsal.trace.sync_period_s)
        )
    for reason, its in spans.items():
        # Quiet ticks are no news.
        if reason != "DesiredWithinRange":
            colour = _REASON_COLOURS.get(reason, GREY)
            strip = axes.broken_barh(its, (0, 0.05), color=colour, label=reason, linewidth=0)
            strip.set_transform(axes.get_xaxis_transform())
    changes = rehearsal.changes
    for i, d in enumerate(changes if len(changes) <= MOST_REASONS else ()):
        # In rows, so that neighbours don't cover each other.
        axes.annotate(
            f"{clock(d.at)}\n{d.current} → {d.target}\n{d.reason}",
            (d.at, d.target),
            xytext=(d.at, (0.07, 0.22)[i % 2]),
            textcoords=axes.get_xaxis_transform(),
            fontsize=7,
            color=GREY,
            arrowprops={"arrowstyle": "-", "color": "#c8c8c8", "linewidth": 0.6},
        )


def _waiting(axes: Axes, estimate: LatencyEstimate) -> Axes:
    _steps(axes, estimate, estimate.backlog, color=RED, label="backlog")
    axes.set(ylabel="requests waiting")
    latency = axes.twinx()
    _steps(latency, estimate, 1000 * estimate.quantiles(0.95), color=BLUE, linewidth=0.9, label="latency p95")
    latency.set(ylabel="p95, ms", yscale="log")
    latency.yaxis.set_major_formatter(_MILLISECONDS)
    latency.yaxis.set_minor_formatter(_MILLISECONDS)
    latency.yaxis.set_minor_locator(LogLocator(subs=(3,)))
    latency.spines[["top", "right"]].set_visible(False)
    lines = [*axes.get_lines(), *latency.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], **_LEGEND)
    return latency


def _steps(axes: Axes, estimate: LatencyEstimate, values: Floats, **style: Any) -> None:
    axes.step(
        np.append(estimate.start, estimate.start[-1] + estimate.length[-1]),
        np.append(values, values[-1]),
        where="post",
        **style,
    )


def time_axis(axes: Axes, seconds: float) -> None:
    """Let a panel go from 0 to `seconds`, with round numbers of a unit that fits, ten of them at most."""
    unit, name = next((unit, name) for least, unit, name in _ENDS if seconds >= least)
    ends = np.asarray(MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(0, seconds / unit))
    axes.set_xticks(ends * unit, [f"{end:g}" for end in ends])
    axes.set_xlim(0, seconds)
    axes.set_xlabel(f"{name} since the start")


def legend(axes: Axes) -> None:
    """Put a panel's legend above it."""
    axes.legend(**_LEGEND)


def plain(axes: Axes) -> None:
    """Take away what a panel doesn't need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
