"""The HTTP endpoint of one replica: what it is composed of, and how it stops."""

import time
from types import FrameType
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from fraudscale import metrics
from fraudscale.api import create_api
from fraudscale.config import HttpSettings, LogSettings, ModelSettings, ReplicaSettings, TracingSettings
from fraudscale.config_values import networks
from fraudscale.model_loader import default_loader
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.scorer import Scorer
from fraudscale.telemetry import logs, spans
from fraudscale.telemetry.asgi import App, bad_request, listen
from fraudscale.web.app import HttpEndpoint
from fraudscale.web.bodies import Bodies
from fraudscale.web.clients import Clients
from fraudscale.web.micro_batcher import MicroBatcher
from fraudscale.web.refused_clients import RefusedClients


def run(
    replica: ReplicaSettings,
    http: HttpSettings,
    model: ModelSettings,
    log_settings: LogSettings,
    tracing_settings: TracingSettings,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        SettingsError: the port can't be listened on.
    """
    log = logs.set_up(log_settings, replica_id=replica.replica_id, process="serve")
    listener = listen("HTTP_PORT", http.http_host, http.http_port)
    model_metrics, http_metrics = metrics.ModelMetrics(), metrics.HttpMetrics()
    trace_metrics = metrics.TraceMetrics()
    metrics_registry = metrics.replica_registry(
        replica.cpu_request_millicores, model_metrics, http_metrics, trace_metrics
    )
    tracing = spans.start(
        tracing_settings, process="serve", replica_id=replica.replica_id, counts=trace_metrics, log=log
    )
    scorer = Scorer(model_metrics, PredictionLog(log_settings, "serve"), replica.replica_id)
    loader = default_loader(model, model_metrics, scorer.install, log)
    clients = Clients(networks(http.trusted_proxies), networks(http.trusted_clients))
    refusals = RefusedClients(log)
    micro_batcher = MicroBatcher(scorer, model_metrics, http.max_in_flight, clients.name, refusals.tell)
    bodies = Bodies(http, clients)
    drain = Drain(replica.drain_seconds)
    api = create_api(
        scorer,
        micro_batcher,
        model_metrics,
        metrics_registry,
        bodies,
        identity=replica.identity,
        draining=lambda: drain.begun,
        wanted=lambda: loader.wanted,
    )
    endpoint = HttpEndpoint(
        api,
        micro_batcher,
        bodies,
        clients,
        http_metrics,
        model_metrics,
        http,
        refusals,
        log,
        tracing.tracer,
    )
    server = DrainingServer(endpoint, drain, replica.stop_timeout_seconds - tracing.close_seconds)
    loader.start()
    log.info("serve_started", address=f"{http.http_host}:{http.http_port}")
    server.run(sockets=[listener])
    loader.stop()
    tracing.close()
    log.info("serve_stopped", forced=server.force_exit)
    return 0


class Drain:
    """The time between the signal and the stop: the replica says "not ready", and goes on answering.

    Balancers need it: until they have heard of it they send requests, and a closed port would fail them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    @property
    def begun(self) -> bool:
        return self._since is not None

    @property
    def over(self) -> bool:
        return self._since is not None and time.monotonic() - self._since >= self._seconds

    def begin(self) -> None:
        self._since = time.monotonic()


class DrainingServer(uvicorn.Server):
    """Uvicorn, with a drain before its own graceful stop."""

    def __init__(self, app: App, drain: Drain, stop_timeout_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                loop="uvloop",
                lifespan="off",
                ws="none",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                workers=1,  # else it reads WEB_CONCURRENCY, which is another program's
                # Longer than the balancer keeps its side of an idle connection: it, not we, must close first.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, int(stop_timeout_seconds)),
            )
        )
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; a second one forces."""
        del sig, frame
        if self._drain.begun:
            self.should_exit = self.force_exit = True
        else:
            self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._drain.over
        return await super().on_tick(counter)


class HttpProtocol(HttpToolsProtocol):
    """Uvicorn's, but no offer of another protocol is taken, and what is no request gets problem JSON.

    JDK's HttpClient offers `Upgrade: h2c` with each request. The parser ends such a request at its head, whatever body
    follows; so the head is parsed again without the offer, which a server may ignore (RFC 9110, 7.8).
    """

    _running: RequestResponseCycle | None = None
    """The request that is worked on; uvicorn's `cycle` is the last one that came, which may be queued behind it."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is worked on too: it would write to a connection that is gone."""
        super().connection_lost(exc)
        if self._running:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data, offer)
        except httptools.HttpParserError as error:
            self._refuse(error)

    def _should_upgrade(self) -> bool:
        """Let nothing begin at a head with an offer: uvicorn asks this for such heads only."""
        return True

    def _decline(self, data: bytes, offer: httptools.HttpParserUpgrade) -> None:
        rest = memoryview(data)
        while self.parser.get_method() != b"CONNECT":
            rest = rest[offer.args[0] :]
            head = self._head_without_offer()
            # A new one: with `Connection: close` the old parser takes whatever follows for the end.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as another:
                offer = another
            except httptools.HttpParserError as error:
                self._refuse(error)
                return
            else:
                return
        self.send_400_response("this is no proxy: CONNECT is not taken")

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self, error: httptools.HttpParserError) -> None:
        # Of the callbacks only the one that reads the path can fail.
        is_ours = isinstance(error, httptools.HttpParserCallbackError)
        self.send_400_response(
            f"the request is not valid HTTP: {'its target has no path' if is_ours else error}"
        )

    def send_400_response(self, msg: str) -> None:
        self.transport.write(bad_request(msg))
        self.transport.close()
