"""The micro-batcher: the transactions of one turn of the event loop are scored in one pass of the model."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fraudscale.metrics import ModelMetrics
from fraudscale.scoring.records import Prediction, Transaction
from fraudscale.scoring.scorer import PredictionFailed, Scorer
from fraudscale.telemetry.asgi import Scope
from fraudscale.telemetry.tracing import NOT_TRACED, BatchTrace, Trace
from fraudscale.web.problems import Overloaded
from fraudscale.web.shares import Shares


class MicroBatcher:
    """Collects the transactions of one turn of the event loop and scores them in one pass of the model.

    Under load the requests of many connections are read in one turn; a pass over all of them costs little more than
    over one. A single request waits for nothing but the end of the turn.
    """

    def __init__(
        self,
        scorer: Scorer,
        metrics: ModelMetrics,
        max_in_flight: int,
        client_of: Callable[[Scope], str],
        refused: Callable[[str], None],
    ) -> None:
        """Begin without a request.

        Args:
            scorer: what scores.
            metrics: of what waits and of what gets no score.
            max_in_flight: requests that may wait.
            client_of: names the client of a request; asked for batches, and for all once there is no room.
            refused: called with the client who is refused for lack of room.
        """
        self._scorer = scorer
        self._active = metrics.active.labels()
        self._failed = metrics.failed.labels()
        self._max = max_in_flight
        self._client_of = client_of
        self._refused = refused
        self._turn = asyncio.Lock()
        self._shares: Shares[asyncio.Future[Any]] = Shares()
        """Of batches that wait, as their tasks; of the single transactions of this turn once it is full."""
        self._batches = 0
        self._given_up: dict[asyncio.Future[Any], Overloaded] = {}
        """Who made room, and is counted in the lists or among the batches still."""
        self._is_full = False
        self._transactions: list[Transaction] = []
        self._started: list[float] = []
        self._futures: list[asyncio.Future[Prediction]] = []
        self._scopes: list[Scope] = []
        self._traces: dict[int, Trace] = {}

    def submit(
        self, transaction: Transaction, started: float, scope: Scope, trace: Trace | None = None
    ) -> asyncio.Future[Prediction]:
        """Queue a transaction for the pass at the end of this turn.

        Raises:
            Overloaded: as many requests as allowed wait already, and no other client has more of them. The future too may
                raise it, if somebody else needs the room.
        """
        loop = asyncio.get_running_loop()
        client = ""
        if self._is_full or len(self._futures) + self._batches >= self._max:
            client = self._make_room(scope, 1)
        if not self._futures:
            loop.call_soon(self._score)
        future: asyncio.Future[Prediction] = loop.create_future()
        if trace is not None:
            self._traces[len(self._transactions)] = trace
        self._transactions.append(transaction)
        self._started.append(started)
        self._futures.append(future)
        self._scopes.append(scope)
        self._active.value += 1
        if self._is_full:
            self._shares.add(client, future)
        return future

    async def score_batch(
        self, transactions: list[Transaction], started: float, scope: Scope, trace: Trace | None = None
    ) -> list[Prediction]:
        """Score a batch in a pass of its own, after those before it; between two of them the event loop turns.

        Raises:
            Overloaded: as `submit`, also while it waits.
        """
        many = len(transactions)
        client = self._make_room(scope, many)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in one
        self._batches += 1
        self._active.value += many
        self._shares.add(client, task)
        try:
            async with self._turn:
                self._shares.drop(client, task)
                # What came during the last batch is read, and single transactions are scored.
                await asyncio.sleep(0)
                batch = NOT_TRACED if trace is None else BatchTrace(dict.fromkeys(range(many), trace))
                scores = self._scorer.score(transactions, [started] * many, trace=batch)
                batch.mark("model", *self._scorer.last_pass)
                return scores.predictions()
        except asyncio.CancelledError:
            if task not in self._given_up or task.uncancel() > 0:
                raise
            self._failed.value += many
            raise self._given_up[task] from None
        finally:
            self._shares.drop(client, task)
            self._given_up.pop(task, None)
            self._batches -= 1
            self._active.value -= many

    def _make_room(self, scope: Scope, many: int) -> str:
        """See that a request fits in, `many` being its transactions; return the name of its client."""
        client = self._client_of(scope)
        if len(self._futures) + self._batches - len(self._given_up) < self._max:
            return client
        if not self._is_full:
            self._is_full = True
            for future, other in zip(self._futures, self._scopes, strict=True):
                self._shares.add(self._client_of(other), future)
        greediest = self._shares.greediest_but(client)
        if greediest is None:
            self._failed.value += many
            raise self._overloaded(client)
        place = self._shares.latest_of(greediest)
        self._shares.drop(greediest, place)
        self._given_up[place] = self._overloaded(greediest)
        if isinstance(place, asyncio.Task):
            place.cancel()
        return client

    def _overloaded(self, client: str) -> Overloaded:
        self._refused(client)
        who = client or "this client"
        return Overloaded(
            1, f"{self._max} requests wait for the model already, and {who} has most of them (MAX_IN_FLIGHT)"
        )

    def _score(self) -> None:
        transactions, started, futures, trace = self._end_turn()
        if not futures:
            return
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

    def _end_turn(
        self,
    ) -> tuple[list[Transaction], list[float], list[asyncio.Future[Prediction]], BatchTrace]:
        """Take what the turn has collected."""
        if self._is_full:
            self._leave_out_given_up()
        transactions, started, futures, traces = (
            self._transactions,
            self._started,
            self._futures,
            self._traces,
        )
        self._transactions, self._started, self._futures, self._scopes = [], [], [], []
        self._active.value -= len(futures)
        if not traces:
            return transactions, started, futures, NOT_TRACED
        self._traces = {}
        return transactions, started, futures, BatchTrace(traces)

    def _leave_out_given_up(self) -> None:
        """Answer those that had to make room, and forget whose the others are."""
        self._is_full = False
        stay = []
        for i, (future, scope) in enumerate(zip(self._futures, self._scopes, strict=True)):
            error = self._given_up.pop(future, None)
            if error is None:
                self._shares.drop(self._client_of(scope), future)
                stay.append(i)
            elif not future.done():
                future.set_exception(error)
        gone = len(self._futures) - len(stay)
        self._active.value -= gone
        self._failed.value += gone
        self._transactions = [self._transactions[i] for i in stay]
        self._started = [self._started[i] for i in stay]
        self._futures = [self._futures[i] for i in stay]
        self._traces = {now: self._traces[i] for now, i in enumerate(stay) if i in self._traces}

    def _score_alone(
        self, transaction: Transaction, started: float, trace: BatchTrace
    ) -> Prediction | Exception:
        try:
            return self._scorer.score([transaction], [started], trace=trace).predictions()[0]
        except Exception as error:  # as above
            return error
