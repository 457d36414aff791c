"""The platform that runs on this machine, seen from outside: where it answers, what is ready, which model it uses."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fraudscale.central_logs.store import Store, open_store
from fraudscale.config import CentralLogSettings, KafkaSettings, LocalSettings
from fraudscale.local.install.ports import HOST, Ports
from fraudscale.local.supervisor import state
from fraudscale.local.supervisor.state import ModelInUse, Status
from fraudscale.net import NoAnswer, Server

ASK_SECONDS: Final = 1.0


class Running(NamedTuple):
    """Addresses of a platform: what settings say, else what `run/status.json` says, else the usual table."""

    entry: str
    kafka: KafkaSettings
    prometheus: str


def find(home: Path) -> Running:
    """Look up the platform of a home folder; without one the usual addresses are as good a guess as any."""
    local, kafka = LocalSettings.read(), KafkaSettings.read()
    status = state.read(home) or Status(ready=False)
    addresses = {component.name: component.address for component in status.components}
    ports = Ports.at(local.fraudscale_port_base)
    if "kafka_bootstrap_servers" not in kafka.model_fields_set:
        kafka = kafka.read(kafka_bootstrap_servers=addresses.get("kafka") or f"{HOST}:{ports.kafka}")
    prometheus = local.prometheus_endpoint or addresses.get("prometheus") or f"{HOST}:{ports.prometheus}"
    return Running(_url(status.entry or f"{HOST}:{ports.entry}"), kafka, _url(prometheus))


def examine(home: Path) -> Status:
    """Read `run/status.json` and doubt it: a file whose supervisor is gone says that nothing is ready.

    The model is asked for at the entry, since the file may be older than the last swap.
    """
    status = state.read(home)
    if status is None or status.supervisor is None or not status.supervisor.lives():
        return Status(ready=False)
    ready = status.ready and all(process.lives() for process in status.processes)
    return msgspec.structs.replace(status, ready=ready, model=model_at(status.entry) or status.model)


def model_at(entry: str) -> ModelInUse | None:
    """Ask an entry (HOST:PORT or URL) which model it scores with; None without an answer within a second."""
    answer = get_json(entry, "/model") if entry else None
    if not isinstance(answer, dict) or "version" not in answer:
        return None
    return ModelInUse(str(answer["version"]), str(answer.get("alias", "")) or None)


def get_json(address: str, path: str, query: Mapping[str, str] | None = None) -> object:
    """Return the JSON that `path` of an address (HOST:PORT or URL) answers with 200; None for anything else."""
    try:
        with Server(address, seconds=ASK_SECONDS) as server:
            answer = server.ask("GET", path, query=query)
            return answer.json() if answer.status == HTTPStatus.OK else None
    except NoAnswer:
        return None


def log_store(local: LocalSettings) -> str:
    """Where the store of log lines answers: yours, or the one that `up` starts."""
    return local.opensearch_endpoint or f"http://{HOST}:{Ports.at(local.fraudscale_port_base).opensearch}"


def open_log_store(home: Path, settings: CentralLogSettings) -> Store | None:
    """Return the store that the platform of a home folder ships to; None where it ships to none."""
    status = state.read(home) or Status(ready=False)
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
