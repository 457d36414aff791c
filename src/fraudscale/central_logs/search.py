"""`fraudscale logs`: the lines of one transaction over all parts, from the store where it runs, else from the files."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from fraudscale.central_logs.fields import DEAD_LOGS, LOGS
from fraudscale.central_logs.store import Store
from fraudscale.errors import InputError

LIMIT: Final = 1000
MOST: Final = 10_000
"""What a store gives at once."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHOWN_FIRST: Final = ("timestamp", "level", "event", "process", "replica_id", "log")

Line = dict[str, Any]
"""A decoded line; `log` says where it was read: `file`, and `offset` in bytes."""


class BadQuery(InputError):
    """An option has a value that it may not have."""


@dataclass(frozen=True)
class Query:
    """Which lines are wanted; None for any."""

    trace: str | None = None
    transaction: str | None = None
    events: tuple[str, ...] = ()
    """Any of them; none for all."""
    since: datetime | None = None
    limit: int = LIMIT


@dataclass(frozen=True)
class Found:
    """Lines in the order of their time, and how many there are of which these are the first."""

    lines: list[Line]
    total: int


def since(text: str, now: datetime) -> datetime:
    """Read `10m`, `2h`, `30s`, `1d`, or an instant in RFC 3339.

    Raises:
        BadQuery: it is neither.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise BadQuery(f"--since {text}: must be such as 10m, 2h, or 2026-11-25T08:00:00Z") from error


def in_files(logs: Path, query: Query) -> Found:
    """Search the files of this machine, the older halves too.

    The lines of a transaction are those with its id, and those of its traces.
    """
    wanted = list(_matching(logs, query))
    if query.transaction:
        traces = {line["trace_id"] for line in wanted if isinstance(line.get("trace_id"), str)}
        for trace in sorted(traces):
            wanted += _matching(logs, Query(trace=trace, events=query.events, since=query.since))
    unique = {(line["log"]["file"], line["log"]["offset"]): line for line in wanted}
    lines = sorted(unique.values(), key=_order)
    return Found(lines[: query.limit], len(lines))


def in_store(store: Store, query: Query) -> Found:
    """Ask the store.

    Raises:
        StoreUnavailable: it doesn't answer.
        StoreRefused: it wants other credentials.
    """
    ids: list[dict[str, Any]] = []
    if query.transaction:
        ids = [{"term": {"transaction_id": query.transaction}}]
        of_traces = {"bool": {"filter": [*ids, {"exists": {"field": "trace_id"}}]}}
        with_trace, _ = store.search(f"{LOGS}-*,{DEAD_LOGS}-*", of_traces, LIMIT)
        ids += [{"term": {"trace_id": trace}} for trace in sorted({line["trace_id"] for line in with_trace})]
    filters: list[dict[str, Any]] = [{"bool": {"should": ids, "minimum_should_match": 1}}] if ids else []
    if query.trace:
        filters.append({"term": {"trace.id": query.trace}})
    if query.events:
        filters.append({"terms": {"event": query.events}})
    if query.since:
        filters.append({"range": {"timestamp": {"gte": query.since.isoformat()}}})
    found, total = store.search(f"{LOGS}-*,{DEAD_LOGS}-*", {"bool": {"filter": filters}}, query.limit)
    return Found(found, total)


def _matching(logs: Path, query: Query) -> Iterator[Line]:
    # Bytes are searched first: only lines that may be wanted are worth decoding.
    marks = [msgspec.json.encode(value) for value in (query.trace, query.transaction) if value]
    events = [msgspec.json.encode(event) for event in query.events]
    for path in sorted(logs.glob("*.log*")):
        offset = 0
        with path.open("rb") as file:
            for content in file:
                if all(mark in content for mark in marks) and (
                    not events or any(event in content for event in events)
                ):
                    line = _object(content)
                    if line is not None and _matches(line, query):
                        yield {**line, "log": {"file": path.name, "offset": offset}}
                offset += len(content)


def _object(content: bytes) -> Line | None:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _matches(line: Line, query: Query) -> bool:
    if query.events and line.get("event") not in query.events:
        return False
    wanted = (("trace_id", query.trace), ("transaction_id", query.transaction))
    if any(value is not None and line.get(field) != value for field, value in wanted):
        return False
    return query.since is None or _at(line) >= query.since


def _order(line: Line) -> tuple[datetime, str, int]:
    return _at(line), line["log"]["file"], line["log"]["offset"]


def _at(line: Line) -> datetime:
    try:
        return datetime.fromisoformat(str(line.get("timestamp"))).astimezone(UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def as_text(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Write each line for a person: when, where, what."""
    for line in lines:
        where = str(line.get("log", {}).get("file", "")).removesuffix(".1").removesuffix(".log")
        level = str(line.get("level", "")).upper()
        rest = "  ".join(
            f"{name}={value}"
            for name, value in line.items()
            if name not in _SHOWN_FIRST and value is not None
        )
        text = f"{line.get('timestamp', ''):27}  {where:<17} {level:<7} {line.get('event', '')}  {rest}"
        # Ids come from clients: an escape sequence in one must not command the terminal.
        yield "".join(c if c.isprintable() else "?" for c in text)
