"""The outermost ASGI layer: http_* metrics and limits for every route, and the fast `POST /predict`.

A framework's dispatch costs more than the prediction, so this one route is answered here, before FastAPI sees it;
api.py has its slow twin on the same functions, for the documentation and for the errors of other methods.
"""

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from time import perf_counter
from typing import Final

from fraudscale.config import HttpSettings
from fraudscale.counting import Histogram
from fraudscale.metrics import HttpMetrics, ModelMetrics
from fraudscale.scoring.codec import InvalidTransaction, decode_transaction, encode_prediction
from fraudscale.telemetry.asgi import PROBLEM_TYPE, App, ClientGone, Message, Receive, Scope, Send, send_whole
from fraudscale.telemetry.logs import Logger
from fraudscale.telemetry.tracing import Trace, Tracer, Value
from fraudscale.token_bucket import TokenBuckets
from fraudscale.web.bodies import Bodies
from fraudscale.web.clients import Clients, peer_of
from fraudscale.web.micro_batcher import MicroBatcher
from fraudscale.web.problems import Problem, RateExceeded, problem_of
from fraudscale.web.refused_clients import RefusedClients

# Other methods are counted as one, so that a client can't make series.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Routes that FastAPI adds itself carry no template in the scope, and a request that is refused has not been routed yet.
_UNTEMPLATED: Final = frozenset(
    {"/docs", "/docs/oauth2-redirect", "/openapi.json", "/predict", "/predict/batch", "/model"}
)
UNLIMITED: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Balancers and Prometheus ask these; a flood must not make a healthy replica look dead, nor they a calm one busy."""
_NOT_READY: Final = ("/readyz", 503)
"""An answer, and no error."""


class HttpEndpoint:
    """The ASGI application that the server runs."""

    def __init__(
        self,
        app: App,
        micro_batcher: MicroBatcher,
        bodies: Bodies,
        clients: Clients,
        http: HttpMetrics,
        model: ModelMetrics,
        settings: HttpSettings,
        refusals: RefusedClients,
        log: Logger,
        tracer: Tracer,
    ) -> None:
        self._app = app
        self._micro_batcher = micro_batcher
        self._bodies = bodies
        self._clients = clients
        self._rate = settings.rate_limit_per_second
        self._buckets = (
            TokenBuckets(self._rate, settings.burst(self._rate), settings.rate_limit_clients)
            if self._rate
            else None
        )
        self._refusals = refusals
        self._log = log
        self._tracer = tracer
        self._http = http
        self._invalid = model.errors.labels("validation")
        self._in_progress = http.in_progress.labels()
        self._ok = http.requests.labels("POST", "200", "/predict")
        self._seconds = http.duration.labels("POST", "/predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = perf_counter(), scope["path"]
        if path in UNLIMITED:
            await self._delegate(scope, receive, send, started, None)
            return
        self._in_progress.value += 1
        try:
            # Before the body is read: a refusal must cost less than an answer.
            if self._buckets is not None and (refused := self._over_rate(self._buckets, scope, started)):
                await self._refuse(scope, refused, send, started)
                return
            trace = self._tracer.of_request(scope["headers"], started)
            if path == "/predict" and scope["method"] == "POST":
                await self._predict(scope, receive, send, started, trace)
            else:
                await self._delegate(scope, receive, send, started, trace)
        finally:
            self._in_progress.value -= 1

    async def _predict(
        self, scope: Scope, receive: Receive, send: Send, started: float, trace: Trace | None
    ) -> None:
        try:
            body = await self._bodies.read_json(scope, receive)
            transaction = decode_transaction(body)
            if trace is not None:
                trace.mark("decode", started, perf_counter())
            prediction = await self._micro_batcher.submit(transaction, started, scope, trace)
        except ClientGone:
            return
        except Exception as error:  # every error has an answer
            await self._answer_error(error, send, started, trace)
            return
        answer = encode_prediction(prediction)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        if trace is not None:
            headers.append(_traceparent(trace))
        # As `send_whole`, without the cost of a coroutine and a second list for each prediction.
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        # The two series of nearly all requests were looked up once, at the start; `_count` would look them up anew.
        self._ok.value += 1
        ended = perf_counter()
        self._seconds.observe(ended - started)
        if trace is not None and trace.sampled:
            about: dict[str, Value] = {
                "fraudscale.transaction_id": prediction.transaction_id,
                "fraudscale.model_version": prediction.model_version,
            }
            self._end(trace, self._seconds, "POST", 200, "/predict", (started, ended), about)

    async def _answer_error(self, error: Exception, send: Send, started: float, trace: Trace | None) -> None:
        problem = problem_of(error)
        if isinstance(error, InvalidTransaction):
            self._invalid.value += 1
        if problem.status == 500:
            self._log.error("request_failed", endpoint="/predict", exc_info=error, **_ids(trace))
        await send_problem(problem, send, [_traceparent(trace)] if trace else ())
        self._count("POST", problem.status, "/predict", started, trace)

    def _over_rate(self, buckets: TokenBuckets, scope: Scope, now: float) -> RateExceeded | None:
        client = self._clients.limited(peer_of(scope), scope["headers"])
        if client is None or not (wait := buckets.take(client, now)):
            return None
        self._refusals.tell(client)
        who = client or "this client"
        return RateExceeded(
            ceil(wait), f"{who} sends more than {self._rate:g} requests a second (RATE_LIMIT_PER_SECOND)"
        )

    async def _refuse(self, scope: Scope, refused: RateExceeded, send: Send, started: float) -> None:
        problem = problem_of(refused)
        await send_problem(problem, send)
        self._count(scope["method"], problem.status, _endpoint(scope), started)

    async def _delegate(
        self, scope: Scope, receive: Receive, send: Send, started: float, trace: Trace | None
    ) -> None:
        status, method = 0, scope["method"]
        scope["trace"] = trace
        if method == "HEAD":
            # A copy: the server below must still know that the answer has no body.
            scope = {**scope, "method": "GET"}

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if trace is not None:
                    message["headers"] = [*message.get("headers", ()), _traceparent(trace)]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientGone:
            return
        except Exception as error:  # FastAPI has answered already, if anything could be answered
            self._log.error("request_failed", endpoint=_endpoint(scope), exc_info=error, **_ids(trace))
            if not status:
                await send_problem(problem_of(error), watch)
        if status:
            self._count(method, status, _endpoint(scope), started, trace)

    def _count(
        self, method: str, status: int, endpoint: str, started: float, trace: Trace | None = None
    ) -> None:
        method = method if method in _METHODS else "OTHER"
        ended, seconds = perf_counter(), self._http.duration.labels(method, endpoint)
        self._http.requests.labels(method, str(status), endpoint).value += 1
        if status != HTTPStatus.TOO_MANY_REQUESTS:  # a flood of refusals would hide how slow the answers are
            seconds.observe(ended - started)
        if status >= 400 and (endpoint, status) != _NOT_READY:
            self._http.errors.labels("4xx" if status < 500 else "5xx").value += 1
        if trace is not None and trace.sampled:
            self._end(trace, seconds, method, status, endpoint, (started, ended), {})

    def _end(
        self,
        trace: Trace,
        seconds: Histogram,
        method: str,
        status: int,
        endpoint: str,
        times: tuple[float, float],
        about: dict[str, Value],
    ) -> None:
        started, ended = times
        seconds.exemplify(ended - started, trace.ids())
        about |= {"http.request.method": method, "http.response.status_code": status, "http.route": endpoint}
        self._tracer.end(trace, f"{method} {endpoint}", "server", times, about, failed=status >= 500)


def _endpoint(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    if path is not None:
        return str(path)
    return scope["path"] if scope["path"] in _UNTEMPLATED else "unmatched"


def _traceparent(trace: Trace) -> tuple[bytes, bytes]:
    return b"traceparent", trace.here.traceparent.encode()


def _ids(trace: Trace | None) -> dict[str, str]:
    return {} if trace is None else trace.ids()


async def send_problem(problem: Problem, send: Send, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    headers += [*more, (b"content-type", PROBLEM_TYPE.encode())]
    await send_whole(send, problem.status, headers, problem.body)
