"""FastAPI: every route but the fast `/predict`, the documentation, and that route's slow twin."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from fraudscale import __version__, metrics
from fraudscale.clock import rfc3339
from fraudscale.metrics import ModelMetrics
from fraudscale.model_loader import WantedVersion
from fraudscale.scoring.codec import (
    InvalidTransaction,
    decode_transaction,
    decode_transactions,
    encode_prediction,
    encode_predictions,
)
from fraudscale.scoring.lineup import Lineup, NoModel
from fraudscale.scoring.records import Prediction, PredictionBatch, Transaction, TransactionBatch
from fraudscale.scoring.scorer import Scorer
from fraudscale.telemetry.asgi import PROBLEM_TYPE, REPLICA_HEADER, BodyTooLarge, ProblemBody
from fraudscale.web.bodies import Bodies
from fraudscale.web.micro_batcher import MicroBatcher
from fraudscale.web.problems import Problem, Refused, problem_of

_SCHEMAS = "#/components/schemas/"


def create_api(
    scorer: Scorer,
    micro_batcher: MicroBatcher,
    model_metrics: ModelMetrics,
    metrics_registry: CollectorRegistry,
    bodies: Bodies,
    *,
    identity: str,
    draining: Callable[[], bool],
    wanted: Callable[[], WantedVersion | None] = lambda: None,
) -> FastAPI:
    """Make the application of one replica, `identity` being what it says of itself when it is ready."""
    # FastAPI's own page of /docs loads its script from a CDN.
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs/static",
        title="fraudscale",
        version=__version__,
        description="Fraud scores for card transactions.",
        redirect_slashes=False,  # it would lead to the host that the client names
    )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    _answer_errors(app, model_metrics)
    _add_scoring(app, micro_batcher, bodies)
    _add_state(app, scorer, identity, draining, wanted)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def get_metrics(request: Request) -> Response:
        body, content_type = metrics.exposition(metrics_registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return app


def _add_scoring(app: FastAPI, micro_batcher: MicroBatcher, bodies: Bodies) -> None:
    @app.post("/predict", summary="Score one transaction", openapi_extra=_operation(Transaction, Prediction))
    async def predict(request: Request) -> Response:
        started = perf_counter()
        transaction = decode_transaction(await bodies.read_json(request.scope, request.receive))
        prediction = await micro_batcher.submit(
            transaction, started, request.scope, request.scope.get("trace")
        )
        return Response(encode_prediction(prediction), media_type="application/json")

    @app.post(
        "/predict/batch",
        summary="Score 1 to 1,000 transactions in one pass of the model",
        openapi_extra=_operation(TransactionBatch, PredictionBatch),
    )
    async def predict_batch(request: Request) -> Response:
        started = perf_counter()
        transactions = decode_transactions(await bodies.read_json(request.scope, request.receive))
        if (trace := request.scope.get("trace")) is not None:
            trace.mark("decode", started, perf_counter())
        predictions = await micro_batcher.score_batch(transactions, started, request.scope, trace)
        return Response(encode_predictions(predictions), media_type="application/json")


def _add_state(
    app: FastAPI,
    scorer: Scorer,
    identity: str,
    draining: Callable[[], bool],
    wanted: Callable[[], WantedVersion | None],
) -> None:
    @app.get("/livez", summary="The process answers; depends on nothing else")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="A model is loaded and the replica is not about to stop")
    async def readyz(response: Response) -> dict[str, str]:
        if draining():
            raise Problem(503, "the replica is stopping", headers={"retry-after": "3"})
        _lineup(scorer)
        response.headers[REPLICA_HEADER] = identity
        return {"status": "ready"}

    @app.get("/model", summary="The model that scores, and the version that should")
    async def model() -> dict[str, Any]:
        lineup = _lineup(scorer)
        champion, manifest, asked = lineup.champion, lineup.champion.manifest, wanted()
        return {
            "version": champion.version,
            "alias": champion.alias,
            "wanted": asked._asdict() if asked else None,
            "digest": champion.digest,
            "loaded_at": rfc3339(lineup.loaded_at),
            "threshold": champion.threshold,
            "features": manifest.features,
            "categories": manifest.categories,
            "trained_at": manifest.trained_at,
            "training": manifest.training,
            "metrics": manifest.metrics,
            "parity": {"rows": champion.parity.rows, "max_difference": champion.parity.max_difference},
        }


def _lineup(scorer: Scorer) -> Lineup:
    if scorer.lineup is None:
        raise NoModel
    return scorer.lineup


def _answer_errors(app: FastAPI, model_metrics: ModelMetrics) -> None:
    async def answer_invalid(request: Request, error: Exception) -> Response:
        model_metrics.errors.labels("validation").value += 1
        return await _answer_error(request, error)

    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(InvalidTransaction, answer_invalid)
    for error in (Problem, NoModel, Refused, BodyTooLarge, Exception):
        app.add_exception_handler(error, _answer_error)


async def _answer_error(_: Request, error: Exception) -> Response:
    problem = problem_of(error)
    return Response(problem.body, problem.status, headers=problem.headers, media_type=PROBLEM_TYPE)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class only
    headers, path = dict(error.headers or {}), request.scope["path"]
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    detail = {
        404: f"there is nothing at {path}; see /docs",
        405: f"{path} takes {headers.get('Allow', 'other methods')}, not {request.method}",
    }.get(error.status_code, str(error.detail))
    return await _answer_error(request, Problem(error.status_code, detail, headers=headers))


def _operation(body: type, answer: type) -> dict[str, Any]:
    """Describe a route whose body FastAPI does not parse: msgspec has the one definition."""

    def content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
        return {"content": {media_type: {"schema": {"$ref": _SCHEMAS + kind.__name__}}}}

    problems = {
        "408": "The body did not arrive in time",
        "413": "The body is too large",
        "415": "The body is not JSON",
        "422": "Not a transaction; `errors` names the field and the reason",
        "429": "More requests than a client may send; come back after `Retry-After` seconds",
        "503": "No model yet, or too much waits already; come back after `Retry-After` seconds",
    }
    return {
        "requestBody": {"required": True, **content(body)},
        "responses": {
            "200": {"description": "Scored", **content(answer)},
            **{
                status: {"description": description, **content(ProblemBody, PROBLEM_TYPE)}
                for status, description in problems.items()
            },
        },
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, ours = msgspec.json.schema_components(
            [Transaction, Prediction, TransactionBatch, PredictionBatch, ProblemBody],
            ref_template=_SCHEMAS + "{name}",
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(ours)
        app.openapi_schema = schema
    return app.openapi_schema
