"""An HPA against a trace: every sync of the controller, decided by the same code that scales the platform."""

import math
from dataclasses import dataclass
from pathlib import Path

from fraudscale.hpa import Hpa, ManifestError, Memory, ScalingDecision, read_manifest, sync
from fraudscale.rehearsal.deployment import Deployment
from fraudscale.rehearsal.trace import LoadTrace

RESOURCES = ("cpu", "memory")


@dataclass(frozen=True)
class Rehearsal:
    """What the controller decided, and the ready pods that came of it."""

    file: str
    hpa: Hpa
    trace: LoadTrace
    initial_replicas: int
    decisions: list[ScalingDecision]
    """One a tick, the first at 0."""
    ready_steps: list[tuple[float, int]]
    """(seconds, change of the number of ready pods), in order of time; those of the start before 0."""

    @property
    def changes(self) -> list[ScalingDecision]:
        return [d for d in self.decisions if d.changed]


def read_hpa(path: Path) -> Hpa:
    """Read a manifest whose metrics a trace can drive.

    Raises:
        ManifestError: it can't be read, is not a valid HPA, or has metrics that no trace holds.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(str(path), "", f"can't be read: {error.strerror or error}") from error
    hpa = read_manifest(content, str(path))
    for i, metric in enumerate(hpa.metrics):
        if metric.type != "Resource" or metric.name not in RESOURCES:
            raise ManifestError(
                str(path),
                f"spec.metrics[{i}]",
                f"a trace holds CPU and memory of whole pods, nothing for the {metric.type} metric {metric.name!r};"
                " leave it out of the rehearsal",
            )
    return hpa


def rehearse(file: str, hpa: Hpa, trace: LoadTrace) -> Rehearsal:
    """Let a fresh controller run over a trace; `file` names the HPA in reports."""
    start = hpa.min_replicas if trace.initial_replicas is None else trace.initial_replicas
    deployment, memory, decisions = Deployment(trace, start), Memory(), []
    period = whole(trace.sync_period_s)
    for i in range(math.ceil(trace.seconds / period)):
        t = i * period
        decision = sync(hpa, memory, deployment.observe(t), t)
        decisions.append(decision)
        if decision.target != deployment.replicas:
            deployment.scale(decision.target, t)
    return Rehearsal(file, hpa, trace, start, decisions, sorted(deployment.steps))


def whole(value: float) -> float:
    """The same number, as an integer where it is one: 15 rather than 15.0 in answers."""
    return int(value) if value == int(value) else value
