"""Stabilisation: a move waits until every recommendation of its window agrees."""

from fraudscale.hpa.status import DesiredReplicas

Recommendations = list[tuple[int, float]]
"""(replicas, when), in no order of time: obsolete places are used again."""


def stabilise(
    want: int, current: int, log: Recommendations, *, up_window: float, down_window: float, now: float
) -> DesiredReplicas:
    """Stabilise with `spec.behavior`: go no further than all recommendations of both windows allow.

    A recommendation that is exactly one window old is out. The reason is `ReadyForNewScale` if nothing was held back.

    Args:
        want: replicas that the metrics ask for.
        current: replicas that the scale's spec asks for now.
        log: earlier recommendations.
        up_window: seconds in which all must want more before there are more.
        down_window: seconds in which all must want fewer before there are fewer.
        now: seconds, on the clock of the log.
    """
    # stabilizeRecommendationWithBehaviors: one log has two bounds. A short peak adds no pods, since fewer
    # than `low` were wanted a moment ago; a short dip removes none, since `high` were.
    after_up, after_down = now - up_window, now - down_window
    low = high = want
    for value, at in log:
        if value < low and at > after_up:
            low = value
        if value > high and at > after_down:
            high = value
    # The current number moves into the bounds and no further.
    stable = min(max(current, low), high)
    if stable == want:
        return DesiredReplicas(stable, "ReadyForNewScale")
    return DesiredReplicas(stable, "ScaleUpStabilized" if want >= current else "ScaleDownStabilized")


def stabilise_plain(want: int, log: Recommendations, *, window: float, now: float) -> DesiredReplicas:
    """Stabilise without `spec.behavior`: the highest of the window, in which an edge counts as inside.

    Nothing holds it at the current number: an old high recommendation undoes a manual step down.
    """
    # stabilizeRecommendation asks `Before` where its sister asks `After`: hence the other edge.
    since = now - window
    stable = want
    for value, at in log:
        if value > stable and at >= since:
            stable = value
    return DesiredReplicas(stable, "ReadyForNewScale" if stable == want else "ScaleDownStabilized")


def remember(log: Recommendations, want: int, *, window: float, now: float) -> None:
    """Note a recommendation, in the place of the last one older than the longest window if there is one."""
    oldest = now - window
    # From the end: the controller remembers the last old place that its loop meets, and takes that one.
    for index in range(len(log) - 1, -1, -1):
        if log[index][1] < oldest:
            log[index] = (want, now)
            return
    log.append((want, now))
