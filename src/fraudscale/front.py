"""The outermost ASGI layer: http_* metrics and limits for every route, and the fast `POST /predict`.

A framework's dispatch costs more than the prediction, so this one route is answered here, before FastAPI sees it;
api.py has its slow twin on the same functions, for the documentation and for the errors of other methods.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from time import perf_counter
from typing import Any, Final

from fraudscale.codec import InvalidTransaction, decode_transaction, encode_prediction
from fraudscale.config import HttpSettings
from fraudscale.logs import Logger
from fraudscale.metrics import HttpMetrics, ModelMetrics
from fraudscale.problems import (
    CONTENT_TYPE,
    BodyTimeout,
    BodyTooLarge,
    Overloaded,
    Problem,
    UnsupportedMediaType,
    problem_of,
)
from fraudscale.records import Prediction, Transaction
from fraudscale.scorer import Scorer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Other methods are counted as one, so that a client can't make series.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Routes that FastAPI adds itself carry no template in the scope.
_UNTEMPLATED: Final = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})


READ_ON: Final = 8
"""How many times the largest allowed body is read of a longer one before the connection is closed on it."""


class ClientGone(Exception):
    """The client closed the connection; nobody waits for the answer."""


class Passes:
    """Collects the transactions of one turn of the event loop and scores them in one pass of the model.

    Under load the requests of many connections are read in one turn; a pass over all of them costs little more than
    over one. A single request waits for nothing but the end of the turn.
    """

    def __init__(self, scorer: Scorer, metrics: ModelMetrics, max_in_flight: int) -> None:
        self._scorer = scorer
        self._active = metrics.active.labels()
        self._max = max_in_flight
        self._transactions: list[Transaction] = []
        self._started: list[float] = []
        self._futures: list[asyncio.Future[Prediction]] = []

    def submit(self, transaction: Transaction, started: float) -> asyncio.Future[Prediction]:
        """Queue a transaction for the pass at the end of this turn.

        Raises:
            Overloaded: as many as allowed wait already.
        """
        loop = asyncio.get_running_loop()
        if not self._futures:
            loop.call_soon(self._score)
        elif len(self._futures) >= self._max:
            raise Overloaded(1, f"{self._max} transactions wait for the model already")
        future: asyncio.Future[Prediction] = loop.create_future()
        self._transactions.append(transaction)
        self._started.append(started)
        self._futures.append(future)
        self._active.value += 1
        return future

    def score_batch(self, transactions: list[Transaction], started: float) -> list[Prediction]:
        """Score a batch at once, in a pass of its own."""
        self._active.value += len(transactions)
        try:
            return self._scorer.score(transactions, [started] * len(transactions))
        finally:
            self._active.value -= len(transactions)

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
        http: HttpMetrics,
        model: ModelMetrics,
        settings: HttpSettings,
        log: Logger,
    ) -> None:
        self._app = app
        self._passes = passes
        self._settings = settings
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
            if scope["path"] == "/predict" and scope["method"] == "POST":
                await self._predict(scope, receive, send, started)
            else:
                await self._delegate(scope, receive, send, started)
        finally:
            self._in_progress.value -= 1

    async def _predict(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        try:
            body = await read_json_body(scope, receive, self._settings)
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


async def read_json_body(scope: Scope, receive: Receive, settings: HttpSettings) -> bytes:
    """Read the whole body of a request that must be JSON.

    Raises:
        UnsupportedMediaType: a content type other than JSON (none at all is taken for JSON).
        BodyTooLarge: longer than `max_body_bytes`.
        BodyTimeout: not all of it within `body_timeout_seconds`.
        ClientGone: the connection was closed.
    """
    limit = settings.max_body_bytes
    for name, value in scope["headers"]:
        if name == b"content-type" and value != b"application/json":
            _check_media_type(value)
    # The server has no limit of its own for a body that trickles in. Nearly always the body is here already, and a
    # timer for each request would cost a tenth of its time: only one that has to wait gets a timer.
    arriving = _whole_body(receive, limit).__await__()
    try:
        waits_for = next(arriving)
    except StopIteration as arrived:
        body: bytes = arrived.value
        return body
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            return await _Resumed(waits_for, arriving)
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {settings.body_timeout_seconds} s") from None


class _Resumed:
    """Goes on awaiting what was begun by hand: `waits_for` is the future that it stopped at."""

    def __init__(self, waits_for: Any, rest: Generator[Any, Any, bytes]) -> None:
        self._waits_for = waits_for
        self._rest = rest

    def __await__(self) -> Generator[Any, Any, bytes]:
        try:
            yield self._waits_for
        except BaseException:
            self._rest.close()
            raise
        return (yield from self._rest)


async def _whole_body(receive: Receive, limit: int) -> bytes:
    body, size, more = b"", 0, True
    # What is too long is read on for a while and thrown away: a client that is still sending when the connection is
    # closed sees a reset instead of the answer.
    while more and size <= limit * READ_ON:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        body = body + chunk if size <= limit else b""
        more = message.get("more_body", False)
    if size > limit:
        raise BodyTooLarge(
            f"the body has {'more than ' if more else ''}{size} bytes, at most {limit} are taken"
        )
    return body


def _check_media_type(value: bytes) -> None:
    media_type = value.partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise UnsupportedMediaType(
            f"the body has the type {media_type.decode('latin-1')!r}; send application/json"
        )
