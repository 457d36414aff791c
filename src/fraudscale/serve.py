"""The HTTP endpoint of one replica: what it is composed of, and how it stops."""

import time
from types import FrameType

import uvicorn

from fraudscale import metrics
from fraudscale.api import create_api
from fraudscale.config import (
    HttpSettings,
    LogSettings,
    ModelSettings,
    ReplicaSettings,
    TracingSettings,
    networks,
)
from fraudscale.model_loader import default_loader
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.scorer import Scorer
from fraudscale.telemetry import logs, spans
from fraudscale.telemetry.asgi import App, listen
from fraudscale.web.app import HttpEndpoint
from fraudscale.web.bodies import Bodies
from fraudscale.web.clients import Clients
from fraudscale.web.micro_batcher import MicroBatcher


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
    micro_batcher = MicroBatcher(scorer, model_metrics, http.max_in_flight)
    clients = Clients(networks(http.trusted_proxies), networks(http.trusted_clients))
    bodies = Bodies(http, clients)
    drain = Drain(replica.drain_seconds)
    api = create_api(
        scorer,
        micro_batcher,
        model_metrics,
        metrics_registry,
        bodies,
        draining=lambda: drain.begun,
        wanted=lambda: loader.wanted,
    )
    endpoint = HttpEndpoint(
        api, micro_batcher, bodies, clients, http_metrics, model_metrics, http, log, tracing.tracer
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
                http="httptools",
                loop="uvloop",
                lifespan="off",
                ws="none",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
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
