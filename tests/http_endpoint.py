"""The HTTP endpoint without a port: composed as `serve` does it, around a scorer of a tiny model."""

import random
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from fraudscale import metrics
from fraudscale.api import create_api
from fraudscale.config import HttpSettings, LogSettings, networks
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.scorer import Scorer
from fraudscale.serve import Drain
from fraudscale.telemetry.tracing import Tracer
from fraudscale.web.app import HttpEndpoint
from fraudscale.web.bodies import Bodies
from fraudscale.web.clients import Clients
from fraudscale.web.micro_batcher import MicroBatcher

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


def compose(tracer=None, **settings):
    """Compose an endpoint without a model; `settings` are HttpSettings'."""
    # Most tests send faster than a stranger may; those of the limits come from other addresses of this machine.
    http_settings = HttpSettings(_env_file=None, **{"trusted_clients": "127.0.0.1"} | settings)
    log_settings = LogSettings(_env_file=None, log_format="json", log_predictions_sample=0)
    logged = structlog.testing.LogCapture()
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[logged])
    model_metrics, http_metrics = metrics.ModelMetrics(), metrics.HttpMetrics()
    registry = metrics.registry(100, model_metrics, http_metrics)
    scorer = Scorer(model_metrics, PredictionLog(log_settings, "test"), "replica-1")
    micro_batcher = MicroBatcher(scorer, model_metrics, http_settings.max_in_flight)
    clients = Clients(networks(http_settings.trusted_proxies), networks(http_settings.trusted_clients))
    bodies = Bodies(http_settings, clients)
    drain = Drain(0.3)
    api = create_api(scorer, micro_batcher, model_metrics, registry, bodies, draining=lambda: drain.begun)
    tracer = tracer or Tracer(0, 50, None, random.Random(1))
    app = HttpEndpoint(
        api, micro_batcher, bodies, clients, http_metrics, model_metrics, http_settings, log, tracer
    )
    return Composed(app, scorer, drain, registry, bodies, logged.entries)
