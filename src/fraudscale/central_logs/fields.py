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
OF_EVENTS: Final[dict[str, Type]] = {
    "address": "keyword",
    "after_seconds": "double",
    "alias": "keyword",
    "at": "double",
    "attempt": "long",
    "client": "keyword",
    "code": "keyword",
    "count": "long",
    "cpu_millicores": "long",
    "cpu_usage": "long",
    "current_replicas": "long",
    "dead": "long",
    "digest": "keyword",
    "door": "keyword",
    "endpoint": "keyword",
    "error": "text",
    "failed": "long",
    "file": "keyword",
    "first_detail": "text",
    "first_field": "keyword",
    "first_reason": "keyword",
    "first_source": "keyword",
    "forced": "boolean",
    "fraud_probability": "double",
    "group": "keyword",
    "group_version": "long",
    "hpa": "keyword",
    "http_rate": "double",
    "index": "keyword",
    "is_fraud": "boolean",
    "kafka_rate": "double",
    "kind": "keyword",
    "library": "keyword",
    "max_difference": "double",
    "memory_mi": "double",
    "memory_usage": "long",
    "message": "text",
    "model_version": "keyword",
    "offset": "long",
    "owned": "long",
    "parity_rows": "long",
    "part": "keyword",
    "partitions": "long",
    "pid": "long",
    "pods": "long",
    "processing_time_ms": "double",
    "prometheus": "keyword",
    "protocol": "keyword",
    "ready": "long",
    "reason": "text",
    "refused": "long",
    "restart_in_seconds": "double",
    "retry_seconds": "double",
    "sampled": "long",
    "scored": "long",
    "seconds": "double",
    "servers": "keyword",
    "serving": "keyword",
    "session_timeout_ms": "long",
    "source": "keyword",
    "stabilised": "long",
    "target_replicas": "long",
    "time_scale": "double",
    "topic": "keyword",
    "transaction_id": "keyword",
    "transactional_id": "keyword",
    "version": "keyword",
    "want": "long",
    "wanted": "keyword",
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
        if path not in fields:
            continue
        head, dot, rest = name.partition(".")
        alias = {"type": "alias", "path": path}
        found[head] = {"properties": {rest: alias}} if dot else alias
    return found


_ORIGIN: Final = {
    "@timestamp": _property("date"),  # a collector's own clock, where it adds that
    "log": {"properties": {"file": _property("keyword"), "offset": _property("long")}},
    "kubernetes": {
        "properties": {
            # `name=value` each: as an object, a label `app` and a label `app.kubernetes.io/name` contradict each other
            "labels": _property("keyword"),
            **_properties(
                {
                    "namespace_name": "keyword",
                    "pod_name": "keyword",
                    "container_name": "keyword",
                    "host": "keyword",
                }
            ),
        }
    },
}
"""Where a line was read: of a file on one machine, of a container in a cluster."""


def logs_template() -> dict[str, Any]:
    """The index template of log lines. A field that it doesn't know is refused: guessed types are how lines get lost."""
    fields = COMMON | OF_EVENTS
    properties = {**_properties(fields), **_ORIGIN, **_aliases(fields)}
    return _template(LOGS, properties, dynamic="strict")


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
    return _template(DEAD_LOGS, {**_properties(fields), **_ORIGIN, **_aliases(fields)}, dynamic=False)


def _template(name: str, properties: dict[str, Any], dynamic: Literal["strict", False]) -> dict[str, Any]:
    return {
        "index_patterns": [f"{name}-*"],
        "priority": 200,
        "composed_of": [LIFECYCLE],
        "template": {
            "settings": _SETTINGS,
            "mappings": {"dynamic": dynamic, "properties": properties},
        },
        "_meta": {
            "description": "Written by `make gen` from fraudscale/central_logs/fields.py; do not edit."
        },
    }
