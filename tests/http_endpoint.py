"""The HTTP endpoint, composed as `serve` does it, around a scorer of a tiny model; without a port, or behind one."""

import asyncio
import json
import random
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from fraudscale import metrics
from fraudscale.api import create_api
from fraudscale.config import HttpSettings, LogSettings
from fraudscale.config_values import networks
from fraudscale.model_loader import WantedVersion
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.scorer import Scorer
from fraudscale.serve import Drain, DrainingServer
from fraudscale.telemetry.tracing import Tracer
from fraudscale.web.app import HttpEndpoint
from fraudscale.web.bodies import Bodies
from fraudscale.web.clients import Clients
from fraudscale.web.micro_batcher import MicroBatcher
from fraudscale.web.refused_clients import RefusedClients

GOOD = {
    "transaction_id": "tx-1",
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 14,
    "day_of_week": 2,
    "user_age": 41,
    "account_balance": 80.25,
}
"""A transaction, before it is JSON."""
JSON = {"content-type": "application/json"}


@dataclass
class Composed:
    """The application that a server runs, and what a test looks at."""

    app: HttpEndpoint
    scorer: Scorer
    drain: Drain
    registry: CollectorRegistry
    bodies: Bodies
    logged: list[dict]

    def value(self, name, **labels):
        return self.registry.get_sample_value(name, labels)


def compose(tracer=None, api=None, **settings):
    """Compose an endpoint without a model; `api` stands in for the routes behind it, `settings` are HttpSettings'."""
    # Most tests send faster than a stranger may; those of the limits come from other addresses of this machine.
    http_settings = HttpSettings(_env_file=None, **{"trusted_clients": "127.0.0.1"} | settings)
    log_settings = LogSettings(_env_file=None, log_format="json", log_predictions_sample=0)
    logged = structlog.testing.LogCapture()
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[logged])
    model_metrics, http_metrics = metrics.ModelMetrics(), metrics.HttpMetrics()
    registry = metrics.replica_registry(100, model_metrics, http_metrics)
    scorer = Scorer(model_metrics, PredictionLog(log_settings, "test"), "replica-1")
    clients = Clients(networks(http_settings.trusted_proxies), networks(http_settings.trusted_clients))
    refusals = RefusedClients(log)
    micro_batcher = MicroBatcher(
        scorer, model_metrics, http_settings.max_in_flight, client_of=clients.name, refused=refusals.tell
    )
    bodies = Bodies(http_settings, clients)
    drain = Drain(0.3)
    api = api or create_api(
        scorer,
        micro_batcher,
        model_metrics,
        registry,
        bodies,
        identity="replica-1@run",
        draining=lambda: drain.begun,
        wanted=lambda: WantedVersion("2", "champion"),
    )
    tracer = tracer or Tracer(0, 50, None, random.Random(1))
    app = HttpEndpoint(
        api,
        micro_batcher,
        bodies,
        clients,
        http_metrics,
        model_metrics,
        http_settings,
        refusals,
        log,
        tracer,
    )
    return Composed(app, scorer, drain, registry, bodies, logged.entries)


@contextmanager
def serving(composed, port=0):
    """Run it on a port as `serve` does; yield the port."""
    server = DrainingServer(composed.app, composed.drain, 5)
    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True  # without a drain: no balancer asks
        thread.join(20)
        assert not thread.is_alive()


class Unanswered(AssertionError):
    """The application ended without an answer."""


class Exchange:
    """One request, as a server hands it over; a test may send the body in pieces, or hang up."""

    def __init__(self, composed, method, path, body=b"", headers=JSON, client="127.0.0.1"):
        """Begin; `body` None is one that the test sends."""
        self._messages = asyncio.Queue()
        self.sent = []
        if body is not None:
            self.send(body if isinstance(body, bytes) else json.dumps(body).encode())
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (client, 1234),
        }
        self.done = asyncio.ensure_future(composed.app(scope, self._messages.get, self._take))

    async def _take(self, message):
        self.sent.append(message)

    def send(self, piece, more_body=False):
        self._messages.put_nowait({"type": "http.request", "body": piece, "more_body": more_body})

    def hang_up(self):
        self._messages.put_nowait({"type": "http.disconnect"})

    async def answer(self):
        """Return status, headers, and the body, decoded if it is JSON."""
        async with asyncio.timeout(60):
            await self.done
        if not self.sent:
            raise Unanswered
        start, *rest = self.sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        content = b"".join(message["body"] for message in rest)
        return start["status"], headers, json.loads(content) if "json" in headers["content-type"] else content


def ask(composed, *request, **kwargs):
    """Exchange one request that needs no company."""

    async def exchange():
        return await Exchange(composed, *request, **kwargs).answer()

    return asyncio.run(exchange())
