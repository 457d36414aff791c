import json
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from blueprints import named

from fraudscale.local.components import assembly, prometheus, ready
from fraudscale.local.install.ports import MIN_REPLICAS
from fraudscale.local.scaling import scale_file


def test_the_least_number_of_replicas_is_started_with_both_processes_each(blueprint):
    names = [name for name in named(blueprint()) if "/" in name]
    slots = range(1, MIN_REPLICAS + 1)
    assert names == [f"replica-{i}/{half}" for i in slots for half in ("serve", "stream")]


def test_every_need_is_a_component_and_stands_before_the_one_that_needs_it(blueprint):
    seen = set()
    for component in assembly.components(blueprint()):
        assert set(component.needs) <= seen, component.name
        seen.add(component.name)


def test_components_whose_address_is_set_are_used_and_not_started(blueprint):
    b = blueprint(
        model={"mlflow_tracking_uri": "http://registry:5000"},
        kafka={"kafka_bootstrap_servers": "broker:9092"},
        prometheus="http://prometheus:9090",
    )
    components = named(b)
    assert not {"kafka", "kafka-storage", "mlflow", "prometheus"} & components.keys()
    assert components["topics"].needs == components["first-model"].needs == ()
    assert components["replica-1/stream"].env["KAFKA_BOOTSTRAP_SERVERS"] == "broker:9092"
    assert components["replica-1/serve"].env["MLFLOW_TRACKING_URI"] == "http://registry:5000"
    assert b.external.keys() == {"kafka", "mlflow", "prometheus"}


def test_components_stop_from_the_outside_in_and_in_time(blueprint):
    components = named(blueprint())
    order = ["traffic", "replica-1/serve", "haproxy", "kafka"]
    assert [components[name].stop_phase for name in order] == [0, 1, 2, 3]
    slowest = [
        max(p.stop_seconds for p in components.values() if p.stop_phase == phase) for phase in range(4)
    ]
    assert sum(slowest) < 15
    assert {
        components[name].stop_phase for name in ("mlflow", "prometheus", "alertmanager", "node-exporter")
    } == {3}


def test_every_command_of_ours_exists_with_its_options(blueprint):
    import typer

    from fraudscale.cli import app

    group = typer.main.get_command(app)
    ours = [
        component.command[3:]
        for component in assembly.components(blueprint())
        if "fraudscale.cli" in component.command
    ]
    assert {name for name, *_ in ours} == {
        "topics",
        "train",
        "serve",
        "stream",
        "autoscale",
        "traffic",
        "console",
    }
    for name, *options in ours:
        group.commands[name].make_context(name, list(options))  # raises for what it doesn't know


def test_no_traffic_flows_where_it_is_not_wanted(blueprint):
    assert "traffic" in named(blueprint())
    assert "traffic" not in named(blueprint(traffic=False))


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_everything_listens_on_this_machine_only(blueprint, mode):
    b = blueprint(mode=mode)
    for component in assembly.components(b):
        assert "0.0.0.0" not in " ".join(component.command)
    rendered = "\n".join(assembly.files(b).values())
    assert "0.0.0.0" not in rendered
    assert "bind 127.0.0.1:21000" in rendered
    assert ("clientPortAddress=127.0.0.1" in rendered) == (mode == "zookeeper")


def test_mlflow_runs_no_code_of_models_and_no_jobs(blueprint):
    env = named(blueprint())["mlflow"].env
    assert env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert env["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] == "false"
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_the_console_needs_nobody_and_is_told_where_all_is(blueprint):
    b = blueprint(prometheus="http://prometheus:9090")
    component = named(b)["console"]
    assert component.needs == ()  # it shows a start too
    assert component.address == f"http://127.0.0.1:{b.ports.console}"
    assert component.env["CONSOLE_PORT"] == str(b.ports.console)
    assert component.env["FRAUDSCALE_HOME"] == str(b.home)
    assert component.env["PROMETHEUS_ENDPOINT"] == "http://prometheus:9090"
    assert Path(component.env["DASHBOARD_FILE"]) in assembly.files(b)
    assert component.stop_phase > named(b)["haproxy"].stop_phase


def test_the_dashboard_of_this_machine_has_its_runbooks_and_the_limits_of_its_time_scale(blueprint):
    b = blueprint()
    b = replace(b, local=b.local.model_copy(update={"time_scale": 10}))
    drawn = json.loads(assembly.files(b)[b.dashboard])
    (panel,) = [panel for panel in drawn["panels"] if panel["title"] == "Age of the oldest"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 6
    assert panel["links"][0]["url"].startswith("file:///")


def test_the_autoscaler_is_told_its_time_scale_and_manifests_and_stops_before_the_replicas(blueprint):
    component = named(blueprint())["autoscaler"]
    assert component.env["TIME_SCALE"] == "1.0"
    assert component.env["HPA_MANIFEST"].endswith("argocd/manifests/hpa.yaml")
    assert component.stop_phase < named(blueprint())["replica-1/serve"].stop_phase


def test_prepare_forgets_the_desired_replicas_of_an_earlier_run(blueprint):
    b = blueprint()
    b.run.mkdir(parents=True)
    scale_file.write(b.home, scale_file.Scale(6, "earlier"))
    assembly.prepare(b)
    assert not scale_file.path(b.home).exists()


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "run" / "x.cfg"
    assembly.write(path, "one")
    before = path.stat().st_ino
    assembly.write(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_ino != before
    assert list(path.parent.iterdir()) == [path]


def test_what_is_written_only_its_owner_may_read_whatever_was_there_before(tmp_path):
    for draft in (tmp_path / "x.yml", tmp_path / "x.yml.new"):
        draft.write_text("before")
        draft.chmod(0o644)
    assembly.write(tmp_path / "x.yml", "secret")
    assert (tmp_path / "x.yml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_prepare_writes_every_file_that_a_command_names(blueprint, mode):
    b = blueprint(mode=mode)
    assembly.prepare(b)
    assert {path for path in assembly.files(b) if not path.is_file()} == set()
    assert b.targets.is_file()
    commands = " ".join(word for component in assembly.components(b) for word in component.command)
    assert str(b.run / "haproxy.cfg") in commands
    named_files = {Path(path) for path in re.findall(rf"{b.run}/[\w.-]+", commands)}
    assert {path for path in named_files if not path.is_file()} == set()
    assert len(named_files) >= 5
    assert sys.executable in commands


def test_who_takes_a_connection_and_says_nothing_is_neither_ready_nor_alive(monkeypatch):
    monkeypatch.setattr(ready, "ASK_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ready.kafka_answers("127.0.0.1", port)
        assert not ready.http_ok(f"http://127.0.0.1:{port}/readyz")
    assert not ready.kafka_answers("127.0.0.1", port)
    assert not ready.http_ok(f"http://127.0.0.1:{port}/readyz")


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_whatever_can_be_asked_whether_it_is_ready_can_be_asked_whether_it_lives(blueprint, mode):
    for component in assembly.components(blueprint(mode=mode)):
        assert (component.alive is None) == (component.ready is None), component.name


def test_without_an_alertmanager_all_else_runs_and_prometheus_tells_nobody(blueprint):
    b = blueprint()
    assert "alertmanagers:" in prometheus.yml(b)
    b = replace(b, tools=replace(b.tools, alertmanager=None))
    assert "alertmanager" not in named(b)
    assert "alertmanager" not in assembly.ports_needed(b)
    yml = yaml.safe_load(prometheus.yml(b))
    assert "alerting" not in yml
    assert "alertmanager" not in [job["job_name"] for job in yml["scrape_configs"]]
