"""A Grafana that is on PATH, as one more component: read-only, with the committed provisioning and the dashboard of this machine.

Nothing is downloaded for it: where there is none, the console shows the same dashboard.
"""

from pathlib import Path
from typing import Final

from fraudscale.local.components.blueprint import REST_PHASE, Blueprint
from fraudscale.local.components.ready import http_ok
from fraudscale.local.install.download import Grafana
from fraudscale.local.install.ports import HOST
from fraudscale.local.supervisor.component import Component
from fraudscale.places import checkout

PROVISIONING: Final = Path("monitoring/grafana/provisioning")


def component(b: Blueprint, found: Grafana) -> Component:
    address = f"http://{HOST}:{b.ports.grafana}"
    return Component(
        "grafana",
        (str(found.program), "server", f"--homepath={found.home}", f"--config={b.run / 'grafana.ini'}"),
        ready=lambda: http_ok(f"{address}/api/health"),
        alive=lambda: http_ok(f"{address}/api/health"),
        address=address,
        # What the provisioning files read.
        env={"PROMETHEUS_ENDPOINT": b.prometheus, "DASHBOARDS": str(b.dashboard.parent)},
        stop_phase=REST_PHASE,
    )


def ini(port: int, data: Path, home_dashboard: Path) -> str:
    """Render `grafana.ini`: on this machine only, everybody may look and nobody may log in.

    Args:
        port: to listen on.
        data: folder for its database and plugins.
        home_dashboard: the file to show first.
    """
    return f"""\
[server]
http_addr = {HOST}
http_port = {port}
[paths]
data = {data}
logs = {data / "log"}
plugins = {data / "plugins"}
provisioning = {(checkout() / PROVISIONING).resolve()}
[auth]
disable_login_form = true
[auth.anonymous]
enabled = true
org_role = Viewer
[security]
disable_initial_admin_creation = true
[dashboards]
default_home_dashboard_path = {home_dashboard}
[log]
mode = console
level = warn
# It asks nobody outside.
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
[news]
news_feed_enabled = false
[plugins]
preinstall_disabled = true
# Alerts are Prometheus's.
[unified_alerting]
enabled = false
"""
