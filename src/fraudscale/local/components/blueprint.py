"""What all components of one machine are made from: settings, tools and ports, and the addresses that follow from them."""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from fraudscale.config import (
    AlertSettings,
    HttpSettings,
    KafkaMode,
    KafkaSettings,
    LocalSettings,
    ModelSettings,
    SettingsError,
)
from fraudscale.local.install.download import Tools
from fraudscale.local.install.ports import HOST, Ports
from fraudscale.local.scaling import manifests

OUTER_STOP_SECONDS: Final = 2
"""For what stops before the replicas: traffic, and jobs that still run. All phases together keep below 15 s."""
KAFKA_FOLDERS: Final[Mapping[KafkaMode, str]] = {"kraft": "kafka", "zookeeper": "kafka-zookeeper"}
"""Below `data`: a broker of one mode refuses what one of the other wrote."""

# Phases of stopping: traffic, then replicas behind the living HAProxy, then HAProxy, then the rest side by side, then
# ZooKeeper, without which a broker doesn't end.
TRAFFIC_PHASE, REPLICA_PHASE, ENTRY_PHASE, REST_PHASE, ZOOKEEPER_PHASE = range(5)
STORE_PHASE: Final = ZOOKEEPER_PHASE
"""OpenSearch, which takes what its shipper has in hand."""


@dataclass(frozen=True)
class Blueprint:
    """What the components are made from."""

    local: LocalSettings
    model: ModelSettings
    kafka: KafkaSettings
    http: HttpSettings
    alerts: AlertSettings
    tools: Tools
    ports: Ports
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """By which the balancer knows the replicas of this run."""

    @property
    def home(self) -> Path:
        return self.local.fraudscale_home.resolve()

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def kafka_data(self) -> Path:
        return self.data / KAFKA_FOLDERS[self.local.kafka]

    @property
    def targets(self) -> Path:
        """Where Prometheus reads which replica slots live; rewritten as they come and go."""
        return self.run / "targets.json"

    @property
    def model_cache(self) -> Path:
        own = "model_cache_dir" in self.model.model_fields_set
        return self.model.model_cache_dir.resolve() if own else self.home / "models"

    @property
    def has_model(self) -> bool:
        """Whether replicas can start from a local copy, without waiting for the registry."""
        return (self.model_cache / "current.json").is_file()

    @property
    def bootstrap(self) -> str:
        return self.external.get("kafka", f"{HOST}:{self.ports.kafka}")

    @property
    def mlflow(self) -> str:
        return self.external.get("mlflow", f"http://{HOST}:{self.ports.mlflow}")

    @property
    def prometheus(self) -> str:
        return self.external.get("prometheus", f"http://{HOST}:{self.ports.prometheus}")

    @property
    def log_store(self) -> str:
        return self.external.get("opensearch", f"http://{HOST}:{self.ports.opensearch}")

    @property
    def console(self) -> str:
        return f"http://{HOST}:{self.ports.console}"

    @property
    def dashboard(self) -> Path:
        """The dashboard with links and limits of this machine, for the console and Grafana."""
        return self.run / "dashboards" / "ml-model-dashboard.json"

    @property
    def external(self) -> dict[str, str]:
        return external(self.local, self.model, self.kafka)

    @cached_property
    def scaling(self) -> manifests.Scaling:
        """What the manifests say.

        Raises:
            ManifestError: one can't be used.
        """
        return manifests.read(self.local)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of ours is told; the rest it reads from `.env` like us."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MODEL_CACHE_DIR": str(self.model_cache),
            "PROMETHEUS_ENDPOINT": self.prometheus,
        }

    @property
    def trusted_clients(self) -> str:
        """Whom no rate limit holds for: unless told otherwise this machine's usual address.

        Sample traffic, load tests and the person at the keyboard come from it. Its other addresses, 127.0.0.2 …, are
        limited like any client.
        """
        return self.http.trusted_clients if "trusted_clients" in self.http.model_fields_set else HOST


def external(local: LocalSettings, model: ModelSettings, kafka: KafkaSettings) -> dict[str, str]:
    """Components that are used and not started, because their address is set: name → address.

    Raises:
        SettingsError: a broker of yours is named, and one of ours too.
    """
    table: dict[str, str] = {}
    if "kafka_bootstrap_servers" in kafka.model_fields_set:
        if local.kafka == "zookeeper":
            raise SettingsError(
                f"FRAUDSCALE_KAFKA='zookeeper': would start a broker, and KAFKA_BOOTSTRAP_SERVERS={kafka.kafka_bootstrap_servers!r} "
                "uses one of yours; leave one of them out"
            )
        table["kafka"] = kafka.kafka_bootstrap_servers
    if "mlflow_tracking_uri" in model.model_fields_set:
        table["mlflow"] = model.mlflow_tracking_uri
    if local.prometheus_endpoint is not None:
        table["prometheus"] = local.prometheus_endpoint
    if local.logs == "opensearch" and local.opensearch_endpoint is not None:
        table["opensearch"] = local.opensearch_endpoint
    return table


def fraudscale(*arguments: str) -> tuple[str, ...]:
    """The command line of one of our own commands, in this Python."""
    return (sys.executable, "-m", "fraudscale.cli", *arguments)
