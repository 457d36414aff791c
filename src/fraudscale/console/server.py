"""The process behind the page: its files, `/api/overview`, and the queries that it passes on to Prometheus.

It listens on this machine only. A web page of somebody else can't ask through it: the name in `Host` must be this machine's
(a name that was bound anew to 127.0.0.1 is not), and browsers say when another site asks.
"""

from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import msgspec

from fraudscale.config import ConsoleSettings, LocalSettings, LogSettings
from fraudscale.console import overview
from fraudscale.console.upstream import FORM, Prometheus
from fraudscale.local import running
from fraudscale.local.install.ports import HOST, Ports
from fraudscale.places import checkout
from fraudscale.stopping import StopSignals
from fraudscale.telemetry import logs
from fraudscale.telemetry.asgi import listen
from fraudscale.telemetry.small_server import JSON, PLAIN, Rejected, Reply, Request, SmallServer, in_thread

NAMES: Final = frozenset({HOST, "localhost"})
"""By which this machine may be called; any port, because a tunnel has one of its own."""
FORM_BYTES: Final = 64 * 1024
IDLE_SECONDS: Final = 30
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": PLAIN,
    "": PLAIN,
}
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


class Console:
    """What the page may ask for."""

    def __init__(
        self, files: Mapping[str, Reply], dashboard: Path, home: Path, prometheus: Prometheus
    ) -> None:
        """Answer files from a table by path; the dashboard's JSON is read anew at each question."""
        self._files = files
        self._dashboard = dashboard
        self._home = home
        self._prometheus = prometheus

    async def answer(self, request: Request) -> Reply:
        """Answer a request.

        Raises:
            Rejected: it can't be answered.
        """
        _check_sender(request)
        form = await _read_form(request) if request.method == "POST" else None
        return await in_thread(lambda: self._answer(request, form))

    def _answer(self, request: Request, form: bytes | None) -> Reply:
        path = request.path
        if path.startswith("/api/v1/"):
            return self._prometheus.ask(request.method, path, request.query, form)
        if form is not None:
            raise Rejected(405, "only queries may be posted", {"Allow": "GET, HEAD"})
        # Files are looked up by their whole path in a table of what there is: no path leads elsewhere.
        if path in self._files:
            return self._files[path]
        match path:
            case "/livez" | "/readyz":
                return Reply(200, PLAIN, b"ok\n")
            case "/api/overview":
                return Reply(200, JSON, msgspec.json.encode(overview.look(self._home)))
            case "/dashboard.json":
                return Reply(200, JSON, self._read_dashboard())
        raise Rejected(404, f"nothing is at {path}")

    def _read_dashboard(self) -> bytes:
        try:
            return self._dashboard.read_bytes()
        except OSError as error:
            raise Rejected(500, f"DASHBOARD_FILE={str(self._dashboard)!r}: {error.strerror}") from error


def _check_sender(request: Request) -> None:
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] or host
    if name not in NAMES:
        raise Rejected(421, f"this is {' or '.join(sorted(NAMES))}, not {name or 'nobody'}")
    # A link from elsewhere may lead to the page; a question from elsewhere is none of the page's.
    site = request.headers.get("sec-fetch-site", "none")
    if request.path.startswith("/api/") and site not in {"same-origin", "none"}:
        raise Rejected(403, "a page of another site asks")


async def _read_form(request: Request) -> bytes:
    form = await request.body(FORM_BYTES)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Rejected(415, f"a form is {FORM}")
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise Rejected(415, f"a form is sent as it is, not in {encoding}", {"Accept-Encoding": "identity"})
    return form


def pages(runbooks: Path = RUNBOOKS) -> dict[str, Reply]:
    """Read what is served: the page at `/`, what it is made of, and the runbooks as plain text."""
    static = resources.files("fraudscale.console") / "static"
    table = dict(_below(static, "/static"))
    table["/"] = table.pop("/static/index.html")
    for page in sorted(runbooks.glob("*.md")):
        table[f"/docs/runbooks/{page.name}"] = Reply(200, TYPES[".md"], page.read_bytes())
    return table


def _below(folder: Traversable, path: str) -> list[tuple[str, Reply]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{path}/{entry.name}")
        elif (kind := TYPES.get(Path(entry.name).suffix)) is not None:
            found.append((f"{path}/{entry.name}", Reply(200, kind, entry.read_bytes())))
    return found


def create_server(port: int, console: Console) -> SmallServer:
    """Take the port of the console; answering begins with `start`.

    Raises:
        SettingsError: the port can't be listened on.
    """
    return SmallServer(
        listen("CONSOLE_PORT", HOST, port),
        console.answer,
        methods=("GET", "HEAD", "POST"),
        headers=HEADERS,
        idle_seconds=IDLE_SECONDS,
    )


def run(settings: ConsoleSettings, local: LocalSettings, log_settings: LogSettings) -> int:
    """Serve the page until SIGTERM or SIGINT.

    Returns:
        Exit code: 0.

    Raises:
        SettingsError: the port can't be listened on.
    """
    with StopSignals() as signals:
        log = logs.set_up(log_settings, process="console")
        # A console that was started by hand shows the platform that will come.
        ports = Ports.of(local)
        prometheus = running.find(local).prometheus or f"http://{HOST}:{ports.prometheus}"
        console = Console(
            pages(checkout() / RUNBOOKS),
            settings.dashboard_file,
            local.fraudscale_home,
            Prometheus(prometheus),
        )
        server = create_server(ports.console, console)
        server.start()
        log.info("console_started", address=f"http://{HOST}:{ports.console}", prometheus=prometheus)
        signals.stop.wait()
        server.stop()
    return 0
