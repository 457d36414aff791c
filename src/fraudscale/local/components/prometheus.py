"""Prometheus of one machine: its process, what it scrapes, and where it reads which replicas live."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from fraudscale.clock import duration
from fraudscale.local.components.blueprint import REST_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.ports import HOST, MIN_REPLICAS, Ports
from fraudscale.local.supervisor.component import Component

SERVICE_LABELS: Final[Mapping[str, str]] = {"namespace": "ml-model", "service": "ml-model"}
"""Of every series of ours, as in a cluster: the alert rules read them."""

_ALERTING: Final = f"""\
alerting:
  alertmanagers:
    - static_configs:
        - targets: ["{HOST}:{{}}"]
"""


def component(b: Blueprint) -> Component:
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
        alive=lambda: http_ok(f"http://{address}/-/healthy"),
        # What is not there yet is no alarm: with time ten times as fast, 12 s without metrics are one.
        needs=("autoscaler", *(f"replica-{slot}/{half}" for slot in slots for half in ("serve", "stream"))),
        address=f"http://{address}",
        stop_phase=REST_PHASE,
    )


def _web_assets(program: Path) -> tuple[str, ...]:
    """Debian keeps the pages outside the binary and adds a flag that says where; other builds carry them inside."""
    folder = program.parents[1] / "share/prometheus/web"
    return (f"--web.local-assets={folder}/",) if folder.is_dir() else ()


def yml(b: Blueprint) -> str:
    """Prometheus of one machine: our replicas every 5 s, everything else every 15 s; less where time runs faster."""
    often, seldom = (duration(seconds / b.local.time_scale) for seconds in (5, 15))
    # Its kube_* series have a namespace of their own, which is the HPA's; the queue's gets the one of the target.
    autoscaler = _job("autoscaler", b.ports.autoscaler, labels=SERVICE_LABELS)
    haproxy = _job("haproxy", b.ports.haproxy_metrics) if b.tools.haproxy_exports else ""
    shipper = _job("log-shipper", b.ports.log_shipper, SERVICE_LABELS) if b.local.logs == "opensearch" else ""
    alerting = _ALERTING.format(b.ports.alertmanager) if b.tools.alertmanager else ""
    alertmanager = _job("alertmanager", b.ports.alertmanager) if b.tools.alertmanager else ""
    return f"""\
global:
  scrape_interval: {seldom}
  evaluation_interval: {seldom}
rule_files:
  - {b.run / "rules" / "*.yaml"}
{alerting}scrape_configs:
  - job_name: ml-model
    scrape_interval: {often}
    file_sd_configs:
      - files: [{b.targets}]
        refresh_interval: 5s
{autoscaler}{_job("node", b.ports.node_exporter)}{haproxy}{_job("prometheus", b.ports.prometheus)}{alertmanager}{shipper}"""


def _job(name: str, port: int, labels: Mapping[str, str] | None = None) -> str:
    """A job of one target; its own series win over labels that it is given."""
    given = f"        labels: {json.dumps(labels)}\n    honor_labels: true\n" if labels else ""
    return f"""\
  - job_name: {name}
    static_configs:
      - targets: ["{HOST}:{port}"]
{given}"""


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
