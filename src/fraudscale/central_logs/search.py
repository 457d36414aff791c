"""`fraudscale logs`: the lines of one transaction over all components, from the store where it runs, else from the files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from fraudscale.central_logs.documents import parse_object
from fraudscale.central_logs.store import Store
from fraudscale.clock import parse_instant, parse_moment
from fraudscale.errors import InputError

LIMIT: Final = 1000
_SHOWN_FIRST: Final = ("timestamp", "level", "event", "process", "replica_id", "log")


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


class Found(NamedTuple):
    """Lines in the order of their time, and how many there are of which these are the first."""

    lines: list[dict[str, Any]]
    """Decoded; `log` says where each was read: `file`, and `offset` in bytes."""
    total: int


def since(text: str, now: datetime) -> datetime:
    """Read `10m`, `2h`, `30s`, `1d`, or an instant in RFC 3339.

    Raises:
        BadQuery: it is neither.
    """
    try:
        return parse_moment(text, now)
    except ValueError as error:
        raise BadQuery(
            f"--since {text}: must be a duration such as 10m or 2h, or an instant such as 2026-11-25T08:00:00Z"
        ) from error


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
    lines = sorted(unique.values(), key=lambda line: (_at(line), line["log"]["file"], line["log"]["offset"]))
    return Found(lines[: query.limit], len(lines))


def in_store(store: Store, query: Query) -> Found:
    """Ask the store, as `in_files` searches the files.

    Raises:
        StoreUnavailable: it doesn't answer.
        StoreRefused: it wants other credentials.
    """
    filters: list[dict[str, Any]] = []
    if query.transaction:
        id_matches: dict[str, Any] = {"term": {"transaction_id": query.transaction}}
        of_traces = {"bool": {"filter": [id_matches, {"exists": {"field": "trace_id"}}]}}
        with_trace, _ = store.search(of_traces, LIMIT)
        traces = sorted({line["trace_id"] for line in with_trace})
        filters.append({"bool": {"should": [id_matches, {"terms": {"trace_id": traces}}]}})
    if query.trace:
        filters.append({"term": {"trace.id": query.trace}})
    if query.events:
        filters.append({"terms": {"event": query.events}})
    if query.since:
        filters.append({"range": {"timestamp": {"gte": query.since.isoformat()}}})
    return Found(*store.search({"bool": {"filter": filters}}, query.limit))


def _matching(logs: Path, query: Query) -> Iterator[dict[str, Any]]:
    # Bytes are searched first: only lines that may be wanted are worth decoding.
    marks = [msgspec.json.encode(value) for value in (query.trace, query.transaction) if value]
    events = [msgspec.json.encode(event) for event in query.events] or [b""]
    for path in sorted(logs.glob("*.log*")):
        offset = 0
        with path.open("rb") as file:
            for content in file:
                if all(mark in content for mark in marks) and any(event in content for event in events):
                    line = parse_object(content)
                    if line is not None and _matches(line, query):
                        yield {**line, "log": {"file": path.name, "offset": offset}}
                offset += len(content)


def _matches(line: Mapping[str, Any], query: Query) -> bool:
    return (
        (not query.events or line.get("event") in query.events)
        and query.trace in (None, line.get("trace_id"))
        and query.transaction in (None, line.get("transaction_id"))
        and (query.since is None or _at(line) >= query.since)
    )


def _at(line: Mapping[str, Any]) -> datetime:
    try:
        return parse_instant(str(line.get("timestamp")))
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
