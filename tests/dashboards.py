"""The dashboard as tests of every kind read it."""

import json
from pathlib import Path

FILE = Path(__file__).parents[1] / "monitoring/dashboards/ml-model-dashboard.json"
DASHBOARD = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
MARKS = DASHBOARD["annotations"]["list"]
QUERIES = [
    (f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]
]


def filled(expression: str, window: str = "1m") -> str:
    """A query as Grafana would send it."""
    return expression.replace("$namespace", "ml-model").replace("$__rate_interval", window)
