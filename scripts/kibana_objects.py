"""Saved objects of Kibana and OpenSearch Dashboards: an index pattern for each kind of line, searches, a small dashboard.

They use only what both import: searches and the older kind of visualisations, whose state is JSON inside JSON.
"""

import json
from typing import Any, Final, Literal, NamedTuple

from fraudscale.central_logs.fields import DEAD_LOGS, LOGS

SOURCE: Final = "kibanaSavedObjectMeta.searchSourceJSON.index"


class SavedSearch(NamedTuple):
    """A query in KQL, and the columns beside the time."""

    id: str
    title: str
    pattern: str
    query: str
    columns: tuple[str, ...]


class SavedChart(NamedTuple):
    """A visualisation that counts lines, by time or by the most frequent values of a field."""

    id: str
    title: str
    kind: Literal["histogram", "table"]
    query: str
    by: str
    metric: tuple[str, str] = ("count", "")
    """Aggregation and its field."""


PREDICTIONS: Final = "event: prediction_made"
PROBLEMS: Final = "level: (warning or error)"
SEARCHES: Final = (
    SavedSearch(
        "fraudscale-problems",
        "fraudscale: warnings and errors",
        LOGS,
        PROBLEMS,
        ("level", "event", "process", "replica_id", "reason", "error"),
    ),
    SavedSearch(
        "fraudscale-frauds",
        "fraudscale: frauds",
        LOGS,
        f"{PREDICTIONS} and is_fraud: true",
        ("transaction_id", "fraud_probability", "model_version", "replica_id", "trace_id"),
    ),
    SavedSearch(
        "fraudscale-traced",
        "fraudscale: lines with a trace",
        LOGS,
        "trace_id: *",
        ("trace_id", "event", "process", "replica_id", "transaction_id"),
    ),
    SavedSearch("fraudscale-refused", "fraudscale: refused lines", DEAD_LOGS, "", ("reason", "line")),
)
CHARTS: Final = (
    SavedChart("fraudscale-predictions", "Predictions", "histogram", PREDICTIONS, "is_fraud"),
    SavedChart("fraudscale-levels", "Warnings and errors", "histogram", PROBLEMS, "event"),
    SavedChart(
        "fraudscale-slowest",
        "Milliseconds of a prediction, 95th percentile",
        "table",
        PREDICTIONS,
        "replica_id",
        ("percentiles", "processing_time_ms"),
    ),
)
GRID: Final = (
    ("visualization", CHARTS[0].id, {"x": 0, "y": 0, "w": 24, "h": 12}),
    ("visualization", CHARTS[1].id, {"x": 24, "y": 0, "w": 24, "h": 12}),
    ("visualization", CHARTS[2].id, {"x": 0, "y": 12, "w": 16, "h": 12}),
    ("search", SEARCHES[0].id, {"x": 16, "y": 12, "w": 32, "h": 12}),
)
"""What the dashboard shows, and where: it has 48 columns."""


def saved_objects() -> str:
    """Write all of them as NDJSON, as an import takes it."""
    patterns = [
        _object("index-pattern", name, {"title": f"{name}-*", "timeFieldName": "timestamp"})
        for name in (LOGS, DEAD_LOGS)
    ]
    objects = [*patterns, *map(_search, SEARCHES), *map(_chart, CHARTS), _dashboard()]
    return "".join(f"{json.dumps(one, sort_keys=True)}\n" for one in objects)


def _object(kind: str, name: str, attributes: dict[str, Any], *references: dict[str, str]) -> dict[str, Any]:
    return {"type": kind, "id": name, "attributes": attributes, "references": references}


def _of_query(one: SavedSearch | SavedChart, kind: str, pattern: str, **attributes: Any) -> dict[str, Any]:
    """The object of a query over the lines of an index pattern."""
    source = {"query": {"query": one.query, "language": "kuery"}, "filter": [], "indexRefName": SOURCE}
    attributes |= {"title": one.title, "description": ""}
    attributes["kibanaSavedObjectMeta"] = {"searchSourceJSON": json.dumps(source)}
    return _object(kind, one.id, attributes, {"name": SOURCE, "type": "index-pattern", "id": pattern})


def _search(one: SavedSearch) -> dict[str, Any]:
    return _of_query(one, "search", one.pattern, columns=one.columns, sort=[["timestamp", "desc"]])


def _chart(one: SavedChart) -> dict[str, Any]:
    kind, of = one.metric
    values = {"field": one.by, "size": 10, "order": "desc", "orderBy": "1" if kind == "count" else "_key"}
    aggregations = [
        _aggregation("1", kind, "metric", {"field": of, "percents": [95]} if of else {}),
        _aggregation("2", "terms", "bucket" if one.kind == "table" else "group", values),
    ]
    if one.kind == "histogram":
        by_time = {"field": "timestamp", "interval": "auto", "min_doc_count": 1}
        aggregations.append(_aggregation("3", "date_histogram", "segment", by_time))
    state = {"title": one.title, "type": one.kind, "aggs": aggregations, "params": {"addLegend": True}}
    return _of_query(one, "visualization", LOGS, uiStateJSON="{}", visState=json.dumps(state))


def _aggregation(number: str, kind: str, schema: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "enabled": True, "type": kind, "schema": schema, "params": params}


def _dashboard() -> dict[str, Any]:
    panels = [
        {
            "panelIndex": str(number),
            "panelRefName": f"panel_{number}",
            "gridData": {**place, "i": str(number)},
            "embeddableConfig": {},
        }
        for number, (_, _, place) in enumerate(GRID)
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
        {"name": f"panel_{number}", "type": kind, "id": name} for number, (kind, name, _) in enumerate(GRID)
    ]
    return _object("dashboard", "fraudscale-logs", attributes, *references)
