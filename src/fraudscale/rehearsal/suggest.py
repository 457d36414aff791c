"""Which `behavior` holds the 95th percentile under a limit with the fewest pod-hours, for one load.

One setting after the other is varied, the best value is kept, until a whole round changes nothing: from what the manifest says,
from the quickest and from the most patient. What comes out is no worse than the manifest, and need not be the best there is.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml
from msgspec.structs import replace

from fraudscale.hpa import Behavior, Hpa, Policy, Rules
from fraudscale.hpa.spec import DEFAULT_DOWN, DEFAULT_UP
from fraudscale.rehearsal.queueing import Service, estimate_latency
from fraudscale.rehearsal.rehearse import rehearse
from fraudscale.rehearsal.report import Summary, summarise
from fraudscale.rehearsal.trace import LoadTrace

WINDOWS: Final = (0, 30, 60, 120, 300, 600)
"""Seconds."""
PODS: Final = (1, 2, 4)
PERIODS: Final = (15, 60, 300)
"""Seconds."""
EXPECTED: Final = 150
"""Rehearsals of a search, about; for its progress."""

WHOLE: Final = 100
"""Lines of context: more than there are."""

_QUICK: Final = Rules(min(WINDOWS), "Max", (Policy("Pods", max(PODS), min(PERIODS)),))
_PATIENT: Final = Rules(max(WINDOWS), "Max", (Policy("Pods", min(PODS), max(PERIODS)),))


@dataclass(frozen=True)
class Suggestion:
    """The best behaviour that was found."""

    hpa: Hpa
    """With it."""
    p95_ms: float
    limit_ms: float
    diff: str
    """Of `spec.behavior`, with defaults filled in; empty where nothing needs to change."""

    @property
    def holds(self) -> bool:
        return self.p95_ms <= self.limit_ms

    def as_json(self) -> Mapping[str, object]:
        return {
            "holds": self.holds,
            "p95_limit_ms": self.limit_ms,
            "behavior": as_manifest(_behavior(self.hpa)),
            "diff": self.diff,
        }

    def as_text(self) -> str:
        if not self.holds:
            return (
                f"No behaviour that was tried keeps p95 under {self.limit_ms:g} ms; the best has {self.p95_ms:,.0f} ms."
                " More than behaviour has to change: maxReplicas, minReplicas or the target."
            )
        if not self.diff:
            return f"No behaviour that was tried keeps p95 under {self.limit_ms:g} ms with fewer pod-hours."
        return f"Fewest pod-hours with p95 under {self.limit_ms:g} ms, of what was tried:\n\n{self.diff}"


def suggest(
    file: str,
    hpa: Hpa,
    trace: LoadTrace,
    service: Service,
    limit_ms: float,
    progress: Callable[[str, float], None],
) -> Suggestion:
    """Search; the limit is for the 95th percentile of the whole trace, and `file` names the HPA in the difference."""
    tried: dict[Behavior, Summary] = {}

    def rank(behavior: Behavior) -> tuple[bool, bool, float, float]:
        """Least is best: under the limit, without oscillation, fewer pod-hours; above the limit the lower percentile."""
        if behavior not in tried:
            rehearsal = rehearse(file, replace(hpa, behavior=behavior), trace)
            tried[behavior] = summarise(rehearsal, estimate_latency(rehearsal, service))
            progress("search", min(1.0, len(tried) / EXPECTED))
        found = tried[behavior]
        over = found.p95_ms > limit_ms
        return over, found.oscillates, found.p95_ms if over else found.pod_seconds, found.p95_ms

    given = _behavior(hpa)
    best = given
    for start in (given, _started(given, _QUICK), _started(given, _PATIENT)):
        found = _descend(start, rank)
        # Only a real gain is worth a change.
        if rank(found)[:3] < rank(best)[:3]:
            best = found
    progress("search", 1.0)
    return Suggestion(replace(hpa, behavior=best), tried[best].p95_ms, limit_ms, _diff(file, given, best))


def _descend(behavior: Behavior, rank: Callable[[Behavior], Any]) -> Behavior:
    while True:
        before = behavior
        for direction in ("scale_up", "scale_down"):
            for setting in (_windows, _policies):
                choices = [replace(behavior, **{direction: r}) for r in setting(getattr(behavior, direction))]
                behavior = min([behavior, *choices], key=rank)
        if behavior == before:
            return behavior


def _windows(rules: Rules) -> Iterator[Rules]:
    if rules.select_policy != "Disabled":
        yield from (replace(rules, window=window) for window in WINDOWS)


def _policies(rules: Rules) -> Iterator[Rules]:
    # Whoever disabled a direction had a reason that no load tells.
    if rules.select_policy != "Disabled":
        for pods in PODS:
            for period in PERIODS:
                yield replace(rules, select_policy="Max", policies=(Policy("Pods", pods, period),))


def _started(given: Behavior, rules: Rules) -> Behavior:
    def start(its: Rules) -> Rules:
        return its if its.select_policy == "Disabled" else replace(rules, tolerance=its.tolerance)

    return Behavior(start(given.scale_up), start(given.scale_down))


def _behavior(hpa: Hpa) -> Behavior:
    return hpa.behavior or Behavior(DEFAULT_UP, DEFAULT_DOWN)


def as_manifest(behavior: Behavior) -> dict[str, Any]:
    """Write `spec.behavior` as a manifest has it."""
    return {"scaleUp": _rules(behavior.scale_up), "scaleDown": _rules(behavior.scale_down)}


def _rules(rules: Rules) -> dict[str, Any]:
    fields = {
        "stabilizationWindowSeconds": rules.window,
        "selectPolicy": rules.select_policy,
        "policies": [{"type": p.type, "value": p.value, "periodSeconds": p.period} for p in rules.policies],
        "tolerance": None if rules.tolerance is None else str(rules.tolerance),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _diff(file: str, before: Behavior, after: Behavior) -> str:
    lines = difflib.unified_diff(_lines(before), _lines(after), file, "suggested", lineterm="", n=WHOLE)
    return "\n".join(lines)


def _lines(behavior: Behavior) -> list[str]:
    return yaml.safe_dump({"spec": {"behavior": as_manifest(behavior)}}, sort_keys=False).splitlines()
