"""What the alert rules call too much, for the lines in the panels."""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

import yaml

Severity = Literal["critical", "warning", "info"]

SLOW: Final = "namespace:http_slow_requests:ratio5m"
"""The recorded share of slow requests. Its limit is in seconds: the edge of the histogram above which one is slow."""

OF_SECONDS: Final = {"HighResponseTime": SLOW}
"""Alerts on a share, and the limit that panels in seconds show for them."""

_COMPARED: Final = re.compile(r"[^<>=!]>\s*([0-9.]+)")
_EDGE: Final = re.compile(r'le=~"([0-9.]+)\|')


@dataclass(frozen=True)
class Limit:
    """What an alert compares with, in the unit of its expression."""

    value: float
    severity: Severity


def read(rules: str) -> dict[str, Limit]:
    """Read the limits out of a rule file: alert → the first number that its expression says is exceeded, and `SLOW`.

    Alerts of a severity that the dashboard doesn't draw are left out.
    """
    found = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    limits = {
        rule["alert"]: Limit(float(match[1]), severity)
        for rule in found
        if "alert" in rule
        and (severity := rule.get("labels", {}).get("severity")) in get_args(Severity)
        and (match := _COMPARED.search(str(rule["expr"])))
    }
    slow = {
        rule["record"]: Limit(float(edge[1]), "warning")
        for rule in found
        if rule.get("record") == SLOW and (edge := _EDGE.search(rule["expr"]))
    }
    return limits | slow
