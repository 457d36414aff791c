"""Our own commands as components: topics, the first model, the autoscaler, the console, sample traffic, the log shipper."""

from fraudscale.local.components.blueprint import (
    OUTER_STOP_SECONDS,
    REST_PHASE,
    TRAFFIC_PHASE,
    Blueprint,
    fraudscale,
)
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.component import Component


def topics(b: Blueprint) -> Component:
    return Component(
        "topics",
        fraudscale("topics"),
        needs=("kafka",),
        once=True,
        env=b.environment,
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def first_model(b: Blueprint) -> Component:
    return Component(
        "first-model",
        fraudscale("train", "--if-missing"),
        needs=("mlflow",),
        once=True,
        env=b.environment,
        ready_seconds=300,  # a slow machine may train for minutes
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def autoscaler(b: Blueprint) -> Component:
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
        fraudscale("autoscale"),
        ready=lambda: http_ok(f"http://{HOST}:{port}/readyz"),
        alive=lambda: http_ok(f"http://{HOST}:{port}/livez"),
        needs=("haproxy",),
        address=f"{HOST}:{port}",
        env=env,
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def console(b: Blueprint) -> Component:
    env = {
        **b.environment,
        "FRAUDSCALE_HOME": str(b.home),
        "CONSOLE_PORT": str(b.ports.console),
        "DASHBOARD_FILE": str(b.dashboard),
    }
    return Component(
        "console",
        fraudscale("console"),
        ready=lambda: http_ok(f"{b.console}/readyz"),
        alive=lambda: http_ok(f"{b.console}/livez"),
        address=b.console,
        env=env,
        stop_phase=REST_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def traffic(b: Blueprint) -> Component:
    return Component(
        "traffic",
        fraudscale("traffic", "--url", f"http://{HOST}:{b.ports.entry}"),
        needs=("haproxy", "topics"),
        env=b.environment,
        stop_phase=TRAFFIC_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )


def log_shipper(b: Blueprint) -> Component:
    port = b.ports.log_shipper
    base = b.local.fraudscale_port_base
    env = {
        "FRAUDSCALE_HOME": str(b.home),
        "FRAUDSCALE_PORT_BASE": "" if base is None else str(base),
        "FRAUDSCALE_LOGS": "opensearch",
        # An address says that the store is yours, where nothing is deleted unless you say so.
        "OPENSEARCH_ENDPOINT": b.external.get("opensearch", ""),
        "METRICS_HOST": HOST,
        "METRICS_PORT": str(port),
    }
    return Component(
        "log-shipper",
        fraudscale("ship-logs"),
        ready=lambda: http_ok(f"http://{HOST}:{port}/readyz"),
        alive=lambda: http_ok(f"http://{HOST}:{port}/livez"),
        needs=("opensearch",),
        address=f"{HOST}:{port}",
        env=env,
        stop_phase=REST_PHASE,
        stop_seconds=OUTER_STOP_SECONDS,
    )
