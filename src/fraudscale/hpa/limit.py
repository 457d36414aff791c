"""Limits: how far one sync may go, by the policies' rates and by minReplicas and maxReplicas."""

import math
from typing import Final

from msgspec import Struct

from fraudscale.hpa.spec import Behavior, Policy, Rules
from fraudscale.hpa.status import DesiredReplicas

# scaleUpLimitFactor and scaleUpLimitMinimum of horizontal.go: without policies a wrong metric doubles the
# scale at most.
_PLAIN_FACTOR: Final = 2
_PLAIN_MINIMUM: Final = 4


class ScaleEvent(Struct):
    """A change of scale that was made: by how many replicas, and when. An outdated one gives its place to the next."""

    change: int
    at: float
    outdated: bool = False


ScaleEvents = list[ScaleEvent]


def changed(history: ScaleEvents, period: float, now: float) -> int:
    """Sum up the replicas by which the scale changed within a period; exactly one period ago is before it."""
    # getReplicasChangePerPeriod asks `After`, so the edge is out.
    after = now - period
    return sum(event.change for event in history if event.at > after)


def limit_up(current: int, rules: Rules, ups: ScaleEvents, downs: ScaleEvents, now: float) -> int:
    """The most replicas that the policies of scaling up allow now."""
    if rules.select_policy == "Disabled":
        return current
    proposals = [_raised(policy, _base(current, policy, ups, downs, now)) for policy in rules.policies]
    # The policies are alternatives: 4 pods help a small scale soon, 100 % a large one.
    return min(proposals) if rules.select_policy == "Min" else max(proposals)


def limit_down(current: int, rules: Rules, ups: ScaleEvents, downs: ScaleEvents, now: float) -> int:
    """The fewest replicas that the policies of scaling down allow now."""
    if rules.select_policy == "Disabled":
        return current
    proposals = [_lowered(policy, _base(current, policy, ups, downs, now)) for policy in rules.policies]
    # "Max" is the most change, and so the fewest replicas.
    return max(proposals) if rules.select_policy == "Min" else min(proposals)


def _base(current: int, policy: Policy, ups: ScaleEvents, downs: ScaleEvents, now: float) -> int:
    """Replicas at the start of the policy's period: what both directions have changed since is taken back."""
    return current - changed(ups, policy.period, now) + changed(downs, policy.period, now)


# The doubles are the controller's: 50 replicas + 10 % are 55.00000000000001, and so 56.
def _raised(policy: Policy, base: int) -> int:
    if policy.type == "Pods":
        return base + policy.value
    return math.ceil(float(base) * (1.0 + float(policy.value) / 100.0))


def _lowered(policy: Policy, base: int) -> int:
    if policy.type == "Pods":
        return base - policy.value
    # Cut towards zero, as Go converts, while the way up is rounded up: both in favour of the larger change.
    return int(float(base) * (1.0 - float(policy.value) / 100.0))


def limit(
    stable: int,
    current: int,
    behavior: Behavior,
    ups: ScaleEvents,
    downs: ScaleEvents,
    *,
    low: int,
    high: int,
    now: float,
) -> DesiredReplicas:
    """Limit a move with `spec.behavior`; a number that stays isn't looked at.

    Args:
        stable: replicas after stabilisation.
        current: replicas that the scale's spec asks for now.
        behavior: policies of both directions.
        ups: changes of scale upwards so far.
        downs: changes of scale downwards so far.
        low: minReplicas.
        high: maxReplicas.
        now: seconds, on the clock of the histories.
    """
    if stable > current:
        # A budget that is used up, or a scale that a person lowered meanwhile, puts the limit below the
        # current number. A move upwards never removes pods for that.
        rate = max(limit_up(current, behavior.scale_up, ups, downs, now), current)
        top = (
            DesiredReplicas(rate, "ScaleUpLimit") if high > rate else DesiredReplicas(high, "TooManyReplicas")
        )
        # Only a limit that changes the number is named as the reason.
        if stable > top.value:
            return top
    elif stable < current:
        rate = min(limit_down(current, behavior.scale_down, ups, downs, now), current)
        bottom = (
            DesiredReplicas(rate, "ScaleDownLimit") if low < rate else DesiredReplicas(low, "TooFewReplicas")
        )
        if stable < bottom.value:
            return bottom
    return DesiredReplicas(stable, "DesiredWithinRange")


def limit_plain(stable: int, current: int, *, low: int, high: int) -> DesiredReplicas:
    """Limit without `spec.behavior`: within the bounds, and at most twice as many at once (or 4)."""
    rate = max(_PLAIN_FACTOR * current, _PLAIN_MINIMUM)
    top = DesiredReplicas(rate, "ScaleUpLimit") if high > rate else DesiredReplicas(high, "TooManyReplicas")
    if stable < low:
        return DesiredReplicas(low, "TooFewReplicas")
    return top if stable > top.value else DesiredReplicas(stable, "DesiredWithinRange")


def record(
    behavior: Behavior, ups: ScaleEvents, downs: ScaleEvents, *, before: int, after: int, now: float
) -> None:
    """Note a change of scale, in the place of the last outdated one of its direction if there is one."""
    history, rules = (ups, behavior.scale_up) if after > before else (downs, behavior.scale_down)
    # storeScaleEvent takes an old place instead of sorting: the history stays as long as the longest period
    # needs.
    oldest = now - max(policy.period for policy in rules.policies)
    place = None
    for index, event in enumerate(history):
        # A mark stays: a longer period that is configured later doesn't bring a place back.
        event.outdated = event.outdated or event.at < oldest
        if event.outdated:
            place = index
    if place is None:
        history.append(ScaleEvent(abs(after - before), now))
    else:
        history[place] = ScaleEvent(abs(after - before), now)
