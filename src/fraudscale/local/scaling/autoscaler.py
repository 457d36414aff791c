"""The HPA controller of one machine: measures replicas, decides as Kubernetes does, and writes down how many there should be.

It starts and stops nothing itself: the supervisor reconciles the replicas with `run/scale.json`. What it remembers lies
in `run/autoscaler.json`, so that a restart doesn't forget windows and policies, as the controller of a cluster does; `up`
removes both files.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from fraudscale import files
from fraudscale.clock import rfc3339
from fraudscale.config import KafkaSettings, LocalSettings, LogSettings, MetricsSettings
from fraudscale.hpa import (
    MEBIBYTE_MILLI,
    Hpa,
    Memory,
    Observed,
    Pods,
    ScalingDecision,
    scale_unavailable,
    sync,
)
from fraudscale.hpa.pods import usage
from fraudscale.hpa.status import Conditions
from fraudscale.kafka.client import BrokerLink
from fraudscale.kafka.lag import LagReporter
from fraudscale.kafka.watermarks import Watermarks
from fraudscale.local.install.ports import MIN_REPLICAS
from fraudscale.local.scaling import manifests, scale_file
from fraudscale.local.scaling.manifests import Scaling
from fraudscale.local.scaling.usage import LEAVING, Clock, Meter, Reading, read_trees
from fraudscale.local.supervisor import state
from fraudscale.metrics import HpaMetrics, QueueMetrics, process_registry
from fraudscale.stopping import StopSignals
from fraudscale.telemetry import logs
from fraudscale.telemetry.logs import Logger
from fraudscale.telemetry.probes import OpsServer

SYNC_SECONDS: Final = 15.0
"""Of the autoscaler's clock."""
LATE_SYNCS: Final = 3.0
"""An autoscaler whose last sync is so many periods ago is not ready."""
STUCK_SYNCS: Final = 8.0
"""… and so many periods ago, of real time: it hangs, and is started again."""


class AutoscalerState(msgspec.Struct):
    """The content of `run/autoscaler.json`: what the next process must know; times are of the autoscaler's clock."""

    memory: Memory
    saved_at: float
    run: str
    time_scale: float
    replicas: int | None = None
    """The desired number after the last sync."""


class Synced(msgspec.Struct, frozen=True):
    """The fields of `hpa_synced`: what one sync saw and decided."""

    at: float
    """Seconds of the autoscaler's clock; syncs are 15 s apart, or a multiple of that."""
    current_replicas: int
    target_replicas: int
    want: int | None
    """The metrics' raw answer."""
    stabilised: int | None
    reason: str
    message: str
    cpu_usage: int | None
    """Percent of the request, as decided upon."""
    memory_usage: int | None
    cpu_millicores: int
    """Of all ready pods together."""
    memory_mi: float
    """Of a pod, on average."""
    pods: int
    ready: int
    sampled: int
    """Pods with a sample."""


class Autoscaler:
    """One HPA and its memory; `sync` looks, decides and tells."""

    def __init__(
        self,
        home: Path,
        scaling: Scaling,
        clock: Clock,
        counts: HpaMetrics,
        log: Logger,
        read_processes: Callable[[Collection[int]], Mapping[int, Reading]] = read_trees,
    ) -> None:
        """Take up what an earlier process of this run left, and take the first sample.

        Args:
            home: with the `run` folder.
            scaling: the manifests.
            clock: of windows, periods and syncs.
            counts: to be exported.
            log: of this process.
            read_processes: as `Meter`.
        """
        self._home = home
        self._hpa = scaling.hpa
        self._clock = clock
        self._log = log
        self._exporter = HpaExporter(scaling.hpa, counts)
        self._meter = Meter(scaling.requests, clock, read_processes)
        self._memory: Memory | None = None
        self._desired: int | None = None
        self._unreadable = False
        self.synced_at = clock.now()
        if (status := state.read(home)) is not None:
            # CPU is a rate: without this the first sync would have nothing to decide upon.
            self._meter.look(status.replicas)

    def sync(self, at: float) -> ScalingDecision | None:
        """Look at the replicas, decide, write the desired number; None where nobody tells which replicas there are.

        Args:
            at: when the sync was due, by the clock. What it remembers is stamped with that: a window is over after as many
                syncs as fit into it, however late each of them came.
        """
        status = state.read(self._home)
        if status is None or status.started_at is None:
            self._without_scale(at)
            return None
        self._unreadable = False
        memory = self._memory = self._memory or self._restored(status.started_at)
        before = msgspec.json.encode(memory)
        replicas = self._scale(status, status.started_at)
        pods = self._meter.look(status.replicas)
        decision = sync(self._hpa, memory, Observed(replicas, pods), at)
        scaled = decision.changed and self._write(decision, status.started_at)
        if decision.changed and not scaled:
            # The controller, too, stores no event for a scale that it couldn't write.
            self._memory = memory = msgspec.json.decode(before, type=Memory)
        self._exporter.tell(decision, memory.conditions)
        self._say(decision, pods, scaled=scaled)
        self._desired = decision.target if scaled else decision.current
        self._save(memory, status.started_at)
        self.synced_at = decision.at
        return decision

    def _without_scale(self, at: float) -> None:
        if not self._unreadable:
            self._unreadable = True
            self._log.warning("scale_unknown", reason=f"{state.status_path(self._home)} can't be read")
        if self._memory is not None:
            scale_unavailable(self._memory, "run/status.json can't be read", at)
            self._exporter.tell_conditions(self._memory.conditions)
        self.synced_at = at

    def _scale(self, status: state.Status, run: str) -> int:
        """The desired number of replicas, or, before there is one, how many run."""
        try:
            desired = scale_file.read(self._home, run)
        except scale_file.ScaleRefused:
            desired = None  # the supervisor says what is wrong with it
        if desired is not None:
            return desired.replicas
        return sum(replica.state not in LEAVING for replica in status.replicas)

    def _write(self, decision: ScalingDecision, run: str) -> bool:
        now = rfc3339(datetime.now(UTC), "seconds")
        try:
            scale_file.write(self._home, scale_file.Scale(decision.target, run, decision.why, now))
        except OSError as error:
            self._log.error("scale_not_written", target_replicas=decision.target, error=str(error))
            return False
        return True

    # What survives a restart.

    def _restored(self, run: str) -> Memory:
        try:
            kept = msgspec.json.decode(scale_file.memory_path(self._home).read_bytes(), type=AutoscalerState)
        except FileNotFoundError:
            self._desired = MIN_REPLICAS  # a run begins with so many, and without a past
            return Memory()
        except (OSError, msgspec.DecodeError) as error:
            self._log.warning("scaling_memory_lost", reason=str(error))
            return Memory()
        if kept.run != run or kept.time_scale != self._clock.scale or kept.saved_at > self._clock.now():
            self._log.warning("scaling_memory_lost", reason="it is another run's")
            return Memory()
        self._desired = kept.replicas
        return kept.memory

    def _save(self, memory: Memory, run: str) -> None:
        kept = AutoscalerState(memory, self._clock.now(), run, self._clock.scale, self._desired)
        try:
            files.replace(scale_file.memory_path(self._home), msgspec.json.encode(kept))
        except OSError as error:  # a full disk: it decides on, and a restart would begin anew
            self._log.warning("scaling_memory_not_written", error=str(error))

    # What is logged.

    def _say(self, decision: ScalingDecision, pods: Sequence[Pods], *, scaled: bool) -> None:
        synced = describe(decision, pods)
        if self._desired not in {None, decision.current}:
            self._say_scaled(
                self._desired, decision.current, synced, "run/scale.json was changed by somebody else"
            )
        self._log.info("hpa_synced", **msgspec.structs.asdict(synced))
        if scaled:
            self._say_scaled(decision.current, decision.target, synced, decision.why)

    def _say_scaled(self, current: int | None, target: int, synced: Synced, reason: str) -> None:
        self._log.warning(
            "scaling_event",
            current_replicas=current,
            target_replicas=target,
            cpu_usage=synced.cpu_usage,
            memory_usage=synced.memory_usage,
            reason=reason,
        )


def describe(decision: ScalingDecision, pods: Sequence[Pods]) -> Synced:
    """Put a sync into one flat record."""
    seen = {p.metric.name: p.value for p in decision.proposals if p.metric.target.type == "Utilization"}
    memory = [used for one in pods if (used := usage(one, "memory")) is not None]
    return Synced(
        at=round(decision.at, 3),
        current_replicas=decision.current,
        target_replicas=decision.target,
        want=decision.want,
        stabilised=decision.stabilised.value if decision.stabilised else None,
        reason=decision.reason,
        message=decision.message,
        cpu_usage=seen.get("cpu"),
        memory_usage=seen.get("memory"),
        cpu_millicores=sum(usage(one, "cpu") or 0 for one in pods if one.ready == "True"),
        memory_mi=round(sum(memory) / len(memory) / MEBIBYTE_MILLI, 1) if memory else 0.0,
        pods=len(pods),
        ready=sum(one.ready == "True" for one in pods),
        sampled=len(memory),
    )


class HpaExporter:
    """The metrics that kube-state-metrics would export of the HPA."""

    def __init__(self, hpa: Hpa, counts: HpaMetrics) -> None:
        self._counts = counts
        self._hpa = hpa.namespace, hpa.name
        counts.min.labels(*self._hpa).value = hpa.min_replicas
        counts.max.labels(*self._hpa).value = hpa.max_replicas
        for metric in hpa.metrics:
            if metric.target.type == "Utilization":
                counts.target.labels(*self._hpa, metric.name, "utilization").value = metric.target.value

    def tell(self, decision: ScalingDecision, conditions: Conditions) -> None:
        self._counts.current.labels(*self._hpa).value = decision.current
        self._counts.desired.labels(*self._hpa).value = decision.target
        seen = {
            (*self._hpa, p.metric.name, "utilization"): p.value
            for p in decision.proposals
            if p.metric.target.type == "Utilization" and p.value is not None
        }
        for labels, value in seen.items():
            self._counts.seen.labels(*labels).value = value
        self._counts.seen.retain(seen)
        self.tell_conditions(conditions)

    def tell_conditions(self, conditions: Conditions) -> None:
        for name, condition in conditions.items():
            for status, holds in (
                ("true", condition.status),
                ("false", not condition.status),
                ("unknown", False),
            ):
                self._counts.condition.labels(*self._hpa, name, status).value = holds


def run(local: LocalSettings, ops: MetricsSettings, kafka: KafkaSettings, log_settings: LogSettings) -> int:
    """Sync every 15 s of its clock until SIGTERM or SIGINT; return the exit code.

    Raises:
        ManifestError: a manifest can't be used.
        SettingsError: the metrics port can't be listened on.
    """
    log = logs.set_up(log_settings, process="autoscaler")
    scaling, clock = manifests.read(local), Clock(local.time_scale)
    hpa_metrics, queue = HpaMetrics(), QueueMetrics()
    autoscaler = Autoscaler(local.fraudscale_home, scaling, clock, hpa_metrics, log)
    schedule = SyncSchedule(clock)
    server = OpsServer(
        ops,
        process_registry(hpa_metrics, queue),
        lambda: schedule.late(autoscaler.synced_at),
        # however fast its clock goes, this long in real time
        lambda: schedule.late(autoscaler.synced_at, STUCK_SYNCS * local.time_scale),
    )
    reporter = LagReporter(kafka, queue, BrokerLink(kafka.kafka_bootstrap_servers, log), Watermarks(kafka))
    with StopSignals() as signals:
        server.start()
        # In a thread of its own: with the broker gone there is no queue length, and scaling goes on.
        reporter.start()
        log.info("autoscaler_started", hpa=scaling.hpa.name, time_scale=local.time_scale)
        while not signals.stop.wait(schedule.wait()):
            autoscaler.sync(schedule.due)
        reporter.stop()
        server.stop()
    return 0


class SyncSchedule:
    """A grid of syncs that doesn't drift; those that were missed (the machine slept) are left out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.due = clock.now()
        """Of the sync that comes next, by the clock."""

    def wait(self) -> float:
        """Move on to the next sync, and return how many real seconds there are until it."""
        now = self._clock.now()
        missed = int(max(0.0, now - self.due) // SYNC_SECONDS)
        self.due += (missed + 1) * SYNC_SECONDS
        return (self.due - now) / self._clock.scale

    def late(self, last: float, syncs: float = LATE_SYNCS) -> str | None:
        """Say so if the last sync (by the clock) is so many periods ago."""
        ago = self._clock.now() - last
        return f"no sync for {ago:.0f} s" if ago > syncs * SYNC_SECONDS else None
