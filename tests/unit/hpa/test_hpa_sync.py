import msgspec
import pytest
from hpa_cases import controller, manifest, with_bounds

from fraudscale.hpa import (
    KUBERNETES,
    Container,
    Controller,
    Memory,
    MetricSpec,
    MetricTarget,
    Observed,
    Pods,
    read_manifest,
    scale_unavailable,
    sync,
)
from fraudscale.hpa.limit import ScaleEvent
from fraudscale.hpa.replicas import propose
from fraudscale.hpa.status import Condition

CPU = MetricSpec("Resource", "cpu", MetricTarget("Utilization", 70))
AVERAGE = MetricSpec("Resource", "cpu", MetricTarget("AverageValue", 350))
SERVE = MetricSpec("ContainerResource", "cpu", MetricTarget("Utilization", 70), "serve")
POD = MetricSpec("Pods", "qps", MetricTarget("AverageValue", 1000))
LAG = MetricSpec("External", "lag", MetricTarget("Value", 1000))
EACH_LAG = MetricSpec("External", "lag", MetricTarget("AverageValue", 1000))
OBJECT = MetricSpec("Object", "qps", MetricTarget("Value", 1000), described="Ingress/main")
REQUESTS = {"cpu": 500}


def pods(count=4, cpu=400, **more):
    usage = None if cpu is None else {"cpu": cpu}
    return Pods(count, (Container("serve", REQUESTS, usage),), **more)


def hpa(*metrics, low=4, high=6, behavior=None):
    found = read_manifest(manifest(low=max(low, 1), high=high, behavior=behavior), "hpa.yaml")
    return msgspec.structs.replace(with_bounds(found, low, high), metrics=metrics or (CPU,))


def ask(metric, *seen, current=4, status=None, **values):
    scene = Observed(current, seen, status, {metric.key: values["series"]} if "series" in values else {})
    return propose(metric, scene, (0.1, 0.1), 0, Controller())


def test_the_release_that_is_modelled_is_named():
    assert KUBERNETES == "1.36"


@pytest.mark.parametrize(
    ("metric", "seen", "error"),
    [
        (CPU, (pods(cpu=None),), "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"),
        (AVERAGE, (pods(ready=None),), "failed to get cpu usage: did not receive metrics for targeted pods (pods might be unready)"),
        (CPU, (pods(listed=False),), "failed to get cpu utilization: no pods returned by selector while calculating replica count"),
        (CPU, (Pods(1, (Container("a", {}, {"cpu": 1}),)),), "failed to get cpu utilization: missing request for cpu in container a of Pod pod"),
        (CPU, (pods(requests={"memory": 1}),), "failed to get cpu utilization: missing pod-level request for cpu in Pod pod"),
        (SERVE, (Pods(1, (Container("a", REQUESTS, {"cpu": 1}),)), pods()), "failed to get cpu utilization: container serve not found in Pod pod"),
        (POD, (pods(),), "unable to get metric qps: no metrics returned from custom metrics API"),
        (POD, (pods(deleted=True, custom={"Pods/qps": 1}),), "did not receive metrics for targeted pods (pods might be unready)"),
        (LAG, (pods(),), "unable to get metric lag: no metrics returned from external metrics API"),
        (OBJECT, (pods(),), "unable to get metric qps: no metrics returned from custom metrics API"),
    ],
)  # fmt: skip
def test_a_metric_that_fails_says_why_in_the_controllers_words(metric, seen, error):
    proposal = ask(metric, *seen)
    assert (proposal.replicas, proposal.error) == (None, error)


def test_one_pod_without_a_request_breaks_the_metric_even_if_it_has_failed():
    dead = Pods(1, (Container("a", {}),), name="dead", phase="Failed")
    assert ask(CPU, pods(), dead).error.endswith("missing request for cpu in container a of Pod dead")


def test_pod_level_requests_go_before_those_of_containers():
    assert ask(CPU, pods(requests={"cpu": 1000})).value == 40


def test_a_value_without_pods_to_multiply_is_an_error():
    assert ask(LAG, series=[5000]).error == "no pods returned by selector while calculating replica count"


def test_an_average_compares_with_the_pods_that_exist_and_adopts_their_number():
    assert ask(EACH_LAG, current=4, status=5, series=[3000, 2100]).replicas == 5
    assert ask(EACH_LAG, current=4, series=[3000, 3000]).replicas == 6


def test_an_average_over_no_pods_at_all_still_has_an_answer():
    proposal = ask(EACH_LAG, current=4, status=0, series=[2500])
    assert (proposal.replicas, proposal.value) == (3, None)


def test_an_average_value_of_a_resource_needs_no_request():
    proposal = ask(AVERAGE, Pods(4, (Container("a", {}, {"cpu": 700}),)))
    assert (proposal.replicas, proposal.value, proposal.average) == (8, 700, 700)


def test_samples_of_pods_that_have_gone_count_in_an_average():
    assert ask(AVERAGE, pods(1, 100), pods(1, 600, listed=False)).value == 350


def test_pods_without_samples_change_nothing_when_the_rest_is_exactly_on_target():
    assert ask(CPU, pods(2, 350), pods(1, None), current=3).replicas == 3


def test_a_container_of_another_name_is_no_sample():
    two = Pods(2, (Container("other", REQUESTS, {"cpu": 500}), Container("serve", REQUESTS, {"cpu": 350})))
    assert ask(SERVE, two).value == 70


def test_a_failed_metric_stops_a_scale_down_and_says_so():
    scene = Observed(6, [pods(6, 100)])
    decision = sync(hpa(CPU, LAG), Memory(), scene, 0)
    first = "unable to get metric lag: no metrics returned from external metrics API"
    assert [(event.reason, event.message) for event in decision.events] == [
        ("FailedGetExternalMetric", first),
        (
            "FailedComputeMetricsReplicas",
            f"invalid metrics (1 invalid out of 2), first error is: failed to get lag external metric value: {first}",
        ),
    ]
    assert decision.reason == "FailedGetExternalMetric"
    assert decision.message == f"the HPA was unable to compute the replica count: {first}"


def test_a_failed_metric_does_not_stop_a_scale_up():
    decision = sync(hpa(CPU, LAG), Memory(), Observed(4, [pods(4, 500)]), 0)
    assert decision.target == 6
    assert [event.reason for event in decision.events] == ["FailedGetExternalMetric", "SuccessfulRescale"]


def test_a_decision_explains_itself():
    decision = sync(hpa(), Memory(), Observed(4, [pods(4, 700)]), 0)
    assert (decision.want, decision.target, decision.reason) == (8, 6, "TooManyReplicas")
    sentence = "the desired replica count is more than the maximum replica count"
    assert decision.message == f"cpu resource utilization (percentage of request) above target: {sentence}"
    assert decision.limited.message == sentence
    assert decision.stabilised.message == "recommended size matches current size"


def test_a_move_within_all_limits_is_a_success():
    decision = sync(hpa(high=20), Memory(), Observed(4, [pods(4, 500)]), 0)
    assert (decision.target, decision.reason) == (6, "SucceededRescale")
    assert decision.message.endswith("the HPA controller was able to update the target scale to 6")


def test_a_number_that_stays_is_within_range():
    decision = sync(hpa(), Memory(), Observed(4, [pods(4, 350)]), 0)
    assert (decision.reason, decision.why) == ("DesiredWithinRange", "")
    assert decision.message == "the desired count is within the acceptable range"
    assert decision.conditions["ScalingActive"].message.endswith(f"replica count from {CPU.label}")


def test_a_jump_to_a_bound_is_explained_by_its_bound():
    decision = sync(hpa(), Memory(), Observed(9, []), 0)
    assert (decision.reason, decision.message) == (
        "SucceededRescale",
        "Current number of replicas above Spec.MaxReplicas",
    )


def test_at_zero_replicas_the_controller_does_nothing():
    decision = sync(hpa(), Memory(), Observed(0, []), 0)
    assert (decision.target, decision.reason) == (0, "ScalingDisabled")
    assert decision.message == "scaling is disabled since the replica count of the target is zero"


def test_a_boundary_jump_is_stored_and_eats_into_the_allowance():
    behavior = {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}
    memory = Memory()
    assert sync(hpa(behavior=behavior), memory, Observed(2, []), 0).target == 4
    assert memory.ups == [ScaleEvent(2, 0)]
    decision = sync(hpa(behavior=behavior), memory, Observed(4, [pods(4, 500)]), 15)
    assert (decision.target, decision.reason) == (4, "ScaleUpLimit")


def test_what_went_to_zero_by_itself_comes_back_to_the_minimum():
    memory = Memory(conditions={"ScaledToZero": Condition(True, "ScaledToZero", 0)})
    awake = controller({"gates": {"HPAScaleToZero": True}})
    decision = sync(hpa(LAG, behavior={}), memory, Observed(0, [], values={LAG.key: [1500]}), 0, awake)
    assert (decision.want, decision.target) == (2, 4)


def test_a_resource_alone_can_go_to_zero_and_not_come_back():
    memory, awake = Memory([]), Controller(scale_to_zero=True)
    resting = hpa(low=0)
    assert sync(resting, memory, Observed(1, [pods(1, 0)]), 0, awake).target == 0
    assert memory.conditions["ScaledToZero"].reason == "NotScaledToZero"
    assert sync(resting, memory, Observed(0, []), 15, awake).reason == "ScalingDisabled"


def test_a_scale_that_cannot_be_read_is_a_condition_that_the_next_sync_clears():
    memory = Memory()
    condition = scale_unavailable(memory, "status.json is gone", 5)
    assert (condition.status, condition.reason, condition.since) == (False, "FailedGetScale", 5)
    assert (
        condition.message
        == "the HPA controller was unable to get the target's current scale: status.json is gone"
    )
    decision = sync(hpa(), memory, Observed(4, [pods(4, 350)]), 20)
    assert decision.conditions["AbleToScale"] == Condition(True, "ReadyForNewScale", 20)


def test_a_condition_dates_from_the_last_change_of_its_status():
    memory = Memory()
    for now, cpu in ((0, 350), (15, 350), (30, 700)):
        decision = sync(hpa(), memory, Observed(4, [pods(4, cpu)]), now)
    assert decision.conditions["ScalingActive"].since == 0
    assert decision.conditions["ScalingLimited"] == Condition(True, "TooManyReplicas", 30)


def test_the_memory_survives_being_written_and_read():
    memory = Memory()
    steps = hpa(behavior={})
    sync(steps, memory, Observed(4, [pods(4, 500)]), 0)
    again = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
    scene = Observed(6, [pods(6, 100)])
    assert sync(steps, again, scene, 15) == sync(steps, memory, scene, 15)


def test_the_smallest_change_can_be_chosen_in_both_directions():
    policies = [
        {"type": "Pods", "value": 1, "periodSeconds": 60},
        {"type": "Percent", "value": 100, "periodSeconds": 60},
    ]
    rules = {"selectPolicy": "Min", "policies": policies, "stabilizationWindowSeconds": 0}
    careful = hpa(low=1, high=20, behavior={"scaleUp": rules, "scaleDown": rules})
    assert sync(careful, Memory(), Observed(4, [pods(4, 900)]), 0).target == 5
    assert sync(careful, Memory([]), Observed(4, [pods(4, 1)]), 0).target == 3
