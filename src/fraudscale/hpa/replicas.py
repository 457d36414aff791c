"""One metric → a number of replicas; and the largest of all metrics."""

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from fraudscale.hpa.pods import (
    MetricError,
    Observed,
    PodClass,
    Pods,
    classify,
    ready_and_running,
    request,
    usage,
)
from fraudscale.hpa.spec import Controller, Hpa, MetricSpec, MetricTarget, tolerances

_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1
_SUBJECTS: Final = {
    "Resource": "{} resource metric",
    "ContainerResource": "{} container metric",
    "Pods": "pods metric",
    "Object": "object metric",
    "External": "{} external metric",
}
_EMPTY: Final = "no metrics returned from {} metrics API"


class Proposal(Struct, frozen=True):
    """What one metric asks for.

    `value` is what the status reports (percent for Utilization, else milli) and `average` milli per pod, both without
    the guesses for pods that have no sample. `replicas` is None if the metric failed: `error` says why.
    """

    metric: MetricSpec
    replicas: int | None
    value: int | None = None
    average: int | None = None
    error: str = ""

    @property
    def failure(self) -> str:
        """Kubernetes' reason for a failed metric, such as `FailedGetResourceMetric`."""
        if self.metric.type not in _SUBJECTS:
            return "InvalidMetricSourceType"
        return f"FailedGet{self.metric.type}Metric"


class Combined(Struct, frozen=True):
    """The largest proposal and its metric, or `replicas` None where failed metrics stop the sync."""

    proposals: tuple[Proposal, ...]
    replicas: int | None
    winner: MetricSpec | None
    first_failed: Proposal | None
    failed: int

    @property
    def error(self) -> str:
        """Kubernetes' text for a sync that stops."""
        first = f"{_subject(self.first_failed.metric)}{self.first_failed.error}" if self.first_failed else ""
        return (
            f"invalid metrics ({self.failed} invalid out of {len(self.proposals)}), first error is: {first}"
        )


class Tally(Struct):
    """Pods and samples of one metric, summed by class.

    `weight` is what usage is divided by: requests for Utilization, pods for an average. `guess` is the usage that
    missing pods are given when the load seems low.
    """

    ready: int = 0
    samples: int = 0
    used: int = 0
    weight: int = 0
    unready: int = 0
    unready_weight: int = 0
    missing: int = 0
    missing_weight: int = 0
    guess: int = 0


def within(ratio: float, tolerance: tuple[float, float]) -> bool:
    """Tell whether a ratio is close enough to 1, both edges included; `tolerance` is (down, up)."""
    # Tolerances.isWithin compares with both edges; |1 - ratio| <= tolerance rounds another way at them.
    return 1.0 - tolerance[0] <= ratio <= 1.0 + tolerance[1]


def ratio_to_target(target: MetricTarget, used: int, weight: int) -> tuple[float, int]:
    """Compare usage with a target → the ratio, and the value that is reported.

    Percent and averages are truncated before they are compared: 77.9 % is 77 %.

    Raises:
        MetricError: the samples belong to pods that nobody knows.
    """
    if weight == 0:
        raise MetricError("no metrics returned matched known pods")
    # GetResourceUtilizationRatio of metrics/utilization.go: all samples over all requests, not the mean of
    # the pods' ratios.
    value = used * 100 // weight if target.type == "Utilization" else used // weight
    return float(value) / float(target.value), value


def tally(metric: MetricSpec, pods: Sequence[Pods], now: float, controller: Controller) -> Tally:
    """Sort pods into classes for one metric, and sum them up.

    Raises:
        MetricError: no samples, no pods, none that count, or (Utilization) a pod without the request, in this order.
    """
    samples = [_sample(metric, one) for one in pods]
    # A Pods metric may be called cpu, and is none: groupPods gets an empty resource name for it.
    is_cpu = metric.name == "cpu" and metric.type != "Pods"
    classes = [
        classify(one, sample is not None, is_cpu, now, controller)
        for one, sample in zip(pods, samples, strict=True)
    ]
    if "ready" not in classes:
        _require_samples(metric, pods, samples, classes)
    total = Tally()
    for one, sample, kind in zip(pods, samples, classes, strict=True):
        _add(total, metric, one, sample or 0, kind)
    return total


def _sample(metric: MetricSpec, pods: Pods) -> int | None:
    if metric.type == "Pods":
        return pods.custom.get(metric.key)
    return usage(pods, metric.name, metric.container)


def _require_samples(
    metric: MetricSpec, pods: Sequence[Pods], samples: Sequence[int | None], classes: Sequence[PodClass]
) -> None:
    if metric.type == "Pods":
        if all(sample is None for sample in samples):
            raise MetricError(f"unable to get metric {metric.name}: {_EMPTY.format('custom')}")
    elif all(container.usage is None for one in pods for container in one.containers):
        # Samples that lack this resource are still an answer of the API.
        raise MetricError(f"unable to get metrics for resource {metric.name}: {_EMPTY.format('resource')}")
    if not any(one.listed for one in pods):
        raise MetricError("no pods returned by selector while calculating replica count")
    if "unlisted" not in classes:
        raise MetricError("did not receive metrics for targeted pods (pods might be unready)")


def _add(total: Tally, metric: MetricSpec, pods: Pods, sample: int, kind: PodClass) -> None:
    count, target = pods.count, metric.target
    if target.type == "Utilization":
        if kind == "unlisted":
            # Without a request it is no part of the ratio, and yet one of the samples that multiply it.
            total.samples += count
            return
        # A request that lacks breaks the metric, whatever the pod's class.
        weight = request(pods, metric.name, metric.container)
        # All that it requests; with a target above 100 % as much as the target, or a lack of samples would
        # remove pods.
        guess = weight * max(100, target.value) // 100
    else:
        weight, guess = 1, target.value
    if kind in {"ready", "unlisted"}:
        total.ready += count if kind == "ready" else 0
        total.samples += count
        total.used += count * sample
        total.weight += count * weight
    elif kind == "unready":
        total.unready += count
        total.unready_weight += count * weight
    elif kind == "missing":
        total.missing += count
        total.missing_weight += count * weight
        total.guess += count * guess


def replicas_for(
    target: MetricTarget, total: Tally, ratio: float, current: int, tolerance: tuple[float, float]
) -> int:
    """Turn a tally into a number of replicas, with the cautious guesses for pods that can't be measured.

    Args:
        target: of the metric.
        total: its pods.
        ratio: of what was measured to the target.
        current: replicas that the scale's spec asks for now.
        tolerance: (down, up), as fractions.
    """
    # GetResourceReplicas and calcPlainMetricReplicas in one: they differ only in what they report.
    if not total.missing and not (total.unready and ratio > 1.0):
        # Ready pods and not the scale's spec are multiplied: they carried the load that was measured.
        return current if within(ratio, tolerance) else math.ceil(ratio * total.ready)
    used, weight, samples = total.used, total.weight, total.samples
    if ratio < 1.0:
        # Would go down: pods without a sample are taken as fully used.
        used, weight, samples = used + total.guess, weight + total.missing_weight, samples + total.missing
    elif ratio > 1.0:
        # Would go up: pods without a sample, and pods that start, are taken as idle.
        weight += total.missing_weight + total.unready_weight
        samples += total.missing + total.unready
    # The ratio is taken anew with the guesses. They may stop a move, and never turn it round: pods that can't
    # be measured are no reason to go the other way.
    guessed, _ = ratio_to_target(target, used, weight)
    if within(guessed, tolerance) or ratio < 1.0 < guessed or guessed < 1.0 < ratio:
        return current
    wanted = math.ceil(guessed * samples)
    return max(wanted, current) if guessed > 1.0 else min(wanted, current)


def replicas_for_value(
    metric: MetricSpec, series: Sequence[int], observed: Observed, tolerance: tuple[float, float]
) -> tuple[int, int | None]:
    """Turn an Object's value, or the sum of external series, into a number of replicas → that, and what is reported.

    Raises:
        MetricError: there are no pods to multiply.
    """
    total, target = min(sum(series), _INT64_MAX), float(metric.target.value)
    if metric.target.type == "Value":
        return _by_ratio(float(total) / target, observed, tolerance), total
    # The only place where the number of pods that exist, not the one asked for, decides.
    replicas = observed.replicas if observed.status_replicas is None else observed.status_replicas
    # Nothing to divide by: the value alone says how many pods wake up.
    if replicas == 0:
        return _ceil(float(total) / target), None
    average = math.ceil(float(total) / float(replicas))
    if within(float(total) / (target * float(replicas)), tolerance):
        return replicas, average
    return _ceil(float(total) / target), average


def _by_ratio(ratio: float, observed: Observed, tolerance: tuple[float, float]) -> int:
    if observed.replicas == 0:
        return _ceil(ratio)
    if within(ratio, tolerance):
        return observed.replicas
    # getUsageRatioReplicaCount: pods that are not ready don't share the value.
    return _ceil(ratio * float(ready_and_running(observed.pods)))


def _ceil(value: float) -> int:
    return min(math.ceil(value), _INT32_MAX)


def propose(
    metric: MetricSpec, observed: Observed, tolerance: tuple[float, float], now: float, controller: Controller
) -> Proposal:
    """Ask one metric for a number of replicas; a failure is an answer too.

    Args:
        metric: which.
        observed: pods and values.
        tolerance: (down, up), as fractions.
        now: seconds, on the clock of the pods' times.
        controller: flags.
    """
    if observed.failures and (failure := observed.failures.get(metric.key)) is not None:
        return Proposal(metric, None, error=f"{_action(metric)}{failure}")
    if metric.type not in _SUBJECTS:
        # A newer API server may know more; the manifests that we read ourselves have none of them.
        return Proposal(metric, None, error=f'unknown metric source type "{metric.type}"')
    try:
        if metric.type in {"Object", "External"}:
            return _from_series(metric, observed, tolerance)
        total = tally(metric, observed.pods, now, controller)
        ratio, value = ratio_to_target(metric.target, total.used, total.weight)
        replicas = replicas_for(metric.target, total, ratio, observed.replicas, tolerance)
    except MetricError as error:
        return Proposal(metric, None, error=f"{_action(metric)}{error}")
    average = total.used // total.ready if metric.target.type == "Utilization" else value
    return Proposal(metric, replicas, value, average)


def _action(metric: MetricSpec) -> str:
    """How the controller begins the error of a metric."""
    if metric.type not in {"Resource", "ContainerResource"}:
        return ""
    return (
        f"failed to get {metric.name} {'utilization' if metric.target.type == 'Utilization' else 'usage'}: "
    )


def _subject(metric: MetricSpec) -> str:
    """How it continues "first error is:" when that metric stops the sync."""
    if metric.type not in _SUBJECTS:
        return ""
    return f"failed to get {_SUBJECTS[metric.type].format(metric.name)} value: "


def _from_series(metric: MetricSpec, observed: Observed, tolerance: tuple[float, float]) -> Proposal:
    series = observed.values.get(metric.key)
    if not series:
        api = "external" if metric.type == "External" else "custom"
        raise MetricError(f"unable to get metric {metric.name}: {_EMPTY.format(api)}")
    replicas, reported = replicas_for_value(metric, series, observed, tolerance)
    return Proposal(metric, replicas, reported, reported if metric.target.type == "AverageValue" else None)


def combine(hpa: Hpa, observed: Observed, now: float, controller: Controller) -> Combined:
    """Ask every metric, and take the largest answer.

    A failed metric stops the sync if the others would scale down, for it might have wanted more.
    """
    tolerance = tolerances(hpa, controller)
    proposals = tuple([propose(metric, observed, tolerance, now, controller) for metric in hpa.metrics])
    best, winner, first_failed, failed = 0, None, None, 0
    for proposal in proposals:
        if proposal.replicas is None:
            first_failed, failed = first_failed or proposal, failed + 1
        # The first of equal answers wins, but the last of zeros: the controller begins its maximum at 0.
        elif best == 0 or proposal.replicas > best:
            best, winner = proposal.replicas, proposal.metric
    # computeReplicasForMetrics: with a metric unknown it may add pods, but not remove them.
    stopped = failed == len(proposals) or (failed > 0 and best < observed.replicas)
    return Combined(proposals, None if stopped else best, winner, first_failed, failed)
