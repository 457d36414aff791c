import json
from pathlib import Path

import pytest
from hpa_cases import manifest

from fraudscale.hpa import ManifestError, Policy, Rules, read_manifest
from fraudscale.hpa.spec import DEFAULT_DOWN, DEFAULT_METRICS, DEFAULT_UP, MetricTarget

OURS = Path(__file__).parents[3] / "argocd" / "manifests" / "hpa.yaml"
CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
}
AVERAGE = {"type": "AverageValue", "averageValue": "100"}


def test_our_own_manifest_says_what_the_requirement_says():
    hpa = read_manifest(OURS.read_bytes(), OURS.name)
    assert (hpa.namespace, hpa.name, hpa.target.kind, hpa.target.name) == (
        "ml-model",
        "ml-model",
        "Deployment",
        "ml-model",
    )
    assert (hpa.min_replicas, hpa.max_replicas) == (4, 6)
    assert [(m.key, m.target.value) for m in hpa.metrics] == [("Resource/cpu", 70), ("Resource/memory", 80)]
    assert hpa.behavior.scale_up == Rules(60, "Max", (Policy("Pods", 1, 60),))
    assert hpa.behavior.scale_down == Rules(300, "Max", (Policy("Pods", 1, 300),))


def test_what_is_not_given_is_what_the_api_server_would_fill_in():
    text = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a, uid: b}, status: {x: 1}, spec: {scaleTargetRef: {kind: D, name: d}, maxReplicas: 3, behavior: null}}"
    hpa = read_manifest(text, "hpa.yaml")
    assert (hpa.namespace, hpa.min_replicas, hpa.metrics, hpa.behavior) == (
        "default",
        1,
        DEFAULT_METRICS,
        None,
    )
    assert read_manifest(manifest(metrics=[]), "hpa.yaml").metrics == DEFAULT_METRICS


def test_an_empty_behavior_is_not_an_absent_one():
    behavior = read_manifest(manifest(behavior={}), "hpa.yaml").behavior
    assert (behavior.scale_up, behavior.scale_down) == (DEFAULT_UP, DEFAULT_DOWN)


def test_each_direction_may_have_its_tolerance():
    rules = {"tolerance": "0.05", "selectPolicy": "Disabled"}
    behavior = read_manifest(manifest(behavior={"scaleUp": rules}), "hpa.yaml").behavior
    assert (behavior.scale_up.tolerance, behavior.scale_down.tolerance) == (0.05, None)
    assert behavior.scale_up.select_policy == "Disabled"


@pytest.mark.parametrize("said", ["Utilization", "Value", "AverageValue"])
def test_the_field_of_a_target_decides_as_in_the_controller_whatever_its_type_says(said):
    text = resource(type=said, averageValue="300m")
    assert read_manifest(text, "hpa.yaml").metrics[0].target == MetricTarget("AverageValue", 300)


SELECTOR = {
    "matchLabels": {"b": "2", "a": "1"},
    "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["x", "y"]},
        {"key": "d", "operator": "Exists"},
    ],
}
PRINTED = (
    "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:[]LabelSelectorRequirement{"
    "LabelSelectorRequirement{Key:c,Operator:In,Values:[x y],},"
    "LabelSelectorRequirement{Key:d,Operator:Exists,Values:[],},},}"
)
INGRESS = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"}
VALUE = {"type": "Value", "value": "1k"}


@pytest.mark.parametrize(
    ("metric", "key", "label"),
    [
        (CPU, "Resource/cpu", "cpu resource utilization (percentage of request)"),
        (
            {"type": "Resource", "resource": {"name": "cpu", "target": AVERAGE}},
            "Resource/cpu",
            "cpu resource",
        ),
        (
            {"type": "ContainerResource", "containerResource": CPU["resource"] | {"container": "serve"}},
            "ContainerResource/serve/cpu",
            "cpu container resource utilization (percentage of request)",
        ),
        (
            {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": AVERAGE}},
            "Pods/qps",
            "pods metric qps",
        ),
        (
            {
                "type": "Object",
                "object": {"metric": {"name": "qps"}, "describedObject": INGRESS, "target": VALUE},
            },
            "Object/Ingress/main/qps",
            "Ingress metric qps",
        ),
        (
            {
                "type": "Object",
                "object": {"metric": {"name": "qps"}, "describedObject": INGRESS, "target": AVERAGE},
            },
            "Object/Ingress/main/qps",
            "external metric qps(nil)",
        ),
        (
            {
                "type": "External",
                "external": {"metric": {"name": "lag", "selector": SELECTOR}, "target": VALUE},
            },
            f"External/lag/{PRINTED}",
            f"external metric lag({PRINTED})",
        ),
    ],
)
def test_every_type_of_metric_is_read_and_named_as_kubernetes_names_it(metric, key, label):
    [found] = read_manifest(manifest(metrics=[metric]), "hpa.yaml").metrics
    assert (found.key, found.label) == (key, label)


def resource(**target):
    return manifest(metrics=[{"type": "Resource", "resource": {"name": "cpu", "target": target}}])


def up(**rules):
    return manifest(behavior={"scaleUp": rules})


def external(**identifier):
    source = {"metric": {"name": "lag", **identifier}, "target": VALUE}
    return manifest(metrics=[{"type": "External", "external": source}])


def without(*path):
    document = json.loads(manifest(metrics=[CPU]))
    *parents, last = path
    node = document
    for name in parents:
        node = node[name]
    del node[last]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("spec: [", "line 1, column 8", "not valid YAML: expected the node content"),
        ("a: 1\na: 2", "line 2, column 1", "not valid YAML: the key 'a' is there twice"),
        (b"\xff\xfe\xff", "", "not valid YAML"),
        ("[" * 1500, "", "not valid YAML"),
        ("at: 2026-13-45", "", "not valid YAML"),
        ("kind: Deployment\n---\nkind: Service", "", "a HorizontalPodAutoscaler is wanted, and there is Deployment, Service"),
        ("", "", "a HorizontalPodAutoscaler is wanted, and there is nothing"),
        ("{kind: List, items: []}", "", "a HorizontalPodAutoscaler is wanted, and there is nothing"),
        ("{kind: List, items: [{kind: Pod}]}", "", "a HorizontalPodAutoscaler is wanted, and there is Pod"),
        ("{kind: List, items: [1]}", "items[0]", "must be a mapping, not 1"),
        ("apiVersion: v1", "", "kind is required"),
        ("a: {{ .Values.a }}", "line 1, column 5", "a template becomes a manifest by `helm template`"),
        ("- a", "", "must be a mapping"),
        (manifest().replace("autoscaling/v2", "autoscaling/v3"), "apiVersion", "must be autoscaling/v2 or"),
        (manifest().replace("HorizontalPod", "VerticalPod"), "", "wanted, and there is VerticalPodAutoscaler"),
        (without("metadata"), "", "metadata is required"),
        (without("metadata", "name"), "metadata", "name is required"),
        (without("spec", "maxReplicas"), "spec", "maxReplicas is required"),
        (without("spec", "scaleTargetRef", "name"), "spec.scaleTargetRef", "name is required"),
        (manifest(minReplica=4), "spec.minReplica", "unknown field; there are"),
        (manifest(low=0), "spec.minReplicas", "must be an integer from 1 to 2147483647, not 0"),
        (manifest(low=4, high=3), "spec.maxReplicas", "must not be below minReplicas: 3 < 4"),
        (manifest(high=True), "spec.maxReplicas", "must be an integer from 1"),
        (manifest(high="6"), "spec.maxReplicas", "must be an integer from 1"),
        (manifest(metrics={"cpu": 70}), "spec.metrics", "must be a list"),
        (manifest(metrics=[{"type": "Resources"}]), "spec.metrics[0].type", "must be Resource or"),
        (manifest(metrics=[CPU, {"type": "Pods"}]), "spec.metrics[1]", "pods is required for type Pods"),
        (manifest(metrics=[CPU | {"pods": {}}]), "spec.metrics[0].pods", "contradicts type Resource"),
        (without("spec", "metrics", 0, "resource", "target"), "spec.metrics[0].resource", "target is required"),
        (resource(type="Percent", averageValue="1"), "spec.metrics[0].resource.target.type", "must be Utilization or"),
        (
            resource(type="Value", value="1"),
            "spec.metrics[0].resource.target",
            "must have averageUtilization or averageValue, and no other field beside type",
        ),
        (
            resource(type="Utilization", averageUtilization=1, averageValue="1"),
            "spec.metrics[0].resource.target",
            "must have averageUtilization or averageValue, and no other field",
        ),
        (resource(type="Utilization"), "spec.metrics[0].resource.target", "must have averageUtilization or averageValue"),
        (
            manifest(metrics=[{"type": "Object", "object": {"metric": {"name": "qps"}, "describedObject": INGRESS, "target": {"type": "Value", "averageValue": 1}}}]),
            "spec.metrics[0].object.target.averageValue",
            "contradicts type Value, which goes with value",
        ),
        (
            resource(type="Utilization", averageUtilization=0),
            "spec.metrics[0].resource.target.averageUtilization",
            "from 1",
        ),
        (
            resource(type="AverageValue", averageValue="1 core"),
            "spec.metrics[0].resource.target.averageValue",
            "'1 core' is not a quantity",
        ),
        (
            resource(type="AverageValue", averageValue=True),
            "spec.metrics[0].resource.target.averageValue",
            "must be a quantity, not True",
        ),
        (
            resource(type="AverageValue", averageValue=0),
            "spec.metrics[0].resource.target.averageValue",
            "must be positive",
        ),
        (external(name=""), "spec.metrics[0].external.metric.name", "must be a text that is not empty"),
        (
            external(selector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "spec.metrics[0].external.metric.selector.matchExpressions[0]",
            "values are required with In",
        ),
        (manifest(behavior={"scaleUpp": {}}), "spec.behavior.scaleUpp", "unknown field"),
        (up(stabilizationWindowSeconds=3601), "spec.behavior.scaleUp.stabilizationWindowSeconds", "from 0 to 3600"),
        (up(selectPolicy="Most"), "spec.behavior.scaleUp.selectPolicy", "must be Max or Min or Disabled"),
        (up(policies=[]), "spec.behavior.scaleUp.policies", "must have at least one policy"),
        (
            up(policies=[{"type": "Pods", "value": 1, "periodSeconds": 1801}]),
            "spec.behavior.scaleUp.policies[0].periodSeconds",
            "from 1 to 1800",
        ),
        (
            up(policies=[{"type": "Pod", "value": 1, "periodSeconds": 60}]),
            "spec.behavior.scaleUp.policies[0].type",
            "must be Pods or Percent",
        ),
        (up(tolerance="-0.1"), "spec.behavior.scaleUp.tolerance", "must not be negative"),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_refused_with_file_path_and_reason(text, path, reason):
    with pytest.raises(ManifestError) as caught:
        read_manifest(text, "hpa.yaml")
    assert (caught.value.file, caught.value.path) == ("hpa.yaml", path)
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"hpa.yaml: {path}: " if path else "hpa.yaml: ")
    assert "\n" not in str(caught.value)
