"""Dead letters: what can't be scored, the record that says so, and the log line about them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fraudscale.clock import rfc3339
from fraudscale.kafka.client import MAX_RECORD_BYTES
from fraudscale.kafka.headers import (
    ERROR_DETAIL,
    ERROR_FIELD,
    FIRST_SEEN,
    REASON,
    SOURCE,
    TRACEPARENT,
    VERDICT,
    source_of,
)
from fraudscale.kafka.messages import Header, Output, Record
from fraudscale.telemetry.logs import Logger, LogLimiter
from fraudscale.telemetry.tracing import Trace

LONGEST_DETAIL: Final = 500
"""Characters of a dead letter's `error-detail`."""
LARGEST_DEAD_LETTER: Final = MAX_RECORD_BYTES - 64 * 1024
"""Bytes of a record that fits into a dead letter with our headers: a topic limits what is compressed, so records may be larger."""
LOG_SECONDS: Final = 10.0
"""Bad input of a whole topic is a line of the log now and then, not one for each batch."""


@dataclass(frozen=True)
class DeadLetter:
    """A record that can't be scored, and why: `validation` or `prediction`, a field if one is to blame, a text."""

    record: Record
    reason: str
    field: str
    detail: str
    trace: Trace | None = None


def record_of(letter: DeadLetter, topic: str, now: datetime) -> Output:
    """Make the record: key and value as they came, headers that say why, from where and since when.

    A replayed record that fails again keeps the time when it was seen first.
    """
    record = letter.record
    value, came, detail = record.value, record.headers, letter.detail[:LONGEST_DETAIL]
    if _size(record) > LARGEST_DEAD_LETTER:
        value, came = None, ()
        detail = f"{detail[: LONGEST_DETAIL - 100]} (too large for a dead letter: without value and headers; the source record has them)"
    known = dict(came)
    first_seen = known.get(FIRST_SEEN) or rfc3339(now)
    ours = VERDICT | {FIRST_SEEN}
    headers: list[Header] = [(name, value) for name, value in came if name not in ours]
    headers += [
        (REASON, letter.reason),
        (ERROR_FIELD, letter.field),
        (ERROR_DETAIL, detail.encode(errors="replace")),
        (FIRST_SEEN, first_seen),
        (SOURCE, source_of(record.topic, record.partition, record.offset)),
    ]
    if TRACEPARENT not in known:
        traceparent = letter.trace.here.traceparent if letter.trace else new_traceparent()
        headers.append((TRACEPARENT, traceparent))
    return Output(topic, record.key, value, headers)


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value or "") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def new_traceparent() -> str:
    """Begin a trace (W3C), not sampled: a name by which a record is found again over topics and logs."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


class DeadLetterLog:
    """`dead_lettered`: how many since the last line and why the first, at most every `LOG_SECONDS`."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._log_limiter = LogLimiter(LOG_SECONDS)
        self._count = 0
        self._first: DeadLetter | None = None

    def add(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            self._count += len(letters)
            self._first = self._first or letters[0]
        if self._first is not None and self._log_limiter.allows(""):
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if (first := self._first) is None:
            return
        self._log.warning(
            "dead_lettered",
            count=self._count,
            first_reason=first.reason,
            first_field=first.field,
            first_detail=first.detail[:LONGEST_DETAIL],
            first_source=f"{first.record.topic}/{first.record.partition}/{first.record.offset}",
            **(first.trace.ids() if first.trace else {}),
        )
        self._count, self._first = 0, None
