"""What Prometheus saw becomes a trace."""

import http.server
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from fraudscale.rehearsal import prometheus
from fraudscale.rehearsal.prometheus import PrometheusUnavailable
from fraudscale.rehearsal.trace import Segment, Setup, TraceError

NOW = 1_790_000_010.0
START = 1_789_999_950  # a minute before, on the grid of 15 s
REQUESTS = Setup(cpu_request_m=500, memory_request_mi=512)


class Prometheus:
    """Answers each of the three questions with points of its own, and remembers what it was asked."""

    def __init__(self):
        self.points = {
            prometheus.CPU: [
                (START, "1000"),
                (START + 15, "1100.5"),
                (START + 45, "NaN"),
                (START + 60, "1200"),
            ],
            prometheus.MEMORY: [(START, "200"), (START + 60, "220")],
            prometheus.REPLICAS: [(START, "5"), (START + 15, "4")],
        }
        self.body = None
        self.asked = []

    def answer(self, query):
        self.asked.append(query)
        if self.body is not None:
            return self.body
        start, end = float(query["start"]), float(query["end"])
        points = [point for point in self.points[query["query"]] if start <= point[0] <= end]
        result = [{"metric": {}, "values": points}] if points else []
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


@pytest.fixture
def server():
    found = Prometheus()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = found.answer(
                {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            )
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found.url = f"http://127.0.0.1:{listener.server_port}"
        yield found
        listener.shutdown()
        thread.join()


def test_what_was_measured_is_the_load_and_gaps_keep_what_was(server):
    found = prometheus.trace(server.url, 60, NOW, REQUESTS)
    assert found.load == (Segment(15, 1000, 200), Segment(60, 1100.5, 200), Segment(75, 1200, 220))


def test_replicas_start_as_many_as_there_were(server):
    assert prometheus.trace(server.url, 60, NOW, REQUESTS).initial_replicas == 5
    asked = Setup(cpu_request_m=500, memory_request_mi=512, initial_replicas=6)
    assert prometheus.trace(server.url, 60, NOW, asked).initial_replicas == 6


def test_a_long_window_is_asked_in_parts(server):
    prometheus.trace(server.url, 7 * 86_400, NOW, REQUESTS)
    spans = [(float(q["start"]), float(q["end"])) for q in server.asked if q["query"] == prometheus.CPU]
    assert len(spans) == 5
    assert all((end - start) / 15 < 11_000 for start, end in spans)
    assert [start for start, _ in spans[1:]] == [end + 15 for _, end in spans[:-1]]


def test_a_job_that_was_never_measured_is_told(server):
    server.points[prometheus.CPU] = []
    with pytest.raises(TraceError, match='job="ml-model": no CPU was measured'):
        prometheus.trace(server.url, 60, NOW, REQUESTS)


def test_a_refusal_is_passed_on(server):
    server.body = b'{"status": "error", "errorType": "bad_data", "error": "parse error"}'
    with pytest.raises(PrometheusUnavailable, match="refused the query: parse error"):
        prometheus.trace(server.url, 60, NOW, REQUESTS)


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_what_is_not_prometheus_is_told(server, body):
    server.body = body
    with pytest.raises(PrometheusUnavailable, match="is Prometheus there"):
        prometheus.trace(server.url, 60, NOW, REQUESTS)


def test_a_prometheus_that_is_down_is_told():
    with pytest.raises(PrometheusUnavailable, match="gave no answer"):
        prometheus.trace("http://127.0.0.1:1", 60, NOW, REQUESTS)


def test_two_points_are_a_load_and_one_is_none(server):
    server.points[prometheus.CPU] = [(START, "1000"), (START + 15, "1100")]
    assert prometheus.trace(server.url, 60, NOW, REQUESTS).load[-1] == Segment(30, 1100, 200)
    server.points[prometheus.CPU] = [(START, "1000")]
    with pytest.raises(TraceError, match="no CPU was measured"):
        prometheus.trace(server.url, 60, NOW, REQUESTS)


def test_without_any_memory_of_a_pod_it_uses_none(server):
    server.points[prometheus.MEMORY] = []
    server.points[prometheus.REPLICAS] = [(START + 15, "4")]
    found = prometheus.trace(server.url, 60, NOW, REQUESTS)
    assert ({s.memory_mi for s in found.load}, found.initial_replicas) == ({0}, None)


def test_a_window_is_asked_whole_to_its_last_second(server):
    prometheus.trace(server.url, 60, NOW, REQUESTS)
    asked = [(float(q["start"]), float(q["end"]), float(q["step"])) for q in server.asked]
    assert asked == [(START, NOW, 15)] * 3


@pytest.mark.parametrize(
    "url", ["localhost:9090", "ftp://127.0.0.1", "http://", "http://127.0.0.1:0", "", "http://[::"]
)
def test_what_is_no_address_is_told(url):
    with pytest.raises(TraceError, match=r"is not an address such as http://127\.0\.0\.1:9090"):
        prometheus.trace(url, 60, NOW, REQUESTS)
