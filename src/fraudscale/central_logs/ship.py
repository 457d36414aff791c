"""`fraudscale ship-logs`: brings the log lines of all components to the store; none is lost while the store is away.

One bulk is on its way at a time and nothing is read ahead, so a slow store slows the reading and takes no memory. What the
store refuses goes to a dead-letter index with the reason. Positions are written down once a batch is there.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import Final, TypeVar

from fraudscale.central_logs.documents import (
    MAPPING,
    NOT_JSON,
    REASONS,
    Document,
    LogLine,
    dead_letter,
    document,
)
from fraudscale.central_logs.retention import surplus
from fraudscale.central_logs.store import (
    BulkOutcome,
    RequestTooLong,
    Store,
    StoreRefused,
    StoreUnavailable,
    open_store,
)
from fraudscale.central_logs.tail import LogBatch, LogTail
from fraudscale.config import CentralLogSettings, LogSettings, MetricsSettings
from fraudscale.errors import FraudscaleError
from fraudscale.metrics import LogShippingMetrics, process_registry
from fraudscale.stopping import StopSignals
from fraudscale.telemetry import logs
from fraudscale.telemetry.logs import Logger, LogLimiter
from fraudscale.telemetry.probes import OpsServer

PAUSE_SECONDS: Final = 0.5
"""Between two looks at logs in which nothing was new."""
BACK_OFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
DISK_SECONDS: Final = 5.0
TIDY_SECONDS: Final = 60.0
UNREADY_SECONDS: Final = 30.0
"""A shipper whose store has been away for so long says so at /readyz."""
OWN_FAULT: Final = (
    "document_parsing_exception",
    "illegal_argument_exception",
    "mapper_parsing_exception",
    "strict_dynamic_mapping_exception",
)
"""What a document is refused for, with 400, that would be refused again; else it is the cluster's, such as "too many shards"."""
READ_ONLY: Final = "cluster_block_exception"
"""With 403: the index, or the whole cluster, takes nothing; a line of last week meets an index that is closed to writes."""

T = TypeVar("T")


class Stopping(FraudscaleError):
    """A signal came while something was tried again and again."""


class Shipper:
    """Sends batches, and counts."""

    def __init__(
        self, store: Store, metrics: LogShippingMetrics, log: Logger, wait: Callable[[float], bool]
    ) -> None:
        """Take the store; nothing is asked of it yet. `wait` waits so many seconds, and is True where the process is to stop."""
        self._store = store
        self._metrics = metrics
        self._log = log
        self._wait = wait
        self._log_limiter = LogLimiter(10)
        self._refused = 0
        self._failures = 0
        self._away_since: float | None = None
        self._reached = False

    def not_ready(self) -> str | None:
        """Say so if the store has been away for long, or was never reached."""
        if not self._reached:
            return "the store was not reached yet"
        seconds = 0.0 if self._away_since is None else time.monotonic() - self._away_since
        return f"the store has been away for {seconds:.0f} s" if seconds > UNREADY_SECONDS else None

    def at_store(self, work: Callable[[], T]) -> T:
        """Ask something of the store, again and again until it answers.

        Raises:
            Stopping: a signal came before that.
            StoreRefused: the store never will.
        """
        while True:
            try:
                result = work()
            except StoreUnavailable as error:
                self._back_off(str(error))
            else:
                self._is_back()
                return result

    def on_disk(self, work: Callable[[], T]) -> T:
        """Do something with the positions, again and again until the disk lets us.

        Raises:
            Stopping: a signal came before that.
        """
        while True:
            try:
                return work()
            except OSError as error:
                if self._log_limiter.allows("positions"):
                    self._log.error("log_positions_not_written", error=str(error))
                self._pause(DISK_SECONDS)

    def step(self, tail: LogTail) -> bool:
        """Ship one batch; tell whether there was one.

        Raises:
            Stopping: a signal came; the batch is read again at the next start, under the same ids.
        """
        batch = self.on_disk(tail.read)
        self._metrics.behind.labels().value = tail.behind()
        if not batch.offsets:
            return False
        self._deliver(batch, tail)
        self.on_disk(lambda: tail.accept(batch))
        self._metrics.behind.labels().value = tail.behind()
        return True

    def cut_unread(self, part: str, offset: int) -> None:
        """Tell of a log that was cut again before all of it was read."""
        self._metrics.cut_unread.labels().value += 1
        self._log.warning("log_cut_unread", part=part, offset=offset)

    def tidy(self, keep_days: int, keep_bytes: int, today: date) -> None:
        """Delete the indices that are too old or too much; a store that is away is asked again the next time."""
        try:
            for index, reason in surplus(self._store.sizes(), today, keep_days, keep_bytes):
                self._store.delete(index)
                self._log.info("log_index_deleted", index=index, reason=reason)
        except (StoreUnavailable, StoreRefused) as error:
            if self._log_limiter.allows("tidy"):
                self._log.warning("log_indices_not_tidied", error=str(error))

    def _deliver(self, batch: LogBatch, tail: LogTail) -> None:
        now = datetime.now(UTC)
        pending = [document(line, now) for line in batch.lines]
        while pending:
            pending = self._send(pending, now)
            if pending:
                self.on_disk(tail.look)

    def _send(self, documents: Sequence[Document], now: datetime) -> list[Document]:
        """Send documents; return those that are to be sent again, or as dead letters."""
        try:
            outcomes = self._store.add(documents)
        except RequestTooLong as error:
            if half := len(documents) // 2:
                return [*self._send(documents[:half], now), *self._send(documents[half:], now)]
            outcomes = [BulkOutcome(error.status, str(error))]
        except (StoreUnavailable, StoreRefused) as error:
            # A refusal of the whole is no document's fault: credentials, a proxy. To skip them would lose them all.
            self._back_off(str(error))
            return list(documents)
        return self._settle(documents, outcomes, now)

    def _settle(
        self, documents: Sequence[Document], outcomes: Sequence[BulkOutcome], now: datetime
    ) -> list[Document]:
        follow_up: list[Document] = []
        busy = ""
        for one, outcome in zip(documents, outcomes, strict=True):
            if outcome.status in {HTTPStatus.OK, HTTPStatus.CREATED}:
                self._count(one)
            elif outcome.status == HTTPStatus.CONFLICT:  # sent before a crash, or before the answer was lost
                self._metrics.repeated.labels().value += 1
            elif not _is_refused(one, outcome):
                busy = busy or f"{outcome.status}: {outcome.reason}"
                follow_up.append(one)
            elif not one.refused:
                follow_up.append(dead_letter(one.line, MAPPING, outcome.reason, now))
            else:
                self._drop(one.line, outcome.reason)
        if busy:
            self._back_off(busy)
        else:
            self._is_back()
        return follow_up

    def _drop(self, line: LogLine, reason: str) -> None:
        self._metrics.dropped.labels().value += 1
        self._log.error("log_line_dropped", file=line.file, offset=line.offset, reason=reason)

    def _count(self, one: Document) -> None:
        if not one.refused:
            self._metrics.shipped.labels().value += 1
            return
        self._metrics.rejected.labels(one.refused).value += 1
        if one.refused == NOT_JSON:  # other people's programs write text; that is no warning
            return
        self._refused += 1
        if self._log_limiter.allows("refused"):
            self._log.warning(
                "log_lines_refused", count=self._refused, file=one.line.file, reason=one.refused
            )
            self._refused = 0

    def _back_off(self, reason: str) -> None:
        seconds = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS) - 1)]
        self._failures += 1
        self._metrics.failures.labels().value += 1
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._log.warning("log_store_unavailable", reason=reason)
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        if self._wait(seconds):
            raise Stopping

    def _is_back(self) -> None:
        if self._away_since is not None:
            self._log.info("log_store_back", seconds=round(time.monotonic() - self._away_since, 1))
        self._away_since, self._failures, self._reached = None, 0, True


def _is_refused(one: Document, outcome: BulkOutcome) -> bool:
    """Tell whether to send the same again is in vain."""
    if outcome.status == HTTPStatus.FORBIDDEN:  # a dead letter goes to the index of today
        return outcome.kind == READ_ONLY and not one.refused
    return outcome.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
        outcome.status == HTTPStatus.BAD_REQUEST and outcome.kind in OWN_FAULT
    )


def run(
    endpoint: str,
    home: Path,
    settings: CentralLogSettings,
    ops: MetricsSettings,
    log_settings: LogSettings,
    *,
    own: bool,
) -> int:
    """Ship the logs of a home folder until SIGTERM or SIGINT; return the exit code.

    `home` has the folders `logs` and `data`; `own` says that the store is this platform's alone.

    Raises:
        StoreRefused: the store takes no template, or not from us.
        SettingsError: the metrics port can't be listened on.
    """
    log = logs.set_up(log_settings, process="ship-logs")
    metrics = LogShippingMetrics(REASONS)
    with StopSignals() as signals:
        store = open_store(endpoint, settings)
        shipper = Shipper(store, metrics, log, signals.stop.wait)
        server = OpsServer(ops, process_registry(metrics), shipper.not_ready)
        server.start()
        try:
            shipper.at_store(lambda: store.install(settings.log_templates))
            cluster = shipper.at_store(store.cluster)
            tail = LogTail(home / "logs", home / "data/log-positions.json", cluster, shipper.cut_unread)
            log.info("log_shipping_started", address=endpoint)
            _ship(shipper, tail, settings.keep_days(own=own), settings.log_keep_bytes, signals.stop)
        except Stopping:
            pass
        finally:
            server.stop()
            store.close()
    log.info("log_shipping_stopped")
    return 0


def _ship(shipper: Shipper, tail: LogTail, keep_days: int, keep_bytes: int, stop: Event) -> None:
    tidy_at = time.monotonic()
    while not stop.is_set():
        if time.monotonic() >= tidy_at:
            tidy_at = time.monotonic() + TIDY_SECONDS
            shipper.tidy(keep_days, keep_bytes, datetime.now(UTC).date())
        if not shipper.step(tail):
            stop.wait(PAUSE_SECONDS)
