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
        self.scored = []

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
        return MicroBatcher(scorer, metrics, max_in_flight), scorer, metrics.active.labels()

    return make


def test_the_single_transactions_of_a_turn_are_scored_in_one_pass(micro_batcher):
    made, scorer, active = micro_batcher()

    async def run():
        return await asyncio.gather(*(made.submit(i, 0.0) for i in range(5)))

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]
    assert scorer.scored == [[0, 1, 2, 3, 4]]
    assert active.value == 0


def test_a_transaction_that_breaks_the_model_fails_alone(micro_batcher):
    made, scorer, active = micro_batcher()

    async def run():
        submitted = (made.submit(name, 0.0) for name in ("a", "poison", "b"))
        return await asyncio.gather(*submitted, return_exceptions=True)

    first, broken, last = asyncio.run(run())
    assert (first, type(broken), last) == ("a", PredictionFailed, "b")
    assert scorer.scored == [["a", "poison", "b"], ["a"], ["poison"], ["b"]]
    assert active.value == 0


def test_between_two_batches_single_transactions_are_scored(micro_batcher):
    made, scorer, _ = micro_batcher()

    async def single():
        await asyncio.sleep(0)
        await made.submit("single", 0.0)

    async def run():
        await asyncio.gather(*(made.score_batch([i], 0.0) for i in range(5)), single())

    asyncio.run(run())
    assert [batch for batch in scorer.scored if batch != ["single"]] == [[i] for i in range(5)]
    assert scorer.scored.index(["single"]) < scorer.scored.index([4])


def test_waiting_requests_are_bounded_a_batch_counting_as_one(micro_batcher):
    made, _, active = micro_batcher(max_in_flight=3)

    async def run():
        batches = [asyncio.create_task(made.score_batch([1, 2, 3], 0.0)) for _ in range(2)]
        await asyncio.sleep(0)
        single = made.submit("third", 0.0)
        assert active.value == 7
        with pytest.raises(Overloaded, match="MAX_IN_FLIGHT"):
            made.submit("fourth", 0.0)
        with pytest.raises(Overloaded, match="MAX_IN_FLIGHT"):
            await made.score_batch([1, 2], 0.0)
        assert made._failed.value == 3, "valid transactions that get no score"
        await asyncio.gather(*batches, single)

    asyncio.run(run())
    assert active.value == 0


def test_what_fails_leaves_its_place(micro_batcher):
    made, _, active = micro_batcher(max_in_flight=1)

    async def run():
        for _ in range(3):
            with pytest.raises(ValueError, match="broken"):
                await made.score_batch(["broken"], 0.0)
            with pytest.raises(ValueError, match="broken"):
                await made.submit("broken", 0.0)
        return await made.submit("sound", 0.0)

    assert asyncio.run(run()) == "sound"
    assert active.value == 0
