"""Manifests as people have them: older versions, several documents, lists, what kubectl prints."""

import json

import pytest
import yaml

from fraudscale.hpa import ManifestError, Policy, read_manifest, read_manifests
from fraudscale.hpa.node import ManifestNode
from fraudscale.hpa.spec import DEFAULT_METRICS, MetricSpec, MetricTarget

CPU = MetricSpec("Resource", "cpu", MetricTarget("Utilization", 60))
CPU_FIELDS = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
}


def hpa(version="v2", name="shop", annotations=None, **spec):
    return {
        "apiVersion": f"autoscaling/{version}",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name} | ({"annotations": annotations} if annotations else {}),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"},
            "maxReplicas": 6,
        }
        | spec,
    }


def read(document):
    return read_manifest(yaml.safe_dump(document), "hpa.yaml")


def annotated(**values):
    names = {f"autoscaling.alpha.kubernetes.io/{name}": json.dumps(value) for name, value in values.items()}
    return read(hpa("v1", annotations=names, targetCPUUtilizationPercentage=60))


def test_the_first_version_has_one_target():
    found = read(hpa("v1", minReplicas=2, targetCPUUtilizationPercentage=60))
    assert (found.min_replicas, found.max_replicas, found.metrics, found.behavior) == (2, 6, (CPU,), None)
    assert read(hpa("v1")).metrics == DEFAULT_METRICS


OLD_METRICS = {
    "utilization": (
        {"type": "Resource", "resource": {"name": "memory", "targetAverageUtilization": 80}},
        MetricSpec("Resource", "memory", MetricTarget("Utilization", 80)),
    ),
    "average": (
        {"type": "Resource", "resource": {"name": "cpu", "targetAverageValue": "300m"}},
        MetricSpec("Resource", "cpu", MetricTarget("AverageValue", 300)),
    ),
    "one container": (
        {
            "type": "ContainerResource",
            "containerResource": {"name": "cpu", "container": "app", "targetAverageUtilization": 70},
        },
        MetricSpec("ContainerResource", "cpu", MetricTarget("Utilization", 70), container="app"),
    ),
    "pods": (
        {"type": "Pods", "pods": {"metricName": "qps", "targetAverageValue": "1k"}},
        MetricSpec("Pods", "qps", MetricTarget("AverageValue", 1_000_000)),
    ),
    "object": (
        {
            "type": "Object",
            "object": {
                "metricName": "qps",
                "target": {"kind": "Ingress", "name": "main"},
                "targetValue": "2k",
            },
        },
        MetricSpec("Object", "qps", MetricTarget("Value", 2_000_000), described="Ingress/main"),
    ),
    "object's average": (
        {
            "type": "Object",
            "object": {
                "metricName": "qps",
                "target": {"kind": "Ingress", "name": "main"},
                "targetValue": "0",
                "averageValue": "5",
            },
        },
        MetricSpec("Object", "qps", MetricTarget("AverageValue", 5000), described="Ingress/main"),
    ),
    "external": (
        {
            "type": "External",
            "external": {
                "metricName": "lag",
                "metricSelector": {"matchLabels": {"Queue": "orders"}},
                "targetValue": "30",
            },
        },
        MetricSpec(
            "External",
            "lag",
            MetricTarget("Value", 30_000),
            selector="&LabelSelector{MatchLabels:map[string]string{Queue: orders,},MatchExpressions:[]LabelSelectorRequirement{},}",
        ),
    ),
}


@pytest.mark.parametrize("kind", OLD_METRICS)
def test_metrics_of_the_versions_before_are_read_where_either_version_keeps_them(kind):
    given, wanted = OLD_METRICS[kind]
    assert read(hpa("v2beta1", metrics=[given])).metrics == (wanted,)
    # The API server puts the field's own CPU target behind those of the annotation.
    assert annotated(metrics=[given]).metrics == (wanted, CPU)


def test_a_second_beta_is_read_as_the_version_that_it_became():
    spec = {"metrics": [CPU_FIELDS], "behavior": {"scaleUp": {"stabilizationWindowSeconds": 30}}}
    assert read(hpa("v2beta2", **spec)) == read(hpa("v2", **spec))


def test_the_behavior_that_the_first_version_keeps_in_an_annotation_is_read():
    rules = {
        "StabilizationWindowSeconds": 300,
        "SelectPolicy": "Min",
        "Policies": [{"Type": "Pods", "Value": 4, "PeriodSeconds": 60}],
        "Tolerance": None,
    }
    down = annotated(behavior={"ScaleDown": rules}).behavior.scale_down
    assert (down.window, down.select_policy, down.policies) == (300, "Min", (Policy("Pods", 4, 60),))


def as_list(kind, version, *items):
    return yaml.safe_dump({"apiVersion": version, "kind": kind, "items": list(items)})


WANTED = hpa(metrics=[CPU_FIELDS])
NAMELESS = {name: value for name, value in WANTED.items() if name not in {"apiVersion", "kind"}}
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"}, "spec": {}}
FROM_A_CLUSTER = WANTED | {
    "metadata": {
        "name": "shop",
        "creationTimestamp": "2026-08-01T09:51:18Z",
        "managedFields": [{"fieldsV1": {"f:spec": {".": {}}}}],
    },
    "status": {"currentReplicas": 1},
}
ODD = [
    {"kind": "AllowList", "metadata": {"name": "a list by its name alone"}},
    {"kind": "Menu", "items": [1]},
]
FILES = {
    "behind a Deployment": yaml.safe_dump_all([DEPLOYMENT, WANTED]),
    "beside what is no List": yaml.safe_dump_all([*ODD, WANTED]),
    "with separators around it": f"---\n{yaml.safe_dump(WANTED)}---\n# no more\n",
    "as a List": as_list("List", "v1", DEPLOYMENT, WANTED),
    "as a list of its kind": as_list("HorizontalPodAutoscalerList", "autoscaling/v2", NAMELESS),
    "as kubectl prints it": yaml.safe_dump(FROM_A_CLUSTER),
    "as JSON": json.dumps(WANTED, indent=4),
    "with carriage returns and a byte order mark": "\ufeff" + yaml.safe_dump(WANTED).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("form", FILES)
def test_the_one_hpa_of_a_file_is_found(form):
    found = read_manifest(FILES[form].encode(), "hpa.yaml")
    assert (found.name, found.max_replicas, found.metrics) == ("shop", 6, (CPU,))


def test_several_are_read_in_their_order_and_are_too_many_where_one_is_wanted():
    text = as_list("List", "v1", hpa(name="a"), hpa(name="b"))
    assert [found.name for found in read_manifests(text, "hpa.yaml")] == ["a", "b"]
    with pytest.raises(
        ManifestError, match="one HorizontalPodAutoscaler is wanted, and there are 2: default/a, default/b"
    ):
        read_manifest(text, "hpa.yaml")


def annotation(name, value):
    return hpa("v1", annotations={f"autoscaling.alpha.kubernetes.io/{name}": value})


METRICS = "metadata.annotations.autoscaling.alpha.kubernetes.io/metrics"
BEHAVIOR = "metadata.annotations.autoscaling.alpha.kubernetes.io/behavior"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (yaml.safe_dump(hpa("v1", metrics=[])), "spec.metrics", "unknown field"),
        (yaml.safe_dump(hpa("v1", targetCPUUtilizationPercentage=0)), "spec.targetCPUUtilizationPercentage", "from 1"),
        (yaml.safe_dump(annotation("metrics", "[{]")), METRICS, "not JSON: Expecting property name"),
        (yaml.safe_dump(annotation("metrics", "{}")), METRICS, "must be a list"),
        (yaml.safe_dump(annotation("metrics", "[" * 100_000)), METRICS, "not JSON: "),
        (yaml.safe_dump(annotation("behavior", "[" * 700 + "]" * 700)), BEHAVIOR, ""),  # too deep or none, by version
        (
            yaml.safe_dump(annotation("metrics", json.dumps([CPU_FIELDS]))),
            f"{METRICS}[0].resource.target",
            "unknown field; there are name, targetAverageUtilization, targetAverageValue",
        ),
        (
            yaml.safe_dump(hpa("v2beta1", metrics=[{"type": "Resource", "resource": {"name": "cpu"}}])),
            "spec.metrics[0].resource",
            "exactly one of targetAverageUtilization, targetAverageValue is wanted",
        ),
        (
            yaml.safe_dump(
                hpa(
                    "v2beta1",
                    metrics=[
                        {"type": "External", "external": {"metricName": "a", "targetValue": 1, "targetAverageValue": 1}}
                    ],
                )
            ),
            "spec.metrics[0].external",
            "exactly one of targetAverageValue, targetValue is wanted",
        ),
        (as_list("List", "v1", hpa(), hpa(maxReplicas=0)), "items[1].spec.maxReplicas", "from 1"),
        (yaml.safe_dump(hpa(maxReplicas=7)).replace("7", "0x" + "f" * 5000), "spec.maxReplicas", "without end"),
    ],
)  # fmt: skip
def test_what_an_older_version_or_a_list_does_not_allow_is_refused_with_its_path(text, path, reason):
    with pytest.raises(ManifestError) as caught:
        read_manifests(text, "hpa.yaml")
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_a_bad_object_of_several_documents_is_told_with_its_number():
    text = yaml.safe_dump_all([DEPLOYMENT, hpa(maxReplicas=0)])
    with pytest.raises(ManifestError, match=r"^hpa\.yaml, document 2: spec\.maxReplicas: must be an integer"):
        read_manifest(text, "hpa.yaml")


def test_of_a_value_without_end_only_the_beginning_is_read():
    """Ten lines of aliases are a list of ten to the power of ten."""

    class Leaf:
        read = 0

        def __repr__(self):
            Leaf.read += 1
            return "x"

    value = Leaf()
    for _ in range(8):
        value = [value] * 3
    with pytest.raises(ManifestError, match=r"must be a mapping, not \[\["):
        ManifestNode("hpa.yaml", "spec", value).mapping()
    assert Leaf.read == 0
