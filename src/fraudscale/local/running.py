"""The platform that runs on this machine, seen from outside: where it answers, what is ready, which model it uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import psutil
from msgspec.structs import replace

from fraudscale.central_logs.store import Store, open_store
from fraudscale.config import CentralLogSettings, KafkaSettings, LocalSettings, ModelSettings
from fraudscale.errors import FraudscaleError
from fraudscale.local.install.ports import HOST, Ports
from fraudscale.local.supervisor import machine, state
from fraudscale.local.supervisor.state import ComponentStatus, ModelInUse, Status
from fraudscale.net import NoAnswer, Server

ASK_SECONDS: Final = 1.0
ORPHAN: Final = "orphan"
"""State of what still runs of a platform whose supervisor is gone; `fraudscale down` ends it."""


class NotRunning(FraudscaleError):
    """No platform runs here."""


@dataclass(frozen=True)
class Running:
    """Addresses of a platform: what settings say, else what lives of it, else the table of FRAUDSCALE_PORT_BASE.

    Without any of them there is no address: whoever listens on the usual ports is somebody else.
    """

    local: LocalSettings
    addresses: Mapping[str, str]
    """Of the components that live: name → address."""

    @property
    def entry(self) -> str:
        """The load balancer.

        Raises:
            NotRunning: there is no address.
        """
        return _url(self._at("haproxy", self._ports.entry, "--url"))

    @property
    def kafka(self) -> KafkaSettings:
        """The settings, with the platform's broker unless they name one.

        Raises:
            NotRunning: there is no address.
        """
        kafka = KafkaSettings.read()
        if "kafka_bootstrap_servers" in kafka.model_fields_set:
            return kafka
        at = self._at("kafka", self._ports.kafka, "KAFKA_BOOTSTRAP_SERVERS")
        return KafkaSettings.read(kafka_bootstrap_servers=at)

    @property
    def model(self) -> ModelSettings:
        """The settings, with the platform's registry and folder of copies unless they name them.

        Raises:
            NotRunning: there is no address.
        """
        model = ModelSettings.read()
        ours: dict[str, object] = {}
        if "mlflow_tracking_uri" not in model.model_fields_set:
            ours["mlflow_tracking_uri"] = _url(self._at("mlflow", self._ports.mlflow, "MLFLOW_TRACKING_URI"))
        if "model_cache_dir" not in model.model_fields_set:
            ours["model_cache_dir"] = self.local.fraudscale_home / "models"
        return ModelSettings.read(**ours)

    @property
    def prometheus(self) -> str | None:
        """Where its figures are; None where nobody knows."""
        at = self.local.prometheus_endpoint or self.addresses.get("prometheus")
        if at is None and self.local.fraudscale_port_base is not None:
            at = f"{HOST}:{self._ports.prometheus}"
        return _url(at) if at else None

    @property
    def _ports(self) -> Ports:
        return Ports.of(self.local)

    def _at(self, component: str, port: int, name: str) -> str:
        if component in self.addresses:
            return self.addresses[component]
        if self.local.fraudscale_port_base is not None:
            return f"{HOST}:{port}"
        raise NotRunning(
            f"no platform runs in {self.local.fraudscale_home}, so nothing is known of its {component}: start it with "
            f"`make up`, or name its home folder in FRAUDSCALE_HOME, or an address in {name}"
        )


def find(local: LocalSettings) -> Running:
    """Look up the platform of a home folder, as far as its processes live."""
    return Running(local, {one.name: one.address for one in _living(local.fraudscale_home)})


def _living(home: Path) -> list[ComponentStatus]:
    """Components of which a process lives, and what a platform that lives uses of somebody else's."""
    status = state.read(home) or Status(ready=False)
    alive = {process.name for process in status.processes if process.lives()}
    used = {"external"} if alive else set()
    return [one for one in status.components if one.name in alive or one.state in used]


def examine(home: Path) -> Status:
    """Read `run/status.json` and doubt it: of a platform whose supervisor is gone only what still lives is told.

    The model is asked for at the entry, since the file may be older than the last swap.
    """
    status = state.read(home) or Status(ready=False)
    if status.supervisor is None or not status.supervisor.lives():
        holder = state.Lock(home).holder()
        return Status(ready=False, supervisor=holder) if holder else _left(home, status)
    ready = status.ready and all(process.lives() for process in status.processes)
    return replace(status, ready=ready, model=model_at(status.entry) or status.model)


def as_text(status: Status) -> str:
    """Write what was examined for a person: a line a component, a line a replica, and what to do."""
    rows = [(one.name, one.state, one.address) for one in status.components]
    rows += [(one.id, one.state, one.address) for one in status.replicas]
    lines = [f"{name:16} {state_of_it:12} {address}".rstrip() for name, state_of_it, address in rows]
    if status.started_at is not None:
        lines.append(f"model {status.model.version or '?'} ({status.model.alias or 'no alias'})")
        lines.append("ready" if status.ready else "not ready")
    elif status.supervisor is not None:
        pid = status.supervisor.pid
        lines.append(f"not ready: process {pid} is at work, and run/status.json does not tell what runs yet")
    elif rows:
        lines.append("not ready: `up` ended without stopping these; `fraudscale down` stops them")
    else:
        lines.append("nothing runs here; `make up` starts the platform")
    return "\n".join(lines)


def _left(home: Path, status: Status) -> Status:
    """Tell what a supervisor that was killed left: listed in its file, or marked as started for this home folder."""
    listed = [process for process in status.processes if process.lives()]
    groups = {process.pid for process in listed}
    # Without a file their leaders stand for them: a component may have many processes.
    others = [process for process in machine.marked(home) if machine.group_of(process.pid) not in groups]
    leaders = [one for one in others if machine.group_of(one.pid) == one.pid] or others
    names = {process.name for process in listed}
    found = [*listed, *(state.identify(_program(one), one.pid) for one in leaders)]
    return Status(
        ready=False,
        components=[
            *(replace(one, state=ORPHAN) for one in status.components if one.name in names),
            *(ComponentStatus(one.name, ORPHAN, "", one.pid) for one in found[len(listed) :]),
        ],
        replicas=[
            replace(one, state=ORPHAN)
            for one in status.replicas
            if not names.isdisjoint((f"{one.id}/serve", f"{one.id}/stream"))
        ],
        processes=found,
    )


def _program(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "?"


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
    return local.opensearch_endpoint or f"http://{HOST}:{Ports.of(local).opensearch}"


def open_log_store(home: Path, settings: CentralLogSettings) -> Store | None:
    """Return the store that the platform of a home folder ships to; None where it ships to none."""
    at = [
        one.address
        for one in _living(home)
        if one.name == "opensearch" and one.state in {"ready", "external"}
    ]
    return open_store(at[0], settings) if at else None


def _url(address: str) -> str:
    return address if "://" in address else f"http://{address}"
