"""Bytes to records and back. The only place that knows what can be wrong with a client's bytes."""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from fraudscale.errors import FraudscaleError
from fraudscale.scoring.records import (
    Prediction,
    PredictionBatch,
    ScoredTransaction,
    Scores,
    Transaction,
    TransactionBatch,
)


class InvalidTransaction(FraudscaleError):
    """The bytes are not a transaction: `field` (a JSON path, "" for the whole body) and `reason` say why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


# msgspec raises DecodeError for bad JSON and its subclass ValidationError for a bad schema; bad UTF-8 and nesting
# beyond the interpreter's recursion limit (in a field that we would ignore) raise these two instead.
_BAD_BYTES: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

R = TypeVar("R")
_BOM: Final = b"\xef\xbb\xbf"

_decode_one: Final = msgspec.json.Decoder(Transaction).decode
_decode_many: Final = msgspec.json.Decoder(TransactionBatch).decode
_encoder: Final = msgspec.json.Encoder()
encode_prediction: Final = _encoder.encode
"""Prediction → JSON bytes."""

_PATH: Final = re.compile(r"^(?P<reason>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<field>[^`]+)`$")


def decode_transaction(body: bytes) -> Transaction:
    """Read one transaction from JSON bytes; one leading byte order mark is ignored, as RFC 8259 lets a reader do.

    Raises:
        InvalidTransaction: malformed JSON, a missing field, a wrong type, or a value out of range.
    """
    try:
        return _decode_one(body)
    except _BAD_BYTES as error:
        return _decode_again(_decode_one, body, error)


def decode_each(bodies: Sequence[bytes]) -> list[Transaction]:
    """Read one transaction from each body.

    Raises:
        InvalidTransaction: one of them is none; `decode_transaction` tells which, and why.
    """
    try:
        return [_decode_one(body) for body in bodies]
    except _BAD_BYTES as error:
        raise InvalidTransaction("", f"One of {len(bodies)} bodies is no transaction") from error


def decode_transactions(body: bytes) -> list[Transaction]:
    """Read the body of a batch request: 1 to 1,000 transactions under `transactions`.

    Raises:
        InvalidTransaction: as for one; the field begins with `transactions[i]`.
    """
    try:
        return _decode_many(body).transactions
    except _BAD_BYTES as error:
        return _decode_again(_decode_many, body, error).transactions


def encode_transaction(transaction: Transaction) -> bytes:
    return _encoder.encode(transaction)


def encode_predictions(predictions: list[Prediction]) -> bytes:
    return _encoder.encode(PredictionBatch(predictions))


def encode_scored(scores: Scores, event_times: Sequence[str]) -> list[bytes]:
    """Make the values of `<topic>.scored` records of transactions that were sent at these times."""
    encode = _encoder.encode
    version, time, replica = scores.model_version, scores.prediction_time, scores.replica_id
    return [
        encode(
            ScoredTransaction(
                t.transaction_id,
                t.amount,
                t.merchant_category,
                t.hour,
                t.day_of_week,
                t.user_age,
                t.account_balance,
                fraud,
                probability,
                confidence,
                version,
                time,
                milliseconds,
                replica,
                event_time,
            )
        )
        for t, fraud, probability, confidence, milliseconds, event_time in zip(
            scores.transactions,
            scores.frauds,
            scores.probabilities,
            scores.confidences,
            scores.processing_times_ms,
            event_times,
            strict=True,
        )
    ]


def _decode_again(decode: Callable[[bytes], R], body: bytes, error: Exception) -> R:
    """Decode without the byte order mark, or say what is wrong: to look for it first would cost each body of everybody."""
    if not body.startswith(_BOM):
        raise _explain(body, error) from error
    try:
        return decode(b"   " + body[len(_BOM) :])  # as long, so that positions are those of the body
    except _BAD_BYTES as again:
        raise _explain(body, again) from again


def _explain(body: bytes, error: Exception) -> InvalidTransaction:
    if not body:
        return InvalidTransaction("", "The body is empty")
    if isinstance(error, UnicodeDecodeError):
        return InvalidTransaction(
            "", f"The body is not UTF-8: {error.reason} at byte {_position(body, error)}"
        )
    if isinstance(error, RecursionError):
        return InvalidTransaction("", "The body is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidTransaction("", f"The body is not valid JSON: {error}")
    reason, field = str(error), ""
    if match := _PATH.match(reason):
        reason, field = match["reason"], match["path"]
    if match := _MISSING.match(reason):
        # msgspec's path for a missing field is that of the object around it
        field = f"{field}.{match['field']}" if field else match["field"]
        reason = "The field is required"
    return InvalidTransaction(field, reason)


def _position(body: bytes, error: UnicodeDecodeError) -> int:
    """Find the place in the body; the error's own is that in one of its strings."""
    try:
        body.decode()
    except UnicodeDecodeError as first:
        return first.start
    return error.start
