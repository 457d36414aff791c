"""Logs are events: JSON lines on stdout, pretty on a terminal. docs/reference/logs.md lists each event."""

import logging
import random
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
import structlog

from fraudscale.config import LogSettings
from fraudscale.records import Prediction
from fraudscale.tracing import NO_TRACES, Trace

Logger = structlog.typing.FilteringBoundLogger
_encoder = msgspec.json.Encoder(enc_hook=repr)


def set_up(settings: LogSettings, *, replica_id: str | None = None, process: str) -> Logger:
    """Configure logging of this process, standard-library loggers included; return the root logger.

    Args:
        settings: level, format.
        replica_id: on every line, where the process is a replica's.
        process: which program writes, such as `serve` or `stream`.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if is_json(settings):
        structlog.configure(
            processors=[*shared, _render_json],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            processors=[*shared[:-1], structlog.dev.ConsoleRenderer()],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.PrintLoggerFactory(),
            cache_logger_on_first_use=True,
        )
    logging.basicConfig(handlers=[_ToStructlog()], level=max(level, logging.WARNING), force=True)
    context = {"process": process} | ({"replica_id": replica_id} if replica_id else {})
    return structlog.get_logger().bind(**context)  # type: ignore[no-any-return]


def is_json(settings: LogSettings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stdout.isatty())


def _render_json(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
    return _encoder.encode(event)


class _ToStructlog(logging.Handler):
    """Warnings and errors of libraries, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(library=record.name)
        logger.log(
            record.levelno, "library_message", message=record.getMessage(), exc_info=record.exc_info or None
        )


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

    def write(
        self, predictions: Sequence[Prediction], now: datetime, traces: Mapping[int, Trace] = NO_TRACES
    ) -> None:
        """Write the lines of one pass, whose instant is `now`; `traces` are by the place of their predictions."""
        if self._share < 1:
            if self._share == 0:
                return
            chosen = [i for i in range(len(predictions)) if self._random.random() < self._share]
            predictions = [predictions[i] for i in chosen]
            traces = (
                {new: traces[old] for new, old in enumerate(chosen) if old in traces} if traces else traces
            )
        if not self._json:
            logger = structlog.get_logger(process=self._process)
            for i, p in enumerate(predictions):
                logger.info(
                    "prediction_made",
                    transaction_id=p.transaction_id,
                    fraud_probability=round(p.fraud_probability, 6),
                    processing_time_ms=round(p.processing_time_ms, 3),
                    model_version=p.model_version,
                    replica_id=p.replica_id,
                    **(traces[i].ids() if i in traces else {}),
                )
            return
        timestamp = now.isoformat().replace("+00:00", "Z")
        process, encode = self._process, _encoder.encode
        lines = [
            encode(
                _PredictionMade(
                    "prediction_made",
                    "info",
                    timestamp,
                    process,
                    p.replica_id,
                    p.transaction_id,
                    p.fraud_probability,
                    p.is_fraud,
                    p.processing_time_ms,
                    p.model_version,
                )
            )
            for p in predictions
        ]
        for i, trace in traces.items():
            # Put in front of the closing brace: a pass without traces pays nothing, and hexadecimal digits need no escapes.
            ids = f',"trace_id":"{trace.here.trace_id}","span_id":"{trace.here.span_id}"}}'
            lines[i] = lines[i][:-1] + ids.encode()
        lines.append(b"")
        sys.stdout.buffer.write(b"\n".join(lines))
        sys.stdout.buffer.flush()


class Seldom:
    """Says whether something may be logged again: once per key in `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(key, -self._seconds) < self._seconds:
            return False
        self._last[key] = now
        return True
