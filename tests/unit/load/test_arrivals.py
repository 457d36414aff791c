import numpy as np
import pytest

from fraudscale.load.arrivals import RecordedArrivals, Shape, ShapedArrivals, instants, offered


def arrivals(shape, rate=1000, seconds=20, *, even=True, seed=1):
    return np.array(list(instants(ShapedArrivals(shape, rate, seconds, even, seed))))


@pytest.mark.parametrize(
    ("shape", "count"),
    [(Shape.CONSTANT, 20_000), (Shape.RAMP, 10_000), (Shape.SPIKE, 28_000), (Shape.SINE, 20_000)],
)
def test_a_shape_sends_the_area_under_its_rate(shape, count):
    assert len(arrivals(shape)) == pytest.approx(count, abs=1)


def test_even_arrivals_have_equal_gaps():
    times = arrivals(Shape.CONSTANT, rate=50)
    assert len(times) == 1000
    assert times[0] == pytest.approx(0.01)
    assert np.diff(times) == pytest.approx(0.02)


def test_a_spike_has_three_times_the_rate_in_the_middle_fifth():
    by_second = offered(ShapedArrivals(Shape.SPIKE, 100, 20, even=True), 20, 1)
    assert [round(n, -1) for n in by_second] == [100] * 8 + [300] * 4 + [100] * 8


def test_a_ramp_grows_evenly_from_nothing():
    by_second = offered(ShapedArrivals(Shape.RAMP, 100, 10, even=True), 10, 1)
    assert by_second == pytest.approx([5, 15, 25, 35, 45, 55, 65, 75, 85, 95], abs=1)


def test_a_sine_swings_by_half():
    by_second = offered(ShapedArrivals(Shape.SINE, 1000, 80, even=True), 80, 1)
    assert (max(by_second), min(by_second)) == pytest.approx((1500, 500), rel=0.01)


def test_poisson_gaps_are_exponential():
    gaps = np.diff(arrivals(Shape.CONSTANT, even=False))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("shape", [Shape.CONSTANT, Shape.RAMP, Shape.SPIKE, Shape.SINE])
def test_arrivals_ascend_within_the_run(shape, even):
    times = arrivals(shape, even=even)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] <= times[-1] < 20


def test_a_schedule_is_the_same_at_each_call_and_another_with_another_seed():
    schedule = ShapedArrivals(Shape.SINE, 500, 10, even=False, seed=3)
    assert list(instants(schedule)) == list(instants(schedule))
    assert list(instants(schedule)) != list(instants(ShapedArrivals(Shape.SINE, 500, 10, even=False, seed=4)))


def test_what_comes_after_the_stop_was_not_offered():
    schedule = RecordedArrivals(np.array([0.0, 0.5, 1.5, 2.5, 9.0]), 10.0)
    assert offered(schedule, 2.0, 1.0) == [2, 1]
    assert offered(schedule, 1.2, 1.0) == [2, 0]
    assert sum(offered(schedule, 10.0, 1.0)) == 5
