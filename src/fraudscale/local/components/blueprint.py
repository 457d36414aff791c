"""The platform on one machine as data: settings, tools and ports → configuration files and a list of components."""

import base64
import http.client
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fraudscale.alerting import alertmanager, rules
from fraudscale.clock import duration
from fraudscale.config import (
    AlertSettings,
    HttpSettings,
    KafkaMode,
    KafkaSettings,
    LocalSettings,
    ModelSettings,
    SettingsError,
    networks,
)
from fraudscale.dashboard import limits
from fraudscale.dashboard import render as dashboard
from fraudscale.local.components import grafana, opensearch
from fraudscale.local.install.download import KafkaTools, Tools, library_path
from fraudscale.local.install.ports import HOST, MIN_REPLICAS, Ports
from fraudscale.local.scaling import manifests
from fraudscale.local.scaling import scale_file as wish
from fraudscale.local.supervisor.component import Component
from fraudscale.telemetry.asgi import READ_ON
from fraudscale.web.problems import Problem

ASK_SECONDS: Final = 1.5
"""How long a component may take to answer whether it is ready."""
DRAIN_SECONDS: Final = 1
"""A stopping replica still answers for three rounds of HAProxy's checks, so that no request meets a closed door."""
REPLICA_STOP_SECONDS: Final = 5
OUTER_STOP_SECONDS: Final = 2
"""For what stops before the replicas: traffic, and jobs that still run. All phases together keep below 15 s."""
CLUSTER_ID: Final = base64.urlsafe_b64encode(b"fraudscale-local").decode().rstrip("=")
"""Kafka wants 16 bytes in base64; one machine has one cluster, so it needn't be random."""
KAFKA_MAIN: Final = "kafka.Kafka"
ZOOKEEPER_MAIN: Final = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
KAFKA_FOLDERS: Final[Mapping[KafkaMode, str]] = {"kraft": "kafka", "zookeeper": "kafka-zookeeper"}
"""Below `data`: a broker of one mode refuses what one of the other wrote."""


SERVICE_LABELS: Final[Mapping[str, str]] = {"namespace": "ml-model", "service": "ml-model"}
"""Of every series of ours, as in a cluster: the alert rules read them."""

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
    def registry(self) -> str:
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
            "MLFLOW_TRACKING_URI": self.registry,
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
                f"KAFKA='zookeeper': would start a broker, and KAFKA_BOOTSTRAP_SERVERS={kafka.kafka_bootstrap_servers!r} "
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


def components(b: Blueprint) -> list[Component]:
    """Everything to run, in the order to show it."""
    table = [
        *([] if "kafka" in b.external else _kafka(b)),
        _topics(b),
        *([] if "mlflow" in b.external else [_mlflow(b)]),
        _first_model(b),
        _alertmanager(b),
        _node_exporter(b),
        *(component for slot in range(1, MIN_REPLICAS + 1) for component in replica(b, slot)),
        _haproxy(b),
        _autoscaler(b),
        *([] if "prometheus" in b.external else [_prometheus(b)]),
        _console(b),
        *([_grafana(b, b.tools.grafana)] if b.tools.grafana else []),
        *([_traffic(b)] if b.local.traffic else []),
        *(_central_logs(b) if b.local.logs == "opensearch" else []),
    ]
    started = {component.name for component in table}
    return [_without_needs_of_others(component, started) for component in table]


def ports_needed(b: Blueprint) -> dict[str, int]:
    """Ports that must be free before `components` are started: name → port."""
    absent = () if b.tools.grafana else ("grafana",)
    return b.ports.needed({*b.external, *absent}, b.local.kafka, b.local.logs)


def prepare(b: Blueprint) -> None:
    """Make the folders and write the configuration files that `components` name."""
    for folder in (b.kafka_data, b.data / "mlflow", b.data / "prometheus", b.data / "alertmanager"):
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in files(b).items():
        write(path, content)
    write_targets(b, range(1, MIN_REPLICAS + 1))
    wish.forget(b.home)


def files(b: Blueprint) -> dict[Path, str]:
    """The configuration files, rendered."""
    alert_rules = rules.render(b.alerts, b.console, b.local.time_scale)
    return {
        **kafka_files(b.local.kafka, b.ports, b.run, b.data),
        b.run / "haproxy.cfg": haproxy_cfg(
            b.ports,
            b.run / "errors",
            b.http,
            trusted_clients=b.trusted_clients,
            exports=b.tools.haproxy_exports,
        ),
        **{b.run / "errors" / name: content for name, content in error_files(b.http).items()},
        b.run / "prometheus.yml": prometheus_yml(b),
        b.run / "rules" / "ml-alerts.yaml": alert_rules,
        b.dashboard: dashboard.render(limits.read(alert_rules), rules.runbooks(b.alerts)),
        b.run / "grafana.ini": grafana.ini(b.ports.grafana, b.data / "grafana", b.dashboard),
        b.run / "alertmanager.yml": alertmanager.render(b.alerts, b.local.time_scale),
        **_opensearch_files(b),
    }


def write(path: Path, content: str) -> None:
    """Put a file in place in one step: who reads it meanwhile sees the old one or the new one, whole.

    Only its owner may read it: a webhook's address and a mail server's password are secrets.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_bytes(content.encode())
    draft.replace(path)


def write_targets(b: Blueprint, live: Iterable[int]) -> None:
    """Tell Prometheus which replica slots (1, 2 …) live."""
    write(b.targets, targets_json(b.ports, live))


def targets_json(ports: Ports, live: Iterable[int]) -> str:
    """The `file_sd` targets of live slots: both processes of each, told apart by labels."""
    groups = [
        {
            "targets": [f"{HOST}:{port}"],
            "labels": {**SERVICE_LABELS, "pod": f"replica-{slot}", "container": container},
        }
        for slot in live
        for container, port in (("serve", ports.serve[slot - 1]), ("stream", ports.stream[slot - 1]))
    ]
    return json.dumps(groups, indent=2)


def replica(b: Blueprint, slot: int) -> list[Component]:
    """The two processes of a replica slot (1, 2 …)."""
    name = f"replica-{slot}"
    serve, stream = b.ports.serve[slot - 1], b.ports.stream[slot - 1]
    env = {
        **b.environment,
        "REPLICA_ID": name,
        "DRAIN_SECONDS": str(DRAIN_SECONDS),
        "STOP_TIMEOUT_SECONDS": str(REPLICA_STOP_SECONDS),
    }
    # With a copy of a model on disk replicas must not wait for MLflow: they start with it down.
    model = () if b.has_model else ("first-model",)
    return [
        Component(
            f"{name}/serve",
            _fraudscale("serve"),
            ready=lambda: http_ok(f"http://{HOST}:{serve}/readyz"),
            needs=model,
            address=f"{HOST}:{serve}",
            env={
                **env,
                **_requested(b, "serve"),
                "HTTP_HOST": HOST,
                "HTTP_PORT": str(serve),
                "TRUSTED_PROXIES": ",".join(filter(None, (HOST, b.http.trusted_proxies))),
                "TRUSTED_CLIENTS": b.trusted_clients,
            },
            stop_phase=REPLICA_PHASE,
            stop_seconds=REPLICA_STOP_SECONDS + DRAIN_SECONDS + 0.5,
        ),
        Component(
            f"{name}/stream",
            _fraudscale("stream"),
            ready=lambda: http_ok(f"http://{HOST}:{stream}/readyz"),
            needs=("topics", *model),
            address=f"{HOST}:{stream}",
            env={**env, **_requested(b, "stream"), "METRICS_HOST": HOST, "METRICS_PORT": str(stream)},
            stop_phase=REPLICA_PHASE,
            stop_seconds=REPLICA_STOP_SECONDS + DRAIN_SECONDS + 0.5,
        ),
    ]


def _requested(b: Blueprint, container: str) -> dict[str, str]:
    return {"CPU_REQUEST_MILLICORES": str(b.scaling.requests[container]["cpu"])}


def _fraudscale(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "fraudscale.cli", *arguments)


def _without_needs_of_others(component: Component, started: set[str]) -> Component:
    """A component of somebody else's is there already, or it isn't and we can't wait for it."""
    needs = tuple(name for name in component.needs if name in started)
    return replace(component, needs=needs)


def _kafka(b: Blueprint) -> list[Component]:
    return _kafka_with_kraft(b) if b.local.kafka == "kraft" else _kafka_with_zookeeper(b)


def _kafka_with_kraft(b: Blueprint) -> list[Component]:
    broker = _broker(b, needs="kafka-storage")
    if (b.kafka_data / "meta.properties").is_file():
        return [replace(broker, needs=())]
    command = java("kraft", b.tools.kafka, b.run, "kafka.tools.StorageTool", "format", "--ignore-formatted")
    command += ("-t", CLUSTER_ID, "-c", str(b.run / "kafka.properties"))
    return [Component("kafka-storage", command, once=True, stop_seconds=OUTER_STOP_SECONDS), broker]


def _kafka_with_zookeeper(b: Blueprint) -> list[Component]:
    zookeeper = Component(
        "zookeeper",
        java("zookeeper", b.tools.kafka, b.run, ZOOKEEPER_MAIN, str(b.run / "zookeeper.cfg"), heap="128m"),
        ready=lambda: zookeeper_ready(HOST, b.ports.zookeeper),
        address=f"{HOST}:{b.ports.zookeeper}",
        stop_phase=ZOOKEEPER_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )
    return [zookeeper, _broker(b, needs="zookeeper")]


def _broker(b: Blueprint, needs: str) -> Component:
    return Component(
        "kafka",
        java(b.local.kafka, b.tools.kafka, b.run, KAFKA_MAIN, str(b.run / "kafka.properties")),
        ready=lambda: tcp_open(HOST, b.ports.kafka),
        needs=(needs,),
        address=f"{HOST}:{b.ports.kafka}",
        stop_phase=REST_PHASE,
    )


def java(mode: KafkaMode, tools: KafkaTools, run: Path, *main: str, heap: str = "512m") -> tuple[str, ...]:
    """The command that runs a program of Kafka's class path (class and arguments), with `kafka_files` in `run`."""
    # Kafka 3.9 logs by reload4j, the successor of log4j 1.
    log4j2, log4j = run / "log4j2.properties", run / "log4j.properties"
    return (
        str(tools.java),
        f"-Xmx{heap}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # a broker that idles most of the time: starting fast beats peak speed
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={log4j2}" if mode == "kraft" else f"-Dlog4j.configuration=file:{log4j}",
        "-cp",
        tools.classpath,
        *main,
    )


def _topics(b: Blueprint) -> Component:
    return Component(
        "topics",
        _fraudscale("topics"),
        needs=("kafka",),
        once=True,
        env=b.environment,
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def _mlflow(b: Blueprint) -> Component:
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", HOST, "--port", str(b.ports.mlflow)),
        *("--backend-store-uri", f"sqlite:///{b.data / 'mlflow' / 'mlflow.db'}"),
        *("--artifacts-destination", str(b.data / "mlflow" / "artifacts")),
        *("--uvicorn-opts", "--log-level warning"),  # eight processes ask it every 3 s
    )
    env = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # on, it is ten processes and 1.6 GB
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    address = f"http://{HOST}:{b.ports.mlflow}"
    return Component(
        "mlflow",
        command,
        ready=lambda: http_ok(f"{address}/health"),
        address=address,
        env=env,
        stop_phase=REST_PHASE,
    )


def _first_model(b: Blueprint) -> Component:
    return Component(
        "first-model",
        _fraudscale("train", "--if-missing"),
        needs=("mlflow",),
        once=True,
        env=b.environment,
        ready_seconds=300,  # a slow machine may train for minutes
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def _haproxy(b: Blueprint) -> Component:
    return Component(
        "haproxy",
        (str(b.tools.haproxy), "-db", "-f", str(b.run / "haproxy.cfg")),
        ready=lambda: http_ok(f"http://{HOST}:{b.ports.entry}/readyz"),
        needs=("replica-1/serve",),
        address=f"http://{HOST}:{b.ports.entry}",
        env=library_path(b.tools.haproxy_libraries),
        stop_phase=ENTRY_PHASE,
        stop_seconds=1,
    )


def _autoscaler(b: Blueprint) -> Component:
    port = b.ports.autoscaler
    env = {
        **b.environment,
        "FRAUDSCALE_HOME": str(b.home),
        "TIME_SCALE": str(b.local.time_scale),
        "HPA_MANIFEST": str(b.local.hpa_manifest),
        "DEPLOYMENT_MANIFEST": str(b.local.deployment_manifest),
        "METRICS_HOST": HOST,
        "METRICS_PORT": str(port),
    }
    return Component(
        "autoscaler",
        _fraudscale("autoscale"),
        ready=lambda: http_ok(f"http://{HOST}:{port}/readyz"),
        needs=("haproxy",),
        address=f"{HOST}:{port}",
        env=env,
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def _prometheus(b: Blueprint) -> Component:
    address = f"{HOST}:{b.ports.prometheus}"
    command = (
        str(b.tools.prometheus),
        f"--config.file={b.run / 'prometheus.yml'}",
        f"--storage.tsdb.path={b.data / 'prometheus'}",
        "--storage.tsdb.retention.time=7d",
        "--storage.tsdb.retention.size=512MB",
        f"--web.listen-address={address}",
        f"--web.external-url=http://{address}",  # Alertmanager's pages link to it
        "--enable-feature=exemplar-storage",
        *_web_assets(b.tools.prometheus),
    )
    slots = range(1, MIN_REPLICAS + 1)
    return Component(
        "prometheus",
        command,
        ready=lambda: http_ok(f"http://{address}/-/ready"),
        # What is not there yet is no alarm: with time ten times as fast, 12 s without metrics are one.
        needs=("autoscaler", *(f"replica-{slot}/{half}" for slot in slots for half in ("serve", "stream"))),
        address=f"http://{address}",
        stop_phase=REST_PHASE,
    )


def _web_assets(prometheus: Path) -> tuple[str, ...]:
    """Debian keeps the pages outside the binary and adds a flag that says where."""
    folder = _share(prometheus, "web")
    return (f"--web.local-assets={folder}/",) if folder else ()


def _share(program: Path, name: str) -> Path | None:
    """Where Debian puts files of a program of the Prometheus family; None for builds that carry them inside."""
    folder = program.parents[1] / "share" / "prometheus" / name
    return folder if folder.is_dir() else None


def _alertmanager(b: Blueprint) -> Component:
    address = f"{HOST}:{b.ports.alertmanager}"
    command = (
        str(b.tools.alertmanager),
        f"--config.file={b.run / 'alertmanager.yml'}",
        f"--storage.path={b.data / 'alertmanager'}",
        f"--web.listen-address={address}",
        f"--web.external-url=http://{address}",  # messages link to it
        "--cluster.listen-address=",  # no cluster of one: it would listen on all interfaces
        "--log.level=warn",
    )
    return Component(
        "alertmanager",
        command,
        ready=lambda: http_ok(f"http://{address}/-/ready"),
        address=f"http://{address}",
        cwd=_share(b.tools.alertmanager, "alertmanager"),
        stop_phase=REST_PHASE,
    )


def _node_exporter(b: Blueprint) -> Component:
    address = f"{HOST}:{b.ports.node_exporter}"
    return Component(
        "node-exporter",
        (
            str(b.tools.node_exporter),
            f"--web.listen-address={address}",
            "--log.level=warn",
            # Debian's build has these on; without systemd and its folder they complain at every scrape.
            "--no-collector.systemd",
            "--no-collector.textfile",
        ),
        ready=lambda: http_ok(f"http://{address}/"),
        address=f"http://{address}",
        stop_phase=REST_PHASE,
    )


def _console(b: Blueprint) -> Component:
    env = {
        **b.environment,
        "FRAUDSCALE_HOME": str(b.home),
        "CONSOLE_PORT": str(b.ports.console),
        "DASHBOARD_FILE": str(b.dashboard),
    }
    return Component(
        "console",
        _fraudscale("console"),
        ready=lambda: http_ok(f"{b.console}/readyz"),
        address=b.console,
        env=env,
        stop_phase=REST_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def _grafana(b: Blueprint, found: grafana.Grafana) -> Component:
    address = f"http://{HOST}:{b.ports.grafana}"
    return Component(
        "grafana",
        grafana.command(found, b.run / "grafana.ini"),
        ready=lambda: http_ok(f"{address}/api/health"),
        address=address,
        env=grafana.environment(b.prometheus, b.dashboard.parent),
        stop_phase=REST_PHASE,
    )


def _traffic(b: Blueprint) -> Component:
    return Component(
        "traffic",
        _fraudscale("traffic", "--url", f"http://{HOST}:{b.ports.entry}"),
        needs=("haproxy", "topics"),
        env=b.environment,
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def _central_logs(b: Blueprint) -> list[Component]:
    port = b.ports.log_shipper
    env = {
        "FRAUDSCALE_HOME": str(b.home),
        "OPENSEARCH_ENDPOINT": b.log_store,
        "METRICS_HOST": HOST,
        "METRICS_PORT": str(port),
    }
    shipper = Component(
        "log-shipper",
        _fraudscale("ship-logs"),
        ready=lambda: http_ok(f"http://{HOST}:{port}/readyz"),
        needs=("opensearch",),
        address=f"{HOST}:{port}",
        env=env,
        stop_phase=REST_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )
    return [shipper] if b.tools.opensearch is None else [_opensearch(b), shipper]


def _opensearch(b: Blueprint) -> Component:
    return Component(
        "opensearch",
        (sys.executable, "-m", "fraudscale.local.components.opensearch", str(b.run / "opensearch.json")),
        ready=lambda: http_ok(f"{b.log_store}/_cluster/health"),
        address=b.log_store,
        stop_phase=STORE_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def _opensearch_files(b: Blueprint) -> dict[Path, str]:
    if b.tools.opensearch is None:
        return {}
    return opensearch.files(b.tools.opensearch, b.ports.opensearch, b.run, b.data / "opensearch")


def http_ok(url: str) -> bool:
    """Whether a GET of the address is answered with 200, in time."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=ASK_SECONDS)
    try:
        connection.request("GET", address.path or "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tcp_open(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=ASK_SECONDS):
            return True
    except OSError:
        return False


def zookeeper_ready(host: str, port: int) -> bool:
    """Whether it serves, and holds nothing of a broker that died: such a node would refuse the broker's successor."""
    try:
        with socket.create_connection((host, port), timeout=ASK_SECONDS) as connection:
            connection.sendall(b"mntr")
            answer = connection.makefile("r", encoding="utf-8").read()
    except OSError:
        return False
    figures = dict(line.split("\t", 1) for line in answer.splitlines() if "\t" in line)
    if "zk_ephemerals_count" not in figures:
        return False  # it doesn't serve yet
    connected = int(figures["zk_num_alive_connections"]) > 1  # somebody beside us
    return connected or figures["zk_ephemerals_count"] == "0"


def kafka_files(mode: KafkaMode, ports: Ports, run: Path, data: Path) -> dict[Path, str]:
    """The configuration files in `run` of a broker, and of its ZooKeeper, which keep their data in folders of `data`."""
    properties = {run / "kafka.properties": kafka_properties(ports, data / KAFKA_FOLDERS[mode], mode)}
    if mode == "kraft":
        return {**properties, run / "log4j2.properties": LOG4J2}
    return {
        **properties,
        run / "zookeeper.cfg": zookeeper_cfg(ports, data / "zookeeper"),
        run / "log4j.properties": LOG4J,
    }


def kafka_properties(ports: Ports, data: Path, mode: KafkaMode = "kraft") -> str:
    """`server.properties` of the only broker of its cluster, its data bounded."""
    own = _kraft_properties(ports) if mode == "kraft" else _zookeeper_properties(ports)
    return f"""\
{own}
advertised.listeners=PLAINTEXT://{HOST}:{ports.kafka}
log.dirs={data}
auto.create.topics.enable=false

# One broker holds the only copy of everything.
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1

# A dozen partitions of state instead of fifty: a start opens them all.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4

# At most a day and 64 MB a partition; small segments, because only whole ones are deleted.
log.retention.hours=24
log.retention.bytes=67108864
log.segment.bytes=16777216
log.retention.check.interval.ms=60000

# A killed scorer's partitions and transactions are free within seconds.
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
"""


def _kraft_properties(ports: Ports) -> str:
    """What a broker needs that is its own controller."""
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{HOST}:{ports.kafka_controller}
listeners=PLAINTEXT://{HOST}:{ports.kafka},CONTROLLER://{HOST}:{ports.kafka_controller}
controller.listener.names=CONTROLLER
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# After a crash a broker's old registration keeps the new one out until it expires: 9 s if left alone.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Members are missed within seconds. The minimum must fall together with the value, or Kafka won't start.
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=1000
"""


def _zookeeper_properties(ports: Ports) -> str:
    """What a broker needs whose metadata ZooKeeper keeps."""
    return f"""\
broker.id=1
listeners=PLAINTEXT://{HOST}:{ports.kafka}
zookeeper.connect={HOST}:{ports.zookeeper}
# After a crash a broker's old node keeps the new one out until its session ends: 18 s if left alone.
zookeeper.session.timeout.ms=3000
# There is no other broker to hand its partitions to; asking may take 5 s.
controlled.shutdown.enable=false
"""


def zookeeper_cfg(ports: Ports, data: Path) -> str:
    """`zoo.cfg` of a ZooKeeper that stands alone, its data bounded."""
    return f"""\
dataDir={data}
clientPort={ports.zookeeper}
clientPortAddress={HOST}
# Sessions last two ticks at least: at the usual 2 s the broker's would become 4 s.
tickTime=1000
# The question by which we learn whether it is ready; the rest of its commands, and its web server, stay off.
4lw.commands.whitelist=mntr
admin.enableServer=false
# Snapshots and logs are dropped every hour but for the last three; a log file begins with 1 MB instead of 64.
autopurge.snapRetainCount=3
autopurge.purgeInterval=1
preAllocSize=1024
"""


LOG4J2: Final = """\
status=error
shutdownHook=disable
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
"""

LOG4J: Final = """\
log4j.rootLogger=WARN, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.EnhancedPatternLayout
log4j.appender.console.layout.ConversionPattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSS'Z'}{UTC} %p %c{1} %m%n
log4j.logger.kafka.server.KafkaServer=INFO
"""

BALANCER_ERRORS: Final[Mapping[int, str]] = {
    400: "the request is not valid HTTP",
    408: "the head of the request did not arrive within 5 s, or its body within 10 s more",
    413: "the body is far larger than is taken (MAX_BODY_BYTES)",
    429: "this client sends more requests a second than it may (RATE_LIMIT_PER_SECOND)",
    500: "an unexpected error of the balancer; its log says which",
    502: "a replica gave an answer that is not valid HTTP",
    503: "no replica is ready to answer",
    504: "no replica answered in time",
}


TOO_MANY_CONNECTIONS: Final = "this client has more connections than it may (CONNECTIONS_PER_CLIENT)"


def haproxy_cfg(
    ports: Ports, errors: Path, http: HttpSettings, *, trusted_clients: str, exports: bool
) -> str:
    """HAProxy in front of all replica slots, each of which comes and goes by its own `/readyz`.

    It holds the limits of rate, connections and bodies for all replicas together; theirs remain behind it.

    Args:
        ports: the entry, the slots, and the port of HAProxy's own metrics.
        errors: the folder of its own answers (`error_files`).
        http: the limits.
        trusted_clients: addresses and networks that the limits don't hold for; empty for none.
        exports: whether this HAProxy has the Prometheus exporter.
    """
    slots = "\n".join(
        f"    server replica-{i} {HOST}:{port} check inter 300ms rise 1 fall 1 observe layer4"
        for i, port in enumerate(ports.serve, 1)
    )
    unchecked = "\n".join(
        f"    server replica-{i}-unchecked {HOST}:{port} backup"
        for i, port in enumerate(ports.serve[:MIN_REPLICAS], 1)
    )
    answers = "\n".join(f"    errorfile {status} {errors / f'{status}.http'}" for status in BALANCER_ERRORS)
    exporter = "    http-request use-service prometheus-exporter if { path /metrics }\n" if exports else ""
    trusted = [str(network) for network in networks(trusted_clients)]
    # A token bucket gives at most burst + rate * t in any t seconds. The balancer holds that for two lengths of t, so it never
    # refuses whom the bucket would not; who sends without end gets 5/4 of the rate.
    burst, brief_ms = (
        http.rate_limit_burst,
        max(1, round(1000 * http.rate_limit_burst / http.rate_limit_per_second)),
    )
    expire_s = max(10, brief_ms * 8 // 1000)
    return f"""\
global
    # No `log`: in the foreground it tells of replicas going up and down anyway; they log the requests themselves.
    maxconn 4096

defaults
    mode http
    timeout http-request 5s
    timeout client 10s
    timeout http-keep-alive 60s
    timeout connect 1s
    timeout server 15s
    timeout queue 5s
    timeout check 1s
    # A connection that is opened in advance and not used is closed without a 408: its next request would take that as its answer.
    option http-ignore-probes
    # Scoring twice gives the same answer, so a request that meets a dying replica goes to another one.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response response-timeout
{answers}

frontend entry
    bind {HOST}:{ports.entry}
    option forwardfor
    # A few less than the whole process may have: however full it is, its metrics answer.
    maxconn 4000
    acl trusted {f"src {' '.join(trusted)}" if trusted else "always_false"}
    acl probe path /livez /readyz
    # What is remembered of a client, an IPv6 one being its /64: at most 100,000 of them (12 MB), the oldest forgotten first.
    stick-table type ipv6 size 100k expire {expire_s}s store conn_cur,gpc0_rate({brief_ms}ms),gpc1_rate({4 * brief_ms}ms)
    tcp-request connection track-sc0 src,ipmask(32,64) unless trusted
    # A connection too many is told so, if it asks anything; of as many again nobody listens.
    tcp-request connection reject if {{ sc0_conn_cur gt {2 * http.connections_per_client} }}
    tcp-request connection set-var(sess.too_many) bool(true) if {{ sc0_conn_cur gt {http.connections_per_client} }}
    http-request deny deny_status 429 errorfile {errors / "429-connections.http"} if {{ var(sess.too_many) -m bool }}
    # Only what is let through is counted, so a client that sends too much still gets its rate. Probes have a count of their own.
    http-request track-sc1 src,ipmask(32,64) table probes if probe !trusted
    http-request deny deny_status 429 if !probe {{ sc0_gpc0_rate gt {2 * burst} }} or !probe {{ sc0_gpc1_rate gt {5 * burst} }}
    http-request deny deny_status 429 if probe {{ sc1_gpc0_rate gt {2 * burst} }}
    http-request sc-inc-gpc0(0) if !probe
    http-request sc-inc-gpc1(0) if !probe
    http-request sc-inc-gpc0(1) if probe
    # What is somewhat too long a replica refuses: it reads on for a while, so that the client sees the answer and no reset.
    http-request deny deny_status 413 if {{ req.body_size gt {http.max_body_bytes * READ_ON} }}
    # Only a request that was read whole can be sent again to another replica: up to one buffer, 16 KB.
    http-request wait-for-body time 10s if METH_POST
    default_backend replicas

backend probes
    stick-table type ipv6 size 100k expire {expire_s}s store gpc0_rate({brief_ms}ms)

backend replicas
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
{slots}
    # On a busy machine all of them may answer their checks too late. Then a request goes to any of those that are always there:
    # one that only stalls answers it in the end, and one that just died refuses the connection, so that the next is tried.
    option allbackups
{unchecked}

frontend metrics
    bind {HOST}:{ports.haproxy_metrics}
{exporter}    stats enable
    stats uri /
"""


def error_files(http: HttpSettings) -> dict[str, str]:
    """The balancer's own answers, by file name."""
    again = ceil(1 / http.rate_limit_per_second)
    return {
        **{
            f"{status}.http": error_file(status, detail, again if status == 429 else 1)
            for status, detail in BALANCER_ERRORS.items()
        },
        "429-connections.http": error_file(429, TOO_MANY_CONNECTIONS),
    }


def error_file(status: int, detail: str, retry_after: int = 1) -> str:
    """A whole HTTP answer, problem JSON like the replicas' own.

    A file and not an `http-error` line, because newer versions use files for requests that can't be parsed too; 2.6 answers
    those, and a head that never ends, with a page of its own.
    """
    body = Problem(status, detail).body.decode()
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "cache-control: no-cache",
        *([f"retry-after: {retry_after}"] if status in {429, 503, 504} else []),
        "connection: close",
    ]
    return "\r\n".join([*head, "", body])


def prometheus_yml(b: Blueprint) -> str:
    """Prometheus of one machine: our replicas every 5 s, everything else every 15 s; less where time runs faster."""
    often, seldom = (duration(seconds / b.local.time_scale) for seconds in (5, 15))
    # Its kube_* series have a namespace of their own, which is the HPA's; the queue's gets the one of the target.
    autoscaler = _job("autoscaler", b.ports.autoscaler, labels=SERVICE_LABELS)
    haproxy = _job("haproxy", b.ports.haproxy_metrics) if b.tools.haproxy_exports else ""
    shipper = _job("log-shipper", b.ports.log_shipper, SERVICE_LABELS) if b.local.logs == "opensearch" else ""
    return f"""\
global:
  scrape_interval: {seldom}
  evaluation_interval: {seldom}
rule_files:
  - {b.run / "rules" / "*.yaml"}
alerting:
  alertmanagers:
    - static_configs:
        - targets: ["{HOST}:{b.ports.alertmanager}"]
scrape_configs:
  - job_name: ml-model
    scrape_interval: {often}
    file_sd_configs:
      - files: [{b.targets}]
        refresh_interval: 5s
{autoscaler}{_job("node", b.ports.node_exporter)}{haproxy}{_job("prometheus", b.ports.prometheus)}{_job("alertmanager", b.ports.alertmanager)}{shipper}"""


def _job(name: str, port: int, labels: Mapping[str, str] | None = None) -> str:
    """A job of one target; its own series win over labels that it is given."""
    given = f"        labels: {json.dumps(labels)}\n    honor_labels: true\n" if labels else ""
    return f"""\
  - job_name: {name}
    static_configs:
      - targets: ["{HOST}:{port}"]
{given}"""
