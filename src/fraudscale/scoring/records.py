"""Transaction and Prediction: the two records that everything passes on, and the only schema of HTTP and Kafka."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

CATEGORIES = (
    "grocery",
    "restaurant",
    "clothing",
    "electronics",
    "entertainment",
    "travel",
    "utilities",
    "gambling",
    "cash_advance",
    "crypto",
    "other",
)
"""Merchant categories that the generator and a first training know; a model brings its own list in its artifact."""

MAX_BATCH = 1000
"""Transactions in one `POST /predict/batch`."""

TransactionId = Annotated[str, Meta(min_length=1, max_length=128, description="unique id of the transaction")]


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """One payment to be scored. Unknown fields are ignored; numbers must be JSON numbers, integers without a fraction."""

    transaction_id: TransactionId
    amount: Annotated[
        float, Meta(ge=0, description="amount of the payment, in units of the account's currency")
    ]
    merchant_category: Annotated[
        str,
        Meta(
            max_length=128, description='one of the model\'s categories; an unknown one is scored as "other"'
        ),
    ]
    hour: Annotated[int, Meta(ge=0, le=23, description="local hour of the payment")]
    day_of_week: Annotated[int, Meta(ge=0, le=6, description="Monday = 0")]
    user_age: Annotated[int, Meta(ge=0, le=130, description="age of the account holder, years")]
    account_balance: Annotated[float, Meta(description="balance before the payment; may be negative")]


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """The answer to one transaction."""

    transaction_id: str
    is_fraud: Annotated[bool, Meta(description="probability ≥ the threshold stored with the model")]
    fraud_probability: Annotated[float, Meta(ge=0, le=1)]
    confidence: Annotated[float, Meta(ge=0.5, le=1, description="max(p, 1 − p)")]
    model_version: Annotated[str, Meta(description="version in the model registry")]
    prediction_time: Annotated[str, Meta(description="RFC 3339 instant of the prediction, UTC")]
    processing_time_ms: Annotated[
        float, Meta(ge=0, description="time from the call's start; of the whole call in a batch")
    ]
    replica_id: str


class Scores(msgspec.Struct, frozen=True, gc=False):
    """What one pass of the model said: columns in the order of its transactions, and what all of them have in common.

    A batch from Kafka needs no `Prediction`s: making an object for each transaction costs as much as its features.
    """

    transactions: Sequence[Transaction]
    probabilities: Sequence[float]
    frauds: Sequence[bool]
    confidences: Sequence[float]
    processing_times_ms: Sequence[float]
    model_version: str
    prediction_time: str
    replica_id: str

    def part(self, begin: int, end: int) -> "Scores":
        """Return those from `begin` up to `end`, exclusive."""
        return Scores(
            self.transactions[begin:end],
            self.probabilities[begin:end],
            self.frauds[begin:end],
            self.confidences[begin:end],
            self.processing_times_ms[begin:end],
            self.model_version,
            self.prediction_time,
            self.replica_id,
        )

    def predictions(self) -> list[Prediction]:
        version, time, replica = self.model_version, self.prediction_time, self.replica_id
        return [
            Prediction(t.transaction_id, fraud, probability, confidence, version, time, milliseconds, replica)
            for t, fraud, probability, confidence, milliseconds in zip(
                self.transactions,
                self.frauds,
                self.probabilities,
                self.confidences,
                self.processing_times_ms,
                strict=True,
            )
        ]


class ScoredTransaction(msgspec.Struct, frozen=True, gc=False):
    """A record of `<topic>.scored`: the fields of both records, and when the payment was sent."""

    transaction_id: str
    amount: float
    merchant_category: str
    hour: int
    day_of_week: int
    user_age: int
    account_balance: float
    is_fraud: bool
    fraud_probability: float
    confidence: float
    model_version: str
    prediction_time: str
    processing_time_ms: float
    replica_id: str
    event_time: Annotated[str, Meta(description="timestamp of the input record, RFC 3339, UTC")]
    schema_version: int = 1


class TransactionBatch(msgspec.Struct, frozen=True):
    """The body of `POST /predict/batch`."""

    transactions: Annotated[list[Transaction], Meta(min_length=1, max_length=MAX_BATCH)]


class PredictionBatch(msgspec.Struct, frozen=True):
    """The answer of `POST /predict/batch`, in the order of the request."""

    predictions: list[Prediction]
