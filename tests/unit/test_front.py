"""What waits for the model, and for how long; on a clock of the test."""

import asyncio

import pytest

from fraudscale import front
from fraudscale.config import HttpSettings
from fraudscale.front import Passes
from fraudscale.metrics import ModelMetrics
from fraudscale.problems import Overloaded


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Slow:
    """A scorer whose passes take a while."""

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self.scored = clock, seconds, []

    def score(self, transactions, started):
        assert len(transactions) == len(started)
        self._clock.now += self._seconds
        self.scored.append(list(transactions))
        return transactions


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(front, "perf_counter", clock)
    return clock


@pytest.fixture
def passes(clock):
    def make(*, seconds=0.0, **settings):
        scorer = Slow(clock, seconds)
        metrics = ModelMetrics()
        made = Passes(scorer, metrics, HttpSettings(_env_file=None, **settings))
        return made, scorer, metrics.active.labels()

    return make


def test_a_transaction_that_waited_too_long_is_not_scored(passes, clock):
    made, scorer, active = passes(request_deadline_seconds=2)

    async def run():
        waiting = made.submit("late", clock.now)
        clock.now += 2.1
        with pytest.raises(Overloaded, match="longer than 2 s"):
            await waiting
        return await made.submit("in time", clock.now)

    assert asyncio.run(run()) == "in time"
    assert scorer.scored == [["in time"]]
    assert active.value == 0


def test_batches_are_scored_one_after_the_other_until_one_waited_too_long(passes, clock):
    made, scorer, active = passes(seconds=1.5, request_deadline_seconds=2)

    async def run():
        return await asyncio.gather(
            *(made.score_batch([f"{i}a", f"{i}b"], clock.now) for i in range(4)), return_exceptions=True
        )

    first, second, *late = asyncio.run(run())
    assert (first, second) == (["0a", "0b"], ["1a", "1b"])
    assert [type(error) for error in late] == [Overloaded, Overloaded]
    assert len(scorer.scored) == 2
    assert active.value == 0


def test_between_two_batches_single_transactions_are_scored(passes, clock):
    made, scorer, _ = passes()

    async def single():
        await asyncio.sleep(0)
        await made.submit("single", clock.now)

    async def run():
        await asyncio.gather(*(made.score_batch([i], clock.now) for i in range(5)), single())

    asyncio.run(run())
    assert scorer.scored.index(["single"]) < scorer.scored.index([4])


def test_waiting_requests_are_bounded_a_batch_counting_as_one(passes, clock):
    made, _, active = passes(max_in_flight=3)

    async def run():
        batches = [asyncio.create_task(made.score_batch([1, 2, 3], clock.now)) for _ in range(2)]
        await asyncio.sleep(0)
        single = made.submit("third", clock.now)
        assert active.value == 7
        with pytest.raises(Overloaded):
            made.submit("fourth", clock.now)
        with pytest.raises(Overloaded):
            await made.score_batch([1], clock.now)
        await asyncio.gather(*batches, single)

    asyncio.run(run())
    assert active.value == 0
