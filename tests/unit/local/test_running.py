"""What commands learn of a platform from outside: JSON of its components, and the model in use."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fraudscale.config import CentralLogSettings, LocalSettings
from fraudscale.local import running
from fraudscale.local.install.ports import Ports
from fraudscale.local.supervisor import state
from fraudscale.local.supervisor.state import ComponentStatus, ModelInUse, Status


@pytest.fixture
def entry():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            self.send_response(server.status)
            self.end_headers()
            self.wfile.write(server.body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status, server.body, server.asked = 200, b"{}", []
        server.at = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ({"version": "3", "alias": "champion"}, ModelInUse("3", "champion")),
        ({"version": "3"}, ModelInUse("3", None)),
        ({"detail": "no model"}, None),
        ([], None),
    ],
)
def test_the_entry_tells_the_model_in_use(entry, said, model):
    entry.body = json.dumps(said).encode()
    assert running.model_at(f"http://{entry.at}") == model


def test_without_an_entry_nothing_is_asked():
    assert running.model_at("") is None


@pytest.mark.parametrize(("status", "body"), [(503, b"{}"), (200, b"<html>")])
def test_what_is_no_good_answer_is_none(entry, status, body):
    entry.status, entry.body = status, body
    assert running.get_json(entry.at, "/api", {"query": "a b"}) is None
    assert entry.asked == ["/api?query=a+b"]


LIVES = [state.identify(name, os.getpid()) for name in ("haproxy", "kafka", "mlflow", "opensearch")]
GONE = [state.Identity(process.name, process.pid, 1.0) for process in LIVES]
COMPONENTS = [
    ComponentStatus("haproxy", "ready", "127.0.0.1:8100", 1),
    ComponentStatus("kafka", "ready", "127.0.0.1:8101", 2),
    ComponentStatus("mlflow", "ready", "http://127.0.0.1:8102", 2),
    ComponentStatus("prometheus", "external", "https://prometheus.example", None),
    ComponentStatus("opensearch", "ready", "http://127.0.0.1:8109", 3),
]


@pytest.fixture
def home(tmp_path):
    state.write(tmp_path, Status(ready=True, components=COMPONENTS, processes=LIVES))
    return tmp_path


@pytest.fixture
def find(home):
    return lambda **settings: running.find(LocalSettings.read(fraudscale_home=home, **settings))


def test_addresses_are_those_of_the_platform_that_runs_whatever_the_ports_are_said_to_be(find, home):
    found = find(fraudscale_port_base=9000)
    assert (found.entry, found.prometheus) == ("http://127.0.0.1:8100", "https://prometheus.example")
    assert found.kafka.kafka_bootstrap_servers == "127.0.0.1:8101"
    assert found.model.mlflow_tracking_uri == "http://127.0.0.1:8102"
    assert found.model.model_cache_dir == home / "models"


def test_settings_come_before_what_runs(find, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_ENDPOINT", "http://mine:9090")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry")
    monkeypatch.setenv("MODEL_CACHE_DIR", "/copies")
    found = find()
    assert found.prometheus.rstrip("/") == "http://mine:9090"
    assert found.kafka.kafka_bootstrap_servers == "broker:9092"
    assert (found.model.mlflow_tracking_uri, found.model.model_cache_dir) == (
        "http://registry",
        Path("/copies"),
    )


@pytest.mark.parametrize("processes", [GONE, []])
def test_nobody_is_taken_for_a_platform_that_is_gone(find, home, processes):
    state.write(home, Status(ready=True, components=COMPONENTS, processes=processes))
    found = find()
    assert found.prometheus is None
    for name in ("entry", "kafka", "model"):
        with pytest.raises(running.NotRunning, match=f"no platform runs in {home}, .* `make up`"):
            getattr(found, name)
    assert running.open_log_store(home, CentralLogSettings()) is None


def test_what_lives_of_a_platform_is_found_after_the_rest_of_it_died(find, home):
    state.write(home, Status(ready=True, components=COMPONENTS, processes=[LIVES[1], *GONE[2:]]))
    found = find()
    assert found.kafka.kafka_bootstrap_servers == "127.0.0.1:8101"
    with pytest.raises(running.NotRunning, match="nothing is known of its mlflow"):
        _ = found.model


def test_without_a_platform_it_is_asked_where_its_ports_are_said_to_be(tmp_path):
    ports = Ports.at(9000)
    found = running.find(LocalSettings.read(fraudscale_home=tmp_path, fraudscale_port_base=9000))
    assert found.entry == f"http://127.0.0.1:{ports.entry}"
    assert found.kafka.kafka_bootstrap_servers == f"127.0.0.1:{ports.kafka}"
    assert running.log_store(found.local) == f"http://127.0.0.1:{ports.opensearch}"


@pytest.mark.parametrize(
    ("state_of_it", "address"),
    [("ready", "http://127.0.0.1:8109"), ("external", "http://logs"), ("dead", None)],
)
def test_lines_are_asked_of_the_store_that_the_platform_ships_to(home, state_of_it, address):
    it = ComponentStatus("opensearch", state_of_it, address or "http://127.0.0.1:8109", None)
    state.write(home, Status(ready=True, components=[it], processes=LIVES))
    store = running.open_log_store(home, CentralLogSettings())
    assert (store and store.endpoint) == address
