"""An HPA against a trace: every sync of the controller, decided by the same code that scales the platform."""

import math
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from fraudscale.hpa import Hpa, ManifestError, Memory, ScalingDecision, read_manifests, sync
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


def read_hpas(path: Path) -> list[tuple[str, Hpa]]:
    """Read the HPAs of a manifest, each with a name for reports: the file's, with the HPA's where there are several.

    Raises:
        ManifestError: it can't be read, or holds no valid HPA.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(str(path), "", f"can't be read: {error.strerror or error}") from error
    found = read_manifests(content, str(path))
    return [(f"{path}, {hpa.namespace}/{hpa.name}" if len(found) > 1 else str(path), hpa) for hpa in found]


def measurable(file: str, hpa: Hpa) -> tuple[Hpa, str]:
    """Keep what a trace can drive, CPU and memory → the HPA to rehearse, and a sentence about what is not as it says.

    A metric of one container stands for the whole pod where no other metric has its resource; the other ones are left
    out. Without a metric left there is nothing to rehearse. The sentence is empty where nothing was changed.

    Raises:
        ManifestError: no metric is left.
    """
    kept = [metric for metric in hpa.metrics if metric.type == "Resource" and metric.name in RESOURCES]
    one_of = []
    for metric in hpa.metrics:
        whole_pod = replace(metric, type="Resource", container="")
        if metric.type == "ContainerResource" and metric.name in set(RESOURCES) - {m.name for m in kept}:
            kept.append(whole_pod)
            one_of.append(metric)
    left_out = ", ".join(f"{m.type}/{m.name}" for m in hpa.metrics if m not in kept and m not in one_of)
    if not kept:
        raise ManifestError(
            file, "spec.metrics", f"a trace holds CPU and memory of pods, nothing for {left_out}"
        )
    said = []
    if left_out:
        said.append(f"rehearsed without {left_out}, which may want more replicas than CPU and memory do")
    if one_of:
        names = ", ".join(metric.key for metric in one_of)
        said.append(f"{names}: the load and the requests are taken as those of that container")
    return replace(hpa, metrics=tuple(kept)), "; ".join(said)


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
