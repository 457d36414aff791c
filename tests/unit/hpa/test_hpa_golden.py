import pytest
from hpa_cases import (
    NOW,
    Plant,
    behavior,
    controller,
    golden,
    hpa,
    memory,
    metric,
    observed,
    pods,
    recommendations,
    scalings,
    tolerance,
)

from fraudscale.hpa import Controller, Memory, MetricTarget, Observed, Policy, Rules, sync
from fraudscale.hpa.limit import changed, limit, limit_down, limit_plain, record
from fraudscale.hpa.pods import MetricError, classify, request, usage
from fraudscale.hpa.replicas import propose, ratio_to_target, within
from fraudscale.hpa.spec import DEFAULT_UP, Behavior
from fraudscale.hpa.stabilise import remember, stabilise, stabilise_plain
from fraudscale.hpa.sync import windows


def each(*kinds):
    cases = [case for kind in kinds for case in golden(kind)]
    return pytest.mark.parametrize(
        ("given", "expected"), [pytest.param(c["input"], c["expected"], id=c["name"]) for c in cases]
    )


@each("utilization", "metric")
def test_a_metric_proposes_what_the_controller_proposes(given, expected):
    wanted = metric(given["metric"])
    values = {wanted.key: given["metric"].get("values", [])}
    scene = Observed(given["current_replicas"], pods(given), given.get("status_replicas"), values)
    proposal = propose(wanted, scene, tolerance(given), NOW, controller(given))
    assert proposal.replicas == expected.get("replicas")
    assert expected.get("error", "") in proposal.error
    reported = {"utilization": proposal.value, "usage": proposal.value, "raw_average": proposal.average}
    assert {**reported, **expected} == {**expected, **reported}


@each("ratio")
def test_a_ratio_is_truncated_before_it_is_divided(given, expected):
    known = {
        name: value
        for name, value in given["values"].items()
        if name in given.get("requests", given["values"])
    }
    weight = sum(given["requests"][name] for name in known) if "requests" in given else len(known)
    kind = "Utilization" if "requests" in given else "AverageValue"
    target = MetricTarget(kind, given.get("target_utilization") or given["target_milli"])
    ratio, value = ratio_to_target(target, sum(known.values()), weight)
    assert (ratio, value) == (expected["ratio"], expected.get("utilization", expected.get("usage")))
    assert sum(known.values()) // len(known) == expected.get("raw_average", value)


@each("tolerance")
def test_the_edges_of_the_tolerance_are_inside(given, expected):
    assert within(given["utilization"] / given["target_utilization"], tolerance(given)) is expected["within"]


@each("requests")
def test_requests_are_those_of_all_containers(given, expected):
    [pod] = pods(given)
    if "error" in expected:
        with pytest.raises(MetricError, match=expected["error"]):
            request(pod, given["resource"])
    else:
        assert {pod.name: request(pod, given["resource"])} == expected["requests"]


@each("group_pods")
def test_pods_are_classed_as_the_controller_does(given, expected):
    found = {"ready": [], "unready": [], "missing": [], "ignored": []}
    for pod in pods(given):
        sampled = usage(pod, given["resource"]) is not None
        found[classify(pod, sampled, given["resource"] == "cpu", NOW, controller(given))].append(pod.name)
    assert {**found, "ready": len(found["ready"])} == expected


@each("stabilization")
def test_recommendations_are_stabilised_and_remembered(given, expected):
    log, desired = recommendations(given["recommendations"]), given["desired"]
    if given["mode"] == "plain":
        window = given["window_s"]
        stage = stabilise_plain(desired, log, window=window, now=NOW)
    else:
        up, down = given["up_window_s"], given["down_window_s"]
        window = max(up, down)
        stage = stabilise(desired, given["current_replicas"], log, up_window=up, down_window=down, now=NOW)
    remember(log, desired, window=window, now=NOW)
    values = [value for value, _ in log]
    found = {"replicas": stage.value, "reason": stage.reason, "log": values, "log_length": len(log)}
    assert {**found, **expected} == found


@each("rate")
def test_a_move_is_limited_as_the_policies_say(given, expected):
    current, ups, downs = (
        given["current_replicas"],
        scalings(given.get("up_events", [])),
        scalings(given.get("down_events", [])),
    )
    if given["mode"] == "limit":
        assert (
            limit_down(current, behavior(given["behavior"]).scale_down, ups, downs, NOW) == expected["limit"]
        )
        return
    bounds = {"low": given["min"], "high": given["max"]}
    if given["mode"] == "plain":
        stage = limit_plain(given["desired"], current, **bounds)
    else:
        stage = limit(given["desired"], current, behavior(given["behavior"]), ups, downs, **bounds, now=NOW)
    assert (stage.value, stage.reason) == (expected["replicas"], expected["reason"])


@each("store_event")
def test_a_change_of_scale_is_noted_in_the_place_of_an_outdated_one(given, expected):
    events = scalings(given["events"])
    assert changed(events, given["query_period_s"], NOW) == expected["change_in_period"]
    if given["policies"] is not None:
        policies = tuple(Policy(p["type"], p["value"], p["periodSeconds"]) for p in given["policies"])
        rules = Behavior(DEFAULT_UP, Rules(None, "Max", policies))
        record(rules, [], events, before=10, after=10 - given["change"], now=NOW)
    assert [[event.change, event.outdated] for event in events] == expected["events"]


@each("defaults")
def test_behavior_is_completed_as_the_api_server_does(given, expected):
    found = behavior(given["behavior"])
    if found is None:
        assert expected["behavior"] is None
        return
    up, down = windows(found, Controller())
    assert {"scaleUp": rules(found.scale_up, up), "scaleDown": rules(found.scale_down, down)} == expected[
        "behavior"
    ]


def rules(found, window):
    policies = [{"type": p.type, "value": p.value, "periodSeconds": p.period} for p in found.policies]
    return {"stabilizationWindowSeconds": window, "selectPolicy": found.select_policy, "policies": policies}


@each("reconcile", "multi_metric")
def test_a_sync_ends_as_the_controllers_does(given, expected):
    wanted = hpa(given["spec"])
    decision = sync(wanted, memory(given), observed(given, wanted), NOW, controller(given))
    assert decision.target == expected["replicas"]
    for name, condition in expected["conditions"].items():
        found = decision.conditions.get(name)
        assert (found and [found.status, found.reason]) == condition, name
    found = {
        "desired_metric": decision.want,
        "stabilized": decision.stabilised.value if decision.stabilised else None,
        "utilization": [proposal.value for proposal in decision.proposals],
    }
    assert found | {name: expected[name] for name in found if name in expected} == found
    assert_events(decision.events, expected.get("events"))


def assert_events(events, expected):
    for event, line in zip(events, expected or [], strict=expected is not None):
        assert f"{event.type} {event.reason} {event.message}".startswith(line)


@each("full_trace")
def test_a_whole_trace_goes_as_the_controllers_does(given, expected):
    assert run(given) == expected["ticks"]


def run(given):
    wanted, kept, plant = hpa(given["spec"]), Memory(), given["plant"]
    simulated = Plant(
        given["initial_replicas"],
        cpu_request_m=plant["cpu_request_m"],
        memory_request_milli=plant["memory_request_bytes"] * 1000,
        ready_delay_s=plant["ready_delay_s"],
        metrics_delay_s=plant["metrics_delay_s"],
        startup_cpu_m=plant.get("startup_cpu_m", 0),
    )
    manual = {one["at_s"]: one["replicas"] for one in given.get("manual", [])}
    ticks = []
    for now in range(0, given["until_s"] + 1, given["sync_period_s"]):
        if now in manual:
            simulated.scale(manual[now], now)
        load = [one for one in given["series"] if one["from_s"] <= now][-1]
        scene = {
            "spec_replicas": len(simulated.born),
            "pods": [],
            "unavailable": load.get("unavailable", []),
        }
        seen = observed(scene, wanted)
        running = simulated.pods(now, load["cpu_total_m"], load["memory_per_pod_bytes"] * 1000)
        decision = sync(wanted, kept, Observed(seen.replicas, running, failures=seen.failures), now)
        simulated.scale(decision.target, now)
        ticks.append(tick(decision))
    return ticks


def tick(decision):
    def reason(name):
        return decision.conditions[name].reason if name in decision.conditions else None

    told = {
        "t": decision.at,
        "replicas": decision.target,
        "desired_metric": decision.want,
        "stabilized": decision.stabilised.value if decision.stabilised else None,
        "utilization": [proposal.value for proposal in decision.proposals],
        "able": reason("AbleToScale"),
        "limited": reason("ScalingLimited"),
        "active": reason("ScalingActive"),
    }
    rescale = [f"{e.type} {e.reason} {e.message}" for e in decision.events if e.reason == "SuccessfulRescale"]
    return told | ({"rescale": rescale} if rescale else {})
