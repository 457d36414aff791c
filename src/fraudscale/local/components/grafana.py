"""A Grafana that is on PATH, as one more component: read-only, with the committed provisioning and the dashboard of this machine.

Nothing is downloaded for it: where there is none, the console shows the same dashboard.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from fraudscale.local.install.ports import HOST

PROVISIONING: Final = Path("monitoring/grafana/provisioning")


class Grafana(NamedTuple):
    """An installed one."""

    program: Path
    home: Path
    """Where its pages and defaults are."""


def find() -> Grafana | None:
    """Look on PATH; None where there is none, or it can't be told where its files are."""
    path = shutil.which("grafana")
    if path is None:
        return None
    prefix = Path(path).resolve().parents[1]
    homes = (prefix, prefix / "share" / "grafana", Path("/usr/share/grafana"))
    home = next((home for home in homes if (home / "conf" / "defaults.ini").is_file()), None)
    return Grafana(Path(path), home) if home else None


def command(found: Grafana, config: Path) -> tuple[str, ...]:
    return (str(found.program), "server", f"--homepath={found.home}", f"--config={config}")


def environment(prometheus: str, dashboards: Path) -> Mapping[str, str]:
    """What the provisioning files read."""
    return {"PROMETHEUS_ENDPOINT": prometheus, "DASHBOARDS": str(dashboards)}


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
provisioning = {PROVISIONING.resolve()}
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
