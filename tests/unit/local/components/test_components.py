import json
import re
import socket
import sys
import threading
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from string import Template

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fraudscale.config import (
    AlertSettings,
    HttpSettings,
    KafkaSettings,
    LocalSettings,
    ModelSettings,
    SettingsError,
)
from fraudscale.local.components import blueprint as assembly
from fraudscale.local.components import grafana
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.download import KafkaTools, OpenSearchTools, Tools
from fraudscale.local.install.ports import MIN_REPLICAS, Ports
from fraudscale.local.scaling import scale_file as wish
from fraudscale.telemetry.asgi import ProblemBody
from fraudscale.token_bucket import TokenBuckets

TOOLS = Tools(
    kafka=KafkaTools(Path("/t/java"), "/t/kafka/*"),
    prometheus=Path("/t/bin/prometheus"),
    promtool=Path("/t/bin/promtool"),
    alertmanager=Path("/t/bin/alertmanager"),
    amtool=Path("/t/bin/amtool"),
    node_exporter=Path("/t/bin/node_exporter"),
    haproxy=Path("/t/sbin/haproxy"),
    haproxy_libraries="/t/lib",
    haproxy_exports=True,
)


@pytest.fixture
def blueprint(tmp_path):
    def build(*, traffic=True, prometheus=None, model=None, kafka=None, http=None, mode="kraft"):
        local = LocalSettings(
            fraudscale_home=tmp_path, traffic=traffic, prometheus_endpoint=prometheus, kafka=mode
        )
        return Blueprint(
            local,
            ModelSettings(**model or {}),
            KafkaSettings(**kafka or {}),
            HttpSettings(**http or {}),
            AlertSettings(),
            TOOLS,
            Ports.at(21_000),
        )

    return build


def named(b):
    return {component.name: component for component in assembly.components(b)}


def test_the_least_number_of_replicas_is_started_with_both_processes_each(blueprint):
    names = [name for name in named(blueprint()) if "/" in name]
    slots = range(1, MIN_REPLICAS + 1)
    assert names == [f"replica-{i}/{half}" for i in slots for half in ("serve", "stream")]


def test_every_need_is_a_part_and_stands_before_the_one_that_needs_it(blueprint):
    seen = set()
    for component in assembly.components(blueprint()):
        assert set(component.needs) <= seen, component.name
        seen.add(component.name)


def test_a_first_start_waits_for_the_first_model(blueprint):
    components = named(blueprint())
    assert components["first-model"].needs == ("mlflow",)
    assert components["first-model"].once
    assert "first-model" in components["replica-1/serve"].needs


def test_a_later_start_does_not_wait_for_the_registry(blueprint, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "current.json").touch()
    components = named(blueprint())
    assert components["replica-1/serve"].needs == ()
    assert components["replica-1/stream"].needs == ("topics",)


def test_storage_is_formatted_once(blueprint, tmp_path):
    assert named(blueprint())["kafka"].needs == ("kafka-storage",)
    (tmp_path / "data" / "kafka").mkdir(parents=True)
    (tmp_path / "data" / "kafka" / "meta.properties").touch()
    components = named(blueprint())
    assert "kafka-storage" not in components
    assert components["kafka"].needs == ()


def test_kafka_waits_for_its_zookeeper_and_stops_before_it(blueprint):
    components = named(blueprint(mode="zookeeper"))
    zookeeper, kafka = components["zookeeper"], components["kafka"]
    assert "kafka-storage" not in components
    assert kafka.needs == ("zookeeper",)
    assert zookeeper.stop_phase > max(p.stop_phase for p in components.values() if p is not zookeeper)
    assert (zookeeper.address, kafka.address) == (
        f"127.0.0.1:{Ports.at(21_000).zookeeper}",
        f"127.0.0.1:{Ports.at(21_000).kafka}",
    )
    assert "zookeeper" not in named(blueprint())


def test_each_kind_of_broker_keeps_data_of_its_own(blueprint):
    folders = {}
    for mode in ("kraft", "zookeeper"):
        b = blueprint(mode=mode)
        assembly.prepare(b)
        lines = (b.run / "kafka.properties").read_text().splitlines()
        (folders[mode],) = [line.partition("=")[2] for line in lines if line.startswith("log.dirs=")]
        assert Path(folders[mode]).is_dir()
    assert folders["kraft"] != folders["zookeeper"]


def test_a_killed_broker_is_forgotten_within_seconds_and_zookeeper_lets_it():
    def values(text):
        return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))

    session = int(
        values(assembly.kafka_properties(Ports(), Path("/d"), "zookeeper"))["zookeeper.session.timeout.ms"]
    )
    tick = int(values(assembly.zookeeper_cfg(Ports(), Path("/z")))["tickTime"])
    assert 2 * tick <= session <= 3000, "ZooKeeper grants no session below two ticks"


def test_a_broker_of_ours_and_one_of_yours_are_a_contradiction(blueprint):
    yours = {"kafka_bootstrap_servers": "broker:9092"}
    with pytest.raises(SettingsError, match=r"KAFKA='zookeeper'.*KAFKA_BOOTSTRAP_SERVERS='broker:9092'"):
        assembly.components(blueprint(mode="zookeeper", kafka=yours))


@pytest.fixture
def zookeeper_that_says():
    """Answers each question with a text, and ends the connection, as ZooKeeper does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def ask(answer):
            def serve():
                with server.accept()[0] as connection:
                    assert connection.recv(10) == b"mntr"
                    connection.sendall(answer.encode())

            thread = threading.Thread(target=serve)
            thread.start()
            ready = assembly.zookeeper_ready(*server.getsockname())
            thread.join()
            return ready

        yield ask


@pytest.mark.parametrize(
    ("connections", "ephemerals", "ready"),
    [(1, 0, True), (2, 4, True), (1, 4, False)],
    ids=["nobody yet", "a broker", "a broker that died"],
)
def test_zookeeper_is_ready_unless_it_holds_nodes_of_a_broker_that_is_gone(
    zookeeper_that_says, connections, ephemerals, ready
):
    figures = {
        "zk_version": "3.8.6-…, built on 2026-01-01",
        "zk_server_state": "standalone",
        "zk_num_alive_connections": connections,
        "zk_ephemerals_count": ephemerals,
    }
    text = "".join(f"{name}\t{value}\n" for name, value in figures.items())
    assert zookeeper_that_says(text) is ready


def test_a_zookeeper_that_does_not_serve_yet_is_not_ready(zookeeper_that_says):
    assert not zookeeper_that_says("This ZooKeeper instance is not currently serving requests\n")


@pytest.fixture
def with_logs(blueprint):
    """A blueprint with central logs, in an OpenSearch of ours or at an address."""

    def build(endpoint=None):
        b = blueprint()
        settings = {"logs": "opensearch", "opensearch_endpoint": endpoint}
        tools = None if endpoint else OpenSearchTools(Path("/t/libjvm.so"), "/t/opensearch/*")
        local = b.local.model_copy(update=settings)
        return replace(b, local=local, tools=replace(b.tools, opensearch=tools))

    return build


def test_no_log_leaves_its_file_where_that_is_not_wanted(blueprint):
    assert not {"opensearch", "log-shipper"} & named(blueprint()).keys()
    assert "log-shipper" not in assembly.prometheus_yml(blueprint())


def test_the_shipper_waits_for_opensearch_stops_before_it_and_is_watched(with_logs):
    b = with_logs()
    components = named(b)
    shipper, store = components["log-shipper"], components["opensearch"]
    assert shipper.needs == ("opensearch",)
    assert shipper.env["OPENSEARCH_ENDPOINT"] == store.address
    assert shipper.stop_phase < store.stop_phase
    assert shipper.address in assembly.prometheus_yml(b)


def test_an_opensearch_of_yours_is_used_and_not_started(with_logs):
    b = with_logs("https://logs.example:9200")
    components = named(b)
    assert "opensearch" not in components
    assert (components["log-shipper"].needs, b.external["opensearch"]) == ((), "https://logs.example:9200")
    assert components["log-shipper"].env["OPENSEARCH_ENDPOINT"] == "https://logs.example:9200"
    assert not any("opensearch" in path.name for path in assembly.files(b))


def test_opensearch_listens_on_this_machine_only_and_its_heap_is_bounded(with_logs):
    b = with_logs()
    node = json.loads(assembly.files(b)[b.run / "opensearch.json"])
    assert node["settings"]["network.host"] == "127.0.0.1"
    assert node["settings"]["http.port"] == str(b.ports.opensearch)
    assert {"-Xmx256m", "-Xms256m"} <= set(node["options"])
    assert node["settings"]["path.data"].startswith(str(b.data))


def test_parts_whose_address_is_set_are_used_and_not_started(blueprint):
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


def test_processes_are_told_the_moved_addresses(blueprint):
    env = named(blueprint())["replica-2/serve"].env
    assert env["REPLICA_ID"] == "replica-2"
    assert env["HTTP_PORT"] == "21012"
    assert env["KAFKA_BOOTSTRAP_SERVERS"] == f"127.0.0.1:{Ports.at(21_000).kafka}"


def test_parts_stop_from_the_outside_in_and_in_time(blueprint):
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


def haproxy_cfg(*, trusted="127.0.0.1", exports=True, **settings):
    http = HttpSettings(_env_file=None, **settings)
    return assembly.haproxy_cfg(Ports.at(21_000), Path("/e"), http, trusted_clients=trusted, exports=exports)


def test_haproxy_has_a_slot_for_every_replica_that_may_come(blueprint):
    cfg = haproxy_cfg()
    servers = [line.split()[1:4] for line in cfg.splitlines() if line.startswith("    server ")]
    slots = [(f"replica-{i}", f"127.0.0.1:{21_010 + i}") for i in range(1, 7)]
    assert servers == [
        *([name, address, "check"] for name, address in slots),
        *([f"{name}-unchecked", address, "backup"] for name, address in slots[:4]),
    ]


class SlidingCounter:
    """HAProxy's rate over a period: this one's count, and of the one before it the component that is still in the window."""

    def __init__(self, seconds):
        self._seconds, self._period, self._now, self._before = seconds, 0, 0, 0

    def rate(self, at):
        period, within = divmod(at, self._seconds)
        if period != self._period:
            self._before = self._now if period == self._period + 1 else 0
            self._now, self._period = 0, period
        return self._now + self._before * (1 - within / self._seconds)

    def add(self):
        self._now += 1


@given(
    start=st.floats(0, 100),
    gaps=st.lists(st.sampled_from([0.0, 0.01, 0.019, 0.1, 0.7, 2.0, 9.0]), min_size=1, max_size=60),
)
@example(start=0.0, gaps=[0.1] * 70)
def test_the_balancer_refuses_nobody_whom_a_bucket_lets_through(start, gaps):
    cfg = haproxy_cfg(rate_limit_per_second=10, rate_limit_burst=8)
    windows = [int(ms) / 1000 for ms in re.findall(r"gpc[01]_rate\((\d+)ms\)", cfg)[:2]]
    most = [int(n) for n in re.findall(r"!probe \{ sc0_gpc[01]_rate gt (\d+) \}", cfg)]
    assert (len(windows), len(most)) == (2, 2)
    counters = [SlidingCounter(seconds) for seconds in windows]
    bucket, now = TokenBuckets(10, 8, 1), start
    for gap in gaps:
        now += gap
        while bucket.take("a", now) == 0:  # as fast as the bucket allows
            for counter, allowed in zip(counters, most, strict=True):
                assert counter.rate(now) <= allowed
                counter.add()


def test_an_haproxy_without_the_exporter_gets_a_configuration_without_it():
    cfg = haproxy_cfg(exports=False)
    assert "prometheus-exporter" not in cfg


ERROR_FILES = assembly.error_files(HttpSettings(_env_file=None))


@pytest.mark.parametrize("name", ERROR_FILES)
def test_the_balancers_own_errors_have_the_shape_of_ours(name):
    head, _, body = ERROR_FILES[name].partition("\r\n\r\n")
    status = int(name[:3])
    problem = msgspec.json.decode(body, type=ProblemBody)
    assert problem.status == status
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "content-type: application/problem+json" in head
    assert f"content-length: {len(body)}" in head
    assert ("retry-after" in head) == (status in {429, 503, 504})


def test_every_file_that_haproxy_is_told_of_is_written(blueprint):
    written = assembly.files(blueprint())
    (cfg,) = [content for path, content in written.items() if path.name == "haproxy.cfg"]
    named = {Path(word) for word in cfg.split() if word.endswith(".http")}
    assert named == {path for path in written if path.suffix == ".http"}


def test_a_slow_rate_is_told_by_the_balancer_too():
    files = assembly.error_files(HttpSettings(_env_file=None, rate_limit_per_second=0.1))
    assert "retry-after: 10\r\n" in files["429.http"]


def test_nobody_is_trusted_where_nobody_is_named():
    assert "acl trusted always_false" in haproxy_cfg(trusted="")


def test_a_replica_is_told_whom_to_trust(blueprint):
    def trust(**http):
        env = assembly.replica(blueprint(http=http), 1)[0].env
        return env["TRUSTED_PROXIES"], env["TRUSTED_CLIENTS"]

    assert trust() == ("127.0.0.1", "127.0.0.1")
    assert trust(trusted_clients="") == ("127.0.0.1", "")
    assert trust(trusted_proxies="10.0.0.0/8", trusted_clients="10.1.0.0/16") == (
        "127.0.0.1,10.0.0.0/8",
        "10.1.0.0/16",
    )


def test_prometheus_finds_both_processes_of_live_slots_only():
    groups = json.loads(assembly.targets_json(Ports(), [1, 5]))
    assert [group["targets"] for group in groups] == [
        ["127.0.0.1:8101"],
        ["127.0.0.1:8201"],
        ["127.0.0.1:8105"],
        ["127.0.0.1:8205"],
    ]
    assert groups[3]["labels"] == {
        "namespace": "ml-model",
        "service": "ml-model",
        "pod": "replica-5",
        "container": "stream",
    }


def test_prometheus_watches_once_all_is_there_so_that_a_start_is_no_alarm(blueprint):
    components = named(blueprint())
    assert {"autoscaler", *(name for name in components if "/" in name)} == set(
        components["prometheus"].needs
    )


def test_prometheus_asks_the_model_every_5_s_and_the_rest_every_15_s(blueprint):
    yml = assembly.prometheus_yml(blueprint())
    assert yml.count("scrape_interval: 5s") == 1
    assert "- job_name: ml-model\n    scrape_interval: 5s" in yml
    assert "  scrape_interval: 15s\n  evaluation_interval: 15s" in yml


def test_scrapes_are_as_much_more_frequent_as_the_autoscalers_time_is_faster(blueprint):
    b = blueprint()
    yml = assembly.prometheus_yml(replace(b, local=b.local.model_copy(update={"time_scale": 10})))
    assert "- job_name: ml-model\n    scrape_interval: 500ms" in yml
    assert "  scrape_interval: 1500ms\n  evaluation_interval: 1500ms" in yml


def test_the_queue_gets_the_namespace_from_the_autoscalers_target_and_its_hpa_series_keep_theirs(blueprint):
    jobs = {
        job["job_name"]: job for job in yaml.safe_load(assembly.prometheus_yml(blueprint()))["scrape_configs"]
    }
    (target,) = jobs["autoscaler"]["static_configs"]
    assert target["labels"]["namespace"] == "ml-model"
    assert jobs["autoscaler"]["honor_labels"]
    assert "honor_labels" not in jobs["node"]


def test_the_rules_of_the_cluster_are_loaded_with_links_of_this_machine(blueprint):
    b = blueprint()
    (loaded,) = yaml.safe_load(assembly.prometheus_yml(b))["rule_files"]
    (path,) = [path for path in assembly.files(b) if path.match(loaded)]
    text = assembly.files(b)[path]
    assert not {"fraudscale.example", "grafana.example"} & set(re.findall(r"\w+\.example", text))
    assert f"dashboard_url: http://127.0.0.1:{b.ports.console}\n" in text


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


@pytest.fixture
def fake_grafana(tmp_path, monkeypatch):
    """A program of that name on PATH, with the files that tell where it is at home."""
    program = tmp_path / "opt/bin/grafana"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "opt/share/grafana/conf").mkdir(parents=True)
    (tmp_path / "opt/share/grafana/conf/defaults.ini").touch()
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_a_grafana_on_path_is_one_more_part_read_only_and_on_this_machine(blueprint, fake_grafana):
    b = blueprint()
    b = replace(b, tools=replace(b.tools, grafana=grafana.find()))
    component = named(b)["grafana"]
    assert component.command == (
        str(fake_grafana),
        "server",
        f"--homepath={fake_grafana.parents[1] / 'share/grafana'}",
        f"--config={b.run / 'grafana.ini'}",
    )
    ini = ConfigParser()
    ini.read_string(assembly.files(b)[b.run / "grafana.ini"])
    assert (ini["server"]["http_addr"], ini["server"]["http_port"]) == ("127.0.0.1", str(b.ports.grafana))
    assert ini["auth.anonymous"]["org_role"] == "Viewer"
    assert ini["auth"]["disable_login_form"] == "true"
    assert assembly.ports_needed(b)["grafana"] == b.ports.grafana


def test_grafanas_provisioning_finds_the_prometheus_and_the_dashboard_of_this_machine(
    blueprint, fake_grafana
):
    b = blueprint()
    b = replace(b, tools=replace(b.tools, grafana=grafana.find()))
    env = named(b)["grafana"].env
    ini = ConfigParser()
    ini.read_string(assembly.files(b)[b.run / "grafana.ini"])
    provisioning = Path(ini["paths"]["provisioning"])
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/ml-model.yaml").read_text())["providers"]
    assert Template(source["url"]).substitute(env) == b.prometheus
    assert Path(Template(provider["options"]["path"]).substitute(env)) == b.dashboard.parent


def test_without_a_grafana_none_is_started_and_its_port_may_be_taken(blueprint, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert grafana.find() is None
    assert "grafana" not in named(blueprint())
    assert "grafana" not in assembly.ports_needed(blueprint())


def test_the_autoscaler_is_told_its_time_scale_and_manifests_and_stops_before_the_replicas(blueprint):
    component = named(blueprint())["autoscaler"]
    assert component.env["TIME_SCALE"] == "1.0"
    assert component.env["HPA_MANIFEST"].endswith("argocd/manifests/hpa.yaml")
    assert component.stop_phase < named(blueprint())["replica-1/serve"].stop_phase


def test_each_process_is_told_the_request_of_its_container(blueprint):
    b = blueprint()
    for half in ("serve", "stream"):
        told = named(b)[f"replica-1/{half}"].env["CPU_REQUEST_MILLICORES"]
        assert int(told) == b.scaling.requests[half]["cpu"]


def test_prepare_forgets_the_wish_of_an_earlier_run(blueprint):
    b = blueprint()
    b.run.mkdir(parents=True)
    wish.write(b.home, wish.Wish(6, "earlier"))
    assembly.prepare(b)
    assert not wish.path(b.home).exists()


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_data_of_kafka_is_bounded(mode):
    properties = assembly.kafka_properties(Ports(), Path("/d"), mode)
    assert {"log.retention.hours=24", "log.retention.bytes=67108864"} <= set(properties.splitlines())


def test_data_of_zookeeper_and_prometheus_is_bounded(blueprint):
    cfg = assembly.zookeeper_cfg(Ports(), Path("/z"))
    assert {"autopurge.snapRetainCount=3", "autopurge.purgeInterval=1"} <= set(cfg.splitlines())
    flags = named(blueprint())["prometheus"].command
    assert {"--storage.tsdb.retention.time=7d", "--storage.tsdb.retention.size=512MB"} <= set(flags)


def test_group_session_limits_fall_together_or_kafka_would_not_start():
    lines = assembly.kafka_properties(Ports(), Path("/d")).splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in ("session.timeout", "heartbeat.interval"):
        assert int(values[f"group.consumer.min.{name}.ms"]) <= int(values[f"group.consumer.{name}.ms"])


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


def test_nobody_listening_is_not_ready():
    with assembly.socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert assembly.tcp_open("127.0.0.1", port)
    assert not assembly.tcp_open("127.0.0.1", port)
    assert not assembly.http_ok(f"http://127.0.0.1:{port}/readyz")
