"""A log line becomes a document: pure, so that the same line of the same file is always the same document."""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from fraudscale.central_logs.fields import DEAD_LOGS, LOGS
from fraudscale.clock import parse_instant

NOT_JSON: Final = "not_json"
NO_TIMESTAMP: Final = "no_timestamp"
MAPPING: Final = "mapping"
REASONS: Final = (NOT_JSON, NO_TIMESTAMP, MAPPING)
"""Why a line is a dead letter: labels of the metric that counts them."""
LONGEST_DEAD_LINE: Final = 16 * 1024
"""Characters kept of a dead line."""
YOUNGEST: Final = timedelta(days=1)
OLDEST: Final = timedelta(days=366)
"""A time further off than this is none: each day has an index, and a wrong clock must not make thousands."""


class LogLine(msgspec.Struct, frozen=True):
    """A line and where it was read."""

    id: str
    """The same whenever the line is read again."""
    file: str
    offset: int
    content: bytes


class Document(msgspec.Struct, frozen=True):
    """What is sent to the index, under the id of its line: the store takes an id once, so sending twice does no harm."""

    index: str
    body: bytes
    line: LogLine
    refused: str = ""
    """Of a dead letter: one of `REASONS`."""


def document(line: LogLine, now: datetime) -> Document:
    """Make the document of a line; a dead letter of one that is no JSON object or has no time."""
    event = parse_object(line.content)
    if event is None:
        return dead_letter(line, NOT_JSON, "the line is no JSON object", now)
    day = _day(event.get("timestamp"), now)
    if day is None:
        return dead_letter(line, NO_TIMESTAMP, f"no time to file it under: {event.get('timestamp')!r}", now)
    event["log"] = {"file": line.file, "offset": line.offset}
    return Document(f"{LOGS}-{day}", msgspec.json.encode(event), line)


def dead_letter(line: LogLine, refused: str, reason: str, now: datetime) -> Document:
    """Make the document of a line that can't be one itself: its text, and why."""
    event = parse_object(line.content) or {}
    body: dict[str, Any] = {
        "timestamp": now.isoformat(),
        "reason": reason,
        "line": line.content.decode(errors="replace")[:LONGEST_DEAD_LINE],
        "log": {"file": line.file, "offset": line.offset},
    }
    # still found with the rest of its transaction
    ids = {name: event.get(name) for name in ("event", "trace_id", "transaction_id")}
    body |= {name: value for name, value in ids.items() if isinstance(value, str)}
    # Under the day when it was refused: an index of its own day may be what refused it.
    return Document(f"{DEAD_LOGS}-{now:%Y.%m.%d}", msgspec.json.encode(body), line, refused)


def parse_object(content: bytes) -> dict[str, Any] | None:
    """Read a line; None where it is no JSON object."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _day(timestamp: object, now: datetime) -> str | None:
    try:
        at = parse_instant(timestamp)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return f"{at:%Y.%m.%d}" if now - OLDEST < at < now + YOUNGEST else None
