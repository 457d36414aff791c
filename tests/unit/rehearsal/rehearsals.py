"""What the tests of the rehearsal share: manifests and traces as they would be written by hand."""

import json

import yaml

from fraudscale.hpa import read_manifest
from fraudscale.rehearsal.rehearse import rehearse
from fraudscale.rehearsal.trace import decode

CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
}
MEMORY = {
    "type": "Resource",
    "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}},
}
OURS = {
    "scaleUp": {
        "stabilizationWindowSeconds": 60,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    },
}
NERVOUS = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
    },
}


def manifest(least=4, most=6, metrics=(CPU, MEMORY), behavior=OURS):
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "ml-model"},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": list(metrics),
    } | ({} if behavior is None else {"behavior": behavior})
    head = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "ml-model"},
    }
    return yaml.safe_dump(head | {"spec": spec})


def hpa(**fields):
    return read_manifest(manifest(**fields), "hpa.yaml")


def trace(*load, **fields):
    """A trace of (until_s, total_cpu_m) pairs, or of more fields of a segment, with requests as in recorded cases."""
    names = ("until_s", "total_cpu_m", "memory_mi", "metrics_share")
    segments = [dict(zip(names, (*row, 200)[: max(3, len(row))], strict=False)) for row in load]
    head = {"cpu_request_m": 500, "memory_request_mi": 512, "initial_replicas": 4, "pod_ready_after_s": 0}
    return decode("trace.json", json.dumps(head | fields | {"load": segments}).encode())


def rehearsed(load, *, of=None, **fields):
    return rehearse("hpa.yaml", of or hpa(), trace(*load, **fields))


def changes(rehearsal):
    return [(d.at, d.current, d.target) for d in rehearsal.changes]
