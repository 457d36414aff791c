"""Each command reads its settings, calls one function of a room, and ends with its exit code."""

import json
import sys
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from fraudscale import cli
from fraudscale.config import (
    KafkaSettings,
    LocalSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    ReplicaSettings,
    SettingsError,
    TracingSettings,
)
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.local.supervisor.state import ComponentStatus, ModelInUse, Replica, Status


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing of this machine's platform is looked at; a command that looks for one takes the usual table of ports."""
    monkeypatch.setenv("FRAUDSCALE_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUDSCALE_PORT_BASE", "21000")
    return tmp_path


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def called(monkeypatch):
    """`called(name, result)` puts a recorder in the place of a function; it returns the list of calls."""

    def replace(name, result=0):
        calls = []

        def record(*args, **options):
            calls.append(SimpleNamespace(args=args, **options))
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(name, record)
        return calls

    return replace


@pytest.mark.parametrize(
    ("command", "function", "settings"),
    [
        (
            "serve",
            "fraudscale.serve.run",
            [ReplicaSettings, None, ModelSettings, LogSettings, TracingSettings],
        ),
        (
            "stream",
            "fraudscale.kafka.worker.run",
            [ReplicaSettings, MetricsSettings, ModelSettings, KafkaSettings, LogSettings, TracingSettings],
        ),
        (
            "autoscale",
            "fraudscale.local.scaling.autoscaler.run",
            [LocalSettings, MetricsSettings, KafkaSettings, LogSettings],
        ),
        ("console", "fraudscale.console.server.run", [None, LocalSettings, LogSettings]),
    ],
)
def test_a_process_gets_its_settings_and_ends_with_its_exit_code(run, called, command, function, settings):
    calls = called(function, 7)
    assert run(command).exit_code == 7
    (call,) = calls
    assert len(call.args) == len(settings)
    assert all(kind is None or type(one) is kind for one, kind in zip(call.args, settings, strict=True))


def test_log_lines_are_shipped_from_this_home(run, called, home):
    calls = called("fraudscale.central_logs.ship.run", 3)
    assert run("ship-logs").exit_code == 3
    assert calls[0].args[1] == home


def test_up_takes_the_time_scale_of_its_option(run, called):
    calls = called("fraudscale.local.up.up", 130)
    assert run("up", "--time-scale", 10).exit_code == 130
    assert calls[0].args[0].time_scale == 10


def test_up_reads_what_only_its_components_need_before_anything_starts(run, called, monkeypatch):
    calls = called("fraudscale.local.up.up")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    assert isinstance(run("up").exception, SettingsError)
    assert calls == []


def test_down_stops_what_runs_in_this_home(run, called, home):
    calls = called("fraudscale.local.down.down", 1)
    assert run("down").exit_code == 1
    assert calls[0].args == (home, print)


def test_status_without_a_platform_says_how_to_start_one(run):
    found = run("status")
    assert (found.exit_code, found.output) == (1, "nothing runs here; `make up` starts the platform\n")


@pytest.mark.parametrize("ready", [True, False])
def test_status_lists_components_replicas_and_the_model(run, called, ready):
    status = Status(
        ready,
        [ComponentStatus("haproxy", "ready", "127.0.0.1:8000", 1)],
        [Replica("replica-0", "starting", 2, 3, "127.0.0.1:8010")],
        ModelInUse("7"),
        started_at="2026-11-28T10:00:00Z",
    )
    called("fraudscale.local.running.examine", status)
    found = run("status")
    assert found.exit_code == (0 if ready else 1)
    lines = [line.split() for line in found.output.splitlines()]
    assert lines == [
        ["haproxy", "ready", "127.0.0.1:8000"],
        ["replica-0", "starting", "127.0.0.1:8010"],
        ["model", "7", "(no", "alias)"],
        ["ready"] if ready else ["not", "ready"],
    ]
    assert json.loads(run("status", "--json").output)["replicas"][0]["id"] == "replica-0"


@pytest.mark.parametrize("ok", [True, False])
def test_doctor_ends_well_only_if_every_check_does(run, called, ok):
    called("fraudscale.local.install.doctor.examine", [SimpleNamespace(ok=True), SimpleNamespace(ok=ok)])
    called("fraudscale.local.install.doctor.as_text", "all of it")
    found = run("doctor")
    assert (found.exit_code, found.output) == (0 if ok else 1, "all of it\n")


@pytest.mark.parametrize(("created", "said"), [(["a", "b"], "a, b"), ([], "none, all exist")])
def test_topics_tells_which_it_created(run, called, created, said):
    called("fraudscale.kafka.topics.create_topics", created)
    assert run("topics").output == f"created: {said}\n"


def test_traffic_goes_to_the_entry_that_is_given(run, called):
    calls = called("fraudscale.local.traffic.run", 4)
    assert run("traffic", "--url", "http://127.0.0.1:1").exit_code == 4
    assert calls[0].args[0] == "http://127.0.0.1:1"


def test_fetch_model_prints_the_folder(run, called, home):
    calls = called("fraudscale.registry.fetch.fetch_model", home / "models" / "7")
    assert run("fetch-model", "--version", 7).output == f"{home}/models/7\n"
    assert calls[0].args[1] == "7"
    assert calls[0].args[0].model_cache_dir == home / "models"


def test_files_are_rendered_with_the_settings(run, monkeypatch):
    monkeypatch.setenv("RUNBOOK_URL", "https://wiki/rb")
    monkeypatch.setenv("CONSOLE_PORT", "8090")
    rules = run("render", "rules").output
    assert "https://wiki/rb/Watchdog.md" in rules
    assert "http://127.0.0.1:8090" in rules
    assert "Time runs 10 times as fast here." in run("render", "rules", "--time-scale", 10).output
    assert "group_wait: 3s" in run("render", "alertmanager", "--time-scale", 10).output
    assert json.loads(run("render", "dashboard").output)["links"][0]["url"] == "https://wiki/rb/README.md"


def test_alerts_go_to_slack_and_what_is_critical_to_mail_too(run, monkeypatch):
    for name, value in {
        "ALERT_WEBHOOK_URL": "https://hooks/x",
        "SMTP_SERVER": "smtp.example.org:587",
        "SMTP_USERNAME": "us",
        "SMTP_PASSWORD": "secret",
        "ALERT_EMAIL": "a@example.org,b@example.org",
    }.items():
        monkeypatch.setenv(name, value)
    config = yaml.safe_load(run("render", "alertmanager").output)
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    assert {name for name, ways in receivers.items() if "slack_configs" in ways} == {
        "critical",
        "warning",
        "info",
    }
    assert [name for name, ways in receivers.items() if "email_configs" in ways] == ["critical"]
    (mail,) = receivers["critical"]["email_configs"]
    assert (mail["from"], mail["auth_password"], mail["send_resolved"]) == ("a@example.org", "secret", True)


@pytest.fixture
def trained(monkeypatch):
    from fraudscale.training.run import TrainResult

    monkeypatch.setattr("fraudscale.cli_tasks._bring_libgomp", lambda: None)
    return TrainResult("3", "champion", "0123456789abcdef", {"pr_auc": 0.5}, 0.25)


def test_train_registers_and_tells_version_alias_and_figures(run, called, trained):
    calls = called("fraudscale.training.run.train", trained)
    found = run("train", "--rows", 5000, "--seed", 9, "--ablation", "--promote")
    assert found.output.splitlines() == [
        "fraud-detector version 3 is now champion; digest 0123456789ab",
        "threshold 0.2500",
        "pr_auc                 0.5000",
    ]
    request = calls[0].args[1]
    assert (request.rows, request.seed, request.ablation, calls[0].promote) == (5000, 9, True, True)
    assert json.loads(run("train", "--json").output) == vars(trained)


def test_train_if_missing_does_nothing_where_there_is_a_champion(run, called, trained):
    called("fraudscale.training.run.train_if_missing", None)
    assert run("train", "--if-missing").output.endswith("exists; nothing to do\n")
    called("fraudscale.training.run.train_if_missing", trained)
    assert "version 3" in run("train", "--if-missing").output


def test_train_into_a_folder_asks_no_registry(run, called, trained, home):
    manifest = SimpleNamespace(metrics=trained.metrics, threshold=0.25)
    made = SimpleNamespace(digest=trained.digest, manifest=manifest, warnings=["mine.csv: odd"])
    calls = called("fraudscale.training.run.make", made)
    found = run("train", "--output", home / "out")
    assert found.stdout.startswith(f"{home}/out; digest 0123456789ab\n")
    assert "fraudscale: mine.csv: odd\n" in found.stderr
    calls[0].progress("train", 0.5)


def test_train_brings_the_library_that_lightgbm_needs(run, called):
    calls = called("fraudscale.local.install.download.load_libgomp")
    called("fraudscale.training.run.train_if_missing", None)
    assert run("train", "--if-missing").exit_code == 0
    assert len(calls) == 1


def test_load_goes_to_the_running_platform_or_to_the_address_that_is_given(run, called):
    calls = called("fraudscale.load.run.run", 1)
    assert run("load", "--over", "kafka", "--shape", "sine", "--rate", 50).exit_code == 1
    run("load", "--url", "http://10.0.0.1:80", "--connections", 3)
    run("load")
    ours, theirs, usual = (call.args[0] for call in calls)
    assert (ours.over, ours.shape, ours.rate) == ("kafka", "sine", 50)
    assert calls[0].args[1].kafka_bootstrap_servers == "127.0.0.1:21004"
    assert (usual.over, usual.target.url) == ("http", "http://127.0.0.1:21000")
    assert (theirs.over, theirs.target.url, theirs.target.connections) == ("http", "http://10.0.0.1:80", 3)


@pytest.mark.parametrize("command", ["load", "demo-scaling"])
def test_without_the_group_train_it_is_said_how_to_get_it(run, monkeypatch, command):
    monkeypatch.setattr("fraudscale.cli_tasks.find_spec", lambda _: None)
    assert "after `make up`" in str(run(command).exception)


def test_the_demonstration_takes_rate_picture_and_time_scale(run, called, home):
    calls = called("fraudscale.local.demo.scaling.run", 2)
    found = run("demo-scaling", "--rate", 500, "--time-scale", 20, "--picture", home / "demo.png")
    assert found.exit_code == 2
    local, rate, picture = calls[0].args
    assert (local.time_scale, rate, picture) == (20, 500, home / "demo.png")


def test_the_demonstration_refuses_a_picture_that_it_cannot_draw(run, called):
    calls = called("fraudscale.local.demo.scaling.run")
    assert "must end in" in str(run("demo-scaling", "--picture", "demo.txt").exception)
    assert calls == []


def test_replay_hands_its_filters_on_and_tells_what_went_back(run, called):
    calls = called("fraudscale.kafka.replay.run")
    found = run(
        "replay", "--reason", "prediction", "--id", "a", "--id", "b", "--limit", 5, "--dry-run", "--json"
    )
    assert found.exit_code == 0
    assert json.loads(found.output)["sent"] == 0
    choice = calls[0].args[1]
    assert (choice.reason, choice.limit) == ("prediction", 5)
    calls[0].progress(0.5)


def test_a_replay_that_breaks_off_tells_how_far_it_came(run, called):
    called("fraudscale.kafka.replay.run", BrokerUnavailable("no broker"))
    assert str(run("replay").exception) == "no broker; 0 dead letters were sent back before that"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("LOG_LEVEL='loud'"), 2, "fraudscale: LOG_LEVEL='loud'\n"),
        (BrokerUnavailable("no broker"), 1, "fraudscale: no broker\n"),
        (
            OSError(28, "No space left on device", "x"),
            1,
            "fraudscale: [Errno 28] No space left on device: 'x'\n",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(called, monkeypatch, capsys, error, code, said):
    called("fraudscale.kafka.topics.create_topics", error)
    monkeypatch.setattr(sys, "argv", ["fraudscale", "topics"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (code, said)


def test_without_an_error_the_program_goes_on():
    with cli.errors_in_one_line():
        pass
