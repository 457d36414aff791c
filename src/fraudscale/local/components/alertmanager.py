"""The process of Alertmanager; what it is told to do is rendered in `alerting`."""

from pathlib import Path

from fraudscale.local.components.blueprint import REST_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.debian import own_share
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.component import Component


def component(b: Blueprint, program: Path) -> Component:
    address = f"{HOST}:{b.ports.alertmanager}"
    command = (
        *own_share(program),
        str(program),
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
        alive=lambda: http_ok(f"http://{address}/-/healthy"),
        address=f"http://{address}",
        stop_phase=REST_PHASE,
    )
