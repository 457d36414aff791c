"""`up` without the platform: what it refuses, what the banner says, how it heeds signals; and one run of tiny components."""

import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from world import World

from fraudscale import cli
from fraudscale.config import (
    AlertSettings,
    HttpSettings,
    KafkaSettings,
    LocalSettings,
    ModelSettings,
    SettingsError,
)
from fraudscale.hpa import ManifestError
from fraudscale.local import banner, up
from fraudscale.local.components import assembly
from fraudscale.local.components import replica as replicas
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install import doctor
from fraudscale.local.install.folder import MissingComponent
from fraudscale.local.install.ports import Ports, PortsTaken, claim_block
from fraudscale.local.scaling import scale_file
from fraudscale.local.supervisor import machine, state
from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.supervise import ManagedComponent, State, SupervisorEvent
from fraudscale.local.terminal import Terminal
from fraudscale.scoring import codec


@pytest.fixture
def local(tmp_path):
    return LocalSettings.read(
        fraudscale_home=tmp_path, fraudscale_cache=tmp_path / "cache", fraudscale_port_base=20_999
    )


@pytest.fixture
def blueprint(local):
    ports = Ports.at(local.fraudscale_port_base)
    return Blueprint(
        local,
        ModelSettings.read(),
        KafkaSettings.read(),
        HttpSettings.read(),
        AlertSettings.read(),
        SimpleNamespace(alertmanager=Path("/t/alertmanager")),
        ports,
    )


def tiny(script, name, **fields):
    return Component(name, ("sh", "-c", script), **fields)


HAPROXY = tiny("exec sleep 60", "haproxy", ready=lambda: True, address="http://127.0.0.1:9")
KAFKA = tiny("exec sleep 60", "kafka", ready=lambda: True, address="127.0.0.1:9092")


@pytest.fixture
def run(blueprint, monkeypatch, capsys):
    """Run these components as the platform; each signal is sent once the file of the state fulfils its condition."""

    def send(signals):
        for which, condition in signals:
            limit = time.monotonic() + 20
            while (
                not ((status := state.read(blueprint.home)) and condition(status))
                and time.monotonic() < limit
            ):
                time.sleep(0.05)
            os.kill(os.getpid(), which)

    def run(*components, signals=()):
        # These listen nowhere.
        monkeypatch.setattr(machine.ChildProcess, "listens_on", lambda *_: True)
        monkeypatch.setattr(assembly, "components", lambda _: list(components))
        sender = threading.Thread(target=send, args=(signals,))
        sender.start()
        code = up.Platform(blueprint, Terminal(), time.monotonic()).run()
        sender.join()
        return code, capsys.readouterr().out

    return run


def when_ready(status):
    return status.ready


def when_stopping(status):
    return any(component.state == "stopping" for component in status.components)


def managed(name, address):
    return ManagedComponent(Component(name, ("run",), address=address), state=State.READY)


def test_a_platform_of_tiny_parts_starts_tells_and_stops_on_a_signal(run, blueprint):
    code, out = run(HAPROXY, KAFKA, signals=[(signal.SIGTERM, when_ready)])
    assert code == 0
    assert out.index("kafka ready") < out.index("fraudscale is ready after") < out.index("stopped in")
    assert machine.marked(blueprint.home) == []
    assert state.read(blueprint.home) is None


@pytest.mark.timeout(11)
def test_a_second_signal_kills_at_once(run, blueprint):
    stubborn = tiny(
        "trap '' TERM; while :; do sleep 0.05; done", "kafka", address="127.0.0.1:9092", stop_seconds=12
    )
    code, _ = run(HAPROXY, stubborn, signals=[(signal.SIGTERM, when_ready), (signal.SIGTERM, when_stopping)])
    assert (code, machine.marked(blueprint.home)) == (0, [])


def test_a_part_that_fails_is_named_with_its_last_lines_and_everything_stops(run, blueprint):
    code, out = run(KAFKA, tiny("echo no room left; exit 7", "mlflow", ready=lambda: False))
    assert code == 1
    assert "mlflow failed to start: exit code 7\n  no room left\n" in out
    assert machine.marked(blueprint.home) == []


def test_the_supervisors_events_are_json_lines(run, blueprint):
    run(HAPROXY, KAFKA, signals=[(signal.SIGINT, when_ready)])
    lines = (blueprint.home / "logs" / "supervisor.log").read_text().splitlines()
    told = [(event["event"], event["part"]) for event in map(json.loads, lines)]
    assert ("part_ready", "kafka") in told
    assert told[-1][0] == "part_stopped"


def test_an_error_of_ours_leaves_no_process(run, blueprint, monkeypatch):
    monkeypatch.setattr(up, "banner", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(HAPROXY, KAFKA)
    assert machine.marked(blueprint.home) == []


@pytest.fixture
def start():
    """Start a platform with these settings of the machine, and the usual ones else."""
    others = ModelSettings.read(), KafkaSettings.read(), HttpSettings.read(), AlertSettings.read()
    return lambda local: up.up(local, *others)


def test_a_second_up_says_that_one_runs(start, local):
    with state.Lock(local.fraudscale_home), pytest.raises(state.AlreadyRuns, match="a platform runs in"):
        start(local)


@pytest.mark.parametrize("lack", ["path", "disk", "open files"])
def test_a_machine_without_room_is_refused_before_anything_is_written(start, tmp_path, monkeypatch, lack):
    home = tmp_path / ("a,b" if lack == "path" else "home")
    if lack == "disk":
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    if lack == "open files":
        monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (256, 256))
    with pytest.raises(doctor.NoRoom) as refused:
        start(LocalSettings.read(fraudscale_home=home, fraudscale_cache=tmp_path / "cache"))
    assert {
        "path": f"home folder: {home}; its path may have letters, digits, spaces and ._/+@=~-, not ','; set FRAUDSCALE_HOME",
        "disk": "disk of home folder: 0.9 GB free; 2.0 GB are needed; free some, or set FRAUDSCALE_HOME",
        "open files": "open files: 256; 10000 are needed; raise the hard limit",
    }[lack] in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_named_with_the_remedy(start, tmp_path, monkeypatch):
    monkeypatch.setattr(up, "fetch_all", lambda *_: SimpleNamespace(grafana=None, alertmanager=None))
    with claim_block() as base, socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a platform may just have left it
        taken.bind(("127.0.0.1", Ports.at(base).entry))
        taken.listen()
        local = LocalSettings.read(fraudscale_home=tmp_path, fraudscale_port_base=base)
        with pytest.raises(PortsTaken, match=rf"port {base} \(entry\) is held by"):
            start(local)


def test_the_consoles_port_must_be_free_where_it_is_set(start, tmp_path, monkeypatch):
    monkeypatch.setattr(up, "fetch_all", lambda *_: SimpleNamespace(grafana=None, alertmanager=None))
    with claim_block() as base, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("CONSOLE_PORT", str(port))
        local = LocalSettings.read(fraudscale_home=tmp_path, fraudscale_port_base=base)
        with pytest.raises(PortsTaken, match=rf"port {port} \(console\) is held by"):
            start(local)


def test_a_hang_up_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked = threading.Event()
    with up.stop_signals(asked):
        os.kill(os.getpid(), signal.SIGHUP)
        assert not asked.wait(0.2)
    signal.signal(signal.SIGHUP, before)


def test_what_cannot_be_had_is_said_and_the_lock_is_free_again(start, local, monkeypatch):
    def missing(*_):
        raise MissingComponent("haproxy", "brew install haproxy")

    monkeypatch.setattr(up, "fetch_all", missing)
    with pytest.raises(MissingComponent, match="brew install haproxy"):
        start(local)
    with state.Lock(local.fraudscale_home):
        pass


def test_without_the_training_libraries_the_way_is_shown(start, local, monkeypatch):
    monkeypatch.setattr(up, "find_spec", lambda _: None)
    with pytest.raises(up.CannotStart, match="make up"):
        start(local)


def test_the_banner_has_every_address_and_an_example_that_is_a_transaction(blueprint):
    components = [managed("haproxy", "http://127.0.0.1:8000"), managed("kafka", "127.0.0.1:9092")]
    components += [
        managed("replica-1/serve", "127.0.0.1:8101"),
        managed("replica-1/stream", "127.0.0.1:8201"),
    ]
    text = "\n".join(banner.banner(blueprint, components, state.ModelInUse("3", "champion"), 31.2))
    for expected in (
        "31.2 s",
        "model 3 (champion)",
        "8000/predict",
        "127.0.0.1:9092",
        ":8101",
        ":8201/metrics",
    ):
        assert expected in text
    assert "sample transactions" not in text
    body = text.split("-d '")[1].split("'")[0]
    assert codec.decode_transaction(body.encode()) == banner.EXAMPLE


def test_live_slots_are_those_not_leaving():
    components = [managed(f"replica-{i}/{half}", "") for i in (1, 2, 10) for half in ("serve", "stream")]
    components[2].leaving = components[3].leaving = True
    assert up.live_slots([*components, managed("kafka", "")]) == [1, 10]


def replica(number):
    return [
        tiny("exec sleep 60", f"replica-{number}/{half}", ready=lambda: True) for half in ("serve", "stream")
    ]


def test_slots_are_taken_on_and_drained_until_there_are_as_many_as_desired():
    events = []
    world = World(*replica(1), *replica(2))
    for desired, expected in ((4, [1, 2, 3, 4]), (3, [1, 2, 3]), (3, [1, 2, 3]), (2, [1, 2])):
        up.reconcile(world.supervisor, desired, replica)
        assert up.live_slots(list(world.supervisor.managed.values())) == expected, events
        world.run(1)
    assert list(world.supervisor.managed) == [
        "replica-1/serve",
        "replica-1/stream",
        "replica-2/serve",
        "replica-2/stream",
    ]
    assert world.child("replica-3/serve").signals == [signal.SIGTERM]
    assert world.child("replica-1/serve").signals == []


def test_a_slot_that_is_desired_again_while_it_leaves_comes_back_once_it_is_gone():
    world = World(*replica(1), *replica(2)).run()
    world.child("replica-2/serve").stubborn = True
    up.reconcile(world.supervisor, 1, replica)
    world.run(0.5)
    up.reconcile(world.supervisor, 2, replica)
    assert up.live_slots(list(world.supervisor.managed.values())) == [1]
    world.run(6)
    up.reconcile(world.supervisor, 2, replica)
    assert up.live_slots(list(world.supervisor.managed.values())) == [1, 2]
    assert world.run(1).supervisor.ready


def test_a_platform_follows_the_scale_file_refuses_a_bad_one_and_keeps_the_last(run, blueprint, monkeypatch):
    """Four replicas of tiny components; each step waits until the state file says that the one before is done."""
    monkeypatch.setattr(replicas, "components", lambda _, slot: replica(slot))

    def desire(content):
        (blueprint.run / "draft").write_text(json.dumps(content))
        (blueprint.run / "draft").replace(scale_file.path(blueprint.home))

    def then(count, action):
        def condition(status):
            reached = status.ready and len(status.replicas) == count
            if reached:
                action(status)
            return reached

        return condition

    def refused(_):
        return "scale_refused" in (blueprint.home / "logs" / "supervisor.log").read_text()

    harmless = signal.SIGURG  # ignored unless handled
    steps = [
        (harmless, then(4, lambda s: desire({"replicas": 6, "run": s.started_at}))),
        (harmless, then(6, lambda s: desire({"replicas": 40, "run": s.started_at}))),
        (harmless, refused),
        (harmless, then(6, lambda s: desire({"replicas": 4, "run": s.started_at}))),
        (signal.SIGTERM, then(4, lambda _: None)),
    ]
    code, out = run(
        HAPROXY, KAFKA, *(component for n in range(1, 5) for component in replica(n)), signals=steps
    )
    assert code == 0
    assert "scale_refused  part=autoscaler" in out
    told = [
        json.loads(line) for line in (blueprint.home / "logs" / "supervisor.log").read_text().splitlines()
    ]
    started = [e["part"] for e in told if e["event"] == "part_started" and "/serve" in e["part"]]
    assert started == [f"replica-{n}/serve" for n in range(1, 7)]
    (refusal,) = [e for e in told if e["event"] == "scale_refused"]
    assert "<= 6" in refusal["reason"]
    stopped = [e["part"] for e in told if e["event"] == "part_stopped"]
    assert {"replica-5/serve", "replica-6/stream"} <= set(stopped[:4])


def test_a_manifest_that_cannot_be_used_is_told_before_anything_starts(start, local):
    bad = local.model_copy(update={"hpa_manifest": Path("none.yaml")})
    with pytest.raises(ManifestError, match=r"^HPA_MANIFEST='none\.yaml': can't be read: No such file"):
        start(bad)


@pytest.mark.parametrize(("scale", "told"), [(1, False), (10, True)])
def test_the_banner_tells_of_another_time_scale(blueprint, scale, told):
    local = blueprint.local.model_copy(update={"time_scale": scale})
    components = [managed("haproxy", "http://127.0.0.1:8000"), managed("kafka", "127.0.0.1:9092")]
    text = "\n".join(banner.banner(replace(blueprint, local=local), components, state.ModelInUse(), 1))
    assert ("runs 10 times as fast" in text) == told


@pytest.mark.parametrize(
    ("alerts", "told"),
    [
        ({}, "nobody gets alerts: set ALERT_WEBHOOK_URL, or SMTP_SERVER and ALERT_EMAIL"),
        ({"alert_webhook_url": "https://hooks/secret"}, "alerts go to Slack\n"),
        (
            {"alert_webhook_url": "https://hooks/secret", "smtp_server": "s", "alert_email": "a@b.c"},
            "alerts go to Slack and e-mail to a@b.c\n",
        ),
    ],
)
def test_the_banner_says_who_is_told_of_alerts_and_no_secret(blueprint, alerts, told):
    components = [managed("haproxy", "http://127.0.0.1:8000"), managed("kafka", "127.0.0.1:9092")]
    blueprint = replace(blueprint, alerts=AlertSettings(**alerts))
    text = "\n".join(banner.banner(blueprint, components, state.ModelInUse(), 1))
    assert told in text
    assert "secret" not in text


def test_the_banner_does_not_promise_messages_of_an_alertmanager_that_was_left_out(blueprint):
    components = [managed("haproxy", "http://127.0.0.1:8000"), managed("kafka", "127.0.0.1:9092")]
    alerts = AlertSettings(alert_webhook_url="https://hooks/secret")
    b = replace(blueprint, alerts=alerts, tools=SimpleNamespace(alertmanager=None))
    text = "\n".join(banner.banner(b, components, state.ModelInUse(), 1))
    assert "nobody gets them: Alertmanager can't be started here" in text
    assert "Slack" not in text


def test_rules_that_cannot_be_read_are_told_before_anything_starts(local):
    alerts = AlertSettings(alert_rules=Path("none.yaml"))
    with pytest.raises(SettingsError, match=r"ALERT_RULES='none\.yaml'"):
        up.up(local, ModelSettings.read(), KafkaSettings.read(), HttpSettings.read(), alerts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRACE_CALLERS_PER_SECOND", "-1"),
        ("LOG_PREDICTIONS_SAMPLE", "x"),
        ("OPENSEARCH_ENDPOINT", "foo"),
        ("CPU_REQUEST_MILLICORES", "0"),
    ],
)
def test_what_only_a_part_reads_is_told_before_anything_starts(local, monkeypatch, name, value):
    monkeypatch.setenv("FRAUDSCALE_HOME", str(local.fraudscale_home))
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        cli.up(None)
    assert list(local.fraudscale_home.iterdir()) == []


def test_an_event_that_cannot_be_written_is_no_error(tmp_path):
    up.EventLog(Path(tmp_path / "none" / "supervisor.log")).write(SupervisorEvent("part_died", "kafka"))


@pytest.fixture
def hangup_ends_us():
    """As in a shell; under nohup it is ignored, and the platform leaves it so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup_ends_us")
def test_signals_are_counted_while_in_force_only():
    before = signal.getsignal(signal.SIGTERM)
    asked = threading.Event()
    with up.stop_signals(asked):
        for which in (signal.SIGTERM, signal.SIGHUP):
            assert not asked.is_set()
            os.kill(os.getpid(), which)
            assert asked.wait(10)
            asked.clear()
    assert signal.getsignal(signal.SIGTERM) is before
