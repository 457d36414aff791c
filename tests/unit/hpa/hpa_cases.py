"""Turns the recorded cases of a real controller, and of its own unit tests, into this package's records."""

import json
from pathlib import Path

from msgspec import structs

from fraudscale.hpa import (
    Container,
    Controller,
    Hpa,
    Memory,
    MetricSpec,
    MetricTarget,
    Observed,
    Pods,
    Reference,
    read_manifest,
)
from fraudscale.hpa.limit import ScaleEvent
from fraudscale.hpa.status import Condition

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())["cases"]
RECORDED = json.loads((DATA / "recorded.json").read_text())
NOW = 2_000_000.0


def golden(kind):
    return [case for case in GOLDEN if case["kind"] == kind]


def manifest(*, low=1, high=10, metrics=None, behavior=None, **spec):
    """An autoscaling/v2 object as text."""
    spec = {
        "scaleTargetRef": {"kind": "Deployment", "name": "web"},
        "minReplicas": low,
        "maxReplicas": high,
        **spec,
    }
    if metrics is not None:
        spec["metrics"] = metrics
    if behavior is not None:
        spec["behavior"] = behavior
    document = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
    }
    return json.dumps({**document, "spec": spec})


def behavior(given):
    return read_manifest(manifest(behavior=given), "hpa.yaml").behavior


def hpa(spec):
    metrics = tuple(metric(one) for one in spec["metrics"])
    low, high, rules = spec["min"], spec["max"], behavior(spec["behavior"])
    return Hpa("web", "default", Reference("apps/v1", "Deployment", "web"), low, high, metrics, rules)


def metric(given):
    kinds = {
        "target_utilization": "Utilization",
        "target_value_milli": "Value",
        "target_average_milli": "AverageValue",
    }
    targets = [MetricTarget(kind, given[field]) for field, kind in kinds.items() if field in given]
    target = targets[0] if targets else None  # of a type that doesn't exist
    return MetricSpec(given["type"], given["name"], target, given.get("container", ""))


def controller(given):
    return Controller(
        cpu_initialization=given.get("cpu_init_s", 300),
        initial_readiness=given.get("init_delay_s", 30),
        scale_to_zero=given.get("gates", {}).get("HPAScaleToZero", False),
    )


def tolerance(given):
    return given.get("tolerance_down", 0.1), given.get("tolerance_up", 0.1)


def pods(given):
    listed = [_pod(one) for one in given["pods"]]
    return listed + [_pod(one, listed=False) for one in given.get("extra_metrics", [])]


def _pod(given, *, listed=True):
    sampled = given.get("has_metrics", True)
    started = given.get("start_age_s", 86400)
    return Pods(
        1,
        tuple(_container(one, sampled) for one in given.get("containers", [given])),
        given["name"],
        given.get("phase", "Running"),
        given.get("deleted", False),
        {True: "True", False: "False"}.get(given.get("ready", True), given.get("ready")),
        None if started is None else NOW - started,
        NOW - given.get("ready_age_s", 86400),
        NOW - given.get("metric_age_s", 0),
        given.get("metric_window_s", 60),
        listed,
        custom={f"Pods/{name}": value for name, value in given.get("custom", {}).items()} if sampled else {},
    )


def _container(given, sampled):
    def values(kind):
        cpu, memory = given.get(f"cpu_{kind}_m"), given.get(f"memory_{kind}_bytes")
        found = {"cpu": cpu, "memory": None if memory is None else memory * 1000}
        return {name: value for name, value in found.items() if value is not None}

    # A case that asks only for classes has samples without values.
    usage = values("usage") or {"cpu": 0, "memory": 0}
    return Container(given["name"], values("request"), usage if sampled else None)


def memory(given):
    log = given.get("recommendations")
    conditions = {
        name: Condition(status, reason, 0)
        for name, (status, reason) in given.get("initial_conditions", {}).items()
    }
    return Memory(None if log is None else recommendations(log), conditions=conditions)


def recommendations(given):
    return [(one["value"], NOW - one["age_s"]) for one in given]


def scalings(given):
    return [ScaleEvent(one["change"], NOW - one["age_s"]) for one in given]


def observed(given, wanted):
    values, failures = {}, {}
    for one in wanted.metrics:
        if one.name in given.get("metric_values", {}):
            values[one.key] = given["metric_values"][one.name]
        if one.name in given.get("unavailable", []):
            failures[one.key] = "no metrics returned from the metrics API"
    return Observed(given["spec_replicas"], pods(given), given.get("status_replicas"), values, failures)


class Plant:
    """Simulated pods: old ones at the start, new ones with a delay, the newest removed first."""

    def __init__(
        self,
        count,
        *,
        cpu_request_m,
        memory_request_milli,
        ready_delay_s=0,
        metrics_delay_s=0,
        startup_cpu_m=0,
        window_s=15,
    ):
        self.requests = {"cpu": cpu_request_m, "memory": memory_request_milli}
        self.ready_delay, self.metrics_delay = ready_delay_s, metrics_delay_s
        self.startup_cpu, self.window = startup_cpu_m, window_s
        self.born = [-86400.0] * count

    def scale(self, count, now):
        self.born = (self.born + [now] * count)[:count]

    def pods(self, now, cpu_total_m, memory_milli, share=1.0):
        ready = [born + self.ready_delay <= now for born in self.born]
        each = cpu_total_m // max(1, sum(ready))
        reporting = round(len(self.born) * share)
        return [
            self._pod(
                born, is_ready, now, each if is_ready else self.startup_cpu, memory_milli, index < reporting
            )
            for index, (born, is_ready) in enumerate(zip(self.born, ready, strict=True))
        ]

    def _pod(self, born, is_ready, now, cpu, memory_milli, reports):
        usage = {"cpu": cpu, "memory": memory_milli} if reports and born + self.metrics_delay <= now else None
        return Pods(
            1,
            (Container("web", self.requests, usage),),
            ready="True" if is_ready else "False",
            started=born,
            ready_since=born + self.ready_delay if is_ready else born,
            sampled_at=now,
            window=self.window,
        )


def with_bounds(wanted, low, high):
    return structs.replace(wanted, min_replicas=low, max_replicas=high)
