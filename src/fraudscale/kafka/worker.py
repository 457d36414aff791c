"""The Kafka consumer: batches from the input topic, scores to `<topic>.scored`, the rest to `<topic>.dead-letter`."""

import gc
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain
from threading import Event, Thread, Timer
from time import monotonic, perf_counter
from typing import Final

from fraudscale import metrics
from fraudscale.config import (
    KafkaSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    ReplicaSettings,
    TracingSettings,
)
from fraudscale.kafka.batch_trace import BatchSpans, trace_of
from fraudscale.kafka.client import BrokerLink, NotDelivered
from fraudscale.kafka.dead_letters import DeadLetter, DeadLetterLog, range_letter, record_of
from fraudscale.kafka.delivery import OutputRefused
from fraudscale.kafka.lag import STUCK_SECONDS, UNREADY_SECONDS, LagReporter
from fraudscale.kafka.messages import Batch, Record, UnreadableRange
from fraudscale.kafka.pipe import Pipe
from fraudscale.kafka.plan import ModelBroken, Plan, plan
from fraudscale.kafka.refusals import SINGLY_RECORDS, Refusals
from fraudscale.kafka.watermarks import Watermarks
from fraudscale.metrics import KafkaMetrics, ModelMetrics
from fraudscale.model_loader import default_loader
from fraudscale.scoring.prediction_log import PredictionLog
from fraudscale.scoring.records import Transaction
from fraudscale.scoring.scorer import Scorer
from fraudscale.stopping import StopSignals
from fraudscale.telemetry import logs, spans
from fraudscale.telemetry.logs import Logger
from fraudscale.telemetry.probes import OpsServer
from fraudscale.telemetry.tracing import BatchTrace, Tracer

CALM_SECONDS: Final = 0.25
"""How long a read waits on a silent topic: so long a stop may take to be noticed."""
MODEL_SECONDS: Final = 0.2
"""How often a worker without a model looks for one."""
BACK_OFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)
"""Waits between attempts while the model or the broker fails; the last one repeats."""
GC_THRESHOLD: Final = 100_000
"""New objects until the collector looks at them: about one largest batch; Python's own choice is 700."""
LEAVE_SECONDS: Final = 2.0
"""Share of the stop timeout that is kept for leaving the group and closing."""
NO_MODEL: Final = "no model was loaded yet"
LAST_LINE_SECONDS: Final = 1.0
"""So long a forced stop waits for its line of the log."""

ORDINARY: Final = Transaction("ordinary", 25.0, "grocery", 12, 2, 40, 1000.0)
"""A transaction that any working model scores: tells a broken model from a record that breaks it."""


class Worker:
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
        self._unreadable = messages.skipped.labels(settings.kafka_topic)
        self._stopping = Event()
        self._failures = 0
        self._refusals = Refusals()
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
        """Read no more; called from any thread, but from no signal handler: see `stopping`."""
        self._stopping.set()

    def step(self) -> None:
        """Take one batch through, or give it back."""
        singly = self._refusals.suspects > 0
        most = self._settings.kafka_batch_records
        try:
            self._pipe.write_singly(singly)
            batch = self._pipe.read(min(most, SINGLY_RECORDS) if singly else most, CALM_SECONDS)
            if batch.unreadable is not None:
                self._skip(batch, batch.unreadable)
            elif batch.records:
                self._take_through(batch)
            if singly:
                self._pipe.finish()
        except OutputRefused as error:
            self._back_off("batch_not_delivered", error, at_once=self._refusals.note(error))
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
        trace = trace_of(batch.records, self._tracer, batch.read_at)
        try:
            planned = plan(batch, self._scorer.score, self._model_works, self._settings.scored_topic, trace)
        except ModelBroken as error:
            self._broken.value += 1
            self._pipe.give_back(batch)
            self._back_off("model_broken", error)
            return
        finally:
            self._active.value = 0
        self._refusals.retain(self._pipe.owned)
        if self._refusals.pending:
            self._refusals.apply(planned, batch.records, self._settings.dead_letter_topic)
        now, topic = datetime.now(UTC), self._settings.dead_letter_topic
        outputs = chain(planned.scored, [record_of(letter, topic, now) for letter in planned.dead])
        self._pipe.deliver(batch, outputs, self._after_commit(batch, planned, trace))

    def _skip(self, batch: Batch, unreadable: UnreadableRange) -> None:
        """Go on behind records that nobody can read; one dead letter names them."""
        letter = range_letter(unreadable, self._settings.dead_letter_topic, datetime.now(UTC))
        self._pipe.deliver(batch, [letter], lambda: self._skipped(unreadable))

    def _skipped(self, unreadable: UnreadableRange) -> None:
        self._dead_lettered.value += 1
        self._unreadable.value += unreadable.count
        self._log.error(
            "records_skipped",
            partition=unreadable.partition,
            first_offset=unreadable.first,
            last_offset=unreadable.last,
            reason=unreadable.why,
        )

    def _after_commit(self, batch: Batch, planned: Plan, trace: BatchTrace) -> Callable[[], None]:
        """Make what is called once readers can see the scores; it keeps no more of the batch than it needs."""
        scores, dead = planned.scores, planned.dead
        told = batch.records if self._refusals.pending else ()
        batch_spans = BatchSpans(
            self._tracer,
            self._settings.kafka_group,
            batch.records[0].topic,
            batch.read_at,
            len(batch.records),
            [one for _, one in trace.recorded()],
            self._scorer.last_pass if scores else None,
            delivering=perf_counter(),
        )
        return lambda: self._committed(scores, dead, told, batch_spans)

    def _committed(
        self, scores: int, dead: list[DeadLetter], told: Sequence[Record], batch_spans: BatchSpans
    ) -> None:
        """Count what must not be counted before readers can see it."""
        batch_spans.end(perf_counter())
        self._failures = 0
        self._refusals.forget(told)
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

    def _back_off(self, event: str, error: Exception, *, at_once: bool = False) -> None:
        seconds = 0.0 if at_once else BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS) - 1)]
        self._failures += 1
        self._log.warning(event, reason=str(error), attempt=self._failures, retry_seconds=seconds)
        self._stopping.wait(seconds)


class ForcedStop:
    """The first signal stops the worker; a second, or a stop that takes too long, ends the process on the spot.

    That loses nothing: what was not committed is read again by another replica.
    """

    def __init__(self, worker: Worker, pipe: Pipe, timeout_seconds: float, log: Logger) -> None:
        self._worker = worker
        self._pipe = pipe
        self._timeout = timeout_seconds
        self._log = log

    def begin(self) -> None:
        """Stop the worker, within the time that there is for it."""
        # first: nothing that follows may keep a stop from being forced
        timer = Timer(self._timeout, self._force, [f"not done within {self._timeout} s"])
        timer.daemon = True
        timer.start()
        self._pipe.set_deadline(monotonic() + max(self._timeout / 2, self._timeout - LEAVE_SECONDS))
        self._worker.stop()

    def again(self, number: int) -> None:
        """End the process at another signal."""
        self._force(f"second signal {number}")

    def _force(self, reason: str) -> None:
        # from a thread that is not waited for: the worker may hang on a full pipe to whoever reads our log, with the
        # lock of standard output in its hand
        line = Thread(target=self._tell, args=[reason], daemon=True)
        line.start()
        line.join(LAST_LINE_SECONDS)
        os._exit(1)

    def _tell(self, reason: str) -> None:
        self._log.warning("stop_forced", reason=reason)


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
    metrics_registry = metrics.replica_registry(
        replica.cpu_request_millicores, model_metrics, kafka_metrics, trace_metrics
    )
    scorer = Scorer(model_metrics, PredictionLog(log_settings, "stream"), replica.replica_id)
    loader = default_loader(model, model_metrics, scorer.install, log)
    link = BrokerLink(kafka.kafka_bootstrap_servers, log)
    reporter = LagReporter(kafka, kafka_metrics, link, Watermarks(kafka))
    server = OpsServer(
        ops,
        metrics_registry,
        lambda: NO_MODEL if scorer.lineup is None else reporter.progress.missing_for(UNREADY_SECONDS),
        # without a model a new process is no better off
        lambda: None if scorer.lineup is None else reporter.progress.missing_for(STUCK_SECONDS),
    )
    pipe = Pipe(kafka, replica.replica_id, metrics=kafka_metrics, link=link, log=log, on_owned=reporter.own)
    tracing = spans.start(
        tracing_settings, process="stream", replica_id=replica.replica_id, counts=trace_metrics, log=log
    )
    worker = Worker(pipe, scorer, model_metrics, kafka_metrics, kafka, log, tracing.tracer)
    stop = ForcedStop(worker, pipe, replica.stop_timeout_seconds, log)
    with StopSignals(stop.begin, stop.again):
        for service in (server, loader, reporter):
            service.start()
        collect_seldom()
        worker.run()
        pipe.close()
        for service in (reporter, loader, server):
            service.stop()
        tracing.close()
        log.info("stream_stopped")
    return 0


def collect_seldom() -> None:
    """Let the garbage collector look less often, and never at what was imported: a tenth of the time behind.

    A batch is tens of thousands of objects without cycles, which reference counts free.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
