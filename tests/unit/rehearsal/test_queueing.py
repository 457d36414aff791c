"""From utilisation to latency and backlog: against formulas, and against a queue stepped second by second."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rehearsals import hpa, rehearsed

from fraudscale.rehearsal.queueing import BUSIEST, Service, estimate_latency

STILL = {"of": hpa(least=4, most=4)}


def test_an_even_load_has_the_latency_of_mm1():
    # 2000m on four pods of a core each: utilisation 0.5, so 10 ms become 20 ms on average.
    estimate = estimate_latency(rehearsed([(3600, 2000)], **STILL), Service(cpu_ms_per_request=10))
    assert estimate.quantile(0.5) == pytest.approx(0.020 * math.log(2), rel=1e-6)
    assert estimate.quantile(0.95) == pytest.approx(0.020 * math.log(20), rel=1e-6)
    assert estimate.requests.sum() == pytest.approx(200 * 3600)


def test_an_idle_pod_answers_in_the_time_of_one_request():
    estimate = estimate_latency(rehearsed([(60, 0)], **STILL), Service(cpu_ms_per_request=10))
    assert estimate.response_s.max() == pytest.approx(0.010)
    assert estimate.quantile(0.95) == 0


def test_a_slower_pod_takes_longer():
    estimate = estimate_latency(
        rehearsed([(60, 0.001)], **STILL), Service(cpu_ms_per_request=10, pod_cpu_m=250)
    )
    assert estimate.response_s[0] == pytest.approx(0.040, rel=1e-3)


def test_a_pod_can_do_a_core_or_what_it_requests():
    assert Service().capacity(500) == 1000
    assert Service().capacity(2000) == 2000
    assert Service(pod_cpu_m=700).capacity(2000) == 700


def test_what_is_beyond_capacity_waits_and_is_worked_off():
    # 5000m for 100 s on 4000m: 100 core-seconds wait; then 3000m leave a core to work them off in 100 s.
    estimate = estimate_latency(rehearsed([(105, 5000), (600, 3000)], **STILL), Service(cpu_ms_per_request=1))
    assert estimate.backlog.max() == pytest.approx(105_000)
    waits = estimate.length[estimate.busy].sum()
    assert waits == pytest.approx(210)
    # The longest wait is that of what comes last before the load falls: 105 core-seconds at 4 cores.
    assert estimate.delay_s.max() == pytest.approx(105 / 4, rel=0.1)
    assert estimate.backlog[-1] == 0


def test_what_waits_at_the_end_is_worked_off_by_the_pods_of_the_end():
    # By the middle of the last sync, at 592.5 s, 5 cores of work came for 592.5 s; 4 pods need 740.6 s for it.
    estimate = estimate_latency(rehearsed([(600, 5000)], **STILL), Service())
    assert estimate.delay_s[-1] == pytest.approx(592.5 * 5 / 4 - 592.5)


def test_without_a_ready_pod_everything_waits_for_the_first():
    found = rehearsed([(600, 1000)], initial_replicas=0, of=hpa(least=1, most=4))
    estimate = estimate_latency(found, Service())
    assert estimate.ready.max() == 0
    assert estimate.backlog[-1] == pytest.approx(600_000)
    assert estimate.delay_s.min() > 86_400 - 600


def test_half_of_the_requests_in_each_of_two_states_make_one_distribution():
    estimate = estimate_latency(
        rehearsed([(1500, 1000), (3000, 1000)], **STILL), Service(cpu_ms_per_request=10)
    )
    assert estimate.quantile(0.95) == pytest.approx(0.010 / 0.75 * math.log(20), rel=1e-6)


def test_utilisation_near_one_is_read_at_a_bound():
    estimate = estimate_latency(rehearsed([(60, 4000)], **STILL), Service(cpu_ms_per_request=1))
    assert estimate.response_s.max() == pytest.approx(0.001 / (1 - BUSIEST))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 9000)), min_size=1, max_size=8))
def test_the_backlog_is_that_of_a_bucket_filled_second_by_second(load):
    ends, end = [], 0
    for length, cpu in load:
        end += length
        ends.append((end, cpu))
    estimate = estimate_latency(rehearsed(ends, **STILL), Service())
    waiting, at = (
        0.0,
        dict(zip((estimate.start + estimate.length).tolist(), estimate.backlog.tolist(), strict=True)),
    )
    for second in range(end):
        cpu = next(cpu for until, cpu in ends if second < until)
        waiting = max(0.0, waiting + cpu - 4000)
        if second + 1 in at:
            assert at[second + 1] == pytest.approx(waiting, abs=1e-3)


def test_each_piece_has_the_quantile_of_its_own_queue():
    estimate = estimate_latency(rehearsed([(600, 2000)], **STILL), Service(cpu_ms_per_request=10))
    assert estimate.quantiles(0.95) == pytest.approx(0.020 * math.log(20))
    late = estimate_latency(rehearsed([(600, 5000)], **STILL), Service())
    assert late.quantiles(0.5)[-1] == pytest.approx(late.delay_s[-1] + late.response_s[-1] * math.log(2))
