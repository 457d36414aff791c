"""What commands learn of a platform from outside: JSON of its components, and the model in use."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@pytest.fixture
def home(tmp_path):
    components = [
        ComponentStatus("haproxy", "ready", "127.0.0.1:8100", 1),
        ComponentStatus("kafka", "ready", "127.0.0.1:8101", 2),
        ComponentStatus("prometheus", "external", "https://prometheus.example", None),
        ComponentStatus("opensearch", "ready", "http://127.0.0.1:8109", 3),
    ]
    state.write(tmp_path, Status(ready=True, components=components))
    return tmp_path


def test_addresses_are_those_of_the_platform_that_runs(home):
    found = running.find(home)
    assert (found.entry, found.prometheus) == ("http://127.0.0.1:8100", "https://prometheus.example")
    assert found.kafka.kafka_bootstrap_servers == "127.0.0.1:8101"


def test_settings_come_before_what_runs(home, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_ENDPOINT", "http://mine:9090")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")
    found = running.find(home)
    assert found.prometheus.rstrip("/") == "http://mine:9090"
    assert found.kafka.kafka_bootstrap_servers == "broker:9092"


def test_without_a_platform_the_usual_addresses_are_as_good_a_guess_as_any(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUDSCALE_PORT_BASE", "9000")
    ports = Ports.at(9000)
    found = running.find(tmp_path)
    assert found.entry == f"http://127.0.0.1:{ports.entry}"
    assert running.log_store(LocalSettings.read()) == f"http://127.0.0.1:{ports.opensearch}"


@pytest.mark.parametrize(
    ("state_of_it", "address"),
    [("ready", "http://127.0.0.1:8109"), ("external", "http://logs"), ("dead", None)],
)
def test_lines_are_asked_of_the_store_that_the_platform_ships_to(home, state_of_it, address):
    it = ComponentStatus("opensearch", state_of_it, address or "http://127.0.0.1:8109", None)
    state.write(home, Status(ready=True, components=[it]))
    store = running.open_log_store(home, CentralLogSettings())
    assert (store and store.endpoint) == address
