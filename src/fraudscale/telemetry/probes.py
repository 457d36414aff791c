"""/metrics, /livez and /readyz for processes that have no HTTP API."""

from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from threading import Thread
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry

from fraudscale.config import MetricsSettings, SettingsError
from fraudscale.metrics import exposition

PROBLEM: Final = "application/problem+json"
PLAIN: Final = "text/plain; charset=utf-8"
Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""


class OpsServer:
    """Answers GET and HEAD from threads of its own, so a probe never waits for the work of the process."""

    def __init__(
        self, settings: MetricsSettings, registry: CollectorRegistry, not_ready: Callable[[], str | None]
    ) -> None:
        """Take the port; answering begins with `start`.

        Args:
            settings: where to listen.
            registry: what /metrics shows.
            not_ready: the reason why /readyz answers 503, or None.

        Raises:
            SettingsError: the port can't be listened on.
        """
        host, port = settings.metrics_host, settings.metrics_port
        self._registry = registry
        self._not_ready = not_ready
        try:
            self._server = _Server(host, port, self._answer)
        except OSError as error:
            raise SettingsError(
                f"METRICS_PORT={port}: can't listen on {host}:{port}: {error.strerror}; stop what uses it, or set another"
            ) from error

    def start(self) -> None:
        Thread(target=self._server.serve_forever, name="ops-server", args=(0.1,), daemon=True).start()

    def stop(self) -> None:
        """Close the port, after `start`; answers that are under way end with the process."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> Answer:
        match path:
            case "/metrics":
                body, content_type = exposition(self._registry, accept)
                return HTTPStatus.OK, content_type, body
            case "/livez":
                return HTTPStatus.OK, PLAIN, b"ok\n"
            case "/readyz":
                reason = self._not_ready()
                return (HTTPStatus.OK, PLAIN, b"ok\n") if reason is None else _problem(503, reason)
            case _:
                return _problem(404, "here are /metrics, /livez and /readyz")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, answer: Callable[[str, str], Answer]) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.answer = answer
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask the DNS for our name

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client went away, which is its right."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 75  # longer than Prometheus keeps an idle connection between two scrapes
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._send(self.server.answer(path, self.headers.get("Accept", "")))

    do_HEAD = do_GET  # noqa: N815  the base class looks for it

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer in our shape what the base class refuses: other methods (its 501 is our 405), bad requests."""
        del explain
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._send(_problem(405, "only GET and HEAD"), allow="GET, HEAD")
        else:
            self._send(_problem(code, message or ""))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing: a scrape every few seconds is no event."""

    def _send(self, answer: Answer, allow: str = "") -> None:
        status, content_type, body = answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if allow:
            self.send_header("Allow", allow)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _problem(code: int, detail: str) -> Answer:
    status = HTTPStatus(code)
    problem = {"type": "about:blank", "title": status.phrase, "status": code, "detail": detail}
    return status, PROBLEM, msgspec.json.encode(problem)
