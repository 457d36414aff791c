import pytest

from fraudscale.load.measure import Measures, Times


def test_quantiles_are_right_to_three_digits():
    times = Times(3)
    for n in range(1, 10_001):
        times.add(n / 1e4)
    assert times.ms(50) == pytest.approx(500, rel=1e-3)
    assert times.ms(99) == pytest.approx(990, rel=1e-3)
    assert times.ms(100) == pytest.approx(1000, rel=1e-3)


def test_nothing_measured_has_no_quantiles():
    assert Times(2).ms(99) is None


def test_times_beyond_the_range_count_at_its_ends():
    times = Times(2)
    times.add(-1)
    times.add(1e9)
    assert times.ms(50) == 0.001
    assert times.ms(100) == pytest.approx(3_600_000, rel=0.02)


def test_latency_counts_from_the_intended_instant_not_from_the_send():
    measures = Measures(10)
    measures.took(due=1.0, at=3.0)
    measures.scored(due=1.0, at=3.5)
    assert measures.latency.ms(100) == pytest.approx(2500, rel=1e-3)
    assert measures.lateness.ms(100) == pytest.approx(2000, rel=1e-3)


def test_sends_belong_to_their_own_window_and_answers_to_that_of_the_intended_instant():
    measures = Measures(10)
    measures.took(due=1.0, at=3.0)
    measures.scored(due=1.0, at=7.0)
    measures.failed(2.0, "503")
    assert [w.sent for w in measures.windows[:4]] == [0, 0, 0, 1]
    assert [w.ok for w in measures.windows[:4]] == [0, 1, 0, 0]
    assert [w.errors for w in measures.windows[:4]] == [0, 0, 1, 0]


def test_a_long_run_has_wider_windows_not_more_of_them():
    assert len(Measures(30).windows) == 30
    day = Measures(86_400)
    assert (len(day.windows), day.width) == (300, 288)
    day.took(86_399, 90_000)
    assert day.windows[-1].sent == 1


def test_in_flight_is_what_was_sent_and_not_answered():
    measures = Measures(10)
    for n in range(5):
        measures.took(n, n)
    measures.scored(0, 1)
    measures.failed(1, "timeout")
    assert measures.in_flight == 3
    assert measures.sample(2.5) is measures.windows[2]
    assert measures.windows[2].in_flight == 3


def test_after_the_end_nothing_more_is_noted_of_what_is_in_flight():
    measures = Measures(10)
    measures.took(9, 9)
    measures.sample(9.9)
    measures.scored(9, 10)
    assert measures.sample(10.0).in_flight == 1
