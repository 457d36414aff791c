"""An OpenTelemetry collector for tests: takes spans over OTLP/HTTP, decodes them with OpenTelemetry's own schema, keeps them."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2


class Received(NamedTuple):
    """A span as it arrived, ids in hexadecimal."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    state: str
    started: int
    ended: int
    attributes: dict
    links: list[tuple[str, str]]
    failed: bool
    resource: dict


class Collector(ThreadingHTTPServer):
    """Answers 200 and keeps what it got; one that `hangs` takes a request and answers never."""

    daemon_threads = True

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.hangs = hangs
        self.asked = Event()
        self.closing = Event()
        self.headers: list[dict[str, str]] = []
        self.spans: list[Received] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, trace_id: str) -> dict[str, Received]:
        """The spans of a trace, by name."""
        return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def server_close(self) -> None:
        self.closing.set()
        super().server_close()


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.set()
        if self.server.hangs:
            self.server.closing.wait(120)
            return
        assert self.path == "/v1/traces"
        self.server.headers.append(dict(self.headers))
        self.server.spans += _spans(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def _spans(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for s in scope.spans:
                yield Received(
                    s.name,
                    trace_pb2.Span.SpanKind.Name(s.kind).removeprefix("SPAN_KIND_").lower(),
                    s.trace_id.hex(),
                    s.span_id.hex(),
                    s.parent_span_id.hex(),
                    s.trace_state,
                    s.start_time_unix_nano,
                    s.end_time_unix_nano,
                    _attributes(s.attributes),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in s.links],
                    s.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    resource,
                )


def _attributes(pairs) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
