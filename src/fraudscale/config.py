"""Settings: frozen, one class per group, read once at the edge of a process and passed by constructor.

Sources, the later overriding the earlier: `.env` (in Git: defaults, no secret), `.env.local` (ignored by Git), the
environment. Names in the environment are the field names in capitals. A relative path begins at the checkout.
"""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from fraudscale import config_values
from fraudscale.config_values import HttpUrl, Networks, is_utf8
from fraudscale.errors import InputError
from fraudscale.places import CacheFolder, File, Folder, checkout

FILES: Final = (".env", ".env.local")
"""The later one wins."""


class SettingsError(InputError):
    """A setting has a value that it may not have; the message names it and says what it may be."""


Port = Annotated[int, Field(ge=1, le=65535)]
KafkaMode = Annotated[Literal["kraft", "zookeeper"], BeforeValidator(config_values.lower)]
"""Who keeps the metadata of a broker that we start."""
LogStore = Annotated[Literal["none", "opensearch"], BeforeValidator(config_values.lower)]
"""Where the log lines of all components are brought together."""


class Settings(BaseSettings):
    """What all groups share."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        protected_namespaces=(),
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def read(cls, **overrides: object) -> Self:
        """Read the settings; `overrides` win over every source.

        Raises:
            SettingsError: a value is not allowed, or a file of settings can't be read.
        """
        sources = _sources()
        try:
            return cls(**{**sources, **overrides})
        except ValidationError as error:
            raise SettingsError("; ".join(_explain(cls, e) for e in error.errors())) from error
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError("; ".join(_unreadable(sources["_env_file"]))) from error

    @classmethod
    def wrong(cls) -> dict[str, str]:
        """Find the values that are not allowed: field → what is wrong; empty where a file of settings can't be read."""
        try:
            cls(**_sources())
        except ValidationError as error:
            return {str(e["loc"][0]): _explain(cls, e) for e in error.errors() if e["loc"]}
        except (OSError, UnicodeDecodeError):
            pass  # `read` names the file
        return {}

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        """Refuse what no file, socket or log takes: bytes of the environment that are no UTF-8, and NUL."""
        if isinstance(value, str) and ("\0" in value or not is_utf8(value)):
            raise ValueError("must be UTF-8 text")
        return value


def _sources() -> dict[str, Any]:
    return {"_env_file": [checkout() / name for name in FILES]}


def names_given() -> set[str]:
    """Return the names of all variables of the environment and of the files of settings."""
    files = DotEnvSettingsSource(Settings, env_file=_sources()["_env_file"], case_sensitive=True)
    return {*os.environ, *files.env_vars}


def _unreadable(files: list[Path]) -> Iterator[str]:
    """Tell which files of settings can't be read, and why."""
    for file in filter(Path.exists, files):
        try:
            file.read_text(encoding="utf-8")
        except OSError as error:
            yield f"{file}: {error.strerror}; let this user read it"
        except UnicodeDecodeError as error:
            yield f"{file}: byte {error.start} is not UTF-8; save it as UTF-8"


def _explain(cls: type[BaseSettings], error: ErrorDetails) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message  # about several settings: it names them
    field = str(error["loc"][0])
    secret = "SecretStr" in str(cls.model_fields[field].annotation)
    return f"{field.upper()}={'…' if secret else repr(error['input'])}: {message}"


class ReplicaSettings(Settings):
    """One replica: its name, and how it stops."""

    replica_id: str = Field("local", min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the replica in answers, logs and the Kafka producer's transactional id: the slot on one machine, the pod in a cluster."""
    fraudscale_run: str = Field("", max_length=64, pattern=r"^[A-Za-z0-9._-]*$")
    """The run of `make up` that the replica belongs to; `make up` sets it. Its balancer takes no answer on a replica's port for that of its replica without it."""
    cpu_request_millicores: int = Field(100, ge=1, le=1_000_000)
    """CPU request of the container, in thousandths of a core. `ml_model_cpu_usage` is a percentage of it."""
    drain_seconds: float = Field(0, ge=0, le=300)
    """Seconds in which a stopping replica says "not ready" and still answers, so that balancers stop sending to it. 0: no drain."""
    stop_timeout_seconds: float = Field(8, gt=0, le=600)
    """Seconds that a stopping replica has to finish what is in flight. What remains is cut off, and logged."""

    @property
    def identity(self) -> str:
        """Who answers `/readyz`."""
        return f"{self.replica_id}@{self.fraudscale_run}" if self.fraudscale_run else self.replica_id


class HttpSettings(Settings):
    """The HTTP endpoint."""

    http_host: str = "127.0.0.1"
    """Address to listen on; a container sets 0.0.0.0."""
    http_port: Port = 8101
    """Port to listen on. `make up` gives each replica one of its own."""
    max_body_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """Largest request body, bytes. A longer one gets 413."""
    body_timeout_seconds: float = Field(10, gt=0, le=300)
    """Seconds in which a request body must arrive. A slower one gets 408."""
    max_in_flight: int = Field(256, ge=1, le=100_000)
    """Most requests that wait for the model at once. For the next one, one of the client with most of them gets 503 and `Retry-After`."""
    slow_bodies: int = Field(64, ge=1, le=100_000)
    """Most request bodies that arrive slowly at once. For the next slow one, one of the client with most of them gets 503 and `Retry-After`."""
    rate_limit_per_second: float | None = Field(None, gt=0, le=1_000_000)
    """Rate limit of one client, requests per second. Above it requests get 429 and `Retry-After`. A batch is one request. Unset: 1000 at the balancer of `make up`, and no limit in a replica."""
    rate_limit_burst: int | None = Field(None, ge=1, le=2_000_000)
    """Size of one client's token bucket: requests that it may send at once after a pause. Unset: twice the rate."""
    rate_limit_clients: int = Field(10_000, ge=1, le=1_000_000)
    """Most clients whose token buckets are kept. The one that was idle longest makes room for a new one."""
    connections_per_client: int = Field(64, ge=1, le=100_000)
    """Most connections of one client at the balancer. Above it requests get 429; above twice as many, connections are closed."""
    trusted_proxies: Networks = ""
    """Addresses and networks of proxies whose `X-Forwarded-For` is believed. `make up` adds its balancer, 127.0.0.1."""
    trusted_clients: Networks = ""
    """Addresses and networks of clients without a limit of rate or connections. Unset or empty, `make up` uses 127.0.0.1."""

    def burst(self, rate: float) -> int:
        """Return the size of a token bucket of that rate."""
        return self.rate_limit_burst or ceil(2 * rate)


class MetricsSettings(Settings):
    """Metrics and probes of a process without an HTTP API."""

    metrics_host: str = "127.0.0.1"
    """Address to listen on; a container sets 0.0.0.0."""
    metrics_port: Port = 8201
    """Port of `/metrics`, `/livez` and `/readyz`. `make up` gives each process one of its own."""


class ModelSettings(Settings):
    """The model: where it comes from, and where its copies are kept."""

    mlflow_tracking_uri: HttpUrl = "http://127.0.0.1:5000"
    """Address of the MLflow server. If it is set, `make up` uses that server instead of starting one."""
    mlflow_model_uri: Annotated[str, AfterValidator(config_values.model_uri)] = (
        "models:/fraud-detector@champion"
    )
    """The model to serve: a registered name, and the alias to follow."""
    mlflow_tracking_username: str | None = None
    """User name for a registry with authentication; needs the password too."""
    mlflow_tracking_password: SecretStr | None = None
    """Password for MLFLOW_TRACKING_USERNAME."""
    mlflow_tracking_token: SecretStr | None = None
    """Token for a registry with authentication, instead of user name and password."""
    model_cache_dir: Folder = Path(".fraudscale/models")
    """Folder of verified copies, named by their digest. A replica starts from them when MLflow is down."""
    model_poll_seconds: float = Field(3, ge=0.1, le=3600)
    """Seconds between two questions to the registry which version the alias points to."""
    model_copies: int = Field(4, ge=2, le=100)
    """Copies that are kept on disk. The oldest unused ones are removed."""

    @property
    def model_name(self) -> str:
        return self.mlflow_model_uri.removeprefix("models:/").partition("@")[0]

    @property
    def model_alias(self) -> str:
        return self.mlflow_model_uri.rpartition("@")[2]


class KafkaSettings(Settings):
    """The Kafka consumer."""

    kafka_bootstrap_servers: Annotated[str, AfterValidator(config_values.servers)] = "127.0.0.1:9092"
    """Addresses of the brokers. If they are set, `make up` uses those brokers instead of starting one."""
    kafka_topic: str = Field("transactions", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Input topic. The names of the other topics begin with it: `.scored`, `.dead-letter`, `.labels`."""
    kafka_group: str = Field("fraudscale", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Consumer group of all replicas."""
    kafka_group_protocol: Literal["auto", "classic", "consumer"] = "auto"
    """Group protocol. `auto`: `consumer` (KIP-848) if the broker is configured for it and gives a silent member up within 10 s, otherwise `classic`. Set `classic` for a cluster that is still being upgraded to Kafka 4."""
    kafka_partitions: int = Field(12, ge=1, le=1000)
    """Partitions of the topics that `make up` creates. With fewer than twice the maximum of replicas some replicas have too little to do."""
    kafka_batch_records: int = Field(10_000, ge=1, le=50_000)
    """Most records in one batch. Only a backlog fills a batch; else it holds what arrived during the commit of the one before it."""
    kafka_lag_seconds: float = Field(2, ge=0.1, le=300)
    """Seconds between two questions to the broker for lag and queue length."""

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

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(config_values.level)
    ] = "info"
    """Lowest level that is logged; also in capitals, and by other names of the same, such as WARN."""
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(config_values.lower)] = "auto"
    """`json`, `console` (for people), or `auto`: console on a terminal, JSON elsewhere."""
    log_predictions_sample: float = Field(1.0, ge=0, le=1)
    """Share of the predictions that are logged as `prediction_made`, 0 to 1."""


class TracingSettings(Settings):
    """Traces, by OpenTelemetry's own names. Other variables that its exporter reads, such as those of certificates, hold too."""

    otel_exporter_otlp_endpoint: HttpUrl | None = None
    """Collector of spans, such as http://127.0.0.1:4318. Unset, no spans are made, and traces of callers are passed on."""
    otel_exporter_otlp_traces_endpoint: HttpUrl | None = None
    """Full address for spans, if it is not `/v1/traces` of the endpoint."""
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    """Protocol in which spans are sent."""
    otel_exporter_otlp_headers: Annotated[SecretStr, AfterValidator(config_values.secret_pairs)] | None = None
    """Headers for a collector with authentication, NAME=VALUE[,…]. A secret: it belongs in .env.local."""
    otel_exporter_otlp_timeout: float = Field(10_000, gt=0, le=600_000)
    """Milliseconds that sending one batch of spans may take, retries included."""
    otel_service_name: str = Field("ml-model", min_length=1)
    """`service.name` of spans; `fraudscale.process` tells `serve` from `stream`, `service.instance.id` the replica."""
    otel_resource_attributes: Annotated[str, AfterValidator(config_values.pairs)] | None = None
    """Further attributes of the sender, NAME=VALUE[,…]."""
    otel_traces_sampler: Literal[
        "parentbased_traceidratio", "parentbased_always_on", "parentbased_always_off"
    ] = "parentbased_traceidratio"
    """Who decides whether a trace is sampled: the caller's flag; without a caller, the ratio or a constant."""
    otel_traces_sampler_arg: float = Field(0.01, ge=0, le=1)
    """Share of the traces begun here that is recorded, 0 to 1. OpenTelemetry's own default is 1, which multiplies the work of a prediction."""
    otel_bsp_max_queue_size: int = Field(2048, ge=8, le=1_000_000)
    """Most spans that wait to be sent. Further ones are dropped, and counted in `trace_spans_total`."""
    otel_bsp_schedule_delay: float = Field(5000, gt=0, le=600_000)
    """Milliseconds between two batches of spans, unless many wait."""
    otel_sdk_disabled: bool = False
    """`true`: make no spans, whatever else is set."""
    trace_callers_per_second: float = Field(50, ge=0, le=1_000_000)
    """Traces per second that one process records because the caller's flag asks for it. Further ones are passed on and logged, without spans and exemplars."""

    @classmethod
    def read(cls, **overrides: object) -> Self:
        """Read them; OpenTelemetry ignores a value of its variables that it does not know, with a warning.

        Raises:
            SettingsError: a value of ours is not allowed, or a file of settings can't be read.
        """
        return super().read(**{name: cls.model_fields[name].default for name in cls.unknown()} | overrides)

    @classmethod
    def unknown(cls) -> dict[str, str]:
        """Find values that are ignored: field → what is wrong."""
        return {name: reason for name, reason in cls.wrong().items() if name.startswith("otel_")}

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


class _Unprefixed(BaseSettings):
    """Names of before of settings that are FRAUDSCALE_… now; others have variables of these names too."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)
    kafka: str | None = None
    logs: str | None = None
    traffic: str | None = None


class LocalSettings(Settings):
    """The platform on one machine."""

    fraudscale_home: Folder = Path(".fraudscale")
    """Folder for data, logs and state of a running platform."""
    fraudscale_port_base: Annotated[int, Field(ge=1024, le=32000)] | None = None
    """First port of a block of 40 that holds all ports. Unset, each component has its usual port."""
    fraudscale_cache: CacheFolder = Path("~/.cache/fraudscale")
    """Folder for downloads, shared by all clones."""
    maven_repository: HttpUrl = "https://repo.maven.apache.org/maven2"
    """Source of Kafka's jars. A mirror will do: the sha256 of every file is checked."""
    console_port: Port | None = None
    """Port of the console; the address is 127.0.0.1. Unset: 8080, or its place in the block of FRAUDSCALE_PORT_BASE."""
    fraudscale_traffic: bool = True
    """Send sample transactions, 20/s over HTTP and 50/s over Kafka."""
    fraudscale_kafka: KafkaMode = "kraft"
    """The Kafka that `make up` starts: `kraft` (4.3) or `zookeeper` (3.9 with Apache ZooKeeper). Each has data of its own."""
    prometheus_endpoint: HttpUrl | None = None
    """Address of a Prometheus of yours. If it is set, `make up` uses it instead of starting one."""
    fraudscale_logs: LogStore | None = None
    """`opensearch`: `make up` ships the log lines of all components to an OpenSearch, which it starts unless OPENSEARCH_ENDPOINT is set. `none`: they stay in files. Unset: `opensearch` if OPENSEARCH_ENDPOINT is set."""
    opensearch_endpoint: HttpUrl | None = None
    """Address of an OpenSearch or Elasticsearch of yours for the log lines. If it is set, `make up` uses it instead of starting one."""
    hpa_manifest: File = Path("argocd/manifests/hpa.yaml")
    """Manifest of the HPA that the autoscaler of `make up` follows."""
    deployment_manifest: File = Path("argocd/manifests/deployment.yaml")
    """Manifest with the CPU and memory that a replica requests. Utilisation is a percentage of it."""
    time_scale: float = Field(1, ge=1, le=20)
    """Factor by which time runs faster: windows, periods and syncs of the autoscaler, windows of alerts, and scrape intervals are divided by it."""

    @classmethod
    def read(cls, **overrides: object) -> Self:
        """Read them; a name of before holds where the new one is not set, and the value is one of ours.

        Raises:
            SettingsError: a value is not allowed, or a file of settings can't be read.
        """
        found = cls.read_todays_names(**overrides)
        old = {name: value for name, value in found.renamed().items() if cls.takes(name, value)}
        return super().read(**old, **overrides) if old else found

    @classmethod
    def read_todays_names(cls, **overrides: object) -> Self:
        """Read them without the names of before.

        Raises:
            SettingsError: as `read`.
        """
        return super().read(**overrides)

    def renamed(self) -> dict[str, str]:
        """Find what only a name of before sets: today's field → text."""
        old = ((f"fraudscale_{name}", value) for name, value in _Unprefixed(**_sources()))
        return {name: value for name, value in old if value is not None and name not in self.model_fields_set}

    @classmethod
    def takes(cls, name: str, value: str) -> bool:
        """Tell whether a field may have that value."""
        try:
            TypeAdapter(cls.model_fields[name].rebuild_annotation()).validate_python(value)
        except ValidationError:
            return False
        return True

    @property
    def traffic(self) -> bool:
        return self.fraudscale_traffic

    @property
    def kafka(self) -> KafkaMode:
        return self.fraudscale_kafka

    @property
    def logs(self) -> LogStore:
        return self.fraudscale_logs or ("none" if self.opensearch_endpoint is None else "opensearch")

    @property
    def starts_opensearch(self) -> bool:
        return self.logs == "opensearch" and self.opensearch_endpoint is None


class CentralLogSettings(Settings):
    """Central logs: how lines are shipped, and how long they stay."""

    log_templates: Folder = Path("logging/elasticsearch")
    """Folder of the index templates. They are installed before the first line is sent."""
    log_keep_days: Annotated[int, Field(ge=0, le=365)] | None = None
    """Days after which an index of log lines is deleted. 0: never. Unset: 3 in the store that `make up` starts, never in one of yours."""
    log_keep_bytes: int = Field(4 * 1024**3, ge=64 * 1024**2, le=2**63 - 1)
    """Largest size of all indices of log lines together, bytes. Above it the oldest index is deleted, even today's. Has no effect where `LOG_KEEP_DAYS` is 0."""
    opensearch_username: str | None = None
    """User name for a store with authentication; needs the password too."""
    opensearch_password: SecretStr | None = None
    """Password for OPENSEARCH_USERNAME."""

    def keep_days(self, *, own: bool) -> int:
        """How long indices stay: others may keep lines in a store that is not this platform's alone."""
        if self.log_keep_days is not None:
            return self.log_keep_days
        return 3 if own else 0


class AlertSettings(Settings):
    """Alerts: what they say, and where they go."""

    alert_rules: File = Path("monitoring/alerts/ml-alerts.yaml")
    """File of the alert rules that `make up` loads."""
    runbook_url: HttpUrl | None = None
    """Address under which docs/runbooks is published. Unset, alerts link to the files of this checkout."""
    dashboard_url: HttpUrl | None = None
    """Address of the dashboard. Unset, alerts link to the console of `make up`."""
    alert_webhook_url: Annotated[SecretStr, AfterValidator(config_values.webhook)] | None = None
    """Incoming webhook of Slack; it gets every alert. A secret, because whoever has it may post: it belongs in .env.local."""
    smtp_server: Annotated[str, AfterValidator(config_values.mail_server)] | None = None
    """Mail server, HOST or HOST:PORT (587). It gets critical alerts, and without a webhook every alert. Needs ALERT_EMAIL."""
    alert_email: Annotated[str, AfterValidator(config_values.mail_addresses)] | None = None
    """Receivers of the mail, separated by commas. Needs SMTP_SERVER."""
    smtp_from: Annotated[str, AfterValidator(config_values.mail_addresses)] | None = None
    """Sender of the mail. Unset: the first receiver."""
    smtp_username: str | None = None
    """User name for a mail server with authentication; needs the password too."""
    smtp_password: SecretStr | None = None
    """Password for SMTP_USERNAME."""
    smtp_tls: bool = True
    """`true`: send only over TLS. `false` is for a relay on this machine."""

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

    dashboard_file: File = Path("monitoring/dashboards/ml-model-dashboard.json")
    """Dashboard to draw, as Grafana exports it. `make up` uses the one with the links of this machine."""


SETTINGS: tuple[type[Settings], ...] = (
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
"""All groups, for the reference page, `.env` and their tests."""
