"""The table of ports on one machine; `FRAUDSCALE_PORT_BASE` moves all of it to one compact block."""

import fcntl
import os
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Self

import psutil

from fraudscale.config import KafkaMode, LocalSettings, LogStore, SettingsError
from fraudscale.errors import FraudscaleError

HOST: Final = "127.0.0.1"
MIN_REPLICAS: Final = 4
MAX_REPLICAS: Final = 6
"""Slots behind the balancer: each has its ports from the start."""
BLOCK: Final = 40
"""Ports in a moved table."""
NOT_STARTED: Final = frozenset({"airflow"})
"""In the table for what comes later, and not listened on yet."""
COORDINATORS: Final[Mapping[KafkaMode, str]] = {"kraft": "kafka_controller", "zookeeper": "zookeeper"}
"""The port beside the broker's own that its mode needs."""
CENTRAL_LOGS: Final = frozenset({"opensearch", "log_shipper"})
"""Of components that run only where log lines are brought together."""
CLAIMS: Final = range(20_000, 32_000, 50)
"""Bases for tests: below 32768, where the kernel takes the ports of outgoing connections from."""


@dataclass(frozen=True)
class Ports:
    """Which port each component listens on, all of them on 127.0.0.1."""

    entry: int = 8000
    console: int = 8080
    haproxy_metrics: int = 8404
    serve: tuple[int, ...] = tuple(range(8101, 8101 + MAX_REPLICAS))
    """Of the replica slots, HTTP."""
    stream: tuple[int, ...] = tuple(range(8201, 8201 + MAX_REPLICAS))
    """Of the replica slots, metrics of the Kafka consumer."""
    autoscaler: int = 8301
    kafka: int = 9092
    kafka_controller: int = 9094
    zookeeper: int = 2181
    mlflow: int = 5000
    prometheus: int = 9090
    alertmanager: int = 9093
    node_exporter: int = 9100
    opensearch: int = 9200
    airflow: int = 8082
    log_shipper: int = 8302
    grafana: int = 3000

    @classmethod
    def at(cls, base: int | None) -> Self:
        """The usual table, or one in `base` … `base + BLOCK - 1`."""
        if base is None:
            return cls()
        single = [f.name for f in fields(cls) if f.name not in {"serve", "stream"}]
        slots = {
            "serve": tuple(range(base + 11, base + 11 + MAX_REPLICAS)),
            "stream": tuple(range(base + 21, base + 21 + MAX_REPLICAS)),
        }
        offsets = [*range(11), *range(30, BLOCK)]  # between them are the slots
        return cls(**slots, **{name: base + offset for name, offset in zip(single, offsets, strict=False)})  # type: ignore[arg-type]

    @classmethod
    def of(cls, local: LocalSettings) -> Self:
        """The table that the settings say.

        Raises:
            SettingsError: the console would have another component's port.
        """
        ports = cls.at(local.fraudscale_port_base)
        if local.console_port is None:
            return ports
        holders = {port: name for name, port in ports.named().items() if name != "console"}
        if holder := holders.get(local.console_port):
            raise SettingsError(f"CONSOLE_PORT={local.console_port}: is the port of {holder}; set another")
        return replace(ports, console=local.console_port)

    def named(self) -> dict[str, int]:
        """Name → port; the slots' names are `serve-1`, `stream-1` and so on."""
        table: dict[str, int] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            many = isinstance(value, tuple)
            table |= {f"{field.name}-{i}": p for i, p in enumerate(value, 1)} if many else {field.name: value}
        return table

    def needed(
        self, external: Collection[str] = (), kafka: KafkaMode = "kraft", logs: LogStore = "none"
    ) -> dict[str, int]:
        """What must be free for a start, all replica slots included: name → port.

        Args:
            external: components that are used and not started.
            kafka: the mode of a broker that is started.
            logs: where log lines are brought together.
        """
        coordinator = set() if "kafka" in external else {COORDINATORS[kafka]}
        unused = NOT_STARTED | set(external) | (set(COORDINATORS.values()) - coordinator)
        unused |= CENTRAL_LOGS if logs == "none" else set()
        return {name: port for name, port in self.named().items() if name not in unused}


@dataclass(frozen=True)
class Taken:
    """A port of ours that someone else listens on."""

    name: str
    port: int
    holder: str
    """Program and pid, as far as the system tells."""

    def __str__(self) -> str:
        return f"port {self.port} ({self.name}) is held by {self.holder}"


class PortsTaken(FraudscaleError):
    """Ports that we need are in use."""

    def __init__(self, taken: list[Taken]) -> None:
        super().__init__(
            f"{'; '.join(map(str, taken))}. Stop that, or move all our ports with FRAUDSCALE_PORT_BASE=21000."
        )
        self.taken = taken


def taken(needed: Mapping[str, int]) -> list[Taken]:
    """Those of the needed ports (name → port) that are in use, with their holders."""
    busy = {name: port for name, port in needed.items() if not _free(port)}
    holders = _holders() if busy else {}
    return [Taken(name, port, holders.get(port, "another user's process")) for name, port in busy.items()]


def ensure_free(needed: Mapping[str, int]) -> None:
    """Check that all needed ports (name → port) can be listened on.

    Raises:
        PortsTaken: with each port, its holder and what to do.
    """
    if busy := taken(needed):
        raise PortsTaken(busy)


@contextmanager
def claim_block() -> Iterator[int]:
    """A base whose ports are free and stay ours until the end: runs of tests side by side get different ones."""
    folder = Path(tempfile.gettempdir()) / f"fraudscale-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for base in CLAIMS:
        with (folder / str(base)).open("w") as file:
            if _claim(file.fileno()) and not taken(Ports.at(base).named()):
                yield base
                return
    raise PortsTaken([])


def _claim(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # What a closed connection leaves behind doesn't hinder a server, so it must not hinder us.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _holders() -> dict[int, str]:
    """Port → who listens on it; empty where the system tells that to root only."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return {}
    listening = (c for c in connections if c.status == psutil.CONN_LISTEN)
    return {c.laddr.port: _who(c.pid) for c in listening if c.laddr and c.pid}


def _who(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
