"""What a person sees during a run: a bar on a terminal, a line now and then elsewhere; both on stderr."""

import threading
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fraudscale.load.measure import Measures, Window

TICK_SECONDS: Final = 1.0
LINE_SECONDS: Final = 5.0


class Live(AbstractContextManager["Live", None]):
    """Shows the figures of a run while it lasts, in a thread of its own."""

    def __init__(self, measures: Measures, seconds: float) -> None:
        self._measures = measures
        self._seconds = seconds
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
            refresh_per_second=2,  # drawing costs the sends a little
            transient=True,
        )
        self._task = self._bars.add_task("connecting …", total=seconds)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._start = 0.0
        self._next_line = LINE_SECONDS

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bars.stop()

    def started(self, start: float) -> None:
        """Begin to count from `start`, a `perf_counter()`."""
        self._start = start
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            self._show(perf_counter() - self._start)

    def _show(self, at: float) -> None:
        self._measures.sample(at)
        whole = self._measures.window(at - self._measures.width)
        text = figures(at, self._seconds, self._measures, whole)
        self._bars.update(self._task, completed=min(at, self._seconds), description=text)
        if self._bars.disable and at >= self._next_line:
            self._next_line += LINE_SECONDS
            self._console.print(text, soft_wrap=True)


def figures(at: float, seconds: float, measures: Measures, whole: Window) -> str:
    """Write one line: how far the run is, and the last whole window of it."""
    if at > seconds + measures.width:
        return f"{at:.0f} s: all sent, waiting for {measures.in_flight:,} answers"
    errors = sum(measures.errors.values())
    latency = " ".join(
        f"{name} {'–' if value is None else f'{value:.1f}'}"
        for name, value in (("p50", whole.latency.ms(50)), ("p99", whole.latency.ms(99)))
    )
    return (
        f"{at:.0f} of {seconds:g} s: {whole.sent / measures.width:,.0f}/s sent, {latency} ms, "
        f"{measures.in_flight:,} in flight, {errors:,} errors"
    )
