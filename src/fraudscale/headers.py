"""Names of the headers that our Kafka records carry, for who writes them and who reads them."""

from typing import Final

# docs/reference/topics.md promises them.
REASON: Final = "reason"
ERROR_FIELD: Final = "error-field"
ERROR_DETAIL: Final = "error-detail"
FIRST_SEEN: Final = "first-seen"
SOURCE_TOPIC: Final = "source-topic"
SOURCE_PARTITION: Final = "source-partition"
SOURCE_OFFSET: Final = "source-offset"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
REPLAYS: Final = "replays"

VERDICT: Final = frozenset({REASON, ERROR_FIELD, ERROR_DETAIL, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET})
"""What a dead letter says of one failure: it doesn't go back with the record, and the next failure says it anew."""
