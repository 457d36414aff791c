"""One sync of the controller: metrics → stabilisation → limits → the new scale, with everything it would report."""

from typing import Final

import msgspec
from msgspec import Struct

from fraudscale.hpa.limit import ScaleEvents, limit, limit_plain, record
from fraudscale.hpa.pods import Observed
from fraudscale.hpa.replicas import Combined, Proposal, combine
from fraudscale.hpa.spec import Behavior, Controller, Hpa, MetricSpec
from fraudscale.hpa.stabilise import Recommendations, remember, stabilise, stabilise_plain
from fraudscale.hpa.status import (
    Condition,
    Conditions,
    DesiredReplicas,
    RecordedEvent,
    message,
    set_condition,
)

_DEFAULTS: Final = Controller()
_ABOVE_MAX: Final = "Current number of replicas above Spec.MaxReplicas"
_BELOW_MIN: Final = "Current number of replicas below Spec.MinReplicas"


class Memory(Struct):
    """What the controller keeps of one HPA between syncs; the real one forgets it all when it restarts.

    `recommendations` is None until the first sync, which begins the log with the current scale.
    """

    recommendations: Recommendations | None = None
    ups: ScaleEvents = msgspec.field(default_factory=list)
    downs: ScaleEvents = msgspec.field(default_factory=list)
    conditions: Conditions = msgspec.field(default_factory=dict)


class ScalingDecision(Struct, frozen=True):
    """What one sync decided and why.

    `want` is the metrics' raw answer; it, `stabilised` and `limited` are None where the sync never asked (the scale
    was outside its bounds, or zero) or stopped because metrics failed. `why` is the reason that Kubernetes gives for
    a rescale. Times are seconds, on the clock that the caller brings.
    """

    at: float
    current: int
    target: int
    conditions: Conditions
    why: str = ""
    want: int | None = None
    stabilised: DesiredReplicas | None = None
    limited: DesiredReplicas | None = None
    proposals: tuple[Proposal, ...] = ()
    winner: MetricSpec | None = None
    events: tuple[RecordedEvent, ...] = ()

    @property
    def changed(self) -> bool:
        return self.target != self.current

    @property
    def reason(self) -> str:
        """The one word of Kubernetes that explains this sync best: what held it back, if anything did."""
        if self.limited is None or self.stabilised is None:
            active = self.conditions.get("ScalingActive")
            return "SucceededRescale" if self.changed or active is None else active.reason
        if self.limited.reason != "DesiredWithinRange":
            return self.limited.reason
        if self.stabilised.reason != "ReadyForNewScale":
            return self.stabilised.reason
        return "SucceededRescale" if self.changed else "DesiredWithinRange"

    @property
    def message(self) -> str:
        """One sentence for a person."""
        if self.want is None:
            active = self.conditions.get("ScalingActive")
            return self.why or (active.message if active else "")
        sentence = message(self.reason, str(self.target))
        return f"{self.why}: {sentence}" if self.why else sentence


def sync(
    hpa: Hpa, memory: Memory, observed: Observed, now: float, controller: Controller = _DEFAULTS
) -> ScalingDecision:
    """Decide once, as the controller of Kubernetes 1.36 does every 15 seconds.

    Args:
        hpa: the manifest.
        memory: what earlier syncs left; changed in place.
        observed: scale, pods and metrics.
        now: seconds; the clock of all times in `memory` and `observed`, never going back.
        controller: its flags.
    """
    current, conditions = observed.replicas, memory.conditions
    set_condition(conditions, "AbleToScale", True, "SucceededGetScale", now)
    # recordInitialRecommendation: a controller that restarts holds on to the current scale for a window,
    # instead of following the first sample that it sees.
    if memory.recommendations is None:
        memory.recommendations = [(current, now)]
    if not controller.scale_to_zero:
        conditions.pop("ScaledToZero", None)
    # Whoever sets the scale to zero turns autoscaling off.
    if current == 0 and not _may_wake(hpa, conditions):
        set_condition(conditions, "ScalingActive", False, "ScalingDisabled", now)
        return ScalingDecision(now, 0, 0, conditions.copy())
    # Bounds are the operator's word: the scale moves there at once, without metrics, windows or policies.
    if current > hpa.max_replicas:
        return _to_boundary(hpa, memory, current, hpa.max_replicas, _ABOVE_MAX, now, controller)
    if 0 < current < hpa.min_replicas:
        return _to_boundary(hpa, memory, current, hpa.min_replicas, _BELOW_MIN, now, controller)
    return _by_metrics(hpa, memory, memory.recommendations, observed, now, controller)


def scale_unavailable(memory: Memory, error: str, now: float) -> Condition:
    """Note that the scale could not be read, which ends a sync before it begins → the condition AbleToScale."""
    set_condition(memory.conditions, "AbleToScale", False, "FailedGetScale", now, error)
    return memory.conditions["AbleToScale"]


def _may_wake(hpa: Hpa, conditions: Conditions) -> bool:
    """Tell whether the controller itself went to zero (with its gate) and may so come back."""
    zero = conditions.get("ScaledToZero")
    return zero is not None and zero.status and (hpa.min_replicas != 0 or _outside_metric(hpa))


def _outside_metric(hpa: Hpa) -> bool:
    return any(metric.type in {"Object", "External"} for metric in hpa.metrics)


def _to_boundary(
    hpa: Hpa, memory: Memory, current: int, target: int, why: str, now: float, controller: Controller
) -> ScalingDecision:
    event = _rescale(hpa, memory, current, target, why, now, controller)
    return ScalingDecision(now, current, target, memory.conditions.copy(), why, events=(event,))


def _by_metrics(
    hpa: Hpa,
    memory: Memory,
    log: Recommendations,
    observed: Observed,
    now: float,
    controller: Controller,
) -> ScalingDecision:
    current, conditions = observed.replicas, memory.conditions
    combined = combine(hpa, observed, now, controller)
    events = _failures(combined) if combined.failed else ()
    if combined.replicas is None or combined.winner is None:
        return _stopped(memory, combined, events, current, now)
    want, winner = combined.replicas, combined.winner
    set_condition(conditions, "ScalingActive", True, "ValidMetricFound", now, winner.label)
    stabilised, limited = _normalise(hpa, memory, log, want, current, now, controller)
    set_condition(conditions, "AbleToScale", True, stabilised.reason, now)
    set_condition(conditions, "ScalingLimited", limited.value != stabilised.value, limited.reason, now)
    # The policies don't know the minimum on the way up, which matters only from zero.
    target = limited.value if current else max(limited.value, hpa.min_replicas)
    why = f"{winner.label} above target" if want > current else ""
    if want < current:
        why = "All metrics below target"
    if target != current:
        events = (*events, _rescale(hpa, memory, current, target, why, now, controller))
    return ScalingDecision(
        now,
        current,
        target,
        conditions.copy(),
        why,
        want,
        stabilised,
        limited,
        combined.proposals,
        winner,
        events,
    )


def _normalise(
    hpa: Hpa,
    memory: Memory,
    log: Recommendations,
    want: int,
    current: int,
    now: float,
    controller: Controller,
) -> tuple[DesiredReplicas, DesiredReplicas]:
    low, high, behavior = hpa.min_replicas, hpa.max_replicas, hpa.behavior
    if behavior is None:
        window = controller.downscale_window
        stabilised = stabilise_plain(want, log, window=window, now=now)
        remember(log, want, window=window, now=now)
        return stabilised, limit_plain(stabilised.value, current, low=low, high=high)
    # normalizeDesiredReplicasWithBehaviors: first what is wanted is steadied, then how fast it is reached is
    # limited.
    up, down = windows(behavior, controller)
    stabilised = stabilise(want, current, log, up_window=up, down_window=down, now=now)
    # What metrics wanted goes into the log, not what came of it: a limit is no recommendation.
    remember(log, want, window=max(up, down), now=now)
    limited = limit(
        stabilised.value, current, behavior, memory.ups, memory.downs, low=low, high=high, now=now
    )
    return stabilised, limited


def windows(behavior: Behavior, controller: Controller) -> tuple[int, int]:
    """Stabilisation windows (up, down) in seconds; what is not given is the controller's."""
    # Without a word of the manifest pods are added at once and removed after five minutes: too few cost more
    # than too many.
    up, down = behavior.scale_up.window, behavior.scale_down.window
    return 0 if up is None else up, controller.downscale_window if down is None else down


def _failures(combined: Combined) -> tuple[RecordedEvent, ...]:
    return tuple(
        RecordedEvent("Warning", proposal.failure, proposal.error)
        for proposal in combined.proposals
        if proposal.replicas is None
    )


def _stopped(
    memory: Memory, combined: Combined, events: tuple[RecordedEvent, ...], current: int, now: float
) -> ScalingDecision:
    first = next(proposal for proposal in combined.proposals if proposal.replicas is None)
    set_condition(memory.conditions, "ScalingActive", False, first.failure, now, first.error)
    event = RecordedEvent("Warning", "FailedComputeMetricsReplicas", combined.error)
    return ScalingDecision(
        now,
        current,
        current,
        memory.conditions.copy(),
        proposals=combined.proposals,
        events=(*events, event),
    )


def _rescale(
    hpa: Hpa, memory: Memory, before: int, after: int, why: str, now: float, controller: Controller
) -> RecordedEvent:
    set_condition(memory.conditions, "AbleToScale", True, "SucceededRescale", now, str(after))
    if controller.scale_to_zero:
        slept = after == 0 and _outside_metric(hpa)
        reason = "ScaledToZero" if slept else "NotScaledToZero"
        set_condition(memory.conditions, "ScaledToZero", slept, reason, now)
    # Nobody reads the history of an HPA without policies, and storeScaleEvent keeps none.
    if hpa.behavior is not None:
        record(hpa.behavior, memory.ups, memory.downs, before=before, after=after, now=now)
    return RecordedEvent("Normal", "SuccessfulRescale", f"New size: {after}; reason: {why}")
