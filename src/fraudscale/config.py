"""Settings: frozen, one class a topic, read once at the edge of a process and passed by constructor.

Sources, the later overriding the earlier: `.env` (in Git: defaults, no secret), `.env.local` (ignored by Git), the
environment. Names in the environment are the field names in capitals.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraudscale.errors import InputError

Network = IPv4Network | IPv6Network


class SettingsError(InputError):
    """A setting has a value that it may not have; the message names it and says what it may be."""


def networks(text: str) -> tuple[Network, ...]:
    """Read a list such as `127.0.0.1,10.0.0.0/8`; empty for none.

    Raises:
        ValueError: one of them is no address and no network.
    """
    return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")) or len(value.split("://", 1)[1]) == 0:
        raise ValueError("must be an address such as http://127.0.0.1:5000")
    if "@" in value.split("://", 1)[1].partition("/")[0]:
        raise ValueError(
            "must hold no name and password: addresses are shown; there are settings for credentials"
        )
    return value.rstrip("/")


def _model_uri(value: str) -> str:
    name, at, alias = value.removeprefix("models:/").partition("@")
    if not value.startswith("models:/") or not at or not name or not alias or "/" in name:
        raise ValueError("must be models:/NAME@ALIAS, such as models:/fraud-detector@champion")
    return value


def _servers(value: str) -> str:
    for server in value.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not host or not colon or not port.isdigit():
            raise ValueError("must be HOST:PORT[,HOST:PORT …], such as 127.0.0.1:9092")
    return value


def _webhook(value: SecretStr) -> SecretStr:
    address = value.get_secret_value()
    if not address.startswith(("http://", "https://")):
        raise ValueError("must be an address such as https://hooks.slack.com/services/…")
    return value


def _mail_server(value: str) -> str:
    host, _, port = value.partition(":")
    if not host or not (port or "587").isdigit():
        raise ValueError("must be HOST or HOST:PORT, such as smtp.example.org:587")
    return f"{host}:{port or 587}"


def _mail_addresses(value: str) -> str:
    if not all(re.fullmatch(r"[^@\s]+@[^@\s]+", one.strip()) for one in value.split(",")):
        raise ValueError("must be ADDRESS[,ADDRESS …], such as fraud-oncall@example.org")
    return value


def _networks(value: str) -> str:
    try:
        networks(value)
    except ValueError as error:
        raise ValueError(f"{error}; must be ADDRESS[/BITS][,…], such as 127.0.0.1,10.0.0.0/8") from error
    return value


def _pairs(value: str) -> str:
    for item in value.split(","):
        name, equals, _ = item.partition("=")
        if not (name.strip() and equals):
            raise ValueError("must be NAME=VALUE[,NAME=VALUE …], values percent-encoded")
    return value


def _secret_pairs(value: SecretStr) -> SecretStr:
    _pairs(value.get_secret_value())
    return value


Networks = Annotated[str, AfterValidator(_networks)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Port = Annotated[int, Field(ge=1, le=65535)]
KafkaMode = Literal["kraft", "zookeeper"]
"""Who keeps the metadata of a broker that we start."""
LogStore = Literal["none", "opensearch"]
"""Where the lines of all parts are brought together."""


class Settings(BaseSettings):
    """What all topics share."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=(".env", ".env.local"),
        extra="ignore",
        protected_namespaces=(),
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def read(cls, **overrides: object) -> Self:
        """Read the settings; `overrides` win over every source.

        Raises:
            SettingsError: a value is not allowed.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("; ".join(_explain(cls, e) for e in error.errors())) from error


def _explain(cls: type[BaseSettings], error: ErrorDetails) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message  # about several settings: it names them
    field = str(error["loc"][0])
    secret = "SecretStr" in str(cls.model_fields[field].annotation)
    return f"{field.upper()}={'…' if secret else repr(error['input'])}: {message}"


class ReplicaSettings(Settings):
    """One replica: who it is, and how it stops."""

    replica_id: str = Field("local", min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$")
    """Name in answers, logs and the Kafka producer's transactional id: a slot on one machine, the pod in a cluster."""
    cpu_request_millicores: int = Field(100, ge=1)
    """CPU request of the container, thousandths of a core: `ml_model_cpu_usage` is a percentage of it."""
    drain_seconds: float = Field(0, ge=0, le=300)
    """How long a stopping replica says "not ready" and still answers, so that balancers see it go; 0: not at all."""
    stop_timeout_seconds: float = Field(8, gt=0, le=600)
    """Limit for finishing what is in flight once stopping; what remains is cut off, and logged."""


class HttpSettings(Settings):
    """The HTTP door."""

    http_host: str = "127.0.0.1"
    """Address to listen on; a container sets 0.0.0.0."""
    http_port: Port = 8101
    """Port to listen on."""
    max_body_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """A longer request body gets 413."""
    body_timeout_seconds: float = Field(10, gt=0, le=300)
    """A body that takes longer to arrive gets 408."""
    max_in_flight: int = Field(256, ge=1, le=100_000)
    """Requests that may wait for the model at once; one more gets 503 and `Retry-After`."""
    slow_bodies: int = Field(64, ge=1, le=100_000)
    """Bodies that may arrive slowly at once, an eighth of them from one client; one more gets 503, or 429."""
    rate_limit_per_second: float = Field(50, gt=0, le=1_000_000)
    """Requests a second that one client may send for long; more get 429 and `Retry-After`. A batch is one request."""
    rate_limit_burst: int = Field(100, ge=1, le=1_000_000)
    """Requests that one client may send at once after a rest."""
    rate_limit_clients: int = Field(10_000, ge=1, le=1_000_000)
    """Clients whose rate is remembered; the idlest is forgotten for one more."""
    connections_per_client: int = Field(64, ge=1, le=100_000)
    """Connections that one client may have open at the balancer; above it requests get 429, above twice as many connections are closed."""
    trusted_proxies: Networks = ""
    """Addresses and networks whose `X-Forwarded-For` is believed; `make up` adds its balancer, 127.0.0.1."""
    trusted_clients: Networks = ""
    """Addresses and networks that no limit of rate or connections holds for; `make up` takes 127.0.0.1 where it is unset or empty."""


class MetricsSettings(Settings):
    """Where a process without an HTTP API shows its metrics."""

    metrics_host: str = "127.0.0.1"
    """Address to listen on; a container sets 0.0.0.0."""
    metrics_port: Port = 8201
    """Port of `/metrics`, `/livez` and `/readyz`."""


class ModelSettings(Settings):
    """Where the model comes from, and where copies of it live."""

    mlflow_tracking_uri: HttpUrl = "http://127.0.0.1:5000"
    """Address of the MLflow server; set, `make up` uses it instead of starting one."""
    mlflow_model_uri: Annotated[str, AfterValidator(_model_uri)] = "models:/fraud-detector@champion"
    """Which model to serve: a registered name and the alias to follow."""
    mlflow_tracking_username: str | None = None
    """For a registry that asks who calls; with a password."""
    mlflow_tracking_password: SecretStr | None = None
    """Goes with the name."""
    mlflow_tracking_token: SecretStr | None = None
    """Instead of name and password."""
    model_cache_dir: Path = Path(".fraudscale/models")
    """Verified copies, named by content; a replica starts from them when MLflow is down."""
    model_poll_seconds: float = Field(3, ge=0.1, le=3600)
    """How often the registry is asked whether the alias points elsewhere."""
    model_copies: int = Field(4, ge=2, le=100)
    """Copies kept on disk; the oldest unused are removed."""

    @property
    def model_name(self) -> str:
        return self.mlflow_model_uri.removeprefix("models:/").partition("@")[0]

    @property
    def model_alias(self) -> str:
        return self.mlflow_model_uri.rpartition("@")[2]


class KafkaSettings(Settings):
    """The Kafka door."""

    kafka_bootstrap_servers: Annotated[str, AfterValidator(_servers)] = "127.0.0.1:9092"
    """Brokers; set, `make up` uses them instead of starting one."""
    kafka_topic: str = Field("transactions", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Input topic; its name begins those of the others: `.scored`, `.dead-letter`, `.labels`."""
    kafka_group: str = Field("fraudscale", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Consumer group that all scorers share."""
    kafka_partitions: int = Field(12, ge=1, le=1000)
    """Partitions of topics that we create: at least twice the most replicas, or some would idle."""
    kafka_batch_records: int = Field(10_000, ge=1, le=50_000)
    """Most records in one batch, reached when behind; calm, a batch is what came while the one before was committed."""
    kafka_lag_seconds: float = Field(2, ge=0.1, le=300)
    """How often the broker is asked for lag and queue length."""

    @property
    def scored_topic(self) -> str:
        return f"{self.kafka_topic}.scored"

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.kafka_topic}.dead-letter"

    @property
    def labels_topic(self) -> str:
        return f"{self.kafka_topic}.labels"


class LogSettings(Settings):
    """Logs: JSON lines on stdout, pretty on a terminal."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is written."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, JSON elsewhere."""
    log_predictions_sample: float = Field(1.0, ge=0, le=1)
    """Share of predictions logged as `prediction_made`."""


class TracingSettings(Settings):
    """Traces, by OpenTelemetry's own names. What else its exporter reads from the environment, such as certificates, holds too."""

    otel_exporter_otlp_endpoint: HttpUrl | None = None
    """Collector that gets spans, such as http://127.0.0.1:4318; unset, none are made, and traces of callers are passed on."""
    otel_exporter_otlp_traces_endpoint: HttpUrl | None = None
    """Whole address for spans, where it is not `/v1/traces` of the endpoint."""
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    """How spans are sent."""
    otel_exporter_otlp_headers: Annotated[SecretStr, AfterValidator(_secret_pairs)] | None = None
    """NAME=VALUE[,…] for a collector that asks who sends; it belongs in .env.local."""
    otel_exporter_otlp_timeout: float = Field(10_000, gt=0, le=600_000)
    """Limit of one attempt to send, with its repetitions; milliseconds."""
    otel_service_name: str = Field("ml-model", min_length=1)
    """`service.name` of spans; `fraudscale.process` tells `serve` from `stream`, `service.instance.id` the replica."""
    otel_resource_attributes: Annotated[str, AfterValidator(_pairs)] | None = None
    """More about the sender, NAME=VALUE[,…]."""
    otel_traces_sampler: Literal[
        "parentbased_traceidratio", "parentbased_always_on", "parentbased_always_off"
    ] = "parentbased_traceidratio"
    """Who decides: the caller's flag, and where no caller is, the ratio."""
    otel_traces_sampler_arg: float = Field(0.01, ge=0, le=1)
    """The ratio: share of the traces begun here that is recorded. OpenTelemetry's own default is 1, which multiplies the work of a prediction."""
    otel_bsp_max_queue_size: int = Field(2048, ge=8, le=1_000_000)
    """Spans that may wait to be sent; more are dropped, and counted in `trace_spans_total`."""
    otel_bsp_schedule_delay: float = Field(5000, gt=0, le=600_000)
    """From one sending to the next unless many wait; milliseconds."""
    otel_sdk_disabled: bool = False
    """Make no spans, whatever else is set."""
    trace_callers_per_second: float = Field(50, ge=0, le=1_000_000)
    """Flags of callers ("this trace is sampled") that one process heeds a second; more traces are passed on and logged, but get no spans and no exemplars."""

    @property
    def traces_endpoint(self) -> str | None:
        """Where spans go; None for nowhere."""
        base = self.otel_exporter_otlp_endpoint
        if self.otel_sdk_disabled:
            return None
        return self.otel_exporter_otlp_traces_endpoint or (f"{base}/v1/traces" if base else None)

    @property
    def ratio(self) -> float:
        """Share of the traces begun here that is recorded."""
        always = {"parentbased_always_on": 1.0, "parentbased_always_off": 0.0}
        return always.get(self.otel_traces_sampler, self.otel_traces_sampler_arg)


class LocalSettings(Settings):
    """The platform on one machine."""

    fraudscale_home: Path = Path(".fraudscale")
    """Where running things keep their data, logs and state."""
    fraudscale_port_base: Annotated[int, Field(ge=1024, le=32000)] | None = None
    """Moves the whole table of ports to one block that begins here."""
    fraudscale_cache: Path = Path("~/.cache/fraudscale")
    """Downloads, shared by clones."""
    maven_repository: HttpUrl = "https://repo.maven.apache.org/maven2"
    """Where Kafka's jars come from; a mirror will do, every file is checked by its sha256."""
    traffic: bool = True
    """Let sample transactions flow: 20/s over HTTP, 50/s over Kafka."""
    kafka: KafkaMode = "kraft"
    """Which Kafka `make up` starts: `kraft` (4.3) or `zookeeper` (3.9 with Apache ZooKeeper), each with data of its own."""
    prometheus_endpoint: HttpUrl | None = None
    """A Prometheus of yours to use instead of starting one."""
    logs: LogStore = "none"
    """`opensearch`: bring the log lines of all parts together in an OpenSearch, which `make up` starts; `none`: they stay in files."""
    opensearch_endpoint: HttpUrl | None = None
    """An OpenSearch or Elasticsearch of yours for the log lines, instead of starting one."""
    hpa_manifest: Path = Path("argocd/manifests/hpa.yaml")
    """When the autoscaler of `make up` scales, as in a cluster."""
    deployment_manifest: Path = Path("argocd/manifests/deployment.yaml")
    """What a replica requests; utilisation is a percentage of it."""
    time_scale: float = Field(1, ge=1, le=20)
    """How many times as fast time runs: windows, periods and sync of the autoscaler, those of alerts, and scrape intervals are divided by it."""

    @property
    def starts_opensearch(self) -> bool:
        return self.logs == "opensearch" and self.opensearch_endpoint is None


class CentralLogSettings(Settings):
    """Central logs: how lines are shipped, and how long they stay."""

    log_templates: Path = Path("logging/elasticsearch")
    """Folder of the index templates that are installed before the first line is sent."""
    log_keep_days: Annotated[int, Field(ge=0, le=365)] | None = None
    """Days after which an index of log lines is deleted; 0: never. Unset, 3 in the store that `make up` starts, and never in one of yours."""
    log_keep_bytes: int = Field(4 * 1024**3, ge=64 * 1024**2)
    """Size of all indices of log lines together above which the oldest is deleted, even today's; not where days are 0."""
    opensearch_username: str | None = None
    """For a store that asks who calls; with a password."""
    opensearch_password: SecretStr | None = None
    """Goes with the name."""

    def keep_days(self, *, own: bool) -> int:
        """How long indices stay: others may keep lines in a store that is not this platform's alone."""
        if self.log_keep_days is not None:
            return self.log_keep_days
        return 3 if own else 0


class AlertSettings(Settings):
    """Alerts: what they say, and where they go."""

    alert_rules: Path = Path("monitoring/alerts/ml-alerts.yaml")
    """The rules that `make up` loads."""
    runbook_url: HttpUrl | None = None
    """Where docs/runbooks is read; unset, alerts link to the files of this checkout."""
    dashboard_url: HttpUrl | None = None
    """Where the dashboard is; unset, alerts link to the console of `make up`."""
    alert_webhook_url: Annotated[SecretStr, AfterValidator(_webhook)] | None = None
    """Slack's incoming webhook, told of everything. Whoever has it may post: it belongs in .env.local."""
    smtp_server: Annotated[str, AfterValidator(_mail_server)] | None = None
    """Mail server, HOST or HOST:PORT (587); told of what is critical, and of everything without a webhook. Goes with ALERT_EMAIL."""
    alert_email: Annotated[str, AfterValidator(_mail_addresses)] | None = None
    """Who gets the mail; several with commas. Goes with SMTP_SERVER."""
    smtp_from: Annotated[str, AfterValidator(_mail_addresses)] | None = None
    """Sender; unset, the first receiver."""
    smtp_username: str | None = None
    """For a mail server that asks who sends; with a password."""
    smtp_password: SecretStr | None = None
    """Goes with the name."""
    smtp_tls: bool = True
    """Insist on TLS; `false` for a relay on this machine."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for one, other in (("smtp_server", "alert_email"), ("smtp_username", "smtp_password")):
            is_set = {name: getattr(self, name) is not None for name in (one, other)}
            if is_set[one] != is_set[other]:
                there, missing = (one, other) if is_set[one] else (other, one)
                raise ValueError(f"{there.upper()} is set and {missing.upper()} is not: set both, or neither")
        return self


class ConsoleSettings(Settings):
    """The console: a web page that shows the platform."""

    console_port: Port = 8080
    """Port to listen on, on this machine only."""
    dashboard_file: Path = Path("monitoring/dashboards/ml-model-dashboard.json")
    """What it draws: a dashboard as Grafana exports it. `make up` gives it the one with the links of this machine."""


TOPICS: tuple[type[Settings], ...] = (
    ReplicaSettings,
    HttpSettings,
    MetricsSettings,
    ModelSettings,
    KafkaSettings,
    LogSettings,
    TracingSettings,
    LocalSettings,
    CentralLogSettings,
    AlertSettings,
    ConsoleSettings,
)
"""All settings, for the reference page, `.env` and their tests."""
