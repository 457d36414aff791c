"""What `fraudscale rehearse` does: a load, some HPAs, and what became of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fraudscale import files
from fraudscale.errors import InputError
from fraudscale.hpa import Hpa, ManifestError
from fraudscale.rehearsal import prometheus, report, shapes, trace
from fraudscale.rehearsal.queueing import LatencyEstimate, Service, estimate_latency
from fraudscale.rehearsal.rehearse import Rehearsal, measurable, read_hpas, rehearse
from fraudscale.rehearsal.suggest import Suggestion, suggest
from fraudscale.rehearsal.trace import LoadTrace, Setup

PICTURES: Final = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class RehearsalRequest:
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
    strict: bool = False
    """Refuse a manifest whose metrics are not all CPU and memory of whole pods."""
    suggest_ms: float | None = None
    """Limit for the 95th percentile under which the fewest pod-hours are searched."""


class InvalidRehearsal(InputError):
    """The options contradict each other, or name a picture that can't be written."""


@dataclass(frozen=True)
class RehearsalResult:
    """One entry per HPA, in the request's order."""

    rehearsals: list[Rehearsal]
    estimates: list[LatencyEstimate]
    summaries: list[report.Summary]
    service: Service
    suggestion: Suggestion | None
    warnings: list[str]
    """What was rehearsed otherwise than a manifest says."""

    def as_json(self) -> str:
        answers = [report.answer(*pair) for pair in zip(self.rehearsals, self.summaries, strict=True)]
        suggestion = self.suggestion.as_json() if self.suggestion else None
        return report.as_json(answers, suggestion).decode()

    def as_text(self) -> str:
        text = report.as_text(self.rehearsals, self.summaries, self.service)
        return f"{text}\n\n{self.suggestion.as_text()}" if self.suggestion else text


def run(request: RehearsalRequest, now: float, progress: Callable[[str, float], None]) -> RehearsalResult:
    """Rehearse, and draw the picture where one is asked for.

    `now`, seconds since 1970, is where Prometheus's window ends; `progress` is told the share of a search that is done.

    Raises:
        InvalidRehearsal, TraceError, ManifestError: the user's input is wrong.
        PrometheusUnavailable: it gave no answer.
    """
    _check(request)
    hpas, warnings = _hpas(request)
    load = _trace(request, now)
    service = Service(request.cpu_ms_per_request or Service.cpu_ms_per_request, request.pod_cpu_m)
    suggestion = None
    if request.suggest_ms is not None:
        suggestion = suggest(*hpas[0], load, service, request.suggest_ms, progress)
        if suggestion.diff:
            hpas.append(("suggested", suggestion.hpa))
    rehearsals = [rehearse(file, hpa, load) for file, hpa in hpas]
    estimates = [estimate_latency(rehearsal, service) for rehearsal in rehearsals]
    summaries = [report.summarise(*pair) for pair in zip(rehearsals, estimates, strict=True)]
    if request.picture:
        try:
            from fraudscale.rehearsal import picture  # noqa: PLC0415 - matplotlib takes a second to import

            picture.draw(request.picture, rehearsals, estimates, service)
        except ImportError as error:
            # The serving image has no matplotlib.
            raise InvalidRehearsal(f"--picture needs {error.name}: install the group `train`") from error
    return RehearsalResult(rehearsals, estimates, summaries, service, suggestion, warnings)


def _check(request: RehearsalRequest) -> None:
    sources = [request.trace, request.shape, request.prometheus]
    if sum(source is not None for source in sources) != 1:
        raise InvalidRehearsal("give exactly one of --trace FILE, --shape SHAPE and --from-prometheus URL")
    if request.picture and request.picture.suffix.lower() not in PICTURES:
        raise InvalidRehearsal(f"--picture {request.picture}: a picture's name ends in {', '.join(PICTURES)}")
    if request.picture and (reason := files.unwritable(request.picture)):
        raise InvalidRehearsal(f"--picture {request.picture}: can't be written: {reason}")


def _hpas(request: RehearsalRequest) -> tuple[list[tuple[str, Hpa]], list[str]]:
    hpas, warnings = [], []
    for file, hpa in [pair for path in request.hpas for pair in read_hpas(path)]:
        kept, said = measurable(file, hpa)
        hpas.append((file, kept))
        if said and request.strict:
            raise ManifestError(file, "spec.metrics", f"without --strict: {said}")
        if said:
            warnings.append(f"{file}: {said}")
    if request.suggest_ms is not None and len(hpas) != 1:
        raise InvalidRehearsal(f"--suggest varies one HPA, and there are {len(hpas)}: give one --hpa")
    return hpas, warnings


def _trace(request: RehearsalRequest, now: float) -> LoadTrace:
    memory = (
        request.memory_mi if request.memory_mi is not None else (request.setup.memory_request_mi or 0) / 2
    )
    if request.trace is not None:
        return trace.read(request.trace, request.setup, trace.Cost(request.cpu_ms_per_request, memory))
    if request.shape is not None:
        drawn = shapes.load(request.shape, request.setup.period, memory)
        return trace.of_load(f"--shape {request.shape}", drawn, request.setup)
    window = shapes.seconds("--window", request.window, request.window)
    if not window <= now:
        raise trace.TraceError("--window", request.window, "is longer than Prometheus has existed")
    return prometheus.trace(request.prometheus or "", window, now, request.setup)
