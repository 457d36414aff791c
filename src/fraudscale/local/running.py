"""Where the platform that runs on this machine answers, for commands that use it from outside."""

from pathlib import Path
from typing import NamedTuple

from fraudscale.central_logs.store import Store, open_store
from fraudscale.config import CentralLogSettings, KafkaSettings, LocalSettings
from fraudscale.local.install.ports import HOST, Ports
from fraudscale.local.supervisor import state


class Running(NamedTuple):
    """Addresses of a platform: what settings say, else what `run/status.json` says, else the usual table."""

    entry: str
    kafka: KafkaSettings
    prometheus: str


def find(home: Path) -> Running:
    """Look up the platform of a home folder; without one the usual addresses are as good a guess as any."""
    local, kafka = LocalSettings.read(), KafkaSettings.read()
    status = state.read(home) or state.Status(ready=False)
    addresses = {component.name: component.address for component in status.components}
    ports = Ports.at(local.fraudscale_port_base)
    if "kafka_bootstrap_servers" not in kafka.model_fields_set:
        kafka = kafka.read(kafka_bootstrap_servers=addresses.get("kafka") or f"{HOST}:{ports.kafka}")
    prometheus = local.prometheus_endpoint or addresses.get("prometheus") or f"{HOST}:{ports.prometheus}"
    return Running(_url(status.entry or f"{HOST}:{ports.entry}"), kafka, _url(prometheus))


def log_store(local: LocalSettings) -> str:
    """Where the store of log lines answers: yours, or the one that `up` starts."""
    return local.opensearch_endpoint or f"http://{HOST}:{Ports.at(local.fraudscale_port_base).opensearch}"


def open_log_store(home: Path, settings: CentralLogSettings) -> Store | None:
    """Return the store that the platform of a home folder ships to; None where it ships to none."""
    status = state.read(home) or state.Status(ready=False)
    at = [
        one.address
        for one in status.components
        if one.name == "opensearch" and one.state in {"ready", "external"}
    ]
    if not at:
        return None
    return open_store(at[0], settings)


def _url(address: str) -> str:
    return address if "://" in address else f"http://{address}"
