"""Every field that a log line may have, with its type: the index templates are made from it, and a test compares it with the code."""

from typing import Any, Final, Literal

Type = Literal["keyword", "text", "date", "boolean", "long", "double"]
"""Those that Elasticsearch and OpenSearch share."""

COMMON: Final[dict[str, Type]] = {
    "timestamp": "date",
    "event": "keyword",
    "level": "keyword",
    "process": "keyword",
    "replica_id": "keyword",
    "trace_id": "keyword",
    "span_id": "keyword",
    "exception": "text",
}
"""What any line may have."""
_EVENT_FIELDS: Final[dict[Type, str]] = {
    "keyword": """
        address alias client code digest door endpoint file first_field first_reason first_source
        group hpa index kind library model_version part prometheus protocol servers serving source
        setting topic transaction_id transactional_id version wanted
    """,
    "text": "error first_detail message reason",
    "long": """
        attempt count cpu_millicores cpu_usage current_replicas dead expected failed first_offset
        group_version last_offset memory_usage offset owned parity_rows partition partitions pid pods
        position ready refused sampled scored
        session_timeout_ms stabilised target_replicas want
    """,
    "double": """
        after_seconds at fraud_probability http_rate kafka_rate max_difference memory_mi
        processing_time_ms restart_in_seconds retry_seconds seconds time_scale
    """,
    "boolean": "forced is_fraud",
}
OF_EVENTS: Final[dict[str, Type]] = {
    name: kind for kind, names in _EVENT_FIELDS.items() for name in names.split()
}
"""What an event may have; docs/reference/logs.md says which."""
ALIASES: Final[dict[str, str]] = {"trace.id": "trace_id", "span.id": "span_id"}
"""The same fields by the names of the Elastic Common Schema, for tools that look for those."""

LOGS: Final = "fraudscale-logs"
DEAD_LOGS: Final = "fraudscale-dead-logs"
"""Beginnings of the names of indices; `-YYYY.MM.DD` follows."""
LIFECYCLE: Final = "fraudscale-lifecycle"
"""The component template that says how long an index lives: Elasticsearch's own, empty on OpenSearch."""

_SETTINGS: Final = {
    "index": {
        "number_of_shards": 1,
        "auto_expand_replicas": "0-1",  # one node has nowhere to put a copy
        "refresh_interval": "1s",
        "codec": "best_compression",
    }
}


def _property(kind: Type) -> dict[str, Any]:
    if kind == "text":
        # found by its words, and counted as a whole while it is short
        return {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
    if kind == "keyword":
        return {"type": "keyword", "ignore_above": 1024}
    return {"type": kind}


def _properties(fields: dict[str, Type]) -> dict[str, Any]:
    return {name: _property(kind) for name, kind in sorted(fields.items())}


def _aliases(fields: dict[str, Type]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, path in ALIASES.items():
        if path in fields:
            group, _, field = name.partition(".")
            found[group] = {"properties": {field: {"type": "alias", "path": path}}}
    return found


_KUBERNETES: Final = _properties(
    dict.fromkeys(("namespace_name", "pod_name", "container_name", "host"), "keyword")
)
# Labels are `name=value` each: as an object, a label `app` and a label `app.kubernetes.io/name` contradict each other.
_ORIGIN: Final = {
    "@timestamp": _property("date"),  # a collector's own clock, where it adds that
    "log": {"properties": {"file": _property("keyword"), "offset": _property("long")}},
    "kubernetes": {"properties": {"labels": _property("keyword"), **_KUBERNETES}},
}
"""Where a line was read: of a file on one machine, of a container in a cluster."""


def logs_template() -> dict[str, Any]:
    """The index template of log lines. A field that it doesn't know is refused: guessed types are how lines get lost."""
    return _template(LOGS, COMMON | OF_EVENTS, dynamic="strict")


def dead_logs_template() -> dict[str, Any]:
    """The index template of lines that the other one refuses: it takes anything."""
    fields: dict[str, Type] = {
        "timestamp": "date",
        "reason": "text",
        "line": "text",
        "event": "keyword",
        "trace_id": "keyword",
        "transaction_id": "keyword",
    }
    return _template(DEAD_LOGS, fields, dynamic=False)


def _template(name: str, fields: dict[str, Type], dynamic: Literal["strict", False]) -> dict[str, Any]:
    properties = {**_properties(fields), **_ORIGIN, **_aliases(fields)}
    return {
        "index_patterns": [f"{name}-*"],
        "priority": 200,
        "composed_of": [LIFECYCLE],
        "template": {"settings": _SETTINGS, "mappings": {"dynamic": dynamic, "properties": properties}},
        "_meta": {
            "description": "Written by `make gen` from fraudscale/central_logs/fields.py; do not edit."
        },
    }
