"""Saved objects of Kibana and OpenSearch Dashboards: an index pattern for each kind of line, searches, a small dashboard.

They use only what both import: searches and the older kind of visualisations, whose state is JSON inside JSON.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fraudscale.central_logs.fields import DEAD_LOGS, LOGS

SOURCE: Final = "kibanaSavedObjectMeta.searchSourceJSON.index"
WIDTH: Final = 48
"""Columns of a dashboard."""


@dataclass(frozen=True)
class Search:
    """A saved search: a query in KQL, and the columns beside the time."""

    id: str
    title: str
    pattern: str
    query: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """A visualisation that counts lines, by time or by the most frequent values of a field."""

    id: str
    title: str
    kind: Literal["histogram", "table"]
    pattern: str
    query: str
    by: str
    metric: tuple[str, str] = ("count", "")
    """Aggregation and its field."""


@dataclass(frozen=True)
class Panel:
    """A place on the dashboard, in its columns and rows."""

    of: Search | Chart
    x: int
    y: int
    w: int
    h: int


PREDICTIONS: Final = "event: prediction_made"
SEARCHES: Final = (
    Search(
        "fraudscale-problems",
        "fraudscale: warnings and errors",
        LOGS,
        "level: (warning or error)",
        ("level", "event", "process", "replica_id", "reason", "error"),
    ),
    Search(
        "fraudscale-frauds",
        "fraudscale: frauds",
        LOGS,
        f"{PREDICTIONS} and is_fraud: true",
        ("transaction_id", "fraud_probability", "model_version", "replica_id", "trace_id"),
    ),
    Search(
        "fraudscale-traced",
        "fraudscale: lines with a trace",
        LOGS,
        "trace_id: *",
        ("trace_id", "event", "process", "replica_id", "transaction_id"),
    ),
    Search("fraudscale-refused", "fraudscale: refused lines", DEAD_LOGS, "", ("reason", "line")),
)
CHARTS: Final = (
    Chart("fraudscale-predictions", "Predictions", "histogram", LOGS, PREDICTIONS, "is_fraud"),
    Chart(
        "fraudscale-levels",
        "Warnings and errors",
        "histogram",
        LOGS,
        "level: (warning or error)",
        "event",
    ),
    Chart(
        "fraudscale-slowest",
        "Milliseconds of a prediction, 95th percentile",
        "table",
        LOGS,
        PREDICTIONS,
        "replica_id",
        ("percentiles", "processing_time_ms"),
    ),
)
PANELS: Final = (
    Panel(CHARTS[0], 0, 0, 24, 12),
    Panel(CHARTS[1], 24, 0, 24, 12),
    Panel(CHARTS[2], 0, 12, 16, 12),
    Panel(SEARCHES[0], 16, 12, 32, 12),
)


@dataclass
class SavedObject:
    """One line of the file."""

    type: str
    id: str
    attributes: dict[str, Any]
    references: list[dict[str, str]] = field(default_factory=list)


def saved_objects() -> str:
    """Write all of them as NDJSON, as an import takes it."""
    patterns = [_pattern(name) for name in (LOGS, DEAD_LOGS)]
    objects = [*patterns, *map(_search, SEARCHES), *map(_chart, CHARTS), _dashboard()]
    return "".join(f"{json.dumps(vars(one), sort_keys=True)}\n" for one in objects)


def _pattern(name: str) -> SavedObject:
    return SavedObject("index-pattern", name, {"title": f"{name}-*", "timeFieldName": "timestamp"})


def _meta(query: str) -> dict[str, str]:
    source = {
        "query": {"query": query, "language": "kuery"},
        "filter": [],
        "indexRefName": SOURCE,
    }
    return {"searchSourceJSON": json.dumps(source)}


def _search(one: Search) -> SavedObject:
    attributes = {
        "title": one.title,
        "description": "",
        "columns": list(one.columns),
        "sort": [["timestamp", "desc"]],
        "kibanaSavedObjectMeta": _meta(one.query),
    }
    return SavedObject("search", one.id, attributes, [_reference(one.pattern)])


def _reference(pattern: str) -> dict[str, str]:
    return {"name": SOURCE, "type": "index-pattern", "id": pattern}


def _chart(one: Chart) -> SavedObject:
    by_value = {
        "field": one.by,
        "size": 10,
        "order": "desc",
        "orderBy": "1" if one.metric[0] == "count" else "_key",
    }
    kind, of = one.metric
    metric = {"field": of, "percents": [95]} if of else {}
    aggregations = [
        {"id": "1", "enabled": True, "type": kind, "schema": "metric", "params": metric},
        {
            "id": "2",
            "enabled": True,
            "type": "terms",
            "schema": "bucket" if one.kind == "table" else "group",
            "params": by_value,
        },
    ]
    if one.kind == "histogram":
        params = {"field": "timestamp", "interval": "auto", "min_doc_count": 1}
        time = {"id": "3", "enabled": True, "type": "date_histogram", "schema": "segment", "params": params}
        aggregations.append(time)
    state = {"title": one.title, "type": one.kind, "aggs": aggregations, "params": {"addLegend": True}}
    attributes = {
        "title": one.title,
        "description": "",
        "uiStateJSON": "{}",
        "visState": json.dumps(state),
        "kibanaSavedObjectMeta": _meta(one.query),
    }
    return SavedObject("visualization", one.id, attributes, [_reference(one.pattern)])


def _dashboard() -> SavedObject:
    panels = [
        {
            "panelIndex": str(number),
            "panelRefName": f"panel_{number}",
            "gridData": {"x": p.x, "y": p.y, "w": p.w, "h": p.h, "i": str(number)},
            "embeddableConfig": {},
        }
        for number, p in enumerate(PANELS)
    ]
    source = {"query": {"query": "", "language": "kuery"}, "filter": []}
    attributes = {
        "title": "fraudscale: logs",
        "description": "What was scored, what went wrong, how long it took",
        "timeRestore": True,
        "timeFrom": "now-1h",
        "timeTo": "now",
        "optionsJSON": json.dumps({"useMargins": True}),
        "panelsJSON": json.dumps(panels),
        "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps(source)},
    }
    references = [
        {
            "name": f"panel_{number}",
            "type": "search" if isinstance(p.of, Search) else "visualization",
            "id": p.of.id,
        }
        for number, p in enumerate(PANELS)
    ]
    return SavedObject("dashboard", "fraudscale-logs", attributes, references)
