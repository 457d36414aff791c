"""Durations as Prometheus and Alertmanager write them."""

import re
from typing import Final

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
"""Seconds of each unit."""


def duration(seconds: float) -> str:
    """Write a duration: `5s`, or `500ms` where it is no whole number of seconds."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{1000 * seconds:.0f}ms"


def faster(text: str, time_scale: float) -> str:
    """Divide a written duration such as `5m` or `1h30m` by the time scale."""
    if time_scale == 1:
        return text
    return duration(sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([a-z]+)", text)) / time_scale)
