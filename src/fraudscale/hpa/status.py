"""What a sync tells: conditions, events, and Kubernetes' own reasons and messages."""

from typing import Final, Literal

from msgspec import Struct

ConditionType = Literal["AbleToScale", "ScalingActive", "ScalingLimited", "ScaledToZero"]

_MESSAGES: Final = {
    "SucceededGetScale": "the HPA controller was able to get the target's current scale",
    "FailedGetScale": "the HPA controller was unable to get the target's current scale: {}",
    "ReadyForNewScale": "recommended size matches current size",
    "ScaleUpStabilized": "recent recommendations were lower than current one, applying the lowest recent recommendation",
    "ScaleDownStabilized": "recent recommendations were higher than current one, applying the highest recent recommendation",
    "SucceededRescale": "the HPA controller was able to update the target scale to {}",
    "ValidMetricFound": "the HPA was able to successfully calculate a replica count from {}",
    "ScalingDisabled": "scaling is disabled since the replica count of the target is zero",
    "DesiredWithinRange": "the desired count is within the acceptable range",
    "TooManyReplicas": "the desired replica count is more than the maximum replica count",
    "TooFewReplicas": "the desired replica count is less than the minimum replica count",
    "ScaleUpLimit": "the desired replica count is increasing faster than the maximum scale rate",
    "ScaleDownLimit": "the desired replica count is decreasing faster than the maximum scale rate",
    "ScaledToZero": "the HPA controller scaled the target to zero",
    "NotScaledToZero": "the HPA controller did not scale the target to zero",
}
_METRIC_FAILED: Final = "the HPA was unable to compute the replica count: {}"


def message(reason: str, detail: str = "") -> str:
    """Kubernetes' sentence for a reason."""
    return _MESSAGES.get(reason, _METRIC_FAILED).format(detail)


class DesiredReplicas(Struct, frozen=True):
    """The number of replicas that one stage of a sync asks for, and why."""

    value: int
    reason: str

    @property
    def message(self) -> str:
        return message(self.reason)


class Condition(Struct, frozen=True):
    """A condition of the HPA; `since` is when its status, not only its reason, last changed."""

    status: bool
    reason: str
    since: float
    detail: str = ""

    @property
    def message(self) -> str:
        return message(self.reason, self.detail)


class RecordedEvent(Struct, frozen=True):
    """What the controller would record for the HPA."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Conditions = dict[ConditionType, Condition]


def set_condition(
    conditions: Conditions, name: ConditionType, status: bool, reason: str, now: float, detail: str = ""
) -> None:
    """Change one condition; nothing is built while it stays the same, which is nearly always."""
    # lastTransitionTime tells since when a status holds; another reason for the same status doesn't change
    # it.
    old = conditions.get(name)
    if old is None or old.status is not status:
        conditions[name] = Condition(status, reason, now, detail)
    elif old.reason != reason or old.detail != detail:
        conditions[name] = Condition(status, reason, old.since, detail)
