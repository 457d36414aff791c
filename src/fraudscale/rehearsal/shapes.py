"""Synthetic loads: a line of text such as `week:600-2600` becomes the load of a trace."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from fraudscale.clock import parse_duration
from fraudscale.rehearsal.trace import MAX_TICKS, Segment, TraceError

DAY: Final = 86_400.0
FRIDAY: Final = 4

_SHAPE: Final = re.compile(r"(?P<name>[a-z]+):(?P<low>[\d.]+)(?:-(?P<high>[\d.]+))?(?::(?P<duration>\w+))?")


def seconds(option: str, value: str, text: str) -> float:
    """Read a duration such as `90s`, `30m`, `24h` or `7d`, in the value of an option.

    Raises:
        TraceError: it is none.
    """
    try:
        found = parse_duration(text)
    except ValueError:
        found = 0.0
    if not found:
        raise TraceError(option, value, f"{text} is not a duration; write 90s, 30m, 24h or 7d")
    return found


def load(text: str, step: float, memory_mi: float) -> list[Segment]:
    """Draw `NAME:LOW-HIGH:DURATION` in steps of one sync period.

    Args:
        text: NAME is one of `SHAPES`; LOW and HIGH are milli-cores of all pods together (only LOW for `constant`); the
            duration can be left out.
        step: seconds, a sync period.
        memory_mi: of a pod.

    Raises:
        TraceError: the text is not a shape.
    """
    match = _SHAPE.fullmatch(text)
    if match is None or match["name"] not in SHAPES:
        raise TraceError(
            "--shape", text, f"write NAME:LOW-HIGH or NAME:LOW-HIGH:DURATION, NAME one of {', '.join(SHAPES)}"
        )
    try:
        low, high = float(match["low"]), float(match["high"] or match["low"])
    except ValueError as error:
        raise TraceError("--shape", text, "LOW and HIGH are numbers of milli-cores") from error
    if not high < 1e12:
        raise TraceError("--shape", text, f"HIGH ({high:g}) is beyond any cluster; both are milli-cores")
    if high < low:
        raise TraceError("--shape", text, f"HIGH ({high:g}) is below LOW ({low:g})")
    default, height = SHAPES[match["name"]]
    duration = seconds("--shape", text, match["duration"]) if match["duration"] else default
    if not duration / step <= MAX_TICKS:
        raise TraceError(
            "--shape", text, f"{duration:g} s at {step:g} s a sync are more than {MAX_TICKS} syncs"
        )
    count = math.ceil(duration / step)
    return [
        Segment((i + 1) * step, round(low + (high - low) * height(i * step, duration)), memory_mi)
        for i in range(count)
    ]


def _constant(_t: float, _duration: float) -> float:
    return 0.0


def _ramp(t: float, duration: float) -> float:
    """Up for the first half, down for the second."""
    return 1 - abs(2 * t / duration - 1)


def _spike(t: float, duration: float) -> float:
    """The second fifth of the time at the top, at once."""
    return 1.0 if 0.2 <= t / duration < 0.4 else 0.0


def _sine(t: float, duration: float) -> float:
    """Two waves, from the bottom."""
    return (1 - math.cos(4 * math.pi * t / duration)) / 2


def _week(t: float, _duration: float) -> float:
    """From Monday 00:00: days with a noon and an evening, the highest on Friday at 19:00."""
    day, hour = divmod(t / DAY, 1.0)
    noon, evening = _bell(24 * hour, 12, 2.5), _bell(24 * hour, 19, 1.5)
    weekday = int(day) % 7
    return min(1.0, 0.45 * noon + (1.0 if weekday == FRIDAY else 0.6) * evening)


def _bell(hour: float, centre: float, width: float) -> float:
    return math.exp(-(((hour - centre) / width) ** 2) / 2)


SHAPES: Final[Mapping[str, tuple[float, Callable[[float, float], float]]]] = {
    "constant": (3600.0, _constant),
    "ramp": (3600.0, _ramp),
    "spike": (3600.0, _spike),
    "sine": (4 * 3600.0, _sine),
    "week": (7 * DAY, _week),
}
"""Name → usual duration in seconds, and height (0 to 1) at a time."""
