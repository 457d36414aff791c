"""The picture of a scaling demonstration: the run on the left, the rehearsal of its CPU on the right, on the autoscaler's clock."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fraudscale.load.history import Points
from fraudscale.local.demo.comparison import Tick
from fraudscale.local.scaling.autoscaler import SYNC_SECONDS
from fraudscale.local.scaling.manifests import Scaling
from fraudscale.rehearsal.picture import BLUE, GREEN, GREY, ORANGE, RED, legend, plain, time_axis
from fraudscale.rehearsal.report import clock, cpu_target


def draw(
    path: Path,
    scaling: Scaling,
    pair: tuple[Sequence[Tick], Sequence[Tick]],
    replicas: Points,
    scored: Points,
    fired: tuple[float, float] | None,
) -> None:
    """Write the picture; its format is its name's ending.

    Args:
        path: of the picture.
        scaling: the manifests.
        pair: the run and its rehearsal.
        replicas: that Prometheus saw; seconds of the autoscaler's clock since the first sync.
        scored: transactions per second, likewise.
        fired: when the alert on the maximum did, first and last.

    Raises:
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(12, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 2, sharex=True, height_ratios=(1, 1, 1.4))
    for panel in grid.flat:
        plain(panel)
    request = sum(r["cpu"] for r in scaling.requests.values())
    run = pair[0]
    _rate(grid[0, 0], scored)
    _cpu(grid[0, 1], run, request)
    for column, ticks in enumerate(pair):
        _use(grid[1, column], ticks, cpu_target(scaling.hpa, request))
        _replicas(grid[2, column], ticks, scaling)
    at, values = replicas
    grid[2, 0].plot(at, values, ".", color=RED, markersize=3, label="Prometheus")
    if fired:
        grid[2, 0].axvspan(*fired, color=RED, alpha=0.08, linewidth=0, label="ModelScaledToMax fires")
    for panel in grid.flat:
        panel.set_ylim(bottom=0)
        legend(panel)
    for row in grid[1:]:
        row[1].set_ylim(0, max(panel.get_ylim()[1] for panel in row))
        row[0].set_ylim(row[1].get_ylim())
    for panel in grid[2]:
        time_axis(panel, run[-1].t + SYNC_SECONDS)
    grid[0, 0].set_title("the run", loc="left", fontsize=11, y=1.1)
    grid[0, 1].set_title("the rehearsal of its CPU", loc="left", fontsize=11, y=1.1)
    figure.savefig(path)


def _rate(axes: Axes, scored: Points) -> None:
    axes.plot(scored.at, scored.values, color=BLUE, label="scored over HTTP and from Kafka (Prometheus)")
    axes.set_ylabel("transactions/s")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _cpu(axes: Axes, run: Sequence[Tick], request: float) -> None:
    _steps(
        axes,
        run,
        lambda tick: (tick.cpu or 0) * tick.ready * request / 100_000,
        color=BLUE,
        label="CPU that was measured",
    )
    axes.set_ylabel("cores, all replicas")


def _use(axes: Axes, ticks: Sequence[Tick], target: float | None) -> None:
    _steps(axes, ticks, lambda tick: tick.cpu, color=BLUE, label="CPU of a replica that counts")
    if target is not None:
        axes.axhline(target, color=RED, linewidth=0.9, linestyle="--", label=f"target {target:g} %")
    axes.set_ylabel("percent of the request")


def _replicas(axes: Axes, ticks: Sequence[Tick], scaling: Scaling) -> None:
    _steps(axes, ticks, lambda tick: tick.want, color=ORANGE, linewidth=0.8, label="metrics want")
    _steps(axes, ticks, lambda tick: tick.target, color=BLUE, linewidth=2, label="replicas")
    _steps(axes, ticks, lambda tick: tick.ready, color=GREEN, linewidth=1, linestyle="--", label="ready")
    for limit in (scaling.hpa.min_replicas, scaling.hpa.max_replicas):
        axes.axhline(limit, color=GREY, linewidth=0.7, linestyle=":")
    end = ticks[-1].t
    for i, tick in enumerate(tick for tick in ticks if tick.target != tick.current):
        axes.annotate(
            f"{clock(tick.t)}  {tick.current} → {tick.target}",
            (tick.t, min(tick.current, tick.target)),
            # In rows, so that neighbours don't cover each other.
            xytext=(tick.t, (0.02, 0.08)[i % 2]),
            textcoords=axes.get_xaxis_transform(),
            horizontalalignment="left" if tick.t < 0.8 * end else "right",
            fontsize=8,
            color=GREY,
            arrowprops={"arrowstyle": "-", "color": "#c8c8c8", "linewidth": 0.6},
        )
    axes.set_ylabel("replicas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _steps(axes: Axes, ticks: Sequence[Tick], value: Callable[[Tick], float | None], **style: Any) -> None:
    values = [np.nan if (found := value(tick)) is None else found for tick in ticks]
    at = [*(tick.t for tick in ticks), ticks[-1].t + SYNC_SECONDS]
    axes.step(at, [*values, values[-1]], where="post", **style)
