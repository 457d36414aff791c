"""The committed dashboard with the links and limits of one place; `make gen` writes the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fraudscale.dashboard.limits import OF_SECONDS, Limit
from fraudscale.places import checkout

FILE: Final = Path("monitoring/dashboards/ml-model-dashboard.json")
"""In a checkout."""

COLOURS: Final = {"critical": "red", "warning": "orange", "info": "blue"}


def render(limits: Mapping[str, Limit], runbooks: str) -> str:
    """Render the dashboard of this checkout, with the limits of alerts by name and the address of the folder of runbooks.

    Raises:
        OSError: the file can't be read.
    """
    return rendered((checkout() / FILE).read_text(encoding="utf-8"), limits, runbooks)


def rendered(text: str, limits: Mapping[str, Limit], runbooks: str) -> str:
    """Put links and limits of one place into a dashboard; a panel whose alert is not among `limits` has no line."""
    dashboard = json.loads(text)
    panels = dashboard["panels"]
    for holder in (dashboard, *panels):
        for link in holder.get("links", ()):
            link["url"] = f"{runbooks}/{link['url'].rpartition('/')[2]}"
    for panel in panels:
        if panel["type"] != "row":
            _move_line(panel, limits)
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _move_line(panel: dict[str, Any], limits: Mapping[str, Limit]) -> None:
    shown = panel["fieldConfig"]["defaults"]
    steps = shown["thresholds"]["steps"]
    if len(steps) == 1:
        return
    # A line is the limit of the first alert that the panel links to.
    alert = panel["links"][0]["title"]
    limit = limits.get(OF_SECONDS.get(alert, alert) if shown["unit"] == "s" else alert)
    steps[1:] = [{"color": COLOURS[limit.severity], "value": limit.value}] if limit else []
