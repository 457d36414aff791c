"""What a person reads on the terminal: progress while starting, one banner, then one readable stream.

The stream must stay cheap when the components write 20,000 lines a second: it searches the logs' bytes for a few marks and
parses only lines that have one; when a log grows faster than it reads, it skips to the end. The files keep everything.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, Self

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fraudscale import metrics
from fraudscale.local.running import get_json
from fraudscale.local.supervisor.supervise import ManagedComponent, State, SupervisorEvent

TAIL_SECONDS: Final = 0.5
TAIL_BYTES: Final = 256 * 1024
"""Most bytes read of one log at a time; what is before them is skipped."""
FIGURES_SECONDS: Final = 10.0
LINES_PER_COMPONENT: Final = 5
"""Most lines of one component between two lines of figures; the rest is only counted."""
REPEAT_SECONDS: Final = 300.0
"""A line like an earlier one of the same component, numbers aside, is shown again only after so long."""
WIDTH: Final = 240
EVENTS_LOG: Final = "supervisor.log"
"""The supervisor's own; what it says is on the terminal already."""

_LEVELS: Final = ("warning", "error", "critical")
_TOLD: Final = ("model_loaded", "stream_started")
"""Events of our processes that are shown though they are no warnings."""
_MARKS: Final = (
    *(f'"level":"{level}"'.encode() for level in _LEVELS),
    *(f'"event":"{event}"'.encode() for event in _TOLD),
    *(
        b" WARN",
        b" ERROR",
        b" FATAL",
        b"level=warn",
        b"level=error",
        b"[WARNING]",
        b"[ALERT]",
        b"Traceback (most",
    ),
)
_PREDICTION: Final = b'"event":"prediction_made"'
_STYLES: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_STATE_STYLES: Final = {
    State.READY: "green",
    State.DONE: "green",
    State.FAILED: "red",
    State.STARTING: "cyan",
}


class Terminal:
    """Lines for a person. Colour only on a terminal that has it and without NO_COLOR; silent once nobody reads."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)

    @property
    def interactive(self) -> bool:
        return self.console.is_terminal

    def say(self, text: str, style: str | None = None) -> None:
        try:
            self.console.print(text, style=style, markup=False)
        except OSError:
            # The terminal was closed, or the reader of the pipe went: the platform runs on.
            self.console = Console(quiet=True)

    def stamped(self, source: str, text: str, style: str | None = None) -> None:
        """Print a line of the stream: time, who, what."""
        line = f"{datetime.now().astimezone():%H:%M:%S}  {source:<17} {text}"[:WIDTH]
        # Ids come from clients: an escape sequence in one must not command the terminal.
        self.say("".join(c if c.isprintable() else "?" for c in line), style)


class Starting:
    """Progress until all components are ready: a live table on a terminal, a line a component elsewhere."""

    def __init__(self, terminal: Terminal, components: Callable[[], Iterable[ManagedComponent]]) -> None:
        self._terminal = terminal
        self._components = components
        self._live = Live(
            get_renderable=self._table,
            console=terminal.console,
            refresh_per_second=5,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._terminal.interactive:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tell(self, event: SupervisorEvent) -> None:
        if event.kind in {"part_ready", "job_done"} and not self._terminal.interactive:
            word = "ready" if event.kind == "part_ready" else "done"
            self._terminal.say(f"{event.component} {word} ({event.details['seconds']} s)")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("component", "state", "seconds", "address"):
            table.add_column(heading, justify="right" if heading == "seconds" else "left")
        now = time.monotonic()
        for managed in list(self._components()):
            seconds = managed.seconds_to_ready if managed.settled else now - managed.since
            shown = "" if managed.state is State.WAITING else f"{seconds:.1f}"
            table.add_row(
                managed.component.name,
                managed.state,
                shown,
                managed.component.address,
                style=_STATE_STYLES.get(managed.state, "dim"),
            )
        return table


class Tail:
    """New lines of a folder of logs that a person should see."""

    def __init__(self, logs: Path) -> None:
        """Begin at the present end of each log."""
        self._logs = logs
        self._read_to = {log: log.stat().st_size for log in logs.glob("*.log")}
        self.sample: dict[str, Any] | None = None
        """The latest prediction seen."""

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Yield component and line for each marked line since the last call."""
        for log in sorted(set(self._logs.glob("*.log")) - {self._logs / EVENTS_LOG}):
            block = self._block(log)
            if (at := block.rfind(_PREDICTION)) >= 0:
                self.sample = _object(_line_around(block, at)[1]) or self.sample
            for line in marked_lines(block):
                yield log.stem, line

    def _block(self, log: Path) -> bytes:
        size, start = log.stat().st_size, self._read_to.get(log, 0)
        if size < start:
            start = 0  # it was rotated
        start = max(start, size - TAIL_BYTES)
        with log.open("rb") as file:
            file.seek(start)
            block = file.read(size - start)
        whole = block.rfind(b"\n") + 1
        self._read_to[log] = start + whole
        return block[:whole]


def marked_lines(block: bytes) -> list[bytes]:
    """Return the lines of a block of whole lines that have a mark, in order, at the price of a few byte searches."""
    found: dict[int, bytes] = {}
    for mark in _MARKS:
        at = block.find(mark)
        while at >= 0:
            start, line = _line_around(block, at)
            if _PREDICTION not in line:  # an id may look like a mark
                found[start] = line
            at = block.find(mark, start + len(line))
    return [found[start] for start in sorted(found)]


def _line_around(block: bytes, at: int) -> tuple[int, bytes]:
    start = block.rfind(b"\n", 0, at) + 1
    end = block.find(b"\n", at)
    return start, block[start : end if end >= 0 else len(block)]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def readable(line: bytes) -> tuple[str, str | None]:
    """Turn a line of a log into text and style: an event of ours as `name  key=value …`, others as they are."""
    event = _object(line)
    if event is None:
        text = re.sub(r"\s+", " ", line.decode(errors="replace")).strip()
        return text, "red" if " ERROR" in text or " FATAL" in text else "yellow"
    name, level = event.pop("event", ""), event.pop("level", "info")
    for field in ("timestamp", "process", "replica_id"):
        event.pop(field, None)
    return f"{name}  {_fields(event)}", _STYLES.get(str(level))


def _fields(fields: Mapping[str, object]) -> str:
    return "  ".join(f"{name}={value}" for name, value in fields.items())


class Figures(Protocol):
    """Where the line of figures comes from: names and values, without those that are not known yet."""

    def __call__(self) -> Mapping[str, float]: ...


_SCORED: Final = f'rate({metrics.PREDICTIONS.name}{{container="%s"}}[30s])'
_QUERIES: Final = {
    "http": f"sum({_SCORED % 'serve'})",
    "kafka": f"sum({_SCORED % 'stream'})",
    "frauds": f'sum(increase({metrics.PREDICTIONS.name}{{result="fraud"}}[1m]))',
    "p95": "histogram_quantile(0.95, sum by (le) "
    f'(rate({metrics.HTTP_DURATION.name}_bucket{{endpoint="/predict"}}[1m])))',
    "queue": f"max({metrics.QUEUE_LENGTH.name})",
}


def prometheus_figures(endpoint: str) -> Figures:
    """Ask a Prometheus for all figures in one query; nothing comes back while it has none or is down."""
    union = " or ".join(
        f'label_replace({query}, "figure", "{name}", "", "")' for name, query in _QUERIES.items()
    )

    def ask() -> Mapping[str, float]:
        answer = get_json(endpoint, "/api/v1/query", {"query": union})
        rows = answer["data"]["result"] if isinstance(answer, dict) else []
        return {row["metric"]["figure"]: float(row["value"][1]) for row in rows if row["value"][1] != "NaN"}

    return ask


def figures_line(figures: Mapping[str, float], replicas: tuple[int, int]) -> str:
    """Write the figures on one line.

    Args:
        figures: of `prometheus_figures`; missing ones are shown as a dash.
        replicas: how many are ready, of how many.
    """

    def show(name: str, scale: float, digits: int) -> str:
        return f"{figures[name] * scale:.{digits}f}" if name in figures else "–"

    return (
        f"{show('http', 1, 1)}/s over HTTP, {show('kafka', 1, 1)}/s from Kafka, "
        f"frauds in a minute: {show('frauds', 1, 0)}, p95 {show('p95', 1e3, 1)} ms, queue {show('queue', 1, 0)}, "
        f"{replicas[0]}/{replicas[1]} replicas"
    )


def sample_line(sample: Mapping[str, Any]) -> str:
    verdict = "fraud" if sample["is_fraud"] else "legitimate"
    return (
        f"{sample['transaction_id']}: {verdict}, probability {sample['fraud_probability']:.4f}, "
        f"{sample['processing_time_ms']:.1f} ms, {sample['replica_id']}"
    )


class Filter:
    """Keeps one component from filling the screen: a few lines between two lines of figures, and no line again and again."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._last: dict[tuple[str, bytes], float] = {}

    def passes(self, component: str, line: bytes, now: float) -> bool:
        kind = (component, re.sub(rb"[0-9a-f.:-]*[0-9][0-9a-f.:-]*", b"#", line))
        if now - self._last.get(kind, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        if self._shown.get(component, 0) >= LINES_PER_COMPONENT:
            self._held[component] = self._held.get(component, 0) + 1
            return False
        self._shown[component] = self._shown.get(component, 0) + 1
        self._last = {k: at for k, at in self._last.items() if now - at < REPEAT_SECONDS} | {kind: now}
        return True

    def held_back(self) -> dict[str, int]:
        """Return how many lines of each component were too many since the last call, and begin anew."""
        held, self._held, self._shown = self._held, {}, {}
        return held


class LiveView:
    """The stream after the banner, in a thread of its own: marked lines of all logs, and figures every 10 s."""

    def __init__(
        self, terminal: Terminal, logs: Path, figures: Figures, replicas: Callable[[], tuple[int, int]]
    ) -> None:
        self._terminal = terminal
        self._logs = logs
        self._figures = figures
        self._replicas = replicas
        self._filter = Filter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _run(self) -> None:
        tail = Tail(self._logs)
        next_figures = time.monotonic() + FIGURES_SECONDS
        while not self._stop.wait(TAIL_SECONDS):
            # A log that vanished, or a Prometheus that answers strangely, must not end the stream.
            try:
                self._show_lines(tail)
                if time.monotonic() >= next_figures:
                    next_figures += FIGURES_SECONDS
                    self._show_figures(tail.sample)
            except (OSError, KeyError, TypeError, ValueError) as error:
                self._terminal.stamped("console", f"console_failed  error={error!r}", "yellow")

    def _show_lines(self, tail: Tail) -> None:
        for component, line in tail.lines():
            if self._filter.passes(component, line, time.monotonic()):
                self._terminal.stamped(component, *readable(line))

    def _show_figures(self, sample: Mapping[str, Any] | None) -> None:
        for component, count in self._filter.held_back().items():
            self._terminal.stamped(component, f"and {count} lines more in its log", "yellow")
        self._terminal.stamped("scored", figures_line(self._figures(), self._replicas()))
        if sample:
            self._terminal.stamped("", sample_line(sample), "dim")
