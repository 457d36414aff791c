"""The committed dashboard with the links and limits of one place; `make gen` writes the file from the table of panels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fraudscale.dashboard.limits import Limit
from fraudscale.dashboard.panels import ROWS

FILE: Final = Path("monitoring/dashboards/ml-model-dashboard.json")
"""In a checkout."""

_COLOURS: Final = {"critical": "red", "warning": "orange", "info": "blue"}
_LIMITS: Final = {panel.title: panel.limit for row in ROWS for panel in row.panels if panel.limit}


def render(limits: Mapping[str, Limit], runbooks: str) -> str:
    """Render the dashboard of this checkout.

    Args:
        limits: of the alerts, by name.
        runbooks: address of the folder with a page an alert.

    Raises:
        OSError: the file can't be read.
    """
    return rendered(FILE.read_text(encoding="utf-8"), limits, runbooks)


def rendered(text: str, limits: Mapping[str, Limit], runbooks: str) -> str:
    """Put links and limits of one place into a dashboard; a panel whose alert is not among `limits` has no line."""
    dashboard = json.loads(text)
    panels = dashboard["panels"]
    for holder in (dashboard, *panels):
        for link in holder.get("links", ()):
            link["url"] = f"{runbooks}/{link['url'].rpartition('/')[2]}"
    for panel in panels:
        if name := _LIMITS.get(panel["title"]):
            thresholds = panel["fieldConfig"]["defaults"]["thresholds"]
            thresholds["steps"] = [*thresholds["steps"][:1], *_steps(limits.get(name))]
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _steps(limit: Limit | None) -> list[dict[str, object]]:
    return [] if limit is None else [{"color": _COLOURS[limit.severity], "value": limit.value}]
