from pathlib import Path

import pytest

from fraudscale.config import (
    SETTINGS,
    AlertSettings,
    CentralLogSettings,
    HttpSettings,
    KafkaSettings,
    LocalSettings,
    LogSettings,
    ModelSettings,
    ReplicaSettings,
    SettingsError,
    TracingSettings,
)
from fraudscale.places import NoPlace


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for group in SETTINGS:
        for name in group.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


def test_defaults_work_on_one_machine():
    for group in SETTINGS:
        group.read()
    assert KafkaSettings.read().kafka_bootstrap_servers == "127.0.0.1:9092"


def test_env_local_overrides_env_and_the_environment_both(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("KAFKA_TOPIC=a\nKAFKA_GROUP=a\nKAFKA_PARTITIONS=24\n")
    (tmp_path / ".env.local").write_text("KAFKA_TOPIC=b\nKAFKA_GROUP=b\n")
    monkeypatch.setenv("KAFKA_TOPIC", "c")
    settings = KafkaSettings.read()
    assert (settings.kafka_topic, settings.kafka_group, settings.kafka_partitions) == ("c", "b", 24)


@pytest.fixture
def in_checkout(monkeypatch, tmp_path):
    """A person in a sub-folder of a checkout; yields its root."""
    for folder in ("src/fraudscale", "docs/how-to"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src/fraudscale/config.py").touch()
    monkeypatch.chdir(tmp_path / "docs/how-to")
    return tmp_path


def test_in_every_folder_of_a_checkout_its_files_and_places_are_meant(in_checkout, monkeypatch):
    (in_checkout / ".env.local").write_text("KAFKA_TOPIC=b\nMODEL_CACHE_DIR=copies\n")
    (in_checkout / "docs/.env.local").write_text("KAFKA_TOPIC=another\n")
    monkeypatch.setenv("HPA_MANIFEST", "mine/hpa.yaml")
    monkeypatch.setenv("ALERT_RULES", "/etc/rules.yaml")
    assert KafkaSettings.read().kafka_topic == "b"
    assert ModelSettings.read().model_cache_dir == in_checkout / "copies"
    local = LocalSettings.read()
    assert (local.fraudscale_home, local.hpa_manifest) == (
        in_checkout / ".fraudscale",
        in_checkout / "mine/hpa.yaml",
    )
    assert AlertSettings.read().alert_rules == Path("/etc/rules.yaml")


def test_at_its_root_and_outside_of_one_places_stay_as_they_are_written(in_checkout, monkeypatch):
    for folder in (in_checkout, in_checkout.parent):
        monkeypatch.chdir(folder)
        assert LocalSettings.read().fraudscale_home == Path(".fraudscale")


def test_a_tilde_is_the_user_s_own_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("FRAUDSCALE_HOME", "~/platform")
    assert LocalSettings.read().fraudscale_home == Path("/home/me/platform")


def test_a_folder_that_was_removed_is_no_place_to_be(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(NoPlace, match="was removed; go to another one"):
        LocalSettings.read()


@pytest.mark.parametrize(
    ("group", "name", "value", "remedy"),
    [
        (ModelSettings, "MLFLOW_TRACKING_URI", "localhost:5000", "http://"),
        (ModelSettings, "MLFLOW_MODEL_URI", "models:/fraud-detector/3", "models:/NAME@ALIAS"),
        (ModelSettings, "MODEL_POLL_SECONDS", "0", "greater than or equal to 0.1"),
        (KafkaSettings, "KAFKA_BOOTSTRAP_SERVERS", "broker", "HOST:PORT"),
        (KafkaSettings, "KAFKA_TOPIC", "no spaces", "pattern"),
        (HttpSettings, "HTTP_PORT", "70000", "65535"),
        (HttpSettings, "MAX_BODY_BYTES", "1MB", "integer"),
        (LogSettings, "LOG_PREDICTIONS_SAMPLE", "2", "less than or equal to 1"),
        (LogSettings, "LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        (LocalSettings, "FRAUDSCALE_PORT_BASE", "80", "1024"),
        (LocalSettings, "FRAUDSCALE_KAFKA", "zookeper", "'kraft' or 'zookeeper'"),
        (AlertSettings, "SMTP_SERVER", "smtp.example.org:mail", "HOST:PORT"),
        (AlertSettings, "ALERT_EMAIL", "nobody", "ADDRESS"),
        (TracingSettings, "TRACE_CALLERS_PER_SECOND", "many", "number"),
        (ReplicaSettings, "REPLICA_ID", "a b", "pattern"),
        (ReplicaSettings, "DRAIN_SECONDS", "soon", "number"),
    ],
)
def test_a_bad_value_is_named_with_what_it_may_be(monkeypatch, group, name, value, remedy):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        group.read()
    assert str(caught.value).startswith(f"{name}={value!r}: ")
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("SMTP_SERVER", "ALERT_EMAIL"),
        ("ALERT_EMAIL", "SMTP_SERVER"),
        ("SMTP_USERNAME", "SMTP_PASSWORD"),
        ("SMTP_PASSWORD", "SMTP_USERNAME"),
    ],
)
def test_half_of_a_pair_is_refused_with_what_is_missing_and_no_secret(monkeypatch, there, missing):
    monkeypatch.setenv(there, "a@example.org")
    with pytest.raises(SettingsError) as caught:
        AlertSettings.read()
    assert str(caught.value) == f"{there} is set and {missing} is not: set both, or neither"


def test_a_secret_that_is_not_allowed_is_not_shown(monkeypatch):
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "hooks.slack.com/services/secret")
    with pytest.raises(
        SettingsError, match=r"^ALERT_WEBHOOK_URL=…: must be an address such as https://hooks"
    ):
        AlertSettings.read()


@pytest.mark.parametrize(
    ("given", "endpoint", "ratio"),
    [
        ({}, None, 0.01),
        ({"otel_exporter_otlp_endpoint": "http://c:4318/"}, "http://c:4318/v1/traces", 0.01),
        ({"otel_exporter_otlp_traces_endpoint": "http://c/x"}, "http://c/x", 0.01),
        ({"otel_exporter_otlp_endpoint": "http://c", "otel_sdk_disabled": True}, None, 0.01),
        ({"otel_traces_sampler_arg": 0.5}, None, 0.5),
        ({"otel_traces_sampler": "parentbased_always_on"}, None, 1),
        ({"otel_traces_sampler": "parentbased_always_off"}, None, 0),
    ],
)
def test_where_spans_go_and_how_many(given, endpoint, ratio):
    settings = TracingSettings(_env_file=None, **given)
    assert (settings.traces_endpoint, settings.ratio) == (endpoint, ratio)


def test_a_mail_server_without_a_port_gets_the_usual_one():
    settings = AlertSettings.read(smtp_server="smtp.example.org", alert_email="a@b.org, c@d.org")
    assert settings.smtp_server == "smtp.example.org:587"


@pytest.mark.parametrize(
    ("given", "level"), [("INFO", "info"), ("WARN", "warning"), (" Warning ", "warning"), ("FATAL", "error")]
)
def test_a_level_is_known_in_capitals_and_by_other_programs_names(monkeypatch, given, level):
    monkeypatch.setenv("LOG_LEVEL", given)
    monkeypatch.setenv("LOG_FORMAT", "JSON")
    assert (LogSettings.read().log_level, LogSettings.read().log_format) == (level, "json")


def test_settings_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        HttpSettings.read().http_port = 1


def test_an_empty_value_is_the_default(monkeypatch):
    monkeypatch.setenv("KAFKA_TOPIC", "")
    assert KafkaSettings.read().kafka_topic == "transactions"


def test_the_model_uri_is_a_name_and_an_alias():
    settings = ModelSettings.read(mlflow_model_uri="models:/cards@challenger")
    assert (settings.model_name, settings.model_alias) == ("cards", "challenger")


def test_topics_are_named_after_the_input():
    settings = KafkaSettings.read(kafka_topic="cards")
    assert settings.scored_topic == "cards.scored"
    assert settings.dead_letter_topic == "cards.dead-letter"


@pytest.mark.parametrize(
    ("days", "own", "kept"), [(None, True, 3), (None, False, 0), (7, False, 7), (0, True, 0)]
)
def test_indices_of_a_store_that_is_not_ours_alone_stay_unless_told(days, own, kept):
    assert CentralLogSettings(log_keep_days=days).keep_days(own=own) == kept
