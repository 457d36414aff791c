"""The one scorer of the HTTP endpoint and the Kafka consumer: transactions in, predictions out, all timed, counted and logged."""

from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter

from fraudscale.clock import rfc3339
from fraudscale.errors import FraudscaleError
from fraudscale.metrics import ModelMetrics
from fraudscale.scoring.lineup import Lineup, NoModel
from fraudscale.scoring.model import Model
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.records import Scores, Transaction
from fraudscale.telemetry.tracing import NOT_TRACED, BatchTrace


class PredictionFailed(FraudscaleError):
    """The model raised while scoring valid transactions."""


class Scorer:
    """Routes transactions to the model of the current lineup.

    Calls of `score` must not overlap (one event loop, or one thread); `install` may come from another thread.
    """

    def __init__(self, metrics: ModelMetrics, log: PredictionLog, replica_id: str) -> None:
        self.lineup: Lineup | None = None
        self.last_pass = (0.0, 0.0)
        """When the model began and ended its last pass, by `perf_counter()`."""
        self._metrics = metrics
        self._log = log
        self._replica_id = replica_id
        self._duration = metrics.duration.labels()
        self._probability = metrics.probability.labels()
        self._confidence = metrics.confidence.labels()

    def install(self, model: Model) -> None:
        """Let this model score from the next pass on; passes that run keep the one they began with."""
        for result in ("fraud", "legitimate"):
            self._metrics.predictions.labels(model.version, result)
        self.lineup = Lineup(model, datetime.now(UTC))
        self._metrics.info.labels(model.version, model.alias).value = 1
        self._metrics.info.retain([(model.version, model.alias)])

    def score(
        self,
        transactions: Sequence[Transaction],
        started: Sequence[float],
        *,
        trace: BatchTrace = NOT_TRACED,
        final: bool = True,
    ) -> Scores:
        """Score transactions in one pass of the model.

        Args:
            transactions: at least one.
            started: for each, the `perf_counter()` of its call's start; `processing_time_ms` counts from there.
            trace: of those transactions that have one.
            final: whether what fails now gets no score; else it is tried again, and nothing is counted yet.

        Raises:
            NoModel: no model was ever loaded.
            PredictionFailed: the model raised.
        """
        lineup, metrics = self.lineup, self._metrics
        if lineup is None:
            metrics.failed.labels().value += len(transactions)
            raise NoModel("no model was loaded yet")
        model = lineup.champion
        begin = perf_counter()
        try:
            probabilities = model.probabilities(transactions)
            if len(probabilities) != len(transactions):
                raise ValueError(f"{len(probabilities)} probabilities for {len(transactions)} transactions")  # noqa: TRY301
        except Exception as error:  # whatever an engine raises, the caller must get an answer
            if final:
                metrics.errors.labels("prediction").value += 1
                metrics.failed.labels().value += len(transactions)
            raise PredictionFailed(f"model {model.version} failed: {error}") from error
        end = perf_counter()
        self.last_pass = (begin, end)
        threshold = model.threshold
        scores = Scores(
            transactions,
            probabilities,
            [p >= threshold for p in probabilities],
            [p if p >= 0.5 else 1 - p for p in probabilities],
            [(end - start) * 1e3 for start in started],
            model.version,
            rfc3339(datetime.now(UTC)),
            self._replica_id,
        )
        self._count(scores, model, end - begin, trace)
        self._log.write(scores, trace)
        return scores

    def _count(self, scores: Scores, model: Model, seconds: float, trace: BatchTrace) -> None:
        metrics, many = self._metrics, len(scores.transactions)
        self._probability.observe_all(scores.probabilities)
        self._confidence.observe_all(scores.confidences)
        self._duration.observe(seconds, many)
        if frauds := sum(scores.frauds):
            metrics.predictions.labels(model.version, "fraud").value += frauds
        if frauds < many:
            metrics.predictions.labels(model.version, "legitimate").value += many - frauds
        known = sum(map(model.featurizer.knows, [t.merchant_category for t in scores.transactions]))
        if known < many:
            metrics.unknown_categories.labels().value += many - known
        if ids := trace.exemplar():
            self._duration.exemplify(seconds, ids)
