"""Records of a topic, and models of a few lines that score them or fail."""

from random import Random

import msgspec

from fraudscale.kafka.messages import Record
from fraudscale.scoring.records import Scores
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.tracing import NOT_TRACED, Tracer

SPAN, OTHER = "b" * 16, "c" * 16
SAMPLED, UNSAMPLED = f"00-{'a' * 32}-{SPAN}-01", f"00-{'d' * 32}-{OTHER}-00"
PASSING_ON = Tracer(1.0, 50, None, Random(1))
"""As where no collector is set."""
GOOD = {
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 13,
    "day_of_week": 2,
    "user_age": 34,
    "account_balance": 100.0,
}


def record(offset: int, value: bytes | None = None, *, partition: int = 0, **more) -> Record:
    body = msgspec.json.encode(GOOD | {"transaction_id": f"t{offset}"}) if value is None else value
    more = {"headers": (), "timestamp": 1_700_000_000_123, "key": f"k{offset}".encode()} | more
    return Record(topic="in", partition=partition, offset=offset, value=body, **more)


def score(transactions, started, *, trace=NOT_TRACED, final=True):
    assert len(transactions) == len(started) > 0
    many = len(transactions)
    return Scores(
        transactions,
        [0.1] * many,
        [False] * many,
        [0.9] * many,
        [1.0] * many,
        "7",
        "2026-11-23T10:00:00Z",
        "r",
    )


def failing_on(*ids):
    def scored(transactions, started, *, trace=NOT_TRACED, final=True):
        if any(t.transaction_id in ids for t in transactions):
            raise PredictionFailed("model 7 failed: no")
        return score(transactions, started)

    return scored
