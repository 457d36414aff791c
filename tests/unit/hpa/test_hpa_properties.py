import math

import pytest
from hpa_cases import manifest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from fraudscale.hpa import MEBIBYTE_MILLI, Container, Controller, Memory, Observed, Pods, read_manifest, sync

NOW = 10_000.0
PERIOD = 15
METRICS = [
    {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
    },
    {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}},
    },
]

usages = st.one_of(st.none(), st.integers(0, 3000))
policies = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Pods", "Percent"]),
            "value": st.integers(1, 200),
            "periodSeconds": st.integers(1, 300),
        }
    ),
    min_size=1,
    max_size=3,
)
rules = st.fixed_dictionaries(
    {
        "policies": policies,
        "selectPolicy": st.sampled_from(["Max", "Min", "Disabled"]),
        "stabilizationWindowSeconds": st.integers(0, 400),
    }
)
behaviors = st.one_of(st.none(), st.fixed_dictionaries({}, optional={"scaleUp": rules, "scaleDown": rules}))


@st.composite
def hpas(draw, behavior=behaviors):
    low = draw(st.integers(1, 8))
    high = draw(st.integers(low, 20))
    return read_manifest(manifest(low=low, high=high, metrics=METRICS, behavior=draw(behavior)), "hpa.yaml")


def replicas(count, cpu, **more):
    usage = None if cpu is None else {"cpu": cpu, "memory": 200 * MEBIBYTE_MILLI}
    requests = {"cpu": 500, "memory": 512 * MEBIBYTE_MILLI}
    return Pods(count, (Container("web", requests, usage),), **more)


def run(hpa, memory, count, loads):
    """One decision a load: milli-cores of each pod, None for an outage of the metrics."""
    for tick, cpu in enumerate(loads):
        seen = [replicas(count, cpu)] if count else []
        decision = sync(hpa, memory, Observed(count, seen), NOW + PERIOD * tick)
        count = decision.target
        yield decision


@given(hpas(), st.integers(0, 30), st.lists(usages, min_size=1, max_size=60))
def test_the_scale_is_never_outside_its_bounds_but_for_the_jump_to_them(hpa, start, loads):
    for decision in run(hpa, Memory(), start, loads):
        if hpa.min_replicas <= decision.current <= hpa.max_replicas:
            assert hpa.min_replicas <= decision.target <= hpa.max_replicas
        elif decision.current:
            assert decision.target in {hpa.min_replicas, hpa.max_replicas}
        else:
            assert decision.target == 0


@pytest.mark.parametrize("direction", ["scaleUp", "scaleDown"])
@given(data=st.data())
def test_the_scale_never_moves_faster_than_its_policy(direction, data):
    value, period = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 300))
    policy = {"type": "Pods", "value": value, "periodSeconds": period}
    given_rules = {"policies": [policy], "stabilizationWindowSeconds": data.draw(st.integers(0, 60))}
    hpa = data.draw(hpas(st.just({direction: given_rules})))
    decisions = list(
        run(hpa, Memory(), hpa.min_replicas, data.draw(st.lists(usages, min_size=20, max_size=80)))
    )
    for index, decision in enumerate(decisions):
        before = [d.current for d in decisions[:index] if d.at > decision.at - period]
        start = before[0] if before else decision.current
        if direction == "scaleUp" and decision.target > decision.current:
            assert decision.target <= start + value
        if direction == "scaleDown" and decision.target < decision.current:
            assert decision.target >= start - value


@given(hpas(), st.data(), st.integers(0, 3000), st.integers(0, 3000))
def test_more_load_never_asks_for_fewer_replicas(hpa, data, cpu, more):
    total = data.draw(st.integers(hpa.min_replicas, hpa.max_replicas))
    missing = data.draw(st.integers(0, total - 1))
    unready = data.draw(st.integers(0, total - 1 - missing))
    hpa = structs.replace(hpa, metrics=hpa.metrics[:1])

    def want(usage):
        classes = [replicas(total - missing - unready, usage)]
        classes += [replicas(missing, None)] if missing else []
        classes += [replicas(unready, 900, ready="False", started=NOW)] if unready else []
        return sync(hpa, Memory(), Observed(total, classes), NOW).want

    assert want(cpu) <= want(cpu + more)


@given(hpas(), st.lists(usages, min_size=1, max_size=8), st.integers(1, 20))
def test_a_class_of_pods_counts_as_its_pods_one_by_one(hpa, cpus, count):
    classes = [replicas(count, cpu) for cpu in cpus]
    singles = [replicas(1, cpu) for cpu in cpus for _ in range(count)]
    current = hpa.max_replicas
    decisions = [sync(hpa, Memory(), Observed(current, seen), NOW) for seen in (classes, singles)]
    assert decisions[0] == decisions[1]


@given(hpas(), st.lists(usages, min_size=1, max_size=60))
def test_nothing_moves_down_while_a_metric_is_missing(hpa, loads):
    memory, count = Memory(), hpa.max_replicas
    hpa = structs.replace(hpa, min_replicas=1)
    for tick, cpu in enumerate(loads):
        seen = Observed(count, [replicas(count, cpu)], failures={"Resource/memory": "no such thing"})
        assert sync(hpa, memory, seen, NOW + PERIOD * tick).target >= count


@given(hpas(), st.lists(usages, min_size=1, max_size=80))
def test_the_memory_holds_no_more_than_its_windows(hpa, loads):
    memory = Memory()
    list(run(hpa, memory, hpa.min_replicas, loads))
    window = Controller().downscale_window
    if hpa.behavior:
        window = max(hpa.behavior.scale_up.window, hpa.behavior.scale_down.window or window)
    assert len(memory.recommendations) <= math.ceil(max(window, 300) / PERIOD) + 2


@given(hpas(), st.integers(0, 30), st.lists(usages, min_size=1, max_size=30))
def test_every_tick_has_a_reason_and_a_sentence(hpa, start, loads):
    for decision in run(hpa, Memory(), start, loads):
        assert decision.reason.isalpha()
        assert decision.message
        assert decision.changed == any(event.reason == "SuccessfulRescale" for event in decision.events)
