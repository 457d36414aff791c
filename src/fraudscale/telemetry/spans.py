"""The tracer of a process: with an exporter behind it where an endpoint is set, and without OpenTelemetry where none is."""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from fraudscale.config import TracingSettings
from fraudscale.metrics import TraceMetrics
from fraudscale.telemetry.logs import Logger
from fraudscale.telemetry.tracing import RecordSpans, Tracer

FLUSH_SECONDS: Final = 1.0
"""Share of a stop that waiting spans may take to be sent."""


class Tracing(NamedTuple):
    """A tracer, and what is to be called once nothing is traced any more."""

    tracer: Tracer
    close: Callable[[], None]
    close_seconds: float
    """How long that may take."""


def start(
    settings: TracingSettings, *, process: str, replica_id: str, counts: TraceMetrics, log: Logger
) -> Tracing:
    """Make the tracer, and begin to send if there is anywhere to send to."""

    def tracer(record: RecordSpans | None) -> Tracer:
        return Tracer(settings.ratio, settings.trace_callers_per_second, record, Random())

    if settings.traces_endpoint is None:
        return Tracing(tracer(None), lambda: None, 0.0)
    from fraudscale.telemetry.otlp import Otlp  # noqa: PLC0415  its imports take half a second and memory

    otlp = Otlp(settings, process, replica_id, counts, log)
    return Tracing(tracer(otlp.record), lambda: otlp.close(FLUSH_SECONDS), FLUSH_SECONDS)
