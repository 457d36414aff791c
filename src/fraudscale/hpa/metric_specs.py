"""Reads one entry of `spec.metrics`: as autoscaling/v2 writes it, and as the versions before it did."""

from typing import Final, cast

from fraudscale.hpa.node import ManifestNode
from fraudscale.hpa.quantity import milli
from fraudscale.hpa.spec import MetricSpec, MetricTarget, MetricType, Reference, TargetType

# The field that goes with each type of target and metric, and the targets that a metric may have.
_TARGET_FIELDS: Final = {
    "Utilization": "averageUtilization",
    "Value": "value",
    "AverageValue": "averageValue",
}
_SOURCES: Final = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}
_TARGETS: Final = {
    "Resource": ("Utilization", "AverageValue"),
    "ContainerResource": ("Utilization", "AverageValue"),
    "Pods": ("AverageValue",),
    "Object": ("Value", "AverageValue"),
    "External": ("Value", "AverageValue"),
}
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")

# Of the versions before: fields that a metric must have, its selector, and its targets with their types.
_OLD_AVERAGES: Final = {"targetAverageUtilization": "Utilization", "targetAverageValue": "AverageValue"}
_OLD_SHAPES: Final[dict[MetricType, tuple[tuple[str, ...], str, dict[str, str]]]] = {
    "Resource": (("name",), "", _OLD_AVERAGES),
    "ContainerResource": (("name", "container"), "", _OLD_AVERAGES),
    "Pods": (("metricName",), "selector", {"targetAverageValue": "AverageValue"}),
    "Object": (
        ("metricName", "target"),
        "selector",
        {"averageValue": "AverageValue", "targetValue": "Value"},
    ),
    "External": (
        ("metricName",),
        "metricSelector",
        {"targetAverageValue": "AverageValue", "targetValue": "Value"},
    ),
}


def read_reference(node: ManifestNode) -> Reference:
    """Read a `scaleTargetRef` or `describedObject`."""
    fields = node.fields(required=("kind", "name"), optional=("apiVersion",))
    api_version = fields["apiVersion"].text() if "apiVersion" in fields else ""
    return Reference(api_version, fields["kind"].text(), fields["name"].text())


def read_metric(node: ManifestNode) -> MetricSpec:
    """Read an entry of autoscaling/v2."""
    kind, source = _source(node)
    return _READERS[kind](kind, source)


def read_old_metric(node: ManifestNode) -> MetricSpec:
    """Read an entry of autoscaling/v2beta1, which is also what autoscaling/v1 keeps in an annotation."""
    kind, source = _source(node)
    required, selector, targets = _OLD_SHAPES[kind]
    fields = source.fields(required=required, optional=(*targets, *([selector] if selector else [])))
    given = [name for name in targets if name in fields]
    # An Object's value is there even where its average decides, which comes first here.
    if not given or (len(given) > 1 and kind != "Object"):
        raise source.error(f"exactly one of {', '.join(targets)} is wanted")
    described = read_reference(fields["target"]) if "target" in fields else None
    return MetricSpec(
        kind,
        fields[required[0]].text(),
        _target_value(fields[given[0]], cast("TargetType", targets[given[0]])),
        container=fields["container"].text() if "container" in fields else "",
        described=f"{described.kind}/{described.name}" if described else "",
        selector=_selector(fields[selector]) if selector in fields else "",
    )


def _source(node: ManifestNode) -> tuple[MetricType, ManifestNode]:
    """Tell a metric's type, and the one field that goes with it."""
    fields = node.fields(required=("type",), optional=tuple(_SOURCES.values()))
    kind = cast("MetricType", fields["type"].choice(tuple(_SOURCES)))
    for name, field in fields.items():
        if name not in {"type", _SOURCES[kind]}:
            raise field.error(f"contradicts type {kind}, which goes with {_SOURCES[kind]}")
    if _SOURCES[kind] not in fields:
        raise node.error(f"{_SOURCES[kind]} is required for type {kind}")
    return kind, fields[_SOURCES[kind]]


def _resource(kind: MetricType, node: ManifestNode) -> MetricSpec:
    fields = node.fields(required=("name", "target"))
    return MetricSpec(kind, fields["name"].text(), _target(fields["target"], kind))


def _container_resource(kind: MetricType, node: ManifestNode) -> MetricSpec:
    fields = node.fields(required=("name", "container", "target"))
    target = _target(fields["target"], kind)
    return MetricSpec(kind, fields["name"].text(), target, container=fields["container"].text())


def _named(kind: MetricType, node: ManifestNode) -> MetricSpec:
    fields = node.fields(required=("metric", "target"))
    name, selector = _identifier(fields["metric"])
    return MetricSpec(kind, name, _target(fields["target"], kind), selector=selector)


def _object(kind: MetricType, node: ManifestNode) -> MetricSpec:
    fields = node.fields(required=("describedObject", "metric", "target"))
    described = read_reference(fields["describedObject"])
    name, selector = _identifier(fields["metric"])
    target = _target(fields["target"], kind)
    return MetricSpec(kind, name, target, described=f"{described.kind}/{described.name}", selector=selector)


_READERS: Final = {
    "Resource": _resource,
    "ContainerResource": _container_resource,
    "Pods": _named,
    "Object": _object,
    "External": _named,
}


def _target(node: ManifestNode, kind: MetricType) -> MetricTarget:
    fields = node.fields(required=("type",), optional=tuple(_TARGET_FIELDS.values()))
    said = fields["type"].choice(tuple(_TARGET_FIELDS))
    wanted = {_TARGET_FIELDS[chosen]: chosen for chosen in _TARGETS[kind]}
    given = [name for name in _TARGET_FIELDS.values() if name in fields]
    if len(given) != 1 or given[0] not in wanted:
        raise node.error(f"must have {' or '.join(wanted)}, and no other field beside type")
    chosen = wanted[given[0]]
    # `type: Value` with an averageValue is written a lot. The controller goes by the field, but for an Object's metric.
    if kind == "Object" and said != chosen:
        raise fields[given[0]].error(f"contradicts type {said}, which goes with {_TARGET_FIELDS[said]}")
    return _target_value(fields[given[0]], cast("TargetType", chosen))


def _target_value(node: ManifestNode, kind: TargetType) -> MetricTarget:
    if kind == "Utilization":
        return MetricTarget(kind, node.integer(1))
    value = node.quantity(milli)
    if value <= 0:
        raise node.error("must be positive")
    return MetricTarget(kind, value)


def _identifier(node: ManifestNode) -> tuple[str, str]:
    fields = node.fields(required=("name",), optional=("selector",))
    return fields["name"].text(), _selector(fields["selector"]) if "selector" in fields else ""


def _selector(node: ManifestNode) -> str:
    """Print a label selector as the controller's %+v does: the form that its events show."""
    fields = node.fields(required=(), optional=("matchLabels", "matchExpressions"))
    labels = fields["matchLabels"].mapping() if "matchLabels" in fields else {}
    pairs = "".join(f"{name}: {labels[name].text()}," for name in sorted(labels))
    requirements = (
        [_requirement(item) for item in fields["matchExpressions"].items()]
        if "matchExpressions" in fields
        else []
    )
    expressions = "".join(f"{requirement}," for requirement in requirements)
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{pairs}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )


def _requirement(node: ManifestNode) -> str:
    fields = node.fields(required=("key", "operator"), optional=("values",))
    key, operator = fields["key"].text(), fields["operator"].choice(_OPERATORS)
    values = [item.text() for item in fields["values"].items()] if "values" in fields else []
    if bool(values) != (operator in {"In", "NotIn"}):
        raise node.error("values are required with In and NotIn, and contradict Exists and DoesNotExist")
    return f"LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{' '.join(values)}],}}"
