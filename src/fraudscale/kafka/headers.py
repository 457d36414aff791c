"""The headers that our Kafka records carry, for who writes them and who reads them."""

from typing import Final, NamedTuple

# docs/reference/topics.md promises them.
REASON: Final = "reason"
ERROR_FIELD: Final = "error-field"
ERROR_DETAIL: Final = "error-detail"
FIRST_SEEN: Final = "first-seen"
SOURCE: Final = "source-record"
TRACEPARENT: Final = "traceparent"
REPLAYS: Final = "replays"
LAST_OFFSET: Final = "last-offset"
"""Of a dead letter that stands for a range of records, which begins with its source record."""
OMITTED: Final = "omitted"
OMITTABLE: Final = ("key", "value", "headers")
"""Parts of a record that its dead letter may lack; `OMITTED` names those that it does."""


def sha256_of(part: str) -> str:
    """Name the header with the hash of an omitted part."""
    return f"{part}-sha256"


VERDICT: Final = frozenset(
    {
        REASON,
        ERROR_FIELD,
        ERROR_DETAIL,
        SOURCE,
        LAST_OFFSET,
        OMITTED,
        *(sha256_of(part) for part in OMITTABLE),
    }
)
"""What a dead letter says of one failure: it doesn't go back with the record, and the next failure says it anew."""


LONGEST_NUMBER: Final = 19
"""Digits of Kafka's largest offset."""


class SourceRecord(NamedTuple):
    """The input record that an output was made of."""

    topic: str
    partition: int
    offset: int


def source_of(topic: str, partition: int, offset: int) -> str:
    """Make the value of `SOURCE`: `transactions/3/255`. One header, since each costs as much as encoding a field."""
    return f"{topic}/{partition}/{offset}"


def read_source(value: str | bytes | None) -> SourceRecord | None:
    """Read the value of `SOURCE`; None if it isn't one. A topic's name has no slash."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    match text.split("/"):
        case [topic, partition, offset] if topic and is_number(partition) and is_number(offset):
            return SourceRecord(topic, int(partition), int(offset))
    return None


def is_number(text: str) -> bool:
    """Tell whether a header's text is a number that Kafka could have counted to; `int` takes more, and raises for thousands of digits."""
    return len(text) <= LONGEST_NUMBER and text.isascii() and text.isdigit()
