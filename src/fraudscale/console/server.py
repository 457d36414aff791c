"""The process behind the page: its files, `/api/overview`, and a door to Prometheus that only reads.

It listens on this machine only. A web page of somebody else can't ask through it: the name in `Host` must be this machine's
(a name that was bound anew to 127.0.0.1 is not), and browsers say when another site asks.
"""

import signal
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from socketserver import TCPServer
from threading import Thread
from typing import Any, Final

import msgspec

from fraudscale.config import ConsoleSettings, LocalSettings, LogSettings, SettingsError
from fraudscale.console import overview
from fraudscale.console.upstream import FORM, Prometheus, Refused
from fraudscale.local import running
from fraudscale.local.install.ports import HOST
from fraudscale.telemetry import logs

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
NAMES: Final = frozenset({HOST, "localhost"})
"""By which this machine may be called; any port, because a tunnel has one of its own."""
FORM_BYTES: Final = 64 * 1024
IDLE_SECONDS: Final = 30
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
RUNBOOKS: Final = Path("docs/runbooks")


class Content(msgspec.Struct, frozen=True):
    """A file that is served, read once."""

    kind: str
    body: bytes


class Console:
    """What the page may ask for."""

    def __init__(
        self, files: Mapping[str, Content], dashboard: Path, home: Path, prometheus: Prometheus
    ) -> None:
        """Take what it answers from.

        Args:
            files: by path.
            dashboard: Grafana's JSON, read anew at each question.
            home: of the platform.
            prometheus: to ask.
        """
        self._files = files
        self._dashboard = dashboard
        self._home = home
        self._prometheus = prometheus

    def answer(self, method: str, path: str, query: str, form: bytes | None) -> tuple[int, Content]:
        """Answer a request for a path, without its question mark and what follows.

        Raises:
            Refused: it can't be answered; with the status.
        """
        if path.startswith("/api/v1/"):
            found = self._prometheus.ask(method, path, query, form)
            return found.status, Content(JSON, found.body)
        if method == "POST":
            raise Refused(405, "only queries may be posted")
        # Files are looked up by their whole path in a table of what there is: no path leads elsewhere.
        if path in self._files:
            return 200, self._files[path]
        match path:
            case "/livez" | "/readyz":
                return 200, Content(TYPES[""], b"ok\n")
            case "/api/overview":
                return 200, Content(JSON, msgspec.json.encode(overview.look(self._home)))
            case "/dashboard.json":
                return 200, Content(JSON, self._read_dashboard())
        raise Refused(404, f"nothing is at {path}")

    def _read_dashboard(self) -> bytes:
        try:
            return self._dashboard.read_bytes()
        except OSError as error:
            raise Refused(500, f"DASHBOARD_FILE={str(self._dashboard)!r}: {error.strerror}") from error


def pages(runbooks: Path = RUNBOOKS) -> dict[str, Content]:
    """Read what is served: the page at `/`, what it is made of, and the runbooks as plain text."""
    static = resources.files("fraudscale.console") / "static"
    table = dict(_below(static, "/static"))
    table["/"] = table.pop("/static/index.html")
    for page in sorted(runbooks.glob("*.md")):
        table[f"/docs/runbooks/{page.name}"] = Content(TYPES[".md"], page.read_bytes())
    return table


def _below(folder: Traversable, path: str) -> list[tuple[str, Content]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{path}/{entry.name}")
        elif (kind := TYPES.get(Path(entry.name).suffix)) is not None:
            found.append((f"{path}/{entry.name}", Content(kind, entry.read_bytes())))
    return found


class Server(ThreadingHTTPServer):
    """The console at its port; answering begins with `serve_forever`."""

    daemon_threads = True

    def __init__(self, port: int, console: Console) -> None:
        """Take the port.

        Raises:
            SettingsError: it can't be listened on.
        """
        self.console = console
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise SettingsError(
                f"CONSOLE_PORT={port}: can't listen on {HOST}:{port}: {error.strerror}; stop what uses it, or set another"
            ) from error

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask the DNS for our name

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client went away, which is its right."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(None)

    do_HEAD = do_GET  # noqa: N815  the base class looks for it

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > FORM_BYTES:
            self.close_connection = True  # what was not read would be taken for the next request
            self._refuse(Refused(413, f"a form has a length, and {FORM_BYTES} bytes at most"))
            return
        form = self.rfile.read(int(length))
        if self.headers.get_content_type() != FORM:
            self._refuse(Refused(415, f"a form is {FORM}"))
            return
        self._answer(form)

    def _answer(self, form: bytes | None) -> None:
        path, _, query = self.path.partition("?")
        try:
            self._ensure_own(path)
            status, content = self.server.console.answer(
                "POST" if form is not None else "GET", path, query, form
            )
        except Refused as error:
            self._refuse(error)
        else:
            self._send(status, content)

    def _ensure_own(self, path: str) -> None:
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name not in NAMES:
            raise Refused(421, f"this is {' or '.join(sorted(NAMES))}, not {name or 'nobody'}")
        # A link from elsewhere may lead to the page; a question from elsewhere is none of the page's.
        if path.startswith("/api/") and self.headers.get("Sec-Fetch-Site", "none") not in {
            "same-origin",
            "none",
        }:
            raise Refused(403, "a page of another site asks")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer in our shape what the base class refuses: other methods (its 501 is our 405), bad requests."""
        del explain
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse(Refused(405, "only GET, HEAD and POST"))
        else:
            self._refuse(Refused(code, message or ""))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing: a page that looks every few seconds is no event."""

    def _refuse(self, error: Refused) -> None:
        status = HTTPStatus(error.status)
        problem = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": str(error)}
        self._send(status, Content(PROBLEM, msgspec.json.encode(problem)))

    def _send(self, status: int, content: Content) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content.kind)
        self.send_header("Content-Length", str(len(content.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content.body)


def run(settings: ConsoleSettings, local: LocalSettings, log_settings: LogSettings) -> int:
    """Serve the page until SIGTERM or SIGINT.

    Returns:
        Exit code: 0.

    Raises:
        SettingsError: the port can't be listened on.
    """
    # Blocked before any thread starts, so that the signal waits for `sigwait` whenever it comes.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    log = logs.set_up(log_settings, process="console")
    prometheus = running.find(local.fraudscale_home).prometheus
    console = Console(pages(), settings.dashboard_file, local.fraudscale_home, Prometheus(prometheus))
    server = Server(settings.console_port, console)
    Thread(target=server.serve_forever, name="console", daemon=True).start()
    log.info("console_started", address=f"http://{HOST}:{settings.console_port}", prometheus=prometheus)
    signal.sigwait(STOP_SIGNALS)
    server.shutdown()
    server.server_close()
    return 0
