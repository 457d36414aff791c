"""The Kafka door: batches from the input topic, scores to `<topic>.scored`, the rest to `<topic>.dead-letter`."""

import gc
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from threading import Event, Timer
from time import monotonic, perf_counter
from types import FrameType
from typing import Final, Protocol

from fraudscale import metrics
from fraudscale.config import (
    KafkaSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    ReplicaSettings,
    TracingSettings,
)
from fraudscale.errors import FraudscaleError
from fraudscale.kafka.batch_trace import BatchSpans, Recorded, headers_of, traces_of
from fraudscale.kafka.client import MAX_RECORD_BYTES, Link, NotDelivered
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
from fraudscale.kafka.lag import LagReporter
from fraudscale.kafka.messages import Batch, Header, Output, Record
from fraudscale.kafka.pipe import Pipe
from fraudscale.kafka.watermarks import Watermarks
from fraudscale.metrics import KafkaMetrics, ModelMetrics
from fraudscale.registry.fetch import default_loader
from fraudscale.scoring.codec import InvalidTransaction, decode_each, decode_transaction, encode_scored
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.records import Scores, Transaction
from fraudscale.scoring.scorer import PredictionFailed, Scorer
from fraudscale.telemetry import logs, spans
from fraudscale.telemetry.logs import Logger, Seldom
from fraudscale.telemetry.probes import OpsServer
from fraudscale.telemetry.tracing import NO_TRACES, Trace, Tracer

CALM_SECONDS: Final = 0.25
"""How long a read waits on a silent topic: so long a stop may take to be noticed."""
MODEL_SECONDS: Final = 0.2
"""How often a stream without a model looks for one."""
LONGEST_DETAIL: Final = 500
"""Characters of a dead letter's `error-detail`."""
LARGEST_LETTER: Final = MAX_RECORD_BYTES - 64 * 1024
"""Bytes of a record that fits into a dead letter with our headers: a topic limits what is compressed, so records may be larger."""
BACK_OFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)
"""Waits between attempts while the model or the broker fails; the last one repeats."""
GC_THRESHOLD: Final = 100_000
"""New objects until the collector looks at them: about one largest batch; Python's own choice is 700."""
PART_RECORDS: Final = 500
"""Outputs made at once: they are written while they are in the processor's cache, which takes a quarter less time."""
LEAVE_SECONDS: Final = 2.0
"""Share of the stop timeout that is kept for leaving the group and closing."""

ORDINARY: Final = Transaction("ordinary", 25.0, "grocery", 12, 2, 40, 1000.0)
"""A transaction that any working model scores: tells a broken model from a record that breaks it."""


class Score(Protocol):
    """As `Scorer.score`."""

    def __call__(
        self,
        transactions: Sequence[Transaction],
        started: Sequence[float],
        *,
        traces: Mapping[int, Trace],
        final: bool,
    ) -> Scores: ...


class ModelBroken(FraudscaleError):
    """The model fails on an ordinary transaction too: the records are not to blame."""


@dataclass(frozen=True)
class DeadLetter:
    """A record that can't be scored, and why: `validation` or `prediction`, a field if one is to blame, a text."""

    record: Record
    reason: str
    field: str
    detail: str
    trace: Trace | None = None


@dataclass
class Plan:
    """What becomes of a batch: each of its records has a score or is dead."""

    scores: int = 0
    scored: Iterable[Output] = ()
    """As many; to be gone through once, since they are made on the way."""
    dead: list[DeadLetter] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    """Those of the scored that get spans."""


def plan(batch: Batch, score: Score, works: Callable[[], bool], scored_topic: str, tracer: Tracer) -> Plan:
    """Decode and score a batch in one pass of the model.

    Args:
        batch: at least one record.
        score: as `Scorer.score`.
        works: whether the model scores an ordinary transaction; asked only after it failed.
        scored_topic: where scores go.
        tracer: finds the traces of records.

    Raises:
        ModelBroken: the model fails whatever it is given; nothing of the batch should be committed.
        NoModel: there is none.
    """
    result = Plan()
    valid, transactions = _decode(batch, tracer, result.dead)
    if not valid:
        return result
    traces = traces_of(valid, tracer, batch.read_at)
    try:
        # not final: what fails here is given to the model again
        scores = score(transactions, [batch.read_at] * len(valid), traces=traces, final=False)
    except PredictionFailed as error:
        if not works():
            raise ModelBroken(str(error)) from error
        _score_singly(valid, transactions, traces, batch.read_at, score, scored_topic, result)
        return result
    result.scores = len(valid)
    result.scored = _scored(valid, scores, traces, scored_topic)
    result.recorded = _recorded(valid, scores, traces)
    return result


def _decode(batch: Batch, tracer: Tracer, dead: list[DeadLetter]) -> tuple[list[Record], list[Transaction]]:
    """Return the records that are transactions, and those; the others are dead letters."""
    records = batch.records
    try:
        return records, decode_each([record.value or b"" for record in records])
    except InvalidTransaction:
        pass  # one of them is bad: seldom enough to begin again
    valid: list[Record] = []
    transactions: list[Transaction] = []
    for record in records:
        try:
            transactions.append(decode_transaction(record.value or _value_of(record)))
            valid.append(record)
        except InvalidTransaction as error:
            trace = tracer.of_record(record.headers, batch.read_at)
            dead.append(DeadLetter(record, "validation", error.field, error.reason, trace))
    return valid, transactions


def dead_letter(letter: DeadLetter, topic: str, now: datetime) -> Output:
    """Make the dead-letter record: key and value as they came, headers that say why, from where and since when.

    A replayed record that fails again keeps the time when it was seen first.
    """
    record = letter.record
    value, came, detail = record.value, record.headers, letter.detail[:LONGEST_DETAIL]
    if _size(record) > LARGEST_LETTER:
        value, came = None, ()
        detail = f"{detail[: LONGEST_DETAIL - 100]} (too large for a dead letter: without value and headers; the source record has them)"
    known = dict(came)
    first_seen = known.get(FIRST_SEEN) or now.isoformat().replace("+00:00", "Z")
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


def _value_of(record: Record) -> bytes:
    if record.value is None:
        raise InvalidTransaction("", "The record has no value (a tombstone)")
    return record.value


def _score_singly(
    valid: Sequence[Record],
    transactions: Sequence[Transaction],
    traces: Mapping[int, Trace],
    read_at: float,
    score: Score,
    topic: str,
    result: Plan,
) -> None:
    outputs: list[Output] = []
    for i, (record, transaction) in enumerate(zip(valid, transactions, strict=True)):
        trace = traces.get(i)
        own = {0: trace} if trace else NO_TRACES
        try:
            scores = score([transaction], [read_at], traces=own, final=True)
        except PredictionFailed as error:
            result.dead.append(DeadLetter(record, "prediction", "", str(error), trace))
        else:
            outputs += _scored([record], scores, own, topic)
            result.recorded += _recorded([record], scores, own)
    result.scores, result.scored = len(outputs), outputs


def _recorded(records: Sequence[Record], scores: Scores, traces: Mapping[int, Trace]) -> list[Recorded]:
    version, transactions = scores.model_version, scores.transactions
    return [
        Recorded(
            records[i],
            trace,
            {
                "fraudscale.transaction_id": transactions[i].transaction_id,
                "fraudscale.model_version": version,
            },
        )
        for i, trace in traces.items()
        if trace.recorded
    ]


def _scored(
    records: Sequence[Record], scores: Scores, traces: Mapping[int, Trace], topic: str
) -> Iterator[Output]:
    for begin in range(0, len(records), PART_RECORDS):
        part = records[begin : begin + PART_RECORDS]
        times = [rfc3339(r.timestamp) for r in part]
        values = encode_scored(scores.part(begin, begin + PART_RECORDS), times)
        outputs = [
            Output(topic, r.key, value, [(SOURCE, source_of(r.topic, r.partition, r.offset))])
            for r, value in zip(part, values, strict=True)
        ]
        if traces:
            for i, output in enumerate(outputs, begin):
                if trace := traces.get(i):
                    output.headers.extend(headers_of(trace))
        yield from outputs


@lru_cache(maxsize=8192)
def rfc3339(milliseconds: int) -> str:
    """Milliseconds since 1970 → `2026-11-23T10:00:00.123Z`; a producer's absurd clock ends with the year 9999."""
    seconds, rest = divmod(min(milliseconds, 253_402_300_799_999), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


class Stream:
    """The loop: read, plan, deliver, again; one thread."""

    def __init__(
        self,
        pipe: Pipe,
        scorer: Scorer,
        counts: ModelMetrics,
        messages: KafkaMetrics,
        settings: KafkaSettings,
        log: Logger,
        tracer: Tracer,
    ) -> None:
        self._pipe = pipe
        self._scorer = scorer
        self._tracer = tracer
        self._settings = settings
        self._log = log
        self._validation = counts.errors.labels("validation")
        self._broken = counts.errors.labels("prediction")
        self._active = counts.active.labels()
        self._scored = messages.produced.labels(settings.scored_topic)
        self._dead_lettered = messages.produced.labels(settings.dead_letter_topic)
        self._stopping = Event()
        self._failures = 0
        self._dead = DeadLetterLog(log)

    def run(self) -> None:
        """Score until `stop`; a batch that was read is finished first."""
        if not self._model_came():
            return
        self._log.info("stream_started", topic=self._settings.kafka_topic, group=self._settings.kafka_group)
        while not self._stopping.is_set():
            self.step()
        self._finish()
        self._dead.flush()

    def stop(self) -> None:
        """Read no more; called from any thread, or a signal handler."""
        self._stopping.set()

    def step(self) -> None:
        """Take one batch through, or give it back."""
        try:
            batch = self._pipe.read(self._settings.kafka_batch_records, CALM_SECONDS)
            if batch.records:
                self._take_through(batch)
        except NotDelivered as error:
            self._back_off("batch_not_delivered", error)

    def _model_came(self) -> bool:
        """Wait before we join the group: a member that can't score would hold its partitions back."""
        while self._scorer.lineup is None:
            if self._stopping.wait(MODEL_SECONDS):
                return False
        return True

    def _take_through(self, batch: Batch) -> None:
        self._active.value = len(batch.records)
        try:
            scored_topic = self._settings.scored_topic
            planned = plan(batch, self._scorer.score, self._model_works, scored_topic, self._tracer)
        except ModelBroken as error:
            self._broken.value += 1
            self._pipe.give_back(batch)
            self._back_off("model_broken", error)
            return
        finally:
            self._active.value = 0
        now, topic = datetime.now(UTC), self._settings.dead_letter_topic
        dead = [dead_letter(letter, topic, now) for letter in planned.dead]
        recorded = self._spans_of(batch, planned)
        # no more than these numbers and letters is kept until the commit
        scores, letters = planned.scores, planned.dead
        outputs = chain(planned.scored, dead)
        self._pipe.deliver(batch, outputs, lambda: self._committed(scores, letters, recorded))

    def _spans_of(self, batch: Batch, planned: Plan) -> BatchSpans | None:
        recorded = planned.recorded + [
            Recorded(letter.record, letter.trace, {"fraudscale.dead_letter": letter.reason}, failed=True)
            for letter in planned.dead
            if letter.trace and letter.trace.recorded
        ]
        if not recorded:
            return None
        group, model = self._settings.kafka_group, self._scorer.last_pass if planned.scores else None
        return BatchSpans(
            self._tracer,
            group,
            batch.records[0].topic,
            batch.read_at,
            len(batch.records),
            recorded,
            model,
            delivering=perf_counter(),
        )

    def _committed(self, scores: int, dead: list[DeadLetter], recorded: BatchSpans | None) -> None:
        """Count what must not be counted before readers can see it."""
        if recorded is not None:
            recorded.end(perf_counter())
        self._failures = 0
        self._scored.value += scores
        self._dead_lettered.value += len(dead)
        self._validation.value += sum(letter.reason == "validation" for letter in dead)
        self._dead.add(dead)
        self._log.debug("batch_scored", scored=scores, dead=len(dead))

    def _finish(self) -> None:
        try:
            self._pipe.finish()
        except NotDelivered as error:
            self._log.warning("batch_not_delivered", reason=str(error), attempt=self._failures + 1)

    def _model_works(self) -> bool:
        """Ask the engine itself: this is no transaction of anybody's, so it isn't counted or logged."""
        lineup = self._scorer.lineup
        try:
            return lineup is not None and len(lineup.champion.probabilities([ORDINARY])) == 1
        except Exception:  # whatever an engine raises, it doesn't work
            return False

    def _back_off(self, event: str, error: Exception) -> None:
        seconds = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS) - 1)]
        self._failures += 1
        self._log.warning(event, reason=str(error), attempt=self._failures, retry_seconds=seconds)
        self._stopping.wait(seconds)


class DeadLetterLog:
    """`dead_lettered`: how many since the last line and why the first, at most every ten seconds."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._seldom = Seldom(10)
        self._count = 0
        self._first: DeadLetter | None = None

    def add(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            self._count += len(letters)
            self._first = self._first or letters[0]
        if self._first is not None and self._seldom.due(""):
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


def run(
    replica: ReplicaSettings,
    ops: MetricsSettings,
    model: ModelSettings,
    kafka: KafkaSettings,
    log_settings: LogSettings,
    tracing_settings: TracingSettings,
) -> int:
    """Score from Kafka until SIGTERM or SIGINT; return the exit code.

    Raises:
        SettingsError: the metrics port can't be listened on.
    """
    log = logs.set_up(log_settings, replica_id=replica.replica_id, process="stream")
    model_metrics = ModelMetrics()
    kafka_metrics = KafkaMetrics(
        consumed=kafka.kafka_topic, produced=(kafka.scored_topic, kafka.dead_letter_topic)
    )
    trace_metrics = metrics.TraceMetrics()
    registry = metrics.registry(replica.cpu_request_millicores, model_metrics, kafka_metrics, trace_metrics)
    scorer = Scorer(model_metrics, PredictionLog(log_settings, "stream"), replica.replica_id)
    server = OpsServer(ops, registry, lambda: "no model was loaded yet" if scorer.lineup is None else None)
    loader = default_loader(model, model_metrics, scorer.install, log)
    link = Link(kafka.kafka_bootstrap_servers, log)
    reporter = LagReporter(kafka, kafka_metrics, link, Watermarks(kafka))
    pipe = Pipe(kafka, replica.replica_id, metrics=kafka_metrics, link=link, log=log, on_owned=reporter.own)
    tracing = spans.start(
        tracing_settings, process="stream", replica_id=replica.replica_id, counts=trace_metrics, log=log
    )
    stream = Stream(pipe, scorer, model_metrics, kafka_metrics, kafka, log, tracing.tracer)
    stop = Stop(stream, pipe, replica.stop_timeout_seconds, log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.on_signal)
    for part in (server, loader, reporter):
        part.start()
    collect_seldom()
    stream.run()
    pipe.close()
    for part in (reporter, loader, server):
        part.stop()
    tracing.close()
    log.info("stream_stopped")
    return 0


def collect_seldom() -> None:
    """Let the garbage collector look less often, and never at what was imported: a tenth of the time behind.

    A batch is tens of thousands of objects without cycles, which reference counts free.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


class Stop:
    """The first signal stops the stream; a second, or a stop that takes too long, ends the process on the spot.

    That loses nothing: what was not committed is read again by another replica.
    """

    def __init__(self, stream: Stream, pipe: Pipe, timeout_seconds: float, log: Logger) -> None:
        self._stream = stream
        self._pipe = pipe
        self._timeout = timeout_seconds
        self._log = log
        self._begun = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._begun:
            self._force_in(0, f"second signal {number}")
            return
        self._begun = True
        # first: what follows could wait for a lock that the interrupted thread holds itself
        self._force_in(self._timeout, f"not done within {self._timeout} s")
        self._pipe.hurry(monotonic() + max(self._timeout / 2, self._timeout - LEAVE_SECONDS))
        self._stream.stop()

    def _force_in(self, seconds: float, reason: str) -> None:
        # a thread, because the handler may have interrupted a write to the log, which doesn't nest
        timer = Timer(seconds, self._force, [reason])
        timer.daemon = True
        timer.start()

    def _force(self, reason: str) -> None:
        try:
            self._log.warning("stop_forced", reason=reason)
        finally:
            os._exit(1)
