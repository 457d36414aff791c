"""Instants and durations as text: RFC 3339, and durations as Prometheus and Alertmanager write them."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
"""Seconds of each unit."""
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdwy]))+")
_TERM: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy])")


def rfc3339(at: datetime, timespec: str = "auto") -> str:
    """Write an instant with a zone in UTC: `2026-11-23T10:00:00Z`.

    Args:
        at: the instant.
        timespec: as `datetime.isoformat`; `seconds` for files that people read.
    """
    # each pass of the model asks, with an instant that is in UTC already
    in_utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return in_utc.isoformat(timespec=timespec).replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """Read RFC 3339; without a zone it is UTC.

    Raises:
        ValueError: it is something else, or outside of the years 1 to 9999.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        return found.replace(tzinfo=UTC)
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text} is outside of the years 1 to 9999") from error


def parse_duration(text: str) -> float:
    """Read a duration such as `5m`, `1h30m` or `1.5d`; return seconds.

    Raises:
        ValueError: it is something else.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write 30s, 10m, 2h or 1d")
    return sum(float(number) * UNITS[unit] for number, unit in _TERM.findall(text))


def parse_moment(text: str, now: datetime) -> datetime:
    """Read an instant as `parse_instant` does, or how long before `now` it was: `10m`, `2h`, `1d`.

    Raises:
        ValueError: it is neither, or outside of the years 1 to 9999.
    """
    with suppress(ValueError, OverflowError):
        return now - timedelta(seconds=parse_duration(text))
    return parse_instant(text)


def duration(seconds: float) -> str:
    """Write a duration: `5s`, or `500ms` where it is no whole number of seconds."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{1000 * seconds:.0f}ms"


def faster(text: str, time_scale: float) -> str:
    """Divide a written duration such as `5m` or `1h30m` by the time scale."""
    return text if time_scale == 1 else duration(parse_duration(text) / time_scale)
