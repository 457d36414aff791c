"""What a HorizontalPodAutoscaler wants: an autoscaling/v2 object and its controller's flags, as frozen records.

Values, requests and targets are integers in milli-units (1 core = 1000, 1 byte = 1000), times are seconds: the
controller's own arithmetic, and the reason why its roundings come out the same here.
"""

from typing import Final, Literal

from msgspec import Struct

KUBERNETES: Final = "1.36"
"""The release whose controller is modelled."""

MEBIBYTE_MILLI: Final = 1024 * 1024 * 1000
"""One MiB in milli-bytes."""

MetricType = Literal["Resource", "ContainerResource", "Pods", "Object", "External"]
TargetType = Literal["Utilization", "Value", "AverageValue"]
PolicyType = Literal["Pods", "Percent"]
SelectPolicy = Literal["Max", "Min", "Disabled"]


class MetricTarget(Struct, frozen=True):
    """Where a metric should be: percent of the request for Utilization, milli-units for the others."""

    type: TargetType
    value: int


class MetricSpec(Struct, frozen=True):
    """One entry of `spec.metrics`.

    `container` belongs to ContainerResource, `described` ("Kind/name") to Object; `selector` is text as Kubernetes
    prints it, empty where there is none.
    """

    type: MetricType
    name: str
    target: MetricTarget
    container: str = ""
    described: str = ""
    selector: str = ""

    @property
    def key(self) -> str:
        """Name of the metric within its HPA, such as `External/orders`."""
        parts = (self.type, self.described, self.container, self.name, self.selector)
        return "/".join(part for part in parts if part)

    @property
    def label(self) -> str:
        """Kubernetes' words for the metric, as its events and conditions use them."""
        if self.type in {"Resource", "ContainerResource"}:
            words = "resource" if self.type == "Resource" else "container resource"
            utilization = " utilization (percentage of request)" if self.target.type == "Utilization" else ""
            return f"{self.name} {words}{utilization}"
        if self.type == "Pods":
            return f"pods metric {self.name}"
        if self.type == "Object" and self.target.type == "Value":
            return f"{self.described.partition('/')[0]} metric {self.name}"
        # The controller prints an Object metric with an average as if it were external.
        return f"external metric {self.name}({self.selector or 'nil'})"


class Policy(Struct, frozen=True):
    """At most `value` pods or percent of them within `period` seconds."""

    type: PolicyType
    value: int
    period: int


class Rules(Struct, frozen=True):
    """One direction of `spec.behavior`; a window or tolerance of None is the controller's own."""

    window: int | None
    select_policy: SelectPolicy
    policies: tuple[Policy, ...]
    tolerance: float | None = None


class Behavior(Struct, frozen=True):
    """`spec.behavior` with the API server's defaults filled in."""

    scale_up: Rules
    scale_down: Rules


DEFAULT_UP: Final = Rules(0, "Max", (Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DEFAULT_DOWN: Final = Rules(None, "Max", (Policy("Percent", 100, 15),))
DEFAULT_METRICS: Final = (MetricSpec("Resource", "cpu", MetricTarget("Utilization", 80)),)


class Reference(Struct, frozen=True):
    """The object that is scaled."""

    api_version: str
    kind: str
    name: str


class Hpa(Struct, frozen=True):
    """A HorizontalPodAutoscaler, validated and with defaults. Without `behavior` the controller takes another path."""

    name: str
    namespace: str
    target: Reference
    min_replicas: int
    max_replicas: int
    metrics: tuple[MetricSpec, ...]
    behavior: Behavior | None


class Controller(Struct, frozen=True):
    """Flags of kube-controller-manager, with its defaults, and the one gate that is off in this release.

    Shares are fractions, times seconds.
    """

    tolerance: float = 0.1
    downscale_window: int = 300
    cpu_initialization: int = 300
    initial_readiness: int = 30
    scale_to_zero: bool = False


def tolerances(hpa: Hpa, controller: Controller) -> tuple[float, float]:
    """How far below and above its target a ratio may be without a move: each direction's own, or the flag's."""
    if hpa.behavior is None:
        return controller.tolerance, controller.tolerance
    # A direction may have its own (HPAConfigurableTolerance); the flag is one for the whole cluster.
    down, up = hpa.behavior.scale_down.tolerance, hpa.behavior.scale_up.tolerance
    return (
        controller.tolerance if down is None else down,
        controller.tolerance if up is None else up,
    )
