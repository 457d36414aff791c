"""Reads an autoscaling/v2 manifest. What the API server would refuse, or a person did not mean, is refused with its path."""

from collections.abc import Callable, Iterator
from typing import Any, Final, Self, TypeVar, cast

import yaml

from fraudscale.errors import InputError
from fraudscale.hpa.quantity import approximate, milli
from fraudscale.hpa.spec import (
    DEFAULT_DOWN,
    DEFAULT_METRICS,
    DEFAULT_UP,
    Behavior,
    Hpa,
    MetricSpec,
    MetricTarget,
    MetricType,
    Policy,
    PolicyType,
    Reference,
    Rules,
    SelectPolicy,
    TargetType,
)

T = TypeVar("T")

_INT32_MAX: Final = 2**31 - 1
_MAX_WINDOW: Final = 3600
_MAX_PERIOD: Final = 1800

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


class ManifestError(InputError):
    """A manifest can't be used: `file`, `path` (of the field, or the place in the text) and `reason` say why."""

    def __init__(self, file: str, path: str, reason: str) -> None:
        super().__init__(f"{file}: {path}: {reason}" if path else f"{file}: {reason}")
        self.file = file
        self.path = path
        self.reason = reason


def read_manifest(content: bytes | str, file: str) -> Hpa:
    """Read a HorizontalPodAutoscaler from YAML or JSON.

    Args:
        content: exactly one object of autoscaling/v2.
        file: its name, for the error.

    Raises:
        ManifestError: unreadable YAML, or a field that is unknown, missing, out of range or contradicts another.
    """
    root = _Node(file, "", load(content, file))
    # An object that comes from a cluster carries a status; it doesn't decide anything.
    fields = root.fields(required=("apiVersion", "kind", "metadata", "spec"), optional=("status",))
    fields["apiVersion"].choice(("autoscaling/v2",))
    fields["kind"].choice(("HorizontalPodAutoscaler",))
    metadata = fields["metadata"].mapping()
    if "name" not in metadata:
        raise fields["metadata"].error("name is required")
    name = metadata["name"].text()
    namespace = metadata["namespace"].text() if "namespace" in metadata else "default"
    return _spec(fields["spec"], name, namespace)


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for name, mark in [(key.value, key.start_mark) for key, _ in node.value]:
            if str(name) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", mark)
            seen.add(str(name))
        return super().construct_mapping(node, deep)


def load(content: bytes | str, file: str) -> object:
    """Read one YAML or JSON document; a key that is there twice is refused.

    Raises:
        ManifestError: not YAML, with the place.
    """
    try:
        return yaml.load(content, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ManifestError(file, place, f"not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # bytes that are no text; a date that is none; brackets without end
        raise ManifestError(file, "", f"not valid YAML: {' '.join(str(error).split())}") from error


class _Node:
    """A value of the document that knows where it stands."""

    def __init__(self, file: str, path: str, value: object) -> None:
        self.file, self.path, self.value = file, path, value

    def error(self, reason: str) -> ManifestError:
        return ManifestError(self.file, self.path, reason)

    def mapping(self) -> dict[str, Self]:
        """Its fields; null is the same as absent, as in the API server."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping, not {self.value!r:.60}")
        prefix = f"{self.path}." if self.path else ""
        return {
            str(name): type(self)(self.file, f"{prefix}{name}", value)
            for name, value in self.value.items()
            if value is not None
        }

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Self]:
        fields = self.mapping()
        for name, node in fields.items():
            if name not in required and name not in optional:
                raise node.error(f"unknown field; there are {', '.join((*required, *optional))}")
        for name in required:
            if name not in fields:
                raise self.error(f"{name} is required")
        return fields

    def items(self) -> Iterator[Self]:
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, not {self.value!r:.60}")
        for index, value in enumerate(self.value):
            yield type(self)(self.file, f"{self.path}[{index}]", value)

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"must be a text that is not empty, not {self.value!r:.60}")
        return self.value

    def choice(self, choices: tuple[str, ...]) -> str:
        if self.value not in choices:
            raise self.error(f"must be {' or '.join(choices)}, not {self.value!r:.60}")
        return str(self.value)

    def integer(self, low: int, high: int = _INT32_MAX) -> int:
        value = self.value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(f"must be an integer from {low} to {high}, not {value!r:.60}")
        return value

    def quantity(self, read: Callable[[str | float], T]) -> T:
        value = self.value
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise self.error(f"must be a quantity, not {value!r:.60}")
        try:
            return read(value)
        except ValueError as error:
            raise self.error(str(error)) from error


def _spec(node: _Node, name: str, namespace: str) -> Hpa:
    fields = node.fields(
        required=("scaleTargetRef", "maxReplicas"), optional=("minReplicas", "metrics", "behavior")
    )
    target = _reference(fields["scaleTargetRef"])
    # 0 needs the gate HPAScaleToZero, which is off in this release.
    low = fields["minReplicas"].integer(1) if "minReplicas" in fields else 1
    high = fields["maxReplicas"].integer(1)
    if high < low:
        raise fields["maxReplicas"].error(f"must not be below minReplicas: {high} < {low}")
    metrics = tuple(_metric(item) for item in fields["metrics"].items()) if "metrics" in fields else ()
    behavior = _behavior(fields["behavior"]) if "behavior" in fields else None
    return Hpa(name, namespace, target, low, high, metrics or DEFAULT_METRICS, behavior)


def _reference(node: _Node) -> Reference:
    fields = node.fields(required=("kind", "name"), optional=("apiVersion",))
    api_version = fields["apiVersion"].text() if "apiVersion" in fields else ""
    return Reference(api_version, fields["kind"].text(), fields["name"].text())


def _metric(node: _Node) -> MetricSpec:
    fields = node.fields(required=("type",), optional=tuple(_SOURCES.values()))
    kind = cast("MetricType", fields["type"].choice(tuple(_SOURCES)))
    for name, field in fields.items():
        if name not in {"type", _SOURCES[kind]}:
            raise field.error(f"contradicts type {kind}, which goes with {_SOURCES[kind]}")
    if _SOURCES[kind] not in fields:
        raise node.error(f"{_SOURCES[kind]} is required for type {kind}")
    return _READERS[kind](kind, fields[_SOURCES[kind]])


def _resource(kind: MetricType, node: _Node) -> MetricSpec:
    fields = node.fields(required=("name", "target"))
    return MetricSpec(kind, fields["name"].text(), _target(fields["target"], kind))


def _container_resource(kind: MetricType, node: _Node) -> MetricSpec:
    fields = node.fields(required=("name", "container", "target"))
    target = _target(fields["target"], kind)
    return MetricSpec(kind, fields["name"].text(), target, container=fields["container"].text())


def _named(kind: MetricType, node: _Node) -> MetricSpec:
    fields = node.fields(required=("metric", "target"))
    name, selector = _identifier(fields["metric"])
    return MetricSpec(kind, name, _target(fields["target"], kind), selector=selector)


def _object(kind: MetricType, node: _Node) -> MetricSpec:
    fields = node.fields(required=("describedObject", "metric", "target"))
    described = _reference(fields["describedObject"])
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


def _target(node: _Node, kind: MetricType) -> MetricTarget:
    fields = node.fields(required=("type",), optional=tuple(_TARGET_FIELDS.values()))
    chosen = cast("TargetType", fields["type"].choice(_TARGETS[kind]))
    wanted = _TARGET_FIELDS[chosen]
    for name, field in fields.items():
        if name not in {"type", wanted}:
            raise field.error(f"contradicts type {chosen}, which goes with {wanted}")
    if wanted not in fields:
        raise node.error(f"{wanted} is required for type {chosen}")
    if chosen == "Utilization":
        return MetricTarget(chosen, fields[wanted].integer(1))
    value = fields[wanted].quantity(milli)
    if value <= 0:
        raise fields[wanted].error("must be positive")
    return MetricTarget(chosen, value)


def _identifier(node: _Node) -> tuple[str, str]:
    fields = node.fields(required=("name",), optional=("selector",))
    return fields["name"].text(), _selector(fields["selector"]) if "selector" in fields else ""


def _selector(node: _Node) -> str:
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


def _requirement(node: _Node) -> str:
    fields = node.fields(required=("key", "operator"), optional=("values",))
    key, operator = fields["key"].text(), fields["operator"].choice(_OPERATORS)
    values = [item.text() for item in fields["values"].items()] if "values" in fields else []
    if bool(values) != (operator in {"In", "NotIn"}):
        raise node.error("values are required with In and NotIn, and contradict Exists and DoesNotExist")
    return f"LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{' '.join(values)}],}}"


def _behavior(node: _Node) -> Behavior:
    fields = node.fields(required=(), optional=("scaleUp", "scaleDown"))
    return Behavior(
        _rules(fields["scaleUp"], DEFAULT_UP) if "scaleUp" in fields else DEFAULT_UP,
        _rules(fields["scaleDown"], DEFAULT_DOWN) if "scaleDown" in fields else DEFAULT_DOWN,
    )


def _rules(node: _Node, default: Rules) -> Rules:
    fields = node.fields(
        required=(), optional=("stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance")
    )
    window, select, policies = default.window, default.select_policy, default.policies
    if "stabilizationWindowSeconds" in fields:
        window = fields["stabilizationWindowSeconds"].integer(0, _MAX_WINDOW)
    if "selectPolicy" in fields:
        select = cast("SelectPolicy", fields["selectPolicy"].choice(("Max", "Min", "Disabled")))
    if "policies" in fields:
        policies = tuple(_policy(item) for item in fields["policies"].items())
        if not policies:
            raise fields["policies"].error("must have at least one policy")
    return Rules(window, select, policies, _tolerance(fields["tolerance"]) if "tolerance" in fields else None)


def _policy(node: _Node) -> Policy:
    fields = node.fields(required=("type", "value", "periodSeconds"))
    kind = cast("PolicyType", fields["type"].choice(("Pods", "Percent")))
    return Policy(kind, fields["value"].integer(1), fields["periodSeconds"].integer(1, _MAX_PERIOD))


def _tolerance(node: _Node) -> float:
    value = node.quantity(approximate)
    if value < 0:
        raise node.error("must not be negative")
    return value
