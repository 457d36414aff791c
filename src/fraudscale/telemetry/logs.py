"""Logs are events: JSON lines on stdout, pretty on a terminal. docs/reference/logs.md lists each event."""

import logging
import random
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec
import structlog

from fraudscale.config import LogSettings
from fraudscale.scoring.records import Scores
from fraudscale.telemetry.tracing import NO_TRACES, Trace

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
            logger_factory=structlog.BytesLoggerFactory(_stdout),  # type: ignore[arg-type]
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


class _Stdout:
    """Standard output that takes what it can: a full disk under the log must not stop whoever writes to it."""

    def write(self, lines: bytes) -> None:
        with suppress(OSError):
            sys.stdout.buffer.write(lines)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stdout.buffer.flush()


_stdout: Final = _Stdout()


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

    def write(self, scores: Scores, traces: Mapping[int, Trace] = NO_TRACES) -> None:
        """Write the lines of one pass; `traces` are by the place of their transactions."""
        if self._share == 0:
            return
        ids = [t.transaction_id for t in scores.transactions]
        rows = list(zip(ids, scores.probabilities, scores.frauds, scores.processing_times_ms, strict=True))
        if self._share < 1:
            chosen = [i for i in range(len(rows)) if self._random.random() < self._share]
            rows = [rows[i] for i in chosen]
            traces = (
                {new: traces[old] for new, old in enumerate(chosen) if old in traces} if traces else traces
            )
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
                    **(traces[i].ids() if i in traces else {}),
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
        lines = _encoder.encode_lines(made)
        _stdout.write(_with_ids(lines, traces) if traces else lines)
        _stdout.flush()


def _with_ids(encoded: bytes, traces: Mapping[int, Trace]) -> bytes:
    """Put the ids in front of the closing brace of their lines: a pass without traces pays nothing for them."""
    lines = encoded.split(b"\n")  # JSON escapes line breaks
    for i, trace in traces.items():
        # hexadecimal digits need no escapes
        ids = f',"trace_id":"{trace.here.trace_id}","span_id":"{trace.here.span_id}"}}'
        lines[i] = lines[i][:-1] + ids.encode()
    return b"\n".join(lines)


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
