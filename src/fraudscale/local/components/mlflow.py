"""The model registry: an MLflow server on SQLite."""

import sys

from fraudscale.local.components.blueprint import REST_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.component import Component


def component(b: Blueprint) -> Component:
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
        alive=lambda: http_ok(f"{address}/health"),
        address=address,
        env=env,
        stop_phase=REST_PHASE,
    )
