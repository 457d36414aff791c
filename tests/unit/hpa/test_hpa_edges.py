import pytest
from hpa_cases import NOW, manifest

from fraudscale.hpa import (
    Container,
    Controller,
    Memory,
    MetricSpec,
    MetricTarget,
    Observed,
    Pods,
    read_manifest,
    sync,
)
from fraudscale.hpa.limit import ScaleEvent, limit_plain, record
from fraudscale.hpa.pods import classify, ready_and_running
from fraudscale.hpa.replicas import combine, propose, within
from fraudscale.hpa.spec import Hpa, Reference
from fraudscale.hpa.status import Condition

CPU = MetricSpec("Resource", "cpu", MetricTarget("Utilization", 70))
MEMORY = MetricSpec("Resource", "memory", MetricTarget("Utilization", 70))
LAG = MetricSpec("External", "lag", MetricTarget("Value", 1000))


def pods(count, cpu, **more):
    requests = {"cpu": 500, "memory": 500}
    return Pods(count, (Container("a", requests, {"cpu": cpu, "memory": cpu}),), **more)


def hpa(*metrics, low=1, behavior=None):
    return Hpa("a", "b", Reference("", "Deployment", "a"), low, 20, metrics, behavior)


@pytest.mark.parametrize(("ratio", "expected"), [(0.9, True), (1.1, True), (0.899, False), (1.101, False)])
def test_both_edges_of_the_tolerance_are_inside(ratio, expected):
    assert within(ratio, (0.1, 0.1)) is expected


def test_a_high_load_on_a_few_counted_pods_never_scales_down():
    seen = Observed(10, [pods(2, 600), pods(1, 0, ready="False", started=NOW)])
    assert propose(CPU, seen, (0.1, 0.1), NOW, Controller()).replicas == 10


def test_a_failed_metric_does_not_stop_a_sync_that_stays():
    decision = sync(hpa(CPU, LAG), Memory(), Observed(4, [pods(4, 350)]), NOW)
    assert (decision.want, decision.conditions["ScalingActive"].reason) == (4, "ValidMetricFound")


def test_of_two_equal_proposals_the_first_gives_its_name():
    combined = combine(hpa(CPU, MEMORY), Observed(4, [pods(4, 500)]), NOW, Controller())
    assert (combined.replicas, combined.winner) == (6, CPU)


def test_of_proposals_that_are_all_zero_the_last_gives_its_name():
    combined = combine(hpa(CPU, MEMORY), Observed(4, [pods(4, 0)]), NOW, Controller())
    assert (combined.replicas, combined.winner) == (0, MEMORY)


def test_a_pods_metric_never_looks_at_readiness_even_if_it_is_called_cpu():
    metric = MetricSpec("Pods", "cpu", MetricTarget("AverageValue", 1000))
    young = pods(2, 0, ready="False", started=NOW, custom={"Pods/cpu": 3000})
    assert propose(metric, Observed(2, [young]), (0.1, 0.1), NOW, Controller()).replicas == 6


def test_a_pod_that_became_ready_exactly_at_the_delay_has_been_ready():
    pod = pods(1, 0, ready="False", started=NOW - 400, ready_since=NOW - 370)
    assert classify(pod, True, True, NOW, Controller()) == "ready"


def test_only_running_and_ready_pods_multiply_a_value():
    seen = [pods(1, 0), pods(2, 0, phase="Pending"), pods(4, 0, ready="Unknown"), pods(8, 0, listed=False)]
    assert ready_and_running(seen) == 1


def test_a_change_exactly_one_period_old_keeps_its_place():
    behavior = read_manifest(manifest(behavior={}), "hpa.yaml").behavior
    ups = [ScaleEvent(1, NOW - 15)]
    record(behavior, ups, [], before=4, after=6, now=NOW)
    assert ups == [ScaleEvent(1, NOW - 15), ScaleEvent(2, NOW)]


def test_a_change_once_outdated_gives_its_place_even_if_the_period_grows():
    behavior = read_manifest(manifest(behavior={}), "hpa.yaml").behavior
    ups = [ScaleEvent(1, NOW - 10, outdated=True)]
    record(behavior, ups, [], before=4, after=6, now=NOW)
    assert ups == [ScaleEvent(2, NOW)]


@pytest.mark.parametrize(("current", "expected"), [(1, 4), (2, 4), (3, 6)])
def test_without_behavior_the_scale_doubles_at_most_but_may_always_reach_four(current, expected):
    stage = limit_plain(15, current, low=1, high=20)
    assert (stage.value, stage.reason) == (expected, "ScaleUpLimit")


def test_a_recommendation_is_kept_as_long_as_the_longer_window_wants_it():
    rules = {"scaleUp": {"stabilizationWindowSeconds": 400}, "scaleDown": {"stabilizationWindowSeconds": 0}}
    slow = hpa(CPU, behavior=read_manifest(manifest(behavior=rules), "hpa.yaml").behavior)
    memory = Memory([])
    sync(slow, memory, Observed(4, [pods(4, 350)]), NOW)
    targets = [sync(slow, memory, Observed(4, [pods(4, 700)]), NOW + t).target for t in range(40, 401, 40)]
    assert targets == [4] * 9 + [8]


def test_what_went_to_zero_looks_at_its_metrics_again_when_its_minimum_was_raised():
    memory = Memory(conditions={"ScaledToZero": Condition(True, "ScaledToZero", 0)})
    decision = sync(hpa(CPU, low=2), memory, Observed(0, []), NOW, Controller(scale_to_zero=True))
    assert (decision.target, decision.reason) == (0, "FailedGetResourceMetric")
