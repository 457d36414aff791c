"""What becomes of a batch, decided without a broker: decode → score → encode; what fails on the way is a dead letter."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

from fraudscale.clock import rfc3339
from fraudscale.errors import FraudscaleError
from fraudscale.kafka.dead_letters import DeadLetter
from fraudscale.kafka.headers import SOURCE, source_of
from fraudscale.kafka.messages import Batch, Output, Record
from fraudscale.scoring.codec import InvalidTransaction, decode_each, decode_transaction, encode_scored
from fraudscale.scoring.records import Scores, Transaction
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.tracing import BatchTrace

ENCODED_AT_ONCE: Final = 500
"""Outputs made at once: they are written while they are in the processor's cache, which takes a quarter less time."""
LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999: a producer's clock may be absurd."""


class ScoreFunction(Protocol):
    """As `Scorer.score`."""

    def __call__(
        self,
        transactions: Sequence[Transaction],
        started: Sequence[float],
        *,
        trace: BatchTrace,
        final: bool,
    ) -> Scores: ...


class ModelBroken(FraudscaleError):
    """The model fails on an ordinary transaction too: the records are not to blame."""


@dataclass
class Plan:
    """What becomes of a batch: each of its records has a score or is dead."""

    scores: int = 0
    scored: Iterable[Output] = ()
    """As many; to be gone through once, since they are made on the way."""
    dead: list[DeadLetter] = field(default_factory=list)


def plan(
    batch: Batch, score: ScoreFunction, works: Callable[[], bool], scored_topic: str, trace: BatchTrace
) -> Plan:
    """Decode and score a batch in one pass of the model; encode the scores as they are taken.

    Args:
        batch: at least one record.
        score: as `Scorer.score`.
        works: whether the model scores an ordinary transaction; asked only after it failed.
        scored_topic: where scores go.
        trace: of the records; is told what becomes of them.

    Raises:
        ModelBroken: the model fails whatever it is given; nothing of the batch should be committed.
        NoModel: there is none.
    """
    result = Plan()
    valid, transactions, trace = _decode(batch.records, trace, result.dead)
    if not valid:
        return result
    try:
        # not final: what fails here is given to the model again
        scores = score(transactions, [batch.read_at] * len(valid), trace=trace, final=False)
    except PredictionFailed as error:
        # one record may break the model for all, so each is tried alone; but a model that fails on anything would
        # turn a whole topic into dead letters
        if not works():
            raise ModelBroken(str(error)) from error
        _score_singly(valid, transactions, trace, batch.read_at, score, scored_topic, result)
        return result
    _note_scores(trace, scores)
    result.scores, result.scored = len(valid), _encode(valid, scores, trace, scored_topic)
    return result


def _decode(
    records: list[Record], trace: BatchTrace, dead: list[DeadLetter]
) -> tuple[list[Record], list[Transaction], BatchTrace]:
    """Return the records that are transactions, those, and their traces; the others are dead letters."""
    try:
        return records, decode_each([record.value or b"" for record in records]), trace
    except InvalidTransaction:
        pass  # one of them is bad: seldom enough to begin again
    valid: list[int] = []
    transactions: list[Transaction] = []
    for i, record in enumerate(records):
        try:
            transactions.append(decode_transaction(record.value or _value_of(record)))
            valid.append(i)
        except InvalidTransaction as error:
            dead.append(_dead(record, trace, i, "validation", error.field, error.reason))
    return [records[i] for i in valid], transactions, trace.pick(valid)


def _value_of(record: Record) -> bytes:
    if record.value is None:
        raise InvalidTransaction("", "The record has no value (a tombstone)")
    return record.value


def _dead(record: Record, trace: BatchTrace, index: int, reason: str, field: str, detail: str) -> DeadLetter:
    trace.fail(index, {"fraudscale.dead_letter": reason})
    return DeadLetter(record, reason, field, detail, trace.traces.get(index))


def _score_singly(
    valid: Sequence[Record],
    transactions: Sequence[Transaction],
    trace: BatchTrace,
    read_at: float,
    score: ScoreFunction,
    topic: str,
    result: Plan,
) -> None:
    outputs: list[Output] = []
    for i, (record, transaction) in enumerate(zip(valid, transactions, strict=True)):
        own = trace.pick((i,))
        try:
            scores = score([transaction], [read_at], trace=own, final=True)
        except PredictionFailed as error:
            result.dead.append(_dead(record, trace, i, "prediction", "", str(error)))
        else:
            _note_scores(own, scores)
            outputs += _encode([record], scores, own, topic)
    result.scores, result.scored = len(outputs), outputs


def _note_scores(trace: BatchTrace, scores: Scores) -> None:
    """Let the spans of scored records name their transaction and the model; `trace` is that of the scores."""
    for i, one in trace.recorded():
        one.about["fraudscale.transaction_id"] = scores.transactions[i].transaction_id
        one.about["fraudscale.model_version"] = scores.model_version


def _encode(records: Sequence[Record], scores: Scores, trace: BatchTrace, topic: str) -> Iterator[Output]:
    for begin in range(0, len(records), ENCODED_AT_ONCE):
        some = records[begin : begin + ENCODED_AT_ONCE]
        times = [event_time(r.timestamp) for r in some]
        values = encode_scored(scores.part(begin, begin + ENCODED_AT_ONCE), times)
        outputs = [
            Output(topic, r.key, value, [(SOURCE, source_of(r.topic, r.partition, r.offset))])
            for r, value in zip(some, values, strict=True)
        ]
        if trace:
            for i, output in enumerate(outputs, begin):
                output.headers.extend(trace.headers(i))
        yield from outputs


@lru_cache(maxsize=8192)
def event_time(milliseconds: int) -> str:
    """Milliseconds since 1970 → `2026-11-23T10:00:00.123Z`; a producer's absurd clock ends with the year 9999."""
    seconds, rest = divmod(min(milliseconds, LATEST_MS), 1000)
    # a float of seconds would lose the milliseconds of late years
    at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=1000 * rest)
    return rfc3339(at, "milliseconds")
