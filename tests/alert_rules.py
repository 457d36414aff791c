"""The alert rules as tests of every kind read them."""

import re
from pathlib import Path

import yaml

FILE = Path(__file__).parents[1] / "monitoring/alerts/ml-alerts.yaml"
RULES = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

_LABELS = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
_WORD = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(\{[^}]*\})?(?!\s*\(|[\w:])")


def selectors(expression: str) -> dict[str, set[str]]:
    """Metric → its selectors in an expression, such as `up{job="a"}`."""
    # Only label values are strings, or contain a bracket, in what is left.
    bare = re.sub(r"\[\w+\]| offset \w+", "", _LABELS.sub("", re.sub(r', "[^"]*"', "", expression)))
    found: dict[str, set[str]] = {}
    for name, labels in _WORD.findall(bare):
        if name not in {"and", "or", "unless", "offset"}:
            found.setdefault(name, set()).add(name + labels)
    return found
