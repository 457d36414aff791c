"""The micro-batcher: the transactions of one turn of the event loop are scored in one pass of the model."""

import asyncio
from collections.abc import Sequence

from fraudscale.metrics import ModelMetrics
from fraudscale.scoring.records import Prediction, Transaction
from fraudscale.scoring.scorer import PredictionFailed, Scorer
from fraudscale.telemetry.tracing import NOT_TRACED, BatchTrace, Trace
from fraudscale.web.problems import Overloaded


class MicroBatcher:
    """Collects the transactions of one turn of the event loop and scores them in one pass of the model.

    Under load the requests of many connections are read in one turn; a pass over all of them costs little more than
    over one. A single request waits for nothing but the end of the turn.
    """

    def __init__(self, scorer: Scorer, metrics: ModelMetrics, max_in_flight: int) -> None:
        self._scorer = scorer
        self._active = metrics.active.labels()
        self._failed = metrics.failed.labels()
        self._max = max_in_flight
        self._batches = 0
        self._turn = asyncio.Lock()
        self._transactions: list[Transaction] = []
        self._started: list[float] = []
        self._futures: list[asyncio.Future[Prediction]] = []
        self._traces: dict[int, Trace] = {}

    def submit(
        self, transaction: Transaction, started: float, trace: Trace | None = None
    ) -> asyncio.Future[Prediction]:
        """Queue a transaction for the pass at the end of this turn.

        Raises:
            Overloaded: as many requests as allowed wait already.
        """
        loop = asyncio.get_running_loop()
        self._check_room(1)
        if not self._futures:
            loop.call_soon(self._score)
        future: asyncio.Future[Prediction] = loop.create_future()
        if trace is not None:
            self._traces[len(self._transactions)] = trace
        self._transactions.append(transaction)
        self._started.append(started)
        self._futures.append(future)
        self._active.value += 1
        return future

    async def score_batch(
        self, transactions: list[Transaction], started: float, trace: Trace | None = None
    ) -> list[Prediction]:
        """Score a batch in a pass of its own, after those before it; between two of them the event loop turns.

        Raises:
            Overloaded: as many requests as allowed wait already.
        """
        self._check_room(len(transactions))
        self._batches += 1
        self._active.value += len(transactions)
        try:
            async with self._turn:
                # What came during the last batch is read, and single transactions are scored.
                await asyncio.sleep(0)
                many = len(transactions)
                batch = NOT_TRACED if trace is None else BatchTrace(dict.fromkeys(range(many), trace))
                scores = self._scorer.score(transactions, [started] * many, trace=batch)
                batch.mark("model", *self._scorer.last_pass)
                return scores.predictions()
        finally:
            self._batches -= 1
            self._active.value -= len(transactions)

    def _check_room(self, many: int) -> None:
        if len(self._futures) + self._batches >= self._max:
            self._failed.value += many
            raise Overloaded(1, f"{self._max} requests wait for the model already (MAX_IN_FLIGHT)")

    def _score(self) -> None:
        transactions, started, futures = self._transactions, self._started, self._futures
        self._transactions, self._started, self._futures = [], [], []
        trace = NOT_TRACED
        if self._traces:
            trace, self._traces = BatchTrace(self._traces), {}
        self._active.value -= len(futures)
        results: Sequence[Prediction | Exception]
        alone = len(futures) == 1
        try:
            results = self._scorer.score(transactions, started, trace=trace, final=alone).predictions()
        except PredictionFailed as error:
            # one of them may break the model; the others are strangers to it
            each = enumerate(zip(transactions, started, strict=True))
            results = [error] if alone else [self._score_alone(t, s, trace.pick((i,))) for i, (t, s) in each]
        except Exception as error:  # each waiting request must get its answer
            results = [error] * len(futures)
        else:
            trace.mark("model", *self._scorer.last_pass)
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _score_alone(
        self, transaction: Transaction, started: float, trace: BatchTrace
    ) -> Prediction | Exception:
        try:
            return self._scorer.score([transaction], [started], trace=trace).predictions()[0]
        except Exception as error:  # as above
            return error
