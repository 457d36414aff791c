"""What `fraudscale rehearse` does: a load, some HPAs, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fraudscale.errors import InputError
from fraudscale.rehearsal import prometheus, report, shapes, trace
from fraudscale.rehearsal.queueing import Felt, Service, feel
from fraudscale.rehearsal.rehearse import Rehearsal, read_hpa, rehearse
from fraudscale.rehearsal.suggest import Progress, Suggestion, suggest
from fraudscale.rehearsal.trace import Setup, Trace

PICTURES: Final = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Order:
    """What to rehearse; exactly one of the three sources of load."""

    hpas: Sequence[Path]
    trace: Path | None = None
    shape: str | None = None
    prometheus: str | None = None
    window: str = "24h"
    """Of Prometheus's past."""
    setup: Setup = field(default_factory=Setup)
    memory_mi: float | None = None
    """Of a pod, where the load doesn't tell; None: half of what it requests."""
    cpu_ms_per_request: float | None = None
    pod_cpu_m: float | None = None
    picture: Path | None = None
    suggest_ms: float | None = None
    """Limit for the 95th percentile under which the fewest pod-hours are searched."""


class OrderError(InputError):
    """The options contradict each other, or name a picture that can't be written."""


@dataclass(frozen=True)
class Result:
    """One entry an HPA, in the order's order."""

    rehearsals: list[Rehearsal]
    felt: list[Felt]
    summaries: list[report.Summary]
    service: Service
    suggestion: Suggestion | None

    def as_json(self) -> str:
        answers = [report.answer(*pair) for pair in zip(self.rehearsals, self.summaries, strict=True)]
        suggestion = self.suggestion.as_json() if self.suggestion else None
        return report.as_json(answers, suggestion).decode()

    def as_text(self) -> str:
        text = report.as_text(self.rehearsals, self.summaries, self.service)
        return f"{text}\n\n{self.suggestion.as_text()}" if self.suggestion else text


def run(order: Order, now: float, progress: Progress) -> Result:
    """Rehearse, and draw the picture where one is asked for.

    Args:
        order: what to rehearse.
        now: seconds since 1970, where Prometheus's window ends.
        progress: is told the share of a search that is done.

    Raises:
        OrderError, TraceError, ManifestError: the user's input is wrong.
        PrometheusUnavailable: it gave no answer.
    """
    _check(order)
    hpas = [(str(path), read_hpa(path)) for path in order.hpas]
    load = _trace(order, now)
    service = Service(order.cpu_ms_per_request or Service.cpu_ms_per_request, order.pod_cpu_m)
    suggestion = None
    if order.suggest_ms is not None:
        suggestion = suggest(*hpas[0], load, service, order.suggest_ms, progress)
        if suggestion.diff:
            hpas.append(("suggested", suggestion.hpa))
    rehearsals = [rehearse(file, hpa, load) for file, hpa in hpas]
    felt = [feel(rehearsal, service) for rehearsal in rehearsals]
    summaries = [report.summarise(*pair) for pair in zip(rehearsals, felt, strict=True)]
    if order.picture:
        try:
            from fraudscale.rehearsal import picture  # noqa: PLC0415 - matplotlib takes a second to import

            picture.draw(order.picture, rehearsals, felt, service)
        except ImportError as error:
            # The serving image has no matplotlib.
            raise OrderError(f"--picture needs {error.name}: install the group `train`") from error
        except OSError as error:
            reason = error.strerror or error
            raise OrderError(f"--picture {order.picture}: can't be written: {reason}") from error
    return Result(rehearsals, felt, summaries, service, suggestion)


def _check(order: Order) -> None:
    sources = [order.trace, order.shape, order.prometheus]
    if sum(source is not None for source in sources) != 1:
        raise OrderError("give exactly one of --trace FILE, --shape SHAPE and --from-prometheus URL")
    if order.suggest_ms is not None and len(order.hpas) != 1:
        raise OrderError("--suggest varies one manifest: give one --hpa")
    if order.picture and order.picture.suffix.lower() not in PICTURES:
        raise OrderError(f"--picture {order.picture}: a picture's name ends in {', '.join(PICTURES)}")


def _trace(order: Order, now: float) -> Trace:
    memory = order.memory_mi if order.memory_mi is not None else (order.setup.memory_request_mi or 0) / 2
    if order.trace is not None:
        return trace.read(order.trace, order.setup, trace.Cost(order.cpu_ms_per_request, memory))
    if order.shape is not None:
        drawn = shapes.load(order.shape, order.setup.period, memory)
        return trace.of_load(f"--shape {order.shape}", drawn, order.setup)
    return prometheus.trace(order.prometheus or "", shapes.seconds(order.window), now, order.setup)
