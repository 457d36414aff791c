"""One log line for each prediction, or for a share of them."""

import random
from typing import Literal

import msgspec
import structlog

from fraudscale.config import LogSettings
from fraudscale.scoring.records import Scores
from fraudscale.telemetry.logs import encoder, is_json, stdout
from fraudscale.telemetry.tracing import NOT_TRACED, BatchTrace


class _PredictionMade(msgspec.Struct, gc=False):
    """The line of one prediction; the fields are promised in docs/reference/logs.md."""

    event: Literal["prediction_made"]
    level: Literal["info"]
    timestamp: str
    process: str
    replica_id: str
    transaction_id: str
    fraud_probability: float
    is_fraud: bool
    processing_time_ms: float
    model_version: str


class PredictionLog:
    """`prediction_made` for a share of predictions: one write to stdout for a whole pass of the model."""

    def __init__(self, settings: LogSettings, process: str) -> None:
        self._share = settings.log_predictions_sample if settings.log_level in {"debug", "info"} else 0.0
        self._process = process
        self._json = is_json(settings)
        self._random = random.Random()

    def write(self, scores: Scores, trace: BatchTrace = NOT_TRACED) -> None:
        """Write the lines of one pass; `trace` is that of its transactions."""
        if self._share == 0:
            return
        ids = [t.transaction_id for t in scores.transactions]
        rows = list(zip(ids, scores.probabilities, scores.frauds, scores.processing_times_ms, strict=True))
        if self._share < 1:
            chosen = [i for i in range(len(rows)) if self._random.random() < self._share]
            rows = [rows[i] for i in chosen]
            trace = trace.pick(chosen)
        if not self._json:
            logger = structlog.get_logger(process=self._process)
            for i, (transaction_id, probability, _, milliseconds) in enumerate(rows):
                logger.info(
                    "prediction_made",
                    transaction_id=transaction_id,
                    fraud_probability=round(probability, 6),
                    processing_time_ms=round(milliseconds, 3),
                    model_version=scores.model_version,
                    replica_id=scores.replica_id,
                    **trace.ids(i),
                )
            return
        now, process = scores.prediction_time, self._process
        version, replica = scores.model_version, scores.replica_id
        made = [
            _PredictionMade(
                "prediction_made",
                "info",
                now,
                process,
                replica,
                transaction_id,
                probability,
                fraud,
                milliseconds,
                version,
            )
            for transaction_id, probability, fraud, milliseconds in rows
        ]
        lines = encoder.encode_lines(made)
        stdout.write(_with_ids(lines, trace) if trace else lines)
        stdout.flush()


def _with_ids(encoded: bytes, batch: BatchTrace) -> bytes:
    """Put the ids in front of the closing brace of their lines: a pass without traces pays nothing for them."""
    lines = encoded.split(b"\n")  # JSON escapes line breaks
    for i, trace in batch.traces.items():
        # hexadecimal digits need no escapes
        ids = f',"trace_id":"{trace.here.trace_id}","span_id":"{trace.here.span_id}"}}'
        lines[i] = lines[i][:-1] + ids.encode()
    return b"\n".join(lines)
