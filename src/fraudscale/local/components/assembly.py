"""The platform of one machine: the list of its components, the ports they need, the files they read."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fraudscale.alerting import alertmanager as notifications
from fraudscale.alerting import rules
from fraudscale.dashboard import limits
from fraudscale.dashboard import render as dashboard
from fraudscale.files import replace as replace_file
from fraudscale.local.components import (
    alertmanager,
    commands,
    grafana,
    haproxy,
    kafka,
    mlflow,
    node_exporter,
    opensearch,
    prometheus,
    replica,
)
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.ports import MIN_REPLICAS
from fraudscale.local.scaling import scale_file
from fraudscale.local.supervisor.component import Component


def components(b: Blueprint) -> list[Component]:
    """Everything to run, in the order to show it."""
    table = [
        *([] if "kafka" in b.external else kafka.components(b)),
        commands.topics(b),
        *([] if "mlflow" in b.external else [mlflow.component(b)]),
        commands.first_model(b),
        *([alertmanager.component(b, b.tools.alertmanager)] if b.tools.alertmanager else []),
        node_exporter.component(b),
        *(component for slot in range(1, MIN_REPLICAS + 1) for component in replica.components(b, slot)),
        haproxy.component(b),
        commands.autoscaler(b),
        *([] if "prometheus" in b.external else [prometheus.component(b)]),
        commands.console(b),
        *([grafana.component(b, b.tools.grafana)] if b.tools.grafana else []),
        *([commands.traffic(b)] if b.local.traffic else []),
        *([opensearch.component(b)] if b.tools.opensearch else []),
        *([commands.log_shipper(b)] if b.local.logs == "opensearch" else []),
    ]
    started = {component.name for component in table}
    return [_without_needs_of_others(component, started) for component in table]


def ports_needed(b: Blueprint) -> dict[str, int]:
    """Ports that must be free before `components` are started: name → port."""
    absent = {name for name in ("alertmanager", "grafana") if getattr(b.tools, name) is None}
    return b.ports.needed({*b.external, *absent}, b.local.kafka, b.local.logs)


def prepare(b: Blueprint) -> None:
    """Make the folders and write the configuration files that `components` name."""
    for folder in (b.kafka_data, b.data / "mlflow", b.data / "prometheus", b.data / "alertmanager"):
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in files(b).items():
        write(path, content)
    write_targets(b, range(1, MIN_REPLICAS + 1))
    scale_file.forget(b.home)


def files(b: Blueprint) -> dict[Path, str]:
    """The configuration files, rendered."""
    alert_rules = rules.render(b.alerts, b.console, b.local.time_scale)
    return {
        **kafka.files(b.local.kafka, b.ports, b.run, b.data),
        **haproxy.files(b),
        b.run / "prometheus.yml": prometheus.yml(b),
        b.run / "rules" / "ml-alerts.yaml": alert_rules,
        b.dashboard: dashboard.render(limits.read(alert_rules), rules.runbooks(b.alerts)),
        b.run / "grafana.ini": grafana.ini(b.ports.grafana, b.data / "grafana", b.dashboard),
        b.run / "alertmanager.yml": notifications.render(b.alerts, b.local.time_scale),
        **(
            opensearch.files(b.tools.opensearch, b.ports.opensearch, b.run, b.data / "opensearch")
            if b.tools.opensearch
            else {}
        ),
    }


def write(path: Path, content: str) -> None:
    """Replace a file that only its owner may read: a webhook's address and a mail server's password are secrets."""
    replace_file(path, content.encode(), mode=0o600)


def write_targets(b: Blueprint, live: Iterable[int]) -> None:
    """Tell Prometheus which replica slots (1, 2 …) live."""
    write(b.targets, prometheus.targets_json(b.ports, live))


def _without_needs_of_others(component: Component, started: set[str]) -> Component:
    """A component of somebody else's is there already, or it isn't and we can't wait for it."""
    needs = tuple(name for name in component.needs if name in started)
    return replace(component, needs=needs)
