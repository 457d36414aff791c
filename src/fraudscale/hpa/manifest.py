"""Reads HorizontalPodAutoscalers. What the API server would refuse, or a person did not mean, is refused with its path."""

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from fraudscale.hpa.metric_specs import read_metric, read_old_metric, read_reference
from fraudscale.hpa.node import ManifestError, ManifestNode
from fraudscale.hpa.objects import find
from fraudscale.hpa.quantity import approximate
from fraudscale.hpa.spec import (
    DEFAULT_DOWN,
    DEFAULT_METRICS,
    DEFAULT_UP,
    Behavior,
    Hpa,
    MetricSpec,
    MetricTarget,
    Policy,
    PolicyType,
    Rules,
    SelectPolicy,
)

_KIND: Final = "HorizontalPodAutoscaler"
_MAX_WINDOW: Final = 3600
_MAX_PERIOD: Final = 1800

_V2: Final = ("minReplicas", "metrics", "behavior")
_V1: Final = "autoscaling/v1"
_V2BETA1: Final = "autoscaling/v2beta1"
_OPTIONAL: Final = {
    "autoscaling/v2": _V2,
    "autoscaling/v2beta2": _V2,
    _V2BETA1: ("minReplicas", "metrics"),
    _V1: ("minReplicas", "targetCPUUtilizationPercentage"),
}
"""Fields of `spec` by version. Clusters of today serve v2 and v1; manifests of before are still read."""

_ANNOTATED: Final = "autoscaling.alpha.kubernetes.io/"
"""Begins the annotations in which autoscaling/v1 carries what its own fields can't say."""


def read_manifest(content: bytes | str, file: str) -> Hpa:
    """Read the one HorizontalPodAutoscaler of a file.

    Args:
        content: YAML or JSON, as `read_manifests`.
        file: its name, for the error.

    Raises:
        ManifestError: as `read_manifests`, or there are several.
    """
    found = read_manifests(content, file)
    if len(found) > 1:
        names = ", ".join(f"{hpa.namespace}/{hpa.name}" for hpa in found)
        raise ManifestError(file, "", f"one {_KIND} is wanted, and there are {len(found)}: {names}")
    return found[0]


def read_manifests(content: bytes | str, file: str) -> list[Hpa]:
    """Read all HorizontalPodAutoscalers of a file; there is at least one.

    Args:
        content: YAML or JSON: an object, several documents, a List; objects of other kinds are left alone. Versions v2
            and v1 of autoscaling, and the two betas of v2, which no cluster of today serves any more.
        file: its name, for the error.

    Raises:
        ManifestError: unreadable YAML, or a field that is unknown, missing, out of range or contradicts another.
    """
    return [_hpa(node) for node in find(content, file, _KIND)]


def _hpa(node: ManifestNode) -> Hpa:
    # An object that comes from a cluster carries a status; it doesn't decide anything.
    fields = node.fields(required=("apiVersion", "kind", "metadata", "spec"), optional=("status",))
    version = fields["apiVersion"].choice(tuple(_OPTIONAL))
    metadata = fields["metadata"].mapping()
    if "name" not in metadata:
        raise fields["metadata"].error("name is required")
    name = metadata["name"].text()
    namespace = metadata["namespace"].text() if "namespace" in metadata else "default"
    spec = fields["spec"].fields(required=("scaleTargetRef", "maxReplicas"), optional=_OPTIONAL[version])
    if version == _V1:
        metrics, behavior = _annotated(spec, metadata)
    else:
        read = read_old_metric if version == _V2BETA1 else read_metric
        metrics = [read(item) for item in spec["metrics"].items()] if "metrics" in spec else []
        behavior = _behavior(spec["behavior"]) if "behavior" in spec else None
    low, high = _bounds(spec)
    target = read_reference(spec["scaleTargetRef"])
    return Hpa(name, namespace, target, low, high, tuple(metrics) or DEFAULT_METRICS, behavior)


def _bounds(spec: Mapping[str, ManifestNode]) -> tuple[int, int]:
    # 0 needs the gate HPAScaleToZero, which is off in this release.
    low = spec["minReplicas"].integer(1) if "minReplicas" in spec else 1
    high = spec["maxReplicas"].integer(1)
    if high < low:
        raise spec["maxReplicas"].error(f"must not be below minReplicas: {high} < {low}")
    return low, high


def _annotated(
    spec: Mapping[str, ManifestNode], metadata: Mapping[str, ManifestNode]
) -> tuple[list[MetricSpec], Behavior | None]:
    """Put together what autoscaling/v1 says in its field and in its annotations."""
    # Convert_v1_HorizontalPodAutoscaler_To_autoscaling_HorizontalPodAutoscaler: the annotation's come first.
    given = _annotation(metadata, "metrics")
    metrics = [read_old_metric(item) for item in given.items()] if given else []
    if "targetCPUUtilizationPercentage" in spec:
        percent = spec["targetCPUUtilizationPercentage"].integer(1)
        metrics.append(MetricSpec("Resource", "cpu", MetricTarget("Utilization", percent)))
    behavior = _annotation(metadata, "behavior")
    return metrics, _behavior(behavior) if behavior else None


def _annotation(metadata: Mapping[str, ManifestNode], name: str) -> ManifestNode | None:
    """Read the JSON of an annotation."""
    node = metadata["annotations"].mapping().get(_ANNOTATED + name) if "annotations" in metadata else None
    if node is None:
        return None
    try:
        value = json.loads(node.text())
        if name == "behavior":
            value = _as_manifest(value)
    except (ValueError, RecursionError) as error:  # brackets without end
        raise node.error(f"not JSON: {error}") from error
    return ManifestNode(node.file, node.path, value)


def _as_manifest(value: Any) -> Any:
    """Write names as manifests do; the API server writes those of this annotation as its sources have them: `ScaleUp`."""
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: _as_manifest(field) for name, field in value.items()}
    return [_as_manifest(item) for item in value] if isinstance(value, list) else value


def _behavior(node: ManifestNode) -> Behavior:
    fields = node.fields(required=(), optional=("scaleUp", "scaleDown"))
    return Behavior(
        _rules(fields["scaleUp"], DEFAULT_UP) if "scaleUp" in fields else DEFAULT_UP,
        _rules(fields["scaleDown"], DEFAULT_DOWN) if "scaleDown" in fields else DEFAULT_DOWN,
    )


def _rules(node: ManifestNode, default: Rules) -> Rules:
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


def _policy(node: ManifestNode) -> Policy:
    fields = node.fields(required=("type", "value", "periodSeconds"))
    kind = cast("PolicyType", fields["type"].choice(("Pods", "Percent")))
    return Policy(kind, fields["value"].integer(1), fields["periodSeconds"].integer(1, _MAX_PERIOD))


def _tolerance(node: ManifestNode) -> float:
    value = node.quantity(approximate)
    if value < 0:
        raise node.error("must not be negative")
    return value
