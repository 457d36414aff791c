"""The dashboard as a table: rows of panels, what each asks Prometheus, and which alerts it explains.

A query aggregates first and divides last, so a replica that comes or goes bends no ratio. Denominators that may be 0 are kept
above it: a calm service shows 0 and no gap.
"""

from dataclasses import dataclass
from typing import Final, Literal

from fraudscale import metrics as m
from fraudscale.counting import Metric
from fraudscale.dashboard.limits import SLOW

NAMESPACE: Final = 'namespace="$namespace"'
OURS: Final = f'job="ml-model",{NAMESPACE}'
HPA: Final = f'{NAMESPACE},horizontalpodautoscaler="ml-model"'
SCORING: Final = 'endpoint=~"/predict.*"'
ANSWERED: Final = f'{SCORING},status!="429"'
"""A refusal by policy is neither an error nor work, as in the alerts."""
REFUSED: Final = f'{SCORING},status="429"'
FAILED_ANSWERS: Final = f'{SCORING},status=~"5.."'
OVER: Final = f'{SCORING},le=~"2|2[.]0"'
"""The edge that the alert HighResponseTime counts from."""
FAILURE: Final = 'result="failure"'
COMMITTED: Final = 'result="committed"'
ABORTED: Final = 'result="aborted"'
STREAM: Final = 'container="stream"'
BROKEN: Final = f'{STREAM},error_type="prediction"'
DEAD: Final = 'topic=~".+[.]dead-letter"'
UTILISATION: Final = 'metric_target_type="utilization"'
"""In percent of the request; kube-state-metrics tells the average value too, in cores or bytes."""
DISKS: Final = 'fstype!~"tmpfs|squashfs|ramfs"'
RECENT: Final = "$__rate_interval"
QUANTILES: Final = (0.5, 0.95, 0.99)

PER_SECOND: Final = "suffix:/s"
SHARE: Final = "percentunit"
PERCENT: Final = "percent"
SECONDS: Final = "s"
BYTES: Final = "bytes"
COUNT: Final = "short"

PanelType = Literal["timeseries", "stat"]


@dataclass(frozen=True)
class PanelQuery:
    """An expression, and the name of its series; `{{label}}` stands for a label's value."""

    expr: str
    legend: str
    dashed: bool = False
    """A bound or a target, not what is."""


@dataclass(frozen=True)
class Panel:
    """One picture, or one figure."""

    title: str
    about: str
    unit: str
    queries: tuple[PanelQuery, ...]
    alerts: tuple[str, ...] = ()
    """Whose runbooks it links to."""
    limit: str | None = None
    """Whose limit is drawn: an alert's, or `SLOW`."""
    kind: PanelType = "timeseries"
    steps: bool = False
    """Values that hold until the next one, not on the way to it."""
    names: bool = False
    """Of a figure: its series' name is shown, not its value."""


@dataclass(frozen=True)
class Row:
    """Panels of one subject."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Annotation:
    """What happened: a mark for each value above 0, a span for values that follow each other."""

    name: str
    expr: str
    title: str
    colour: str


def of(metric: Metric | str, more: str = "", scope: str = OURS) -> str:
    """Select the series of a metric, or of one series of a histogram by its name."""
    name = metric if isinstance(metric, str) else metric.name
    return f"{name}{{{scope}{',' if more else ''}{more}}}"


def rate(metric: Metric | str, more: str = "", window: str = RECENT) -> str:
    return f"rate({of(metric, more)}[{window}])"


def increase(metric: Metric, more: str = "", window: str = "5m") -> str:
    return f"increase({of(metric, more)}[{window}])"


def share(part: str, whole: str, by: str = "") -> str:
    """The sum of a part over the sum of the whole; 0 where there is nothing."""
    grouping = f"by ({by}) " if by else ""
    return f"sum {grouping}({part}) / clamp_min(sum {grouping}({whole}), 1e-9)"


def quantile(q: float, histogram: Metric, more: str = "", by: str = "") -> str:
    buckets = rate(f"{histogram.name}_bucket", more)
    return f"histogram_quantile({q:g}, sum by ({by}{', ' if by else ''}le) ({buckets}))"


def quantiles(
    histogram: Metric, more: str = "", of_these: tuple[float, ...] = QUANTILES
) -> tuple[PanelQuery, ...]:
    return tuple(PanelQuery(quantile(q, histogram, more), f"p{100 * q:g}") for q in of_these)


def sums(metric: Metric, by: str, more: str = "") -> tuple[PanelQuery, ...]:
    """A counter's rate by a label."""
    return (PanelQuery(f"sum by ({by}) ({rate(metric, more)})", f"{{{{{by}}}}}"),)


def queue(metric: Metric, by: str = "topic, group") -> str:
    """What every exporter, the autoscaler among them, says of the same thing: the largest, never the sum."""
    return f"max by ({by}) ({of(metric, scope=NAMESPACE)})"


def hpa(metric: Metric, more: str = "", by: str = "horizontalpodautoscaler") -> str:
    """Two exporters of one object are one object."""
    return f"max by ({by}) ({of(metric, more, HPA)})"


def shipper(metric: Metric, fluentd: str = "") -> str:
    """A rate of the process that ships log lines, which is none of the job's; in a cluster Fluentd's, where it counts that."""
    return or_none(
        f"sum(rate({of(metric, scope=NAMESPACE)}[{RECENT}]))", f"sum({fluentd})" if fluentd else ""
    )


def or_none(expression: str, fluentd: str = "") -> str:
    """0 where nothing ships; nothing where Fluentd does, and doesn't count this."""
    in_a_cluster = f" or {fluentd}" if fluentd else ""
    return f"{expression}{in_a_cluster} or vector(0) unless on () sum(fluentd_lines_total)"


SCORED: Final = f"sum({rate(m.PREDICTIONS)})"
FAILED: Final = share(
    rate(m.HTTP_REQUESTS, FAILED_ANSWERS, "5m"),
    rate(m.HTTP_REQUESTS, ANSWERED, "5m"),
)
USED: Final = f"sum({rate('process_cpu_seconds_total', window='2m')} and {of(m.CPU_REQUEST)})"
REQUESTED: Final = f"sum({of(m.CPU_REQUEST)})"
CPU: Final = f"{USED} / {REQUESTED}"
"""As the alert HighCPUUsage counts: what ended has no request, so what it used is left out."""
FIRING: Final = f'ALERTS{{{NAMESPACE},alertstate="firing",severity!="none"}}'

GLANCE: Final = Row(
    "At a glance",
    (
        Panel(
            "Scored",
            "Transactions scored per second, over HTTP and from Kafka.",
            PER_SECOND,
            (PanelQuery(SCORED, "scored"),),
            kind="stat",
        ),
        Panel(
            "95th percentile",
            "95 % of HTTP scoring requests were answered within this.",
            SECONDS,
            (PanelQuery(quantile(0.95, m.HTTP_DURATION, SCORING), "p95"),),
            ("HighResponseTime",),
            SLOW,
            kind="stat",
        ),
        Panel(
            "Failed requests",
            "Share of HTTP scoring requests of the last 5 minutes that got a 5xx answer; refusals (429) are left out.",
            SHARE,
            (PanelQuery(FAILED, "failed"),),
            ("HighErrorRate",),
            "HighErrorRate",
            kind="stat",
        ),
        Panel(
            "Waiting",
            "Messages of the input topic that no scorer has scored yet.",
            COUNT,
            (PanelQuery(f"max({of(m.QUEUE_LENGTH, scope=NAMESPACE)})", "waiting"),),
            ("HighKafkaQueueLength", "KafkaQueueLengthAbsent"),
            "HighKafkaQueueLength",
            kind="stat",
        ),
        Panel(
            "Replicas",
            "Desired replicas of the autoscaler's last sync.",
            COUNT,
            (PanelQuery(f"max({of(m.HPA_DESIRED, scope=HPA)})", "replicas"),),
            ("ModelScaledToMax", "ModelSaturatedAtMax"),
            kind="stat",
            steps=True,
        ),
        Panel(
            "CPU",
            "CPU of all replicas as a share of their requests, over 2 minutes.",
            SHARE,
            (PanelQuery(CPU, "CPU"),),
            ("HighCPUUsage",),
            "HighCPUUsage",
            kind="stat",
        ),
        Panel(
            "Model",
            "Model version that scores; several while one replaces the other.",
            COUNT,
            (PanelQuery(f"count by (version) ({of(m.MODEL_INFO)} == 1)", "{{version}}"),),
            kind="stat",
            names=True,
            steps=True,
        ),
        Panel(
            "Alerts",
            "Alerts that fire, without the watchdog.",
            COUNT,
            (PanelQuery(f"count({FIRING}) or vector(0)", "alerts"),),
            ("Watchdog",),
            kind="stat",
            steps=True,
        ),
    ),
)

TRAFFIC: Final = Row(
    "Traffic",
    (
        Panel(
            "Requests by endpoint",
            "HTTP requests per second, by route.",
            PER_SECOND,
            sums(m.HTTP_REQUESTS, "endpoint"),
        ),
        Panel(
            "Answers by status",
            "HTTP answers per second, by status. 429 is a client above its rate limit.",
            PER_SECOND,
            sums(m.HTTP_REQUESTS, "status"),
        ),
        Panel(
            "In progress",
            "HTTP requests that are being answered, and transactions that are accepted and not yet scored, over HTTP and from Kafka.",
            COUNT,
            (
                PanelQuery(f"sum({of(m.HTTP_IN_PROGRESS)})", "requests"),
                PanelQuery(f"sum({of(m.ACTIVE_REQUESTS)})", "transactions"),
            ),
        ),
    ),
)

MODEL: Final = Row(
    "Model",
    (
        Panel(
            "Predictions by result",
            "Transactions scored per second, over HTTP and from Kafka.",
            PER_SECOND,
            sums(m.PREDICTIONS, "result"),
        ),
        Panel(
            "Share of frauds",
            "Share of the scored transactions that are at or above the model's threshold.",
            SHARE,
            (PanelQuery(share(rate(m.PREDICTIONS, 'result="fraud"'), rate(m.PREDICTIONS)), "frauds"),),
        ),
        Panel(
            "Probability of fraud",
            "Quantiles of the calibrated probability; a shift without a new model is a shift of the data.",
            SHARE,
            quantiles(m.FRAUD_PROBABILITY),
        ),
        Panel(
            "Confidence",
            "Quantiles of max(p, 1 - p).",
            SHARE,
            quantiles(m.CONFIDENCE_SCORE, of_these=(0.05, 0.5)),
        ),
        Panel(
            "Versions that serve",
            "Processes by the model version that they score with, and by the one that the alias or the pin asks for. They differ while a new version arrives.",
            COUNT,
            (
                PanelQuery(
                    f"count by (version, alias) ({of(m.MODEL_INFO)} == 1)", "version {{version}} ({{alias}})"
                ),
                PanelQuery(
                    f"count by (version, alias) ({of(m.WANTED_INFO)} == 1)",
                    "wanted: version {{version}} ({{alias}})",
                    dashed=True,
                ),
            ),
            ("ModelVersionNotServed",),
            steps=True,
        ),
        Panel(
            "Registry answers",
            "Processes that the registry answered when they asked last; without an answer the model that serves stays.",
            COUNT,
            (PanelQuery(f"sum by (container) ({of(m.REGISTRY_UP)})", "{{container}}"),),
            steps=True,
        ),
        Panel(
            "Loads in an hour",
            "Model loads of the last hour, by result.",
            COUNT,
            (PanelQuery(f"sum by (result) ({increase(m.LOADS, window='1h')})", "{{result}}"),),
        ),
        Panel(
            "Failed loads of a process",
            "Failed loads in 15 minutes, of the process with the most; the old model goes on serving.",
            COUNT,
            (
                PanelQuery(
                    f"max by (container) ({increase(m.LOADS, FAILURE, '15m')})",
                    "{{container}}",
                ),
            ),
            ("ModelLoadFailing",),
            "ModelLoadFailing",
        ),
        Panel(
            "Time to load",
            "Mean seconds over all loads of the running processes: fetch if needed, verify, check parity, warm up.",
            SECONDS,
            (
                PanelQuery(
                    f"sum by (container) ({of(m.LOAD_DURATION.name + '_sum')})"
                    f" / clamp_min(sum by (container) ({of(m.LOAD_DURATION.name + '_count')}), 1e-9)",
                    "{{container}}",
                ),
            ),
        ),
        Panel(
            "Unknown categories",
            'Transactions per second with a merchant category that the model does not know; scored as "other".',
            PER_SECOND,
            (PanelQuery(f"sum({rate(m.UNKNOWN_CATEGORIES)})", "unknown"),),
        ),
    ),
)

ERRORS: Final = Row(
    "Errors",
    (
        Panel(
            "Failed requests",
            "Share of scoring requests of the last 5 minutes that got a 5xx answer; refusals (429) are left out.",
            SHARE,
            (PanelQuery(FAILED, "failed"),),
            ("HighErrorRate",),
            "HighErrorRate",
        ),
        Panel(
            "Failed requests by replica",
            "The same for each replica. Replace a replica that stands out.",
            SHARE,
            (
                PanelQuery(
                    share(
                        rate(m.HTTP_REQUESTS, FAILED_ANSWERS, "5m"),
                        rate(m.HTTP_REQUESTS, ANSWERED, "5m"),
                        "pod",
                    ),
                    "{{pod}}",
                ),
            ),
            ("ReplicaErrorRate",),
            "ReplicaErrorRate",
        ),
        Panel(
            "HTTP errors",
            "Answers with an error status per second; 4xx is the client's fault, 5xx ours.",
            PER_SECOND,
            sums(m.HTTP_ERRORS, "status_class"),
        ),
        Panel(
            "Errors by type",
            "validation: the input is no transaction; prediction: the model failed; system: a model could not be loaded.",
            PER_SECOND,
            sums(m.MODEL_ERRORS, "error_type"),
        ),
        Panel(
            "Refused",
            "Scoring requests per second that got 429: a client above its rate limit. They are neither work nor an error.",
            PER_SECOND,
            (PanelQuery(f"sum by (pod) ({rate(m.HTTP_REQUESTS, REFUSED)})", "{{pod}}"),),
        ),
        Panel(
            "Valid and not scored",
            "Valid transactions per second that got no score.",
            PER_SECOND,
            (PanelQuery(f"sum by (container) ({rate(m.FAILED_PREDICTIONS)})", "{{container}}"),),
        ),
    ),
)

LATENCY: Final = Row(
    "Latency",
    (
        Panel(
            "HTTP answers",
            "Seconds from a request's head to the end of its answer, /predict and /predict/batch.",
            SECONDS,
            quantiles(m.HTTP_DURATION, SCORING),
            ("HighResponseTime",),
            SLOW,
        ),
        Panel(
            "Slower than 2 s",
            "Share of the scoring requests of the last 5 minutes. It is above 5 % exactly if the 95th percentile is above 2 s.",
            SHARE,
            (
                PanelQuery(
                    f"1 - sum({rate(m.HTTP_DURATION.name + '_bucket', OVER, '5m')})"
                    f" / (sum({rate(m.HTTP_DURATION.name + '_count', SCORING, '5m')}) > 0) or vector(0)",
                    "slow",
                ),
            ),
            ("HighResponseTime",),
            "HighResponseTime",
        ),
        Panel(
            "HTTP p95 by replica",
            "95th percentile of each replica. One above the others has a busy neighbour or a fault.",
            SECONDS,
            (PanelQuery(quantile(0.95, m.HTTP_DURATION, SCORING, "pod"), "{{pod}}"),),
        ),
        Panel(
            "Mean by endpoint",
            "Mean time to an answer, by route.",
            SECONDS,
            (
                PanelQuery(
                    share(
                        rate(m.HTTP_DURATION.name + "_sum"), rate(m.HTTP_DURATION.name + "_count"), "endpoint"
                    ),
                    "{{endpoint}}",
                ),
            ),
        ),
        Panel(
            "Model pass",
            "Seconds of the model pass that scored a transaction, over HTTP and from Kafka; a batch is one pass.",
            SECONDS,
            quantiles(m.PREDICTION_DURATION),
        ),
        Panel(
            "Model pass, p95 by process",
            "95th percentile of serve (HTTP) and stream (Kafka). A pass over a large batch takes longer: stream's grows with a backlog.",
            SECONDS,
            (PanelQuery(quantile(0.95, m.PREDICTION_DURATION, by="container"), "{{container}}"),),
        ),
    ),
)

KAFKA: Final = Row(
    "Kafka",
    (
        Panel(
            "Messages that wait",
            "Messages of all partitions that wait for the group. Every exporter reports the same total.",
            COUNT,
            (PanelQuery(queue(m.QUEUE_LENGTH), "{{topic}} for {{group}}"),),
            ("HighKafkaQueueLength", "KafkaQueueLengthAbsent"),
            "HighKafkaQueueLength",
        ),
        Panel(
            "Age of the oldest",
            "Seconds since the timestamp of the oldest message that waits; 0 when none does.",
            SECONDS,
            (PanelQuery(queue(m.OLDEST_MESSAGE_AGE), "{{topic}} for {{group}}"),),
            ("KafkaOldestMessageAge",),
            "KafkaOldestMessageAge",
        ),
        Panel(
            "Lag by replica",
            "End offset - committed offset, over the partitions that a replica owns.",
            COUNT,
            (PanelQuery(f"sum by (pod) ({of(m.CONSUMER_LAG)})", "{{pod}}"),),
        ),
        Panel(
            "Messages in",
            "Messages per second that were read, and whose outcome was committed.",
            PER_SECOND,
            sums(m.MESSAGES_CONSUMED, "topic"),
        ),
        Panel(
            "Messages out",
            "Messages per second that were written and committed.",
            PER_SECOND,
            sums(m.MESSAGES_PRODUCED, "topic"),
        ),
        Panel(
            "Dead letters in 10 minutes",
            "Records that could not be scored. They are kept with their reasons and can be replayed.",
            COUNT,
            (
                PanelQuery(
                    f"sum by (topic) ({increase(m.MESSAGES_PRODUCED, DEAD, '10m')})",
                    "{{topic}}",
                ),
            ),
            ("DeadLettersArriving",),
            "DeadLettersArriving",
        ),
        Panel(
            "Skipped in 10 minutes",
            "Messages that no scorer could unpack. They have no score; a dead letter names each range.",
            COUNT,
            (PanelQuery(f"sum by (topic) ({increase(m.MESSAGES_SKIPPED, window='10m')})", "{{topic}}"),),
            ("RecordsSkipped",),
            "RecordsSkipped",
        ),
        Panel(
            "Transactions",
            "Kafka transactions per second, one per batch; the batch of an aborted one is read again.",
            PER_SECOND,
            sums(m.TRANSACTIONS, "result"),
        ),
        Panel(
            "Records in a transaction",
            "Mean size of a batch: small without a backlog, up to its limit with one.",
            COUNT,
            (PanelQuery(share(rate(m.MESSAGES_CONSUMED), rate(m.TRANSACTIONS, COMMITTED)), "records"),),
        ),
        Panel(
            "Failed batches in 5 minutes",
            "Batches that were aborted, or failed in the model. A rebalance may abort a batch once.",
            COUNT,
            (
                PanelQuery(
                    f"sum({increase(m.TRANSACTIONS, ABORTED)}) + sum({increase(m.MODEL_ERRORS, BROKEN)})"
                    f" - (sum({increase(m.FAILED_PREDICTIONS, STREAM)}) or vector(0))",
                    "failed",
                ),
            ),
            ("StreamFailures",),
            "StreamFailures",
        ),
        Panel(
            "Rebalances in 5 minutes",
            "Changes of a member's partitions: each start and stop of a replica makes some.",
            COUNT,
            (PanelQuery(f"sum by (kind) ({increase(m.REBALANCES)})", "{{kind}}"),),
        ),
        Panel(
            "Offset resets in 15 minutes",
            "Partitions that went on elsewhere than at the group's commit: back, records may be scored twice; lost, some never were.",
            COUNT,
            (PanelQuery(f"sum by (kind) ({increase(m.OFFSET_RESETS, window='15m')})", "{{kind}}"),),
            ("KafkaOffsetReset",),
        ),
        Panel(
            "Retained messages",
            "Messages that the topics hold, scored or not.",
            COUNT,
            (PanelQuery(queue(m.TOPIC_MESSAGES, "topic"), "{{topic}}"),),
        ),
        Panel(
            "Partitions without a commit",
            "Partitions in which the group never committed; all messages that they retain count as waiting.",
            COUNT,
            (PanelQuery(queue(m.PARTITIONS_WITHOUT_COMMIT), "{{topic}} for {{group}}"),),
            steps=True,
        ),
    ),
)

SCALING: Final = Row(
    "Scaling",
    (
        Panel(
            "Replicas",
            "Desired replicas after and before the last sync, between minimum and maximum.",
            COUNT,
            (
                PanelQuery(hpa(m.HPA_DESIRED), "wanted"),
                PanelQuery(hpa(m.HPA_CURRENT), "current"),
                PanelQuery(hpa(m.HPA_MIN), "min", dashed=True),
                PanelQuery(hpa(m.HPA_MAX), "max", dashed=True),
            ),
            ("ModelScaledToMax", "ModelSaturatedAtMax"),
            steps=True,
        ),
        Panel(
            "Utilisation against target",
            "Utilisation of the replicas' requests at the last sync, and its target.",
            PERCENT,
            (
                PanelQuery(hpa(m.HPA_SEEN, UTILISATION, "metric_name"), "{{metric_name}}"),
                PanelQuery(
                    hpa(m.HPA_TARGET, UTILISATION, "metric_name"), "{{metric_name}} target", dashed=True
                ),
            ),
            steps=True,
        ),
        Panel(
            "CPU of the requests",
            "CPU of all replicas together, over 2 minutes. Above the limit scaling did not suffice.",
            SHARE,
            (PanelQuery(CPU, "CPU"),),
            ("HighCPUUsage",),
            "HighCPUUsage",
        ),
        Panel(
            "Cores",
            "CPU that all processes use together over 2 minutes, and their requests.",
            COUNT,
            (PanelQuery(USED, "used"), PanelQuery(REQUESTED, "requested", dashed=True)),
        ),
        Panel(
            "Conditions of the HPA",
            "1 while a condition is true. ScalingLimited at the maximum means that more is wanted; the other two should be 1.",
            COUNT,
            (PanelQuery(hpa(m.HPA_CONDITION, 'status="true"', "condition"), "{{condition}}"),),
            ("HpaUnableToScale", "ModelSaturatedAtMax"),
            steps=True,
        ),
        Panel(
            "Processes that answer",
            "Processes of all replicas that Prometheus can scrape.",
            COUNT,
            (PanelQuery(f"sum by (container) ({of('up')})", "{{container}}"),),
            ("MetricsAbsent",),
            steps=True,
        ),
    ),
)

SYSTEM: Final = Row(
    "System",
    (
        Panel(
            "CPU by process",
            "CPU of each process, percent of its request.",
            PERCENT,
            (PanelQuery(f"sum by (pod, container) ({of(m.CPU_USAGE)})", "{{pod}} {{container}}"),),
        ),
        Panel(
            "Memory by process",
            "Resident memory of each process.",
            BYTES,
            (PanelQuery(f"sum by (pod, container) ({of(m.MEMORY_USAGE)})", "{{pod}} {{container}}"),),
        ),
        Panel(
            "CPU of the nodes",
            "Share of all cores of the nodes that is busy.",
            SHARE,
            (
                PanelQuery(
                    f'1 - avg by (instance) (rate(node_cpu_seconds_total{{mode="idle"}}[{RECENT}]))',
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Memory of the nodes",
            "Share of the memory that is not available.",
            SHARE,
            (
                PanelQuery(
                    "1 - sum by (instance) (node_memory_MemAvailable_bytes) / sum by (instance) (node_memory_MemTotal_bytes)",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Fullest disk of the nodes",
            "Share of the disk's space that is used.",
            SHARE,
            (
                PanelQuery(
                    f"1 - min by (instance) (node_filesystem_avail_bytes{{{DISKS}}} / node_filesystem_size_bytes{{{DISKS}}})",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Load of the nodes",
            "Tasks that run or want to run, mean over one minute.",
            COUNT,
            (PanelQuery("max by (instance) (node_load1)", "{{instance}}"),),
        ),
    ),
)

LOGS_AND_TRACES: Final = Row(
    "Logs and traces",
    (
        Panel(
            "Log lines",
            "Log lines to the central store; all 0 without a store. Refused lines are in the dead-letter index, dropped ones are lost. In a cluster Fluentd counts what it reads and what it refuses.",
            PER_SECOND,
            (
                PanelQuery(shipper(m.LOGS_SHIPPED, f"rate(fluentd_lines_total[{RECENT}])"), "shipped"),
                PanelQuery(
                    shipper(m.LOGS_REJECTED, f"rate(fluentd_lines_refused_total[{RECENT}])"), "refused"
                ),
                PanelQuery(shipper(m.LOGS_REPEATED), "sent again"),
                PanelQuery(shipper(m.LOGS_DROPPED), "dropped"),
            ),
        ),
        Panel(
            "Log lines not shipped yet",
            "Bytes that wait in files, in a cluster in Fluentd's buffers. They grow while the store is away or too slow.",
            BYTES,
            (
                PanelQuery(
                    or_none(
                        f"sum({of(m.LOGS_BEHIND, scope=NAMESPACE)})",
                        "sum(fluentd_output_status_buffer_total_bytes)",
                    ),
                    "behind",
                ),
            ),
        ),
        Panel(
            "Failures of the log store",
            "Requests that are tried again, and logs that were cut before they were read to the end.",
            PER_SECOND,
            (
                PanelQuery(
                    shipper(m.LOGS_FAILURES, f"rate(fluentd_output_status_num_errors[{RECENT}])"),
                    "failed requests",
                ),
                PanelQuery(shipper(m.LOGS_CUT_UNREAD), "cut unread"),
            ),
        ),
        Panel(
            "Spans",
            "Spans by result; all 0 without a collector (OTEL_EXPORTER_OTLP_ENDPOINT).",
            PER_SECOND,
            sums(m.TRACE_SPANS, "result"),
        ),
    ),
)

ROWS: Final = (GLANCE, TRAFFIC, MODEL, ERRORS, LATENCY, KAFKA, SCALING, SYSTEM, LOGS_AND_TRACES)

# A mark stands where the answer differs from the one a step before, so that each change is marked once.
STEP: Final = "15s"
_WANTED: Final = hpa(m.HPA_DESIRED)
_WANTED_BEFORE: Final = f"max by (horizontalpodautoscaler) ({of(m.HPA_DESIRED, scope=HPA)} offset {STEP})"
_VERSIONS: Final = f"count by (version) ({of(m.MODEL_INFO)} == 1)"
_VERSIONS_BEFORE: Final = f"count by (version) ({of(m.MODEL_INFO)} offset {STEP} == 1)"

ANNOTATIONS: Final = (
    Annotation(
        "Scaling",
        f'count_values("replicas", {_WANTED} != {_WANTED_BEFORE})',
        "Scaled to {{replicas}} replicas",
        "blue",
    ),
    Annotation(
        "Model",
        f"{_VERSIONS} unless {_VERSIONS_BEFORE}",
        "Model version {{version}} serves",
        "purple",
    ),
    Annotation(
        "Alerts",
        f"max by (alertname, severity) ({FIRING})",
        "{{alertname}} ({{severity}})",
        "red",
    ),
)
