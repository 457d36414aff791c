"""The outermost ASGI layer: http_* metrics and limits for every route, and the fast `POST /predict`.

A framework's dispatch costs more than the prediction, so this one route is answered here, before FastAPI sees it;
api.py has its slow twin on the same functions, for the documentation and for the errors of other methods.
"""

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from time import perf_counter
from typing import Final

from fraudscale.bodies import Bodies, ClientGone, Message, Receive, Scope, peer_of
from fraudscale.codec import InvalidTransaction, decode_transaction, encode_prediction
from fraudscale.config import HttpSettings
from fraudscale.limits import Buckets, Clients
from fraudscale.logs import Logger
from fraudscale.metrics import HttpMetrics, ModelMetrics
from fraudscale.problems import CONTENT_TYPE, Overloaded, Problem, RateExceeded, problem_of
from fraudscale.records import Prediction, Transaction
from fraudscale.scorer import Scorer

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Other methods are counted as one, so that a client can't make series.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Routes that FastAPI adds itself carry no template in the scope; what is refused at the door has seen no route at all.
_UNTEMPLATED: Final = frozenset(
    {"/docs", "/docs/oauth2-redirect", "/openapi.json", "/predict", "/predict/batch", "/model"}
)
UNLIMITED: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked by those who watch; a flood must not make a healthy replica look dead."""
TELL_SECONDS: Final = 10.0
"""A flood is a line of the log now and then, not one for each request."""


class Passes:
    """Collects the transactions of one turn of the event loop and scores them in one pass of the model.

    Under load the requests of many connections are read in one turn; a pass over all of them costs little more than
    over one. A single request waits for nothing but the end of the turn.
    """

    def __init__(self, scorer: Scorer, metrics: ModelMetrics, max_in_flight: int) -> None:
        self._scorer = scorer
        self._active = metrics.active.labels()
        self._max = max_in_flight
        self._batches = 0
        self._turn = asyncio.Lock()
        self._transactions: list[Transaction] = []
        self._started: list[float] = []
        self._futures: list[asyncio.Future[Prediction]] = []

    def submit(self, transaction: Transaction, started: float) -> asyncio.Future[Prediction]:
        """Queue a transaction for the pass at the end of this turn.

        Raises:
            Overloaded: as many requests as allowed wait already.
        """
        loop = asyncio.get_running_loop()
        self._check_room()
        if not self._futures:
            loop.call_soon(self._score)
        future: asyncio.Future[Prediction] = loop.create_future()
        self._transactions.append(transaction)
        self._started.append(started)
        self._futures.append(future)
        self._active.value += 1
        return future

    async def score_batch(self, transactions: list[Transaction], started: float) -> list[Prediction]:
        """Score a batch in a pass of its own, after those before it; between two of them the event loop turns.

        Raises:
            Overloaded: as many requests as allowed wait already.
        """
        self._check_room()
        self._batches += 1
        self._active.value += len(transactions)
        try:
            async with self._turn:
                # What came during the last batch is read, and single transactions are scored.
                await asyncio.sleep(0)
                return self._scorer.score(transactions, [started] * len(transactions))
        finally:
            self._batches -= 1
            self._active.value -= len(transactions)

    def _check_room(self) -> None:
        if len(self._futures) + self._batches >= self._max:
            raise Overloaded(1, f"{self._max} requests wait for the model already (MAX_IN_FLIGHT)")

    def _score(self) -> None:
        transactions, started, futures = self._transactions, self._started, self._futures
        self._transactions, self._started, self._futures = [], [], []
        self._active.value -= len(futures)
        try:
            predictions = self._scorer.score(transactions, started)
        except Exception as error:  # each waiting request must get its answer
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, prediction in zip(futures, predictions, strict=True):
            if not future.done():
                future.set_result(prediction)


class Front:
    """The ASGI application that the server runs."""

    def __init__(
        self,
        app: App,
        passes: Passes,
        bodies: Bodies,
        clients: Clients,
        http: HttpMetrics,
        model: ModelMetrics,
        settings: HttpSettings,
        log: Logger,
    ) -> None:
        self._app = app
        self._passes = passes
        self._bodies = bodies
        self._clients = clients
        self._rate = settings.rate_limit_per_second
        self._buckets = Buckets(self._rate, settings.rate_limit_burst, settings.rate_limit_clients)
        self._refused, self._told_at = 0, -TELL_SECONDS
        self._log = log
        self._http = http
        self._invalid = model.errors.labels("validation")
        self._in_progress = http.in_progress.labels()
        self._ok = http.requests.labels("POST", "200", "/predict")
        self._seconds = http.duration.labels("POST", "/predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        self._in_progress.value += 1
        try:
            path = scope["path"]
            if path not in UNLIMITED:
                client = self._clients.limited(peer_of(scope), scope["headers"])
                if client is not None and (wait := self._buckets.take(client, started)):
                    await self._refuse(scope, client, wait, send, started)
                    return
            if path == "/predict" and scope["method"] == "POST":
                await self._predict(scope, receive, send, started)
            else:
                await self._delegate(scope, receive, send, started)
        finally:
            self._in_progress.value -= 1

    async def _predict(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        try:
            body = await self._bodies.read_json(scope, receive)
            prediction = await self._passes.submit(decode_transaction(body), started)
        except ClientGone:
            return
        except Exception as error:  # every error has an answer
            await self._answer_error(error, send, started)
            return
        answer = encode_prediction(prediction)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(answer)).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})
        self._ok.value += 1
        self._seconds.observe(perf_counter() - started)

    async def _answer_error(self, error: Exception, send: Send, started: float) -> None:
        problem = problem_of(error)
        if isinstance(error, InvalidTransaction):
            self._invalid.value += 1
        if problem.status == 500:
            self._log.error("request_failed", endpoint="/predict", exc_info=error)
        await send_problem(problem, send)
        self._count("POST", problem.status, "/predict", started)

    async def _refuse(self, scope: Scope, client: str, wait: float, send: Send, started: float) -> None:
        seconds = ceil(wait)
        detail = f"{client or 'this client'} sends more than {self._rate:g} requests a second (RATE_LIMIT_PER_SECOND)"
        problem = problem_of(RateExceeded(seconds, detail))
        await send_problem(problem, send)
        self._count(scope["method"], problem.status, _endpoint(scope), started)
        self._refused += 1
        if started - self._told_at >= TELL_SECONDS:
            self._log.warning("client_refused", client=client, refused=self._refused)
            self._refused, self._told_at = 0, started

    async def _delegate(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientGone:
            return
        except Exception as error:  # FastAPI has answered already, if anything could be answered
            self._log.error("request_failed", endpoint=_endpoint(scope), exc_info=error)
            if not status:
                await send_problem(problem_of(error), watch)
        if status:
            self._count(scope["method"], status, _endpoint(scope), started)

    def _count(self, method: str, status: int, endpoint: str, started: float) -> None:
        method = method if method in _METHODS else "OTHER"
        self._http.requests.labels(method, str(status), endpoint).value += 1
        self._http.duration.labels(method, endpoint).observe(perf_counter() - started)
        if status >= 400:
            self._http.errors.labels("4xx" if status < 500 else "5xx").value += 1


def _endpoint(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    if path is not None:
        return str(path)
    return scope["path"] if scope["path"] in _UNTEMPLATED else "unmatched"


async def send_problem(problem: Problem, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    headers += [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(problem.body)).encode())]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": problem.body})
