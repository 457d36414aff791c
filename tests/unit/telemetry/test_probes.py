import http.client
import json
import socket
import threading
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from fraudscale.config import MetricsSettings, SettingsError
from fraudscale.metrics import ModelMetrics
from fraudscale.telemetry.probes import OpsServer


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def answers(port):
    """Asks a running server: `answers(method, path) -> (status, headers, body)`."""
    registry = CollectorRegistry()
    registry.register(ModelMetrics())
    reasons = [None, None]
    server = OpsServer(
        MetricsSettings(metrics_port=port), registry, lambda: reasons[0], stuck=lambda: reasons[1]
    )
    server.start()

    def ask(method, path, not_ready=None, stuck=None, **headers):
        reasons[:] = not_ready, stuck
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        result = answer.status, answer.headers, answer.read()
        connection.close()
        return result

    yield ask
    server.stop()


def test_shows_the_metrics(answers):
    status, headers, body = answers("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert b'ml_model_errors_total{error_type="validation"} 0.0' in body


def test_a_query_string_does_not_hide_the_metrics(answers):
    assert answers("GET", "/metrics?x=1")[0] == 200


@pytest.mark.parametrize("accept", ["text/plain;version=1.x", "application/openmetrics-text;version=²"])
def test_a_strange_wish_for_a_format_gets_the_usual_one(answers, accept):
    status, headers, _ = answers("GET", "/metrics", accept=accept)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
def test_head_is_answered_as_get(answers, path):
    status, headers, body = answers("HEAD", path)
    assert (status, headers["Content-Type"], body) == (200, answers("GET", path)[1]["Content-Type"], b"")


def test_is_alive_whether_ready_or_not(answers):
    assert answers("GET", "/livez", not_ready="no model")[0] == 200


def test_is_ready_or_says_why_not(answers):
    assert answers("GET", "/readyz")[0] == 200
    status, headers, body = answers("GET", "/readyz", not_ready="no model")
    assert (status, headers["Content-Type"]) == (503, "application/problem+json")
    assert json.loads(body)["detail"] == "no model"


def test_a_process_that_is_stuck_says_so_to_whoever_may_start_it_again(answers):
    status, _, body = answers("GET", "/livez", stuck="no sync for 600 s")
    assert (status, json.loads(body)["detail"]) == (503, "no sync for 600 s")
    assert answers("GET", "/livez")[0] == 200


def test_answers_an_unknown_path_with_a_problem(answers):
    status, headers, body = answers("GET", "/predict")
    assert (status, headers["Content-Type"]) == (404, "application/problem+json")
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "here are /metrics, /livez and /readyz",
    }


def test_head_has_the_length_of_the_body_and_no_body(answers, port):
    with socket.create_connection(("127.0.0.1", port), 5) as connection, connection.makefile("rb") as answer:
        connection.sendall(b"HEAD /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        content = answer.read()
    assert b"content-length: 3\r\n" in content
    assert content.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "DELETE", "BREW"])
def test_allows_reading_only(answers, method):
    status, headers, body = answers(method, "/metrics")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["status"] == 405


def test_a_slow_scrape_holds_up_no_probe_and_no_stop(port):
    """A collector that hangs must not have the process restarted, nor keep it from stopping."""
    begun, done = threading.Event(), threading.Event()

    class Slow(Collector):
        def describe(self):
            return []

        def collect(self):
            begun.set()
            done.wait(60)
            return []

    registry = CollectorRegistry()
    registry.register(Slow())
    server = OpsServer(MetricsSettings(metrics_port=port), registry, lambda: None)
    server.start()
    scrape = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    scrape.request("GET", "/metrics")
    assert begun.wait(60)
    probe = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    probe.request("GET", "/livez")
    assert probe.getresponse().status == 200
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 30
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    done.set()
    scrape.close()
    probe.close()


def test_names_the_setting_when_its_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"METRICS_PORT={port}: can't listen on 127.0.0.1:{port}"):
            OpsServer(MetricsSettings(metrics_port=port), CollectorRegistry(), lambda: None)
