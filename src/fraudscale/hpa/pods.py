"""Pods as the controller sees them: classes of pods that are alike, with what they ask for and what they use."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from fraudscale.errors import FraudscaleError
from fraudscale.hpa.spec import Controller

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
Ready = Literal["True", "False", "Unknown"]
PodClass = Literal["ready", "unready", "missing", "ignored", "unlisted"]


class MetricError(FraudscaleError):
    """A metric gives no number of replicas; the text is Kubernetes' own."""


class Container(Struct, frozen=True):
    """A container of a pod: requests and usage by resource, in milli-units; no usage: no sample."""

    name: str
    requests: Mapping[str, int]
    usage: Mapping[str, int] | None = None


class Pods(Struct, frozen=True):
    """`count` pods (at least one) that are alike, each with these containers. A single pod is a class of one.

    What isn't said is that of pods which have long been running and ready. `ready` is the status of the Ready condition
    (None: there is none yet) and `ready_since` when that last changed; `sampled_at` and `window` tell which seconds a
    sample covers. `listed` is False for samples whose pod is gone from the list. `requests` are the pod-level ones.
    `custom` holds values of Pods metrics by `MetricSpec.key`.
    """

    count: int
    containers: tuple[Container, ...]
    name: str = "pod"
    phase: Phase = "Running"
    deleted: bool = False
    ready: Ready | None = "True"
    started: float | None = -math.inf
    ready_since: float = -math.inf
    sampled_at: float = 0
    window: float = 15
    listed: bool = True
    requests: Mapping[str, int] | None = None
    custom: Mapping[str, int] = {}  # a mapping that nobody writes to


class Observed(Struct, frozen=True):
    """What one sync looks at.

    `replicas` is the scale's spec, `status_replicas` its status (None: the same). `values` are the series of Object
    and External metrics, `failures` the errors of the metrics API, both by `MetricSpec.key`.
    """

    replicas: int
    pods: Sequence[Pods]
    status_replicas: int | None = None
    values: Mapping[str, Sequence[int]] = {}
    failures: Mapping[str, str] = {}


def classify(pods: Pods, sampled: bool, is_cpu: bool, now: float, controller: Controller) -> PodClass:
    """Decide how pods count for one metric. Only cpu looks at readiness: CPU burnt while starting says nothing."""
    # In the order of groupPods: a pod that is being deleted doesn't count, even while it reports.
    if not pods.listed:
        return "unlisted"
    if pods.deleted or pods.phase == "Failed":
        return "ignored"
    if pods.phase == "Pending":
        return "unready"
    if not sampled:
        return "missing"
    if is_cpu and _cpu_unready(pods, now, controller):
        return "unready"
    return "ready"


def _cpu_unready(pods: Pods, now: float, controller: Controller) -> bool:
    if pods.ready is None or pods.started is None:
        return True
    # A sample that began before the pod was ready holds the CPU of its start, which says nothing about its
    # load.
    if pods.started + controller.cpu_initialization > now:
        return pods.ready == "False" or pods.sampled_at < pods.ready_since + pods.window
    # Beyond that period only a pod that has never been ready is left out.
    return pods.ready == "False" and pods.started + controller.initial_readiness > pods.ready_since


def usage(pods: Pods, resource: str, container: str = "") -> int | None:
    """What one of the pods uses, milli: all its containers or the one named; None without a whole sample."""
    total, found = 0, False
    for one in pods.containers:
        if container and one.name != container:
            continue
        # A sum without one container is no use of the pod: it would look less busy than it is.
        if one.usage is None or resource not in one.usage:
            return None
        total += one.usage[resource]
        found = True
    return total if found else None


def request(pods: Pods, resource: str, container: str = "") -> int:
    """What one of the pods asks for, milli: all its containers or the one named.

    Raises:
        MetricError: a container without that request, or no container of that name.
    """
    # calculatePodRequests: pod-level requests stand for all containers, and so replace their sum.
    if pods.requests is not None and not container:
        if resource not in pods.requests:
            raise MetricError(f"missing pod-level request for {resource} in Pod {pods.name}")
        return pods.requests[resource]
    total, found = 0, not container
    for one in pods.containers:
        if container and one.name != container:
            continue
        if resource not in one.requests:
            raise MetricError(f"missing request for {resource} in container {one.name} of Pod {pods.name}")
        total += one.requests[resource]
        found = True
    if not found:
        raise MetricError(f"container {container} not found in Pod {pods.name}")
    return total


def ready_and_running(pods: Sequence[Pods]) -> int:
    """Count the pods that multiply an Object or External value.

    Raises:
        MetricError: there are no pods at all.
    """
    listed = [one for one in pods if one.listed]
    if not listed:
        raise MetricError("no pods returned by selector while calculating replica count")
    return sum(one.count for one in listed if one.phase == "Running" and one.ready == "True")
