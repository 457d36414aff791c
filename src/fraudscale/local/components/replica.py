"""A replica of the model: a process for HTTP and one for Kafka, as the containers of a pod."""

from typing import Final

from fraudscale.local.components.blueprint import REPLICA_PHASE, Blueprint, fraudscale
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.component import Component

DRAIN_SECONDS: Final = 1
"""A stopping replica still answers for three rounds of HAProxy's checks, so that no request meets a closed door."""
REPLICA_STOP_SECONDS: Final = 5


def components(b: Blueprint, slot: int) -> list[Component]:
    """The two processes of a replica slot (1, 2 …)."""
    name = f"replica-{slot}"
    serve, stream = b.ports.serve[slot - 1], b.ports.stream[slot - 1]
    env = {
        **b.environment,
        "REPLICA_ID": name,
        "FRAUDSCALE_RUN": b.run_id,
        "DRAIN_SECONDS": str(DRAIN_SECONDS),
        "STOP_TIMEOUT_SECONDS": str(REPLICA_STOP_SECONDS),
    }
    # With a copy of a model on disk replicas must not wait for MLflow: they start with it down.
    model = () if b.has_model else ("first-model",)
    return [
        Component(
            f"{name}/serve",
            fraudscale("serve"),
            ready=lambda: http_ok(f"http://{HOST}:{serve}/readyz"),
            alive=lambda: http_ok(f"http://{HOST}:{serve}/livez"),
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
            fraudscale("stream"),
            ready=lambda: http_ok(f"http://{HOST}:{stream}/readyz"),
            alive=lambda: http_ok(f"http://{HOST}:{stream}/livez"),
            needs=("topics", *model),
            address=f"{HOST}:{stream}",
            env={**env, **_requested(b, "stream"), "METRICS_HOST": HOST, "METRICS_PORT": str(stream)},
            stop_phase=REPLICA_PHASE,
            stop_seconds=REPLICA_STOP_SECONDS + DRAIN_SECONDS + 0.5,
        ),
    ]


def _requested(b: Blueprint, container: str) -> dict[str, str]:
    return {"CPU_REQUEST_MILLICORES": str(b.scaling.requests[container]["cpu"])}
