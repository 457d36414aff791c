"""Logs are events: JSON lines on stdout, pretty on a terminal. docs/reference/logs.md lists each event."""

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from fraudscale.config import LogSettings
from fraudscale.doubts import doubts

Logger = structlog.typing.FilteringBoundLogger
encoder = msgspec.json.Encoder(enc_hook=repr)


def set_up(settings: LogSettings, *, replica_id: str | None = None, process: str) -> Logger:
    """Configure logging of this process, standard-library loggers included; return the root logger.

    Every line says which process writes, such as `serve` or `stream`, and which replica where it is one's.
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
            wrapper_class=_never_raising(level),
            # Bytes from the encoder to the file: a text layer would encode each line once more.
            logger_factory=structlog.BytesLoggerFactory(stdout),  # type: ignore[arg-type]
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            processors=[*shared[:-1], structlog.dev.ConsoleRenderer()],  # which draws tracebacks itself
            wrapper_class=_never_raising(level),
            logger_factory=structlog.PrintLoggerFactory(),
            cache_logger_on_first_use=True,
        )
    # Libraries say much that helps nobody below a warning. `force`: one that was imported may have set up its own.
    logging.basicConfig(handlers=[_ToStructlog()], level=max(level, logging.WARNING), force=True)
    context = {"process": process} | ({"replica_id": replica_id} if replica_id else {})
    log: Logger = structlog.get_logger().bind(**context)
    for doubt in doubts():
        log.warning("setting_doubtful", setting=doubt.name, reason=doubt.detail)
    return log


def is_json(settings: LogSettings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stdout.isatty())


def _never_raising(level: int) -> type[Logger]:
    """Make the class of our loggers: what can't be written is no failure of who writes it."""
    base = structlog.make_filtering_bound_logger(level)

    def guarded(method: Callable[..., Any]) -> Callable[..., None]:
        def write(self: Logger, event: object, *args: object, **fields: object) -> None:
            try:
                method(self, event, *args, **fields)
            except Exception as error:  # a text that doesn't fit its format, or whatever a value raises
                with suppress(Exception):
                    method(self, _text(event), message=_text(args or fields), error=_text(error))

        return write

    names = ("debug", "info", "warning", "error", "critical", "exception", "log")
    return type("NeverRaisingLogger", (base,), {name: guarded(getattr(base, name)) for name in names})


def _render_json(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        return encoder.encode(event)
    except Exception:
        # One value that can't be encoded, whatever it raises, must not cost the line the others.
        return encoder.encode({_text(name): _encodable(value) for name, value in event.items()})


def _encodable(value: object) -> msgspec.Raw | str:
    try:
        return msgspec.Raw(encoder.encode(value))
    except Exception:
        return _text(value)


def _text(value: object) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text.encode(errors="backslashreplace").decode()  # half a surrogate pair has no UTF-8


class _Stdout:
    """Standard output that takes what it can: a full disk under the log must not stop whoever writes to it."""

    def write(self, lines: bytes) -> None:
        with suppress(OSError, ValueError, AttributeError):  # full; closed; none since the start
            sys.stdout.buffer.write(lines)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.buffer.flush()


stdout: Final = _Stdout()


class _ToStructlog(logging.Handler):
    """Warnings and errors of libraries, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:
            # Arguments that don't fit the format are the library's mistake, and no reason to stop it.
            message = f"{_text(record.msg)} {_text(record.args)}"
        # A level of its own is written as the one below it.
        level = min(max(record.levelno // 10, 1), 5) * 10
        logger = structlog.get_logger(library=record.name)
        logger.log(level, "library_message", message=message, exc_info=record.exc_info or None)


class LogLimiter:
    """Says whether something may be logged again: once per key in `seconds`, so that an outage is not a flood of lines."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def allows(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(key, -self._seconds) < self._seconds:
            return False
        self._last[key] = now
        return True
