"""The machine's own metrics, by Prometheus's node exporter."""

from fraudscale.local.components.blueprint import REST_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.component import Component


def component(b: Blueprint) -> Component:
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
        alive=lambda: http_ok(f"http://{address}/"),
        address=f"http://{address}",
        stop_phase=REST_PHASE,
    )
