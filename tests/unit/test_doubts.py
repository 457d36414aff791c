"""What is said of variables that are probably meant otherwise, and what they do."""

import subprocess
import sys
from pathlib import Path

import pytest

from fraudscale import cli
from fraudscale.config import SETTINGS, LocalSettings, LogSettings, TracingSettings
from fraudscale.doubts import SUPERVISED, doubts, misspelt
from fraudscale.telemetry import logs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for group in SETTINGS:
        for name in group.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
    for name in ("KAFKA", "LOGS", "TRAFFIC"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KAFKA_TOPICC", "KAFKA_TOPIC"),
        ("kafka_topicc", "KAFKA_TOPIC"),
        ("KAFKA_TPOIC", "KAFKA_TOPIC"),
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("MLFLOW_TRACKING_URL", "MLFLOW_TRACKING_URI"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("LOG_LEVLE", "LOG_LEVEL"),
        ("OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("FRAUDSCALE_PORTBASE", "FRAUDSCALE_PORT_BASE"),
        ("FRAUDSCALE_KAFKA_MODE", "FRAUDSCALE_KAFKA"),
    ],
)
def test_a_name_that_is_misspelt_is_told_with_the_nearest(name, meant):
    (doubt,) = misspelt([name])
    assert str(doubt) == f"{name}: is no setting; is {meant} meant?"


def test_a_name_that_begins_as_ours_and_is_like_none_is_told_too():
    (doubt,) = misspelt(["FRAUDSCALE_XYZ"])
    assert doubt.name == "FRAUDSCALE_XYZ"


NEIGHBOURS = [
    "PATH",
    "HOME",
    "LANG",
    "TERM",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "KAFKA_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_HOME",
    "KAFKA_BROKER",
    "KAFKA_PORT",
    "SMTP_HOST",
    "SMTP_PORT",
    "SMTP_USER",
    "SMTP_PASS",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "PROMETHEUS_PORT",
    "LOG_FILE",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_PROPAGATORS",
    "OPENSEARCH_JAVA_OPTS",
    "CONSOLE_LOG",
    "TRAFFIC",
    "LOGS",
    "KAFKA",
    "FRAUDSCALE_SERVICE_HOST",
    "FRAUDSCALE_SERVICE_PORT_HTTP",
    "FRAUDSCALE_PORT",
    "FRAUDSCALE_PORT_8000_TCP_ADDR",
    "MLFLOW_PORT_5000_TCP",
]


def test_names_of_others_and_ours_raise_no_doubt():
    ours = [name for group in SETTINGS for name in group.model_fields]
    assert list(misspelt([*NEIGHBOURS, *ours, *map(str.upper, ours), SUPERVISED])) == []


def test_the_files_of_settings_are_looked_at_too(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("KAFKA_TOPICC=a\n")
    (tmp_path / ".env.local").write_text("KAFKA_GRUOP=b\n")
    monkeypatch.setenv("KAFKA_PARTITION", "3")
    assert [doubt.name for doubt in doubts()] == ["KAFKA_GRUOP", "KAFKA_PARTITION", "KAFKA_TOPICC"]


@pytest.mark.parametrize(
    ("old", "value", "means", "otherwise"),
    [
        ("KAFKA", "zookeeper", "zookeeper", "kraft"),
        ("LOGS", "opensearch", "opensearch", "none"),
        ("TRAFFIC", "0", False, "1"),
    ],
)
def test_a_name_of_before_holds_and_is_told_unless_todays_is_set(monkeypatch, old, value, means, otherwise):
    monkeypatch.setenv(old, value)
    assert getattr(LocalSettings.read(), old.lower()) == means
    assert [*map(str, doubts())] == [f"{old}: is called FRAUDSCALE_{old} now; {value!r} still holds"]
    monkeypatch.setenv(f"FRAUDSCALE_{old}", otherwise)
    assert getattr(LocalSettings.read(), old.lower()) != means
    assert doubts() == []


@pytest.mark.parametrize(
    ("old", "value"),
    [("KAFKA", "broker:9092"), ("LOGS", "/var/log"), ("TRAFFIC", "heavy"), ("KAFKA", "\udcff")],
)
def test_a_neighbours_value_under_a_name_of_before_is_ignored_and_told(monkeypatch, old, value):
    monkeypatch.setenv(old, value)
    assert LocalSettings.read() == LocalSettings(_env_file=None)
    (doubt,) = doubts()
    assert (
        str(doubt) == f"{old}: is called FRAUDSCALE_{old} now; {value!r} is none of its values, and ignored"
    )


def test_a_name_of_before_in_a_file_of_settings_holds_too(tmp_path):
    (tmp_path / ".env.local").write_text("LOGS=opensearch\n")
    assert LocalSettings.read().starts_opensearch
    assert [doubt.name for doubt in doubts()] == ["LOGS"]


def test_an_option_and_a_name_of_before_hold_together(monkeypatch):
    monkeypatch.setenv("KAFKA", "zookeeper")
    monkeypatch.setenv("TIME_SCALE", "0")
    local = LocalSettings.read(time_scale=10)
    assert (local.kafka, local.time_scale) == ("zookeeper", 10)


def test_the_address_of_a_log_store_is_enough_to_fill_it(monkeypatch):
    monkeypatch.setenv("OPENSEARCH_ENDPOINT", "http://logs:9200")
    local = LocalSettings.read()
    assert (local.logs, local.starts_opensearch) == ("opensearch", False)
    assert LocalSettings.read(fraudscale_logs="none").logs == "none"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "'http/protobuf'"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "NAME=VALUE"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "number"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "NAME=VALUE"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "'parentbased_traceidratio'"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "less than or equal to 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "integer"),
        ("OTEL_SDK_DISABLED", "\udcff", "UTF-8"),
    ],
)
def test_a_value_that_opentelemetry_does_not_know_is_ignored_and_told(monkeypatch, name, value, remedy):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "scorer")
    settings = TracingSettings.read()
    assert getattr(settings, name.lower()) == TracingSettings.model_fields[name.lower()].default
    assert settings.otel_service_name == "scorer", "the others hold"
    (doubt,) = doubts()
    assert doubt.name == name
    assert doubt.detail.startswith("…: " if value == "secret" else f"{value!r}: ")
    assert remedy in doubt.detail
    assert doubt.detail.endswith("; ignored")


def command(monkeypatch, capfd, *words):
    monkeypatch.setattr(sys, "argv", ["fraudscale", *words])
    with pytest.raises(SystemExit):
        cli.main()
    return capfd.readouterr().err


def test_a_command_says_a_doubt_once_beside_its_work(monkeypatch, capfd):
    monkeypatch.setenv("KAFKA", "broker:9092")
    assert command(monkeypatch, capfd, "status").startswith(
        "fraudscale: warning: KAFKA: is called FRAUDSCALE_KAFKA"
    )
    monkeypatch.setenv(SUPERVISED, "/home")
    assert command(monkeypatch, capfd, "status") == ""


def test_a_process_logs_a_doubt_and_its_command_does_not_say_it_again(monkeypatch, capfd):
    monkeypatch.setenv("LOGS", "/var/log")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere")
    assert "warning" not in command(monkeypatch, capfd, "stream")
    logs.set_up(LogSettings(_env_file=None, log_format="json"), process="stream")
    (line,) = capfd.readouterr().out.splitlines()
    assert '"event":"setting_doubtful"' in line
    assert '"setting":"LOGS"' in line


def test_a_file_that_can_not_be_read_is_told_by_who_needs_it(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff")
    assert doubts() == []


@pytest.mark.parametrize(
    ("words", "handed_on"),
    [
        (["KAFKA=zookeeper"], ["FRAUDSCALE_KAFKA='zookeeper'"]),
        (["TRAFFIC=0", "LOGS=opensearch"], ["FRAUDSCALE_LOGS='opensearch'", "FRAUDSCALE_TRAFFIC='0'"]),
        ([], []),
    ],
)
@pytest.mark.parametrize("verb", ["up", "doctor", "demo-scaling"])
def test_make_hands_on_what_it_is_told_and_not_a_neighbours_variable(monkeypatch, words, handed_on, verb):
    monkeypatch.setenv("KAFKA", "broker:9092")
    made = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", verb, "uv=true", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.splitlines()[-1].split() == [*handed_on, ".venv/bin/fraudscale", verb]
