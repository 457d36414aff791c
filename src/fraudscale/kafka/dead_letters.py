"""Dead letters: what can't be scored, the record that says so, and the log line about them."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from fraudscale.clock import rfc3339
from fraudscale.kafka.client import MAX_RECORD_BYTES
from fraudscale.kafka.headers import (
    ERROR_DETAIL,
    ERROR_FIELD,
    FIRST_SEEN,
    LAST_OFFSET,
    OMITTABLE,
    OMITTED,
    REASON,
    SOURCE,
    TRACEPARENT,
    VERDICT,
    sha256_of,
    source_of,
)
from fraudscale.kafka.messages import Header, Output, Record, UnreadableRange
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
    """A record that can't be scored, and why.

    The reason is `validation`, `prediction` or `delivery` (a topic refuses its score); a field if one is to blame, a text.
    """

    record: Record
    reason: str
    field: str
    detail: str
    trace: Trace | None = None
    refusals: int = 0
    """How often the topic refused this letter already: each time it is tried again with less."""


def record_of(letter: DeadLetter, topic: str, now: datetime) -> Output:
    """Make the record: key and value as they came, headers that say why, from where and since when.

    What doesn't fit is left out, the largest part first, and named with its SHA-256. A replayed record that fails again
    keeps the time when it was seen first.
    """
    record, detail = letter.record, letter.detail[:LONGEST_DETAIL]
    source = source_of(record.topic, record.partition, record.offset)
    omitted: dict[str, bytes] = {}
    if letter.refusals or _size(record) > LARGEST_DEAD_LETTER:
        omitted = _omitted(_parts(record), letter.refusals - (record.key is None))
        detail = detail[: LONGEST_DETAIL - 200] + _what_is_missing(omitted)
    # a compacted topic takes no record without a key
    key = source.encode() if "key" in omitted or (letter.refusals and record.key is None) else record.key
    came = () if "headers" in omitted else record.headers
    known = dict(came)
    first_seen = known.get(FIRST_SEEN) or rfc3339(now)
    ours = VERDICT | {FIRST_SEEN}
    headers: list[Header] = [(name, value) for name, value in came if name not in ours]
    headers += [
        (REASON, letter.reason),
        (ERROR_FIELD, letter.field),
        (ERROR_DETAIL, detail.encode(errors="replace")),
        (FIRST_SEEN, first_seen),
        (SOURCE, source),
    ]
    if omitted:
        headers.append((OMITTED, ",".join(omitted)))
        headers += [(sha256_of(name), sha256(content).hexdigest()) for name, content in omitted.items()]
    if TRACEPARENT not in known:
        traceparent = letter.trace.here.traceparent if letter.trace else new_traceparent()
        headers.append((TRACEPARENT, traceparent))
    return Output(topic, key, None if "value" in omitted else record.value, headers)


def range_letter(unreadable: UnreadableRange, topic: str, now: datetime) -> Output:
    """Make the one dead letter of records that nobody could read: it names them, and has nothing else of them."""
    source = source_of(unreadable.topic, unreadable.partition, unreadable.first)
    headers: list[Header] = [
        (REASON, "unreadable"),
        (ERROR_FIELD, ""),
        (ERROR_DETAIL, unreadable.why[:LONGEST_DETAIL]),
        (FIRST_SEEN, rfc3339(now)),
        (SOURCE, source),
        (LAST_OFFSET, str(unreadable.last)),
        (OMITTED, ",".join(OMITTABLE)),
        (TRACEPARENT, new_traceparent()),
    ]
    return Output(topic, source.encode(), None, headers)


def _what_is_missing(omitted: Mapping[str, bytes]) -> str:
    if not omitted:
        return ""
    sizes = ", ".join(f"{name} of {len(content)} bytes" for name, content in omitted.items())
    return f" (too large for a dead letter: without {sizes}; the source record has all)"


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value or "") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _parts(record: Record) -> dict[str, bytes]:
    """What may be left out, as it is hashed: of headers the names and values in their order."""
    headers = b"".join(
        name.encode() + (value.encode() if isinstance(value, str) else value or b"")
        for name, value in record.headers
    )
    return {"key": record.key or b"", "value": record.value or b"", "headers": headers}


def _omitted(parts: Mapping[str, bytes], least: int) -> dict[str, bytes]:
    """Take what is left out: as many of the largest parts as were refused, and as don't fit."""
    omitted: dict[str, bytes] = {}
    size = sum(map(len, parts.values()))
    for name, content in sorted(parts.items(), key=lambda part: -len(part[1])):
        if content and (len(omitted) < least or size > LARGEST_DEAD_LETTER):
            omitted[name] = content
            size -= len(content)
    return omitted


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
