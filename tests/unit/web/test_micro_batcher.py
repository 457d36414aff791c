"""What waits for the model: in what order it is scored, and how much of it may wait."""

import asyncio
from types import SimpleNamespace

import pytest

from fraudscale.metrics import ModelMetrics
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.tracing import NOT_TRACED
from fraudscale.web.micro_batcher import MicroBatcher
from fraudscale.web.problems import Overloaded


class Recording:
    """A scorer that remembers its passes; a transaction `broken` fails, and one `poison` breaks the model."""

    last_pass = (0.0, 0.0)

    def __init__(self):
        self.scored, self.refused = [], []

    def score(self, transactions, started, trace=NOT_TRACED, final=True):
        assert len(transactions) == len(started)
        assert final or len(transactions) > 1
        self.scored.append(list(transactions))
        if "poison" in transactions:
            raise PredictionFailed(transactions)
        if "broken" in transactions:
            raise ValueError(transactions)
        return SimpleNamespace(predictions=lambda: transactions)


@pytest.fixture
def micro_batcher():
    def make(max_in_flight=256):
        scorer, metrics = Recording(), ModelMetrics()
        # a scope is but the name of its client here
        made = MicroBatcher(
            scorer,
            metrics,
            max_in_flight,
            client_of=str,
            refused=scorer.refused.append,
        )
        return made, scorer, metrics.active.labels()

    return make


def test_the_single_transactions_of_a_turn_are_scored_in_one_pass(micro_batcher):
    made, scorer, active = micro_batcher()

    async def run():
        return await asyncio.gather(*(made.submit(i, 0.0, "a") for i in range(5)))

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]
    assert scorer.scored == [[0, 1, 2, 3, 4]]
    assert active.value == 0


def test_a_transaction_that_breaks_the_model_fails_alone(micro_batcher):
    made, scorer, active = micro_batcher()

    async def run():
        submitted = (made.submit(name, 0.0, "a") for name in ("a", "poison", "b"))
        return await asyncio.gather(*submitted, return_exceptions=True)

    first, broken, last = asyncio.run(run())
    assert (first, type(broken), last) == ("a", PredictionFailed, "b")
    assert scorer.scored == [["a", "poison", "b"], ["a"], ["poison"], ["b"]]
    assert active.value == 0


def test_between_two_batches_single_transactions_are_scored(micro_batcher):
    made, scorer, _ = micro_batcher()

    async def single():
        await asyncio.sleep(0)
        await made.submit("single", 0.0, "a")

    async def run():
        await asyncio.gather(*(made.score_batch([i], 0.0, "a") for i in range(5)), single())

    asyncio.run(run())
    assert [batch for batch in scorer.scored if batch != ["single"]] == [[i] for i in range(5)]
    assert scorer.scored.index(["single"]) < scorer.scored.index([4])


def test_waiting_requests_are_bounded_a_batch_counting_as_one(micro_batcher):
    made, _, active = micro_batcher(max_in_flight=3)

    async def run():
        batches = [asyncio.create_task(made.score_batch([1, 2, 3], 0.0, "a")) for _ in range(2)]
        await asyncio.sleep(0)
        single = made.submit("third", 0.0, "a")
        assert active.value == 7
        with pytest.raises(Overloaded, match="MAX_IN_FLIGHT"):
            made.submit("fourth", 0.0, "a")
        with pytest.raises(Overloaded, match="MAX_IN_FLIGHT"):
            await made.score_batch([1, 2], 0.0, "a")
        assert made._failed.value == 3, "valid transactions that get no score"
        await asyncio.gather(*batches, single)

    asyncio.run(run())
    assert active.value == 0


async def _outcomes(waiting):
    """Wait for all; return what was scored, and how many were refused."""
    results = await asyncio.gather(*waiting, return_exceptions=True)
    refused = [r for r in results if isinstance(r, Overloaded)]
    return [r for r in results if not isinstance(r, Exception)], len(refused)


def test_where_there_is_no_room_the_client_with_most_requests_makes_it(micro_batcher):
    made, scorer, active = micro_batcher(max_in_flight=8)

    async def run():
        waiting = [made.submit(f"flood {i}", 0.0, "flood") for i in range(8)]
        waiting += [made.submit(f"good {i}", 0.0, "good") for i in range(3)]
        with pytest.raises(Overloaded, match="flood has most of them"):
            made.submit("flood 8", 0.0, "flood")
        assert active.value == 11
        return await _outcomes(waiting)

    scored, refused = asyncio.run(run())
    assert scored == [*(f"flood {i}" for i in range(5)), "good 0", "good 1", "good 2"]
    assert scorer.scored == [scored], "who made room is not scored"
    assert (refused, scorer.refused) == (3, ["flood"] * 4)
    assert active.value == 0


def test_of_clients_with_as_many_requests_the_next_to_come_is_refused(micro_batcher):
    made, _, _ = micro_batcher(max_in_flight=4)

    async def run():
        waiting = [made.submit(name, 0.0, name) for name in ("a", "a", "b", "b")]
        for name in ("a", "b"):
            with pytest.raises(Overloaded, match=f"{name} has most"):
                made.submit(name, 0.0, name)
        waiting.append(made.submit("c", 0.0, "c"))
        with pytest.raises(Overloaded):
            made.submit("c", 0.0, "c")
        return await _outcomes(waiting)

    scored, refused = asyncio.run(run())
    assert (sorted(scored), refused) == (["a", "b", "b", "c"], 1)


def test_the_turn_after_an_overload_begins_anew(micro_batcher):
    made, _, active = micro_batcher(max_in_flight=2)

    async def run():
        for _ in range(3):
            waiting = [made.submit(i, 0.0, "flood") for i in range(2)]
            waiting.append(made.submit("good", 0.0, "good"))
            assert await _outcomes(waiting) == ([0, "good"], 1)

    asyncio.run(run())
    assert (made._shares.of("flood"), made._shares.of("good"), made._given_up) == (0, 0, {})
    assert active.value == 0


def test_a_waiting_batch_makes_room_and_one_that_runs_does_not(micro_batcher):
    made, _, active = micro_batcher(max_in_flight=3)

    async def run():
        batches = [asyncio.create_task(made.score_batch([f"flood {i}"], 0.0, "flood")) for i in range(3)]
        await asyncio.sleep(0)
        good = [made.submit("good", 0.0, "good")]
        with pytest.raises(Overloaded):  # one of the flood's two runs, and one is the latest
            made.submit("good", 0.0, "good")
        return await _outcomes(batches + good)

    scored, refused = asyncio.run(run())
    assert (scored, refused) == ([["flood 0"], ["flood 1"], "good"], 1)
    assert active.value == 0
    assert (made._batches, made._given_up, made._shares.of("flood")) == (0, {}, 0)


def test_a_batch_whose_client_is_gone_is_cancelled_as_ever(micro_batcher):
    made, scorer, active = micro_batcher(max_in_flight=3)

    async def run():
        batches = [asyncio.create_task(made.score_batch([i], 0.0, "a")) for i in range(2)]
        await asyncio.sleep(0)
        batches[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await batches[1]
        assert await batches[0] == [0]

    asyncio.run(run())
    assert (scorer.scored, active.value) == ([[0]], 0)


def test_what_fails_leaves_its_place(micro_batcher):
    made, _, active = micro_batcher(max_in_flight=1)

    async def run():
        for _ in range(3):
            with pytest.raises(ValueError, match="broken"):
                await made.score_batch(["broken"], 0.0, "a")
            with pytest.raises(ValueError, match="broken"):
                await made.submit("broken", 0.0, "a")
        return await made.submit("sound", 0.0, "a")

    assert asyncio.run(run()) == "sound"
    assert active.value == 0
