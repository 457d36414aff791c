"""A rehearsal decides what the controller decided, and the simulated Deployment is what hpa.yaml's pods would be."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rehearsals import CPU, NERVOUS, changes, hpa, rehearsed, trace

from fraudscale.hpa import MEBIBYTE_MILLI, Container, Memory, Observed, Pods, sync
from fraudscale.rehearsal.deployment import Deployment
from fraudscale.rehearsal.rehearse import rehearse, whole

DATA = Path(__file__).parents[1] / "hpa" / "data"
RECORDED = json.loads((DATA / "recorded.json").read_text())
GOLDEN = {
    case["name"]: case
    for case in json.loads((DATA / "golden.json").read_text())["cases"]
    # Manual changes, outages of one metric and CPU of starting pods are beyond what a trace says.
    if case["kind"] == "full_trace" and case["name"][7] in "MEJFBD"
}


@pytest.mark.parametrize("name", RECORDED["cases"])
def test_a_real_controller_did_the_same_within_a_tick(name):
    case = RECORDED["cases"][name]
    of = hpa(least=case["min"], most=case["max"], metrics=case["metrics"], behavior=case["behavior"])
    found = rehearsed(case["load"], of=of, initial_replicas=case["initial_replicas"], pod_ready_after_s=1)
    expected = case["changes"]
    assert [(c[1], c[2]) for c in changes(found)] == [(c["from"], c["to"]) for c in expected]
    # A live controller's first tick comes up to 15 s after the HPA was made; then at most one tick lies between.
    late = [c["t"] - at for c, (at, _, _) in zip(expected, changes(found), strict=True)]
    assert all(-15 <= seconds <= 15 + 15 for seconds in late)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_traces_are_decided_tick_by_tick(name):
    case = GOLDEN[name]["input"]
    found = rehearse("golden", _golden_hpa(case["spec"]), _golden_trace(case))
    ticks = {d.at: d for d in found.decisions}
    for expected in GOLDEN[name]["expected"]["ticks"]:
        decision = ticks[expected["t"]]
        assert decision.target == expected["replicas"]
        assert decision.want == expected["desired_metric"]
        assert [p.value for p in decision.proposals] == expected["utilization"]


def _golden_hpa(spec):
    def metric(m):
        target = {"type": "Utilization", "averageUtilization": m["target_utilization"]}
        return {"type": "Resource", "resource": {"name": m["name"], "target": target}}

    return hpa(
        least=spec["min"],
        most=spec["max"],
        metrics=[metric(m) for m in spec["metrics"]],
        behavior=spec.get("behavior"),
    )


def _golden_trace(case):
    ends = [s["from_s"] for s in case["series"][1:]] + [case["until_s"] + case["sync_period_s"]]
    return trace(
        *(
            (end, s["cpu_total_m"], s["memory_per_pod_bytes"] / 2**20)
            for end, s in zip(ends, case["series"], strict=True)
        ),
        cpu_request_m=case["plant"]["cpu_request_m"],
        memory_request_mi=case["plant"]["memory_request_bytes"] / 2**20,
        initial_replicas=case["initial_replicas"],
        pod_ready_after_s=case["plant"]["ready_delay_s"],
    )


def test_a_week_has_as_many_decisions_as_ticks():
    found = rehearsed([(600, 1000)], sync_period_s=15)
    assert [d.at for d in found.decisions] == list(range(0, 600, 15))


def test_a_segment_begins_at_the_second_at_which_the_one_before_ends():
    found = rehearsed([(90, 1000), (180, 2000)])
    shown = {d.at: d.proposals[0].value for d in found.decisions}
    assert (shown[75], shown[90]) == (50, 100)


def test_the_share_of_a_pod_is_rounded_down():
    assert rehearsed([(60, 1403)]).decisions[0].proposals[0].average == 350


def test_a_change_of_the_pods_that_report_is_seen_at_its_tick():
    found = rehearsed([(60, 2200), (120, 2200, 200, 0.0)])
    assert [d.want is None for d in found.decisions] == [False] * 4 + [True] * 4


def test_without_initial_replicas_it_starts_with_the_least():
    assert rehearsed([(60, 1000)], initial_replicas=None).initial_replicas == 4


def test_metrics_that_are_late_delay_the_step_by_as_much():
    load = [(90, 1000), (600, 2200)]
    assert changes(rehearsed(load))[0] == (135, 4, 5)
    assert changes(rehearsed(load, metrics_delay_s=30))[0] == (165, 4, 5)


def test_a_pod_that_is_not_ready_takes_no_load_and_is_not_counted():
    # 2200m on four ready pods while the fifth starts for 200 s: 110 % for all that time.
    found = rehearsed([(400, 2200)], pod_ready_after_s=200)
    at = {d.at: d.proposals[0].value for d in found.decisions}
    assert changes(found)[0] == (60, 4, 5)
    assert at[255] == 110
    assert at[285] == 88


def test_pods_without_metrics_hold_the_fleet_up():
    assert changes(rehearsed([(60, 2200), (900, 1000)], initial_replicas=6)) == [(345, 6, 5), (645, 5, 4)]
    # A pod that reports nothing counts as if it used all that it requests.
    load = [(60, 2200), (900, 1000, 200, 0.5)]
    assert changes(rehearsed(load, initial_replicas=6)) == []


def test_without_any_metrics_nothing_is_decided():
    found = rehearsed([(300, 3000, 200, 0.0)])
    assert not found.changes
    assert all(d.want is None for d in found.decisions)


def test_surplus_pods_go_before_old_ones_and_never_serve():
    deployment = Deployment(trace((600, 2200), pod_ready_after_s=60), 4)
    deployment.scale(6, 0)
    deployment.scale(5, 15)
    deployment.observe(60)
    assert sum(change for t, change in deployment.steps if t <= 59) == 4
    assert sum(change for t, change in deployment.steps if t <= 60) == 5
    assert deployment.observe(60).pods[0].count == 4


class Naive:
    """A Deployment pod by pod, without anything clever: what the fast one is compared with."""

    def __init__(self, given, replicas):
        self.trace = given
        self.pods = [(-86_400.0, -86_400.0)] * replicas
        self.gone = []

    def observe(self, t):
        at = t - self.trace.metrics_delay_s
        segment = next(s for s in self.trace.load if s.until_s > at)
        gone = [ready for ready, until in self.gone if ready <= at < until]
        ready = sum(r <= at for _, r in self.pods) + len(gone)
        share = int(segment.total_cpu_m // ready) if ready else 0
        reporting = round(segment.metrics_share * len(self.pods))
        return Observed(
            len(self.pods),
            [self.pod(i < reporting, pod, segment, share, t) for i, pod in enumerate(self.pods)],
        )

    def pod(self, reports, pod, segment, share, t):
        created, ready = pod
        at = t - self.trace.metrics_delay_s
        usage = {"cpu": share if ready <= at else 0, "memory": int(segment.memory_mi * MEBIBYTE_MILLI)}
        requests = {"cpu": 500, "memory": 512 * MEBIBYTE_MILLI}
        return Pods(
            1,
            (Container("pod", requests, usage if reports and created <= at else None),),
            ready="True" if ready <= t else "False",
            started=created,
            ready_since=ready if ready <= t else created,
            sampled_at=at,
        )

    def scale(self, to, t):
        while len(self.pods) > to:
            self.gone.append((self.pods.pop()[1], t))
        self.pods += [(t, t + self.trace.pod_ready_after_s)] * (to - len(self.pods))


LOADS = st.lists(
    st.tuples(
        st.integers(1, 300),
        st.integers(0, 6000),
        st.sampled_from([100, 200, 420, 500]),
        st.sampled_from([1, 1, 1, 0.5, 0.8, 0]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(
    LOADS,
    st.sampled_from([0, 1, 10, 40, 320]),
    st.sampled_from([0, 7, 15, 60]),
    st.sampled_from(
        [hpa(), hpa(least=1, most=20, behavior=NERVOUS), hpa(most=12, behavior=None, metrics=[CPU])]
    ),
    st.integers(1, 15),
)
def test_groups_of_pods_are_seen_as_the_same_pods_one_by_one(load, ready, delay, of, start):
    ends, end = [], 0
    for length, *rest in load:
        end += length
        ends.append((end, *rest))
    given_trace = trace(*ends, pod_ready_after_s=ready, metrics_delay_s=delay, initial_replicas=start)
    naive, memory, expected = Naive(given_trace, start), Memory(), []
    for tick in range(math.ceil(end / 15)):
        decision = sync(of, memory, naive.observe(15 * tick), 15 * tick)
        expected.append((decision.at, decision.current, decision.target, decision.want))
        naive.scale(decision.target, 15 * tick)
    found = rehearse("hpa.yaml", of, given_trace)
    assert [(d.at, d.current, d.target, d.want) for d in found.decisions] == expected


def test_a_whole_number_is_shown_as_one():
    assert [repr(whole(value)) for value in (15.0, 15, 0.5)] == ["15", "15", "0.5"]


def test_a_young_pod_is_seen_with_its_own_times_and_use():
    deployment = Deployment(trace((600, 2200), pod_ready_after_s=60), 4)
    deployment.scale(5, 0)

    def youngest(t):
        pods = deployment.observe(t).pods[-1]
        return pods.count, pods.ready, pods.ready_since, pods.containers[0].usage["cpu"]

    assert youngest(30) == (1, "False", 0, 0)
    assert youngest(60) == (1, "True", 60, 440)
    assert [p.containers[0].usage["cpu"] for p in deployment.observe(60).pods] == [440, 440]
