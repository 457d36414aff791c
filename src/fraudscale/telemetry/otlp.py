"""Spans to a collector, over OTLP/HTTP: the only room that knows OpenTelemetry's SDK, which takes half a second to import."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Final
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from fraudscale import __version__
from fraudscale.config import TracingSettings
from fraudscale.metrics import TraceMetrics
from fraudscale.net import keep_from_proxies
from fraudscale.telemetry.logs import Logger, LogLimiter
from fraudscale.telemetry.tracing import Context, Kind, Span

TELL_SECONDS: Final = 60.0
"""How often a collector that takes no spans is a line of the log."""
EXPORTED_AT_ONCE: Final = 512
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_LIBRARY: Final = logging.getLogger("opentelemetry")


class Otlp:
    """Takes spans that are over and sends them, from a thread of its own; what it has no room for is counted and dropped."""

    def __init__(
        self, settings: TracingSettings, process: str, replica_id: str, counts: TraceMetrics, log: Logger
    ) -> None:
        """Begin to send to the endpoint of the settings, which must be set; it need not answer.

        `process` is the program, such as `serve` or `stream`; `replica_id` becomes `service.instance.id`.
        """
        self._resource = Resource(
            {
                "service.name": settings.otel_service_name,
                "service.version": __version__,
                "service.instance.id": replica_id,
                "fraudscale.process": process,
                **pairs(settings.otel_resource_attributes or ""),
            }
        )
        self._scope = InstrumentationScope("fraudscale", __version__)
        self._room = settings.otel_bsp_max_queue_size
        self._handed = 0
        self._dropped = counts.spans.labels("dropped")
        self._sender = _Sender(settings, counts, log)
        self._processor = BatchSpanProcessor(
            self._sender,
            max_queue_size=self._room,
            schedule_delay_millis=settings.otel_bsp_schedule_delay,
            max_export_batch_size=min(EXPORTED_AT_ONCE, self._room),
        )

    def record(self, spans: Sequence[Span]) -> None:
        """Queue the spans of one request, or drop them all; never waits. Calls must not overlap."""
        # The processor would drop the oldest and say so nowhere that we could count it.
        if self._handed - self._sender.taken + len(spans) > self._room:
            self._dropped.value += len(spans)
            return
        self._handed += len(spans)
        epoch = time.time() - time.perf_counter()
        for span in spans:
            self._processor.on_end(self._readable(span, epoch))

    def close(self, seconds: float) -> None:
        """Send what waits, for so long at most; the rest is lost."""
        # The processor would wait 30 s for a collector that doesn't answer.
        closing = Thread(target=self._processor.shutdown, name="spans-close", daemon=True)
        closing.start()
        closing.join(seconds)

    def _readable(self, span: Span, epoch: float) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            _context(span.here),
            _context(span.caller, remote=span.kind != "internal") if span.caller else None,
            self._resource,
            attributes=span.attributes,
            links=[Link(_context(link, remote=True)) for link in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=int((epoch + span.started) * 1e9),
            end_time=int((epoch + span.ended) * 1e9),
            instrumentation_scope=self._scope,
        )


class _Sender(SpanExporter):
    """The library's exporter, with its outcomes counted, and its complaints put into one event of ours."""

    def __init__(self, settings: TracingSettings, counts: TraceMetrics, log: Logger) -> None:
        keep_from_proxies()
        secret = settings.otel_exporter_otlp_headers
        if secret is None:
            # What we ignored the library can't read either, and would log, token and all.
            os.environ.pop("OTEL_EXPORTER_OTLP_HEADERS", None)
        self._endpoint = settings.traces_endpoint
        self._exporter = OTLPSpanExporter(
            endpoint=self._endpoint,
            headers=pairs(secret.get_secret_value()) if secret else {},
            timeout=settings.otel_exporter_otlp_timeout / 1000,
        )
        self._exported, self._failed = counts.spans.labels("exported"), counts.spans.labels("failed")
        self._log = log
        self._log_limiter = LogLimiter(TELL_SECONDS)
        self._complaints = _Complaints()
        self.taken = 0
        """Spans that left the queue."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._exported.value += len(spans)
            return result
        self._failed.value += len(spans)
        if self._log_limiter.allows(""):
            self._log.warning(
                "spans_not_exported",
                endpoint=self._endpoint,
                failed=int(self._failed.value),
                reason=self._complaints.last,
            )
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Complaints(logging.Handler):
    """Keeps what the exporter said last, instead of a line for each attempt; what a client's `tracestate` lacks is no matter."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        _LIBRARY.handlers[:] = [self]
        _LIBRARY.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("opentelemetry.exporter."):
            self.last = record.getMessage()


def pairs(text: str) -> dict[str, str]:
    """Read OpenTelemetry's lists, `name=value,name=value`, with values percent-encoded."""
    items = (item.partition("=") for item in text.split(",") if item.strip())
    return {name.strip(): unquote(value.strip()) for name, _, value in items}


def _context(context: Context, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=remote,
        trace_flags=TraceFlags(context.sampled),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )
