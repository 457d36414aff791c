"""The HorizontalPodAutoscaler of Kubernetes 1.36 without a cluster: `sync(hpa, memory, observed, now)` → a decision.

Pure: no clock, no files, no processes. The controller's sources are pkg/controller/podautoscaler/horizontal.go and
replica_calculator.go; its own tests are among ours. A stage a module, in the order of a sync:

    objects     text → the objects of a kind
    manifest    such an object → spec's records, or ManifestError
    pods        pod classes, requests, usage
    replicas    each metric → a number of replicas; the largest wins
    stabilise   recommendations of the windows must agree
    limit       rate policies with both histories, minReplicas, maxReplicas
    status      conditions, events, messages
    sync        all of it, once
"""

from fraudscale.hpa.manifest import read_manifest, read_manifests
from fraudscale.hpa.node import ManifestError
from fraudscale.hpa.pods import Container, Observed, Pods
from fraudscale.hpa.quantity import milli
from fraudscale.hpa.replicas import Proposal
from fraudscale.hpa.spec import (
    KUBERNETES,
    MEBIBYTE_MILLI,
    Behavior,
    Controller,
    Hpa,
    MetricSpec,
    MetricTarget,
    Policy,
    Reference,
    Rules,
)
from fraudscale.hpa.status import Condition, DesiredReplicas, RecordedEvent
from fraudscale.hpa.sync import Memory, ScalingDecision, scale_unavailable, sync

__all__ = [
    "KUBERNETES",
    "MEBIBYTE_MILLI",
    "Behavior",
    "Condition",
    "Container",
    "Controller",
    "DesiredReplicas",
    "Hpa",
    "ManifestError",
    "Memory",
    "MetricSpec",
    "MetricTarget",
    "Observed",
    "Pods",
    "Policy",
    "Proposal",
    "RecordedEvent",
    "Reference",
    "Rules",
    "ScalingDecision",
    "milli",
    "read_manifest",
    "read_manifests",
    "scale_unavailable",
    "sync",
]
