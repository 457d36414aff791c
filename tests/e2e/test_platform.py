"""One command brings the platform up, and it scores: asked as a person or another program would ask it."""

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import psutil
import pytest
from confluent_kafka import Consumer, Producer

from fraudscale import metrics

EXAMPLE = {
    "transaction_id": "tx-1",
    "amount": 949.9,
    "merchant_category": "electronics",
    "hour": 3,
    "day_of_week": 6,
    "user_age": 23,
    "account_balance": 1200.0,
}
ANSWER = [
    "transaction_id",
    "is_fraud",
    "fraud_probability",
    "confidence",
    "model_version",
    "prediction_time",
    "processing_time_ms",
    "replica_id",
]


def test_status_shows_every_component_ready(platform):
    asked = platform.wait(
        lambda: (done := platform.fraudscale("status", "--json")).returncode == 0 and done, "all is ready"
    )
    status = json.loads(asked.stdout)
    states = {c["name"]: c["state"] for c in status["components"]}
    wanted = {
        "kafka",
        "mlflow",
        "haproxy",
        "prometheus",
        "alertmanager",
        "node-exporter",
        "autoscaler",
        "console",
        "traffic",
    }
    assert wanted <= set(states)
    assert set(states.values()) == {"ready"}
    assert [(r["id"], r["state"]) for r in status["replicas"]] == [
        (f"replica-{i}", "ready") for i in (1, 2, 3, 4)
    ]
    assert all(r["serve_pid"] and r["stream_pid"] for r in status["replicas"])
    assert status["model"]["alias"] == "champion"


def test_the_example_of_the_readme_is_scored(platform):
    status, answer = platform.ask("POST", "/predict", EXAMPLE)
    assert status == 200
    assert list(answer) == ANSWER
    assert 0 <= answer["fraud_probability"] <= 1


def test_requests_are_spread_over_all_replicas(platform):
    answered = {platform.ask("POST", "/predict", EXAMPLE)[1]["replica_id"] for _ in range(40)}
    assert answered == {f"replica-{i}" for i in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/predict", {"transaction_id": "x"}, 422),
        ("POST", "/predict", "x" * 2_000_000, 413),
        ("GET", "/predict", None, 405),
        ("GET", "/nothing", None, 404),
    ],
)
def test_errors_pass_the_balancer_in_their_one_shape(platform, method, path, body, status):
    got, problem = platform.ask(method, path, body)
    assert (got, problem["status"]) == (status, status)


def test_the_balancer_speaks_the_same_error_shape(platform):
    """Its own limit for a body that trickles in; a request that is no HTTP at all gets HAProxy 2.6's stock page."""
    head = (
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", platform.ports.entry), timeout=60) as connection:
        connection.sendall(head)
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert b" 408 " in head.splitlines()[0]
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 408


def test_transactions_on_the_topic_are_scored_and_bad_ones_set_aside(platform):
    bootstrap = f"127.0.0.1:{platform.ports.kafka}"
    ids = {f"e2e-{i}" for i in range(200)}
    producer = Producer({"bootstrap.servers": bootstrap})
    for id_ in ids:
        producer.produce("transactions", json.dumps(EXAMPLE | {"transaction_id": id_}), key=id_)
    producer.produce("transactions", b"{broken", key="e2e-broken")
    assert producer.flush(30) == 0
    scored = read(bootstrap, "transactions.scored", lambda m: m.key().decode() in ids, len(ids))
    assert {m.key().decode() for m in scored} == ids
    value = json.loads(scored[0].value())
    assert set(ANSWER) | set(EXAMPLE) | {"event_time", "schema_version"} == set(value)
    (dead,) = read(bootstrap, "transactions.dead-letter", lambda m: m.key() == b"e2e-broken", 1)
    assert dead.value() == b"{broken"


def read(bootstrap, topic, wanted, count):
    """Read a topic from its beginning until `count` wanted records were seen."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"e2e-{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    found, deadline = [], time.monotonic() + 90
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records on {topic}"
            found += [m for m in consumer.consume(500, 0.5) if m.error() is None and wanted(m)]
    finally:
        consumer.close()
    return found


def test_every_metric_is_exported_and_in_prometheus(platform):
    exported = ""
    for port in (platform.ports.serve[0], platform.ports.stream[0], platform.ports.autoscaler):
        exported += platform.ask("GET", "/metrics", port=port)[1]
    # those of the shipper come with central logs
    for metric in [metric for metric in metrics.METRICS if not metric.name.startswith("logs_")]:
        assert f"# TYPE {metric.name} {metric.kind}" in exported, metric.name
        series = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        job = "autoscaler" if series.startswith("kube_") else "ml-model"
        platform.wait(
            lambda series=series, job=job: platform.query(f'{series}{{job="{job}"}}'),
            f"{series} is in Prometheus",
        )


def test_prometheus_reaches_every_target(platform):
    def all_up():
        targets = platform.query("up")
        return len(targets) >= 12 and all(t["value"][1] == "1" for t in targets) and targets

    targets = platform.wait(all_up, "every target is up")
    jobs = [t["metric"]["job"] for t in targets]
    assert jobs.count("ml-model") == 8


def test_sample_traffic_comes_through_both_doors(platform):
    for container in ("serve", "stream"):
        expression = f'sum(increase(ml_model_predictions_total{{container="{container}"}}[30s]))'
        platform.wait(
            lambda e=expression: (r := platform.query(e)) and float(r[0]["value"][1]) > 0,
            f"traffic over {container}",
        )


def refused(answers):
    """Return what was not scored: its `detail` names who refused it, and why."""
    return [answer for answer in answers if answer[0] != 200]


def test_a_new_model_is_loaded_under_load_without_a_failed_request(harmed):
    before = harmed.ask("GET", "/model")[1]["version"]
    done = threading.Event()
    answers = []

    def load():
        while not done.wait(0.01):  # some hundred requests a second, which leave the training its core
            answers.append(harmed.ask("POST", "/predict", EXAMPLE))

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load) for _ in range(2)]
        try:
            uri = f"http://127.0.0.1:{harmed.ports.mlflow}"
            trained = harmed.fraudscale(
                "train", "--seed", "2", "--promote", "--json", MLFLOW_TRACKING_URI=uri
            )
            assert trained.returncode == 0, trained.stderr
            version = json.loads(trained.stdout)["version"]
            all_ports = [*harmed.ports.serve[:4]]
            harmed.wait(
                lambda: {harmed.ask("GET", "/model", port=p)[1]["version"] for p in all_ports} == {version},
                "every replica serves the new version",
            )
        finally:
            done.set()
        for each in loads:
            each.result()
    assert version != before
    assert refused(answers) == []
    assert {a["model_version"] for _, a in answers} >= {before}


@pytest.mark.parametrize("door", ["serve", "stream"])
def test_a_killed_replica_comes_back_and_no_request_fails(harmed, door):
    log = harmed.home / "logs/supervisor.log"
    before = len(log.read_text())
    replica = harmed.status()["replicas"][1]
    psutil.Process(replica[f"{door}_pid"]).kill()
    answers = [harmed.ask("POST", "/predict", EXAMPLE) for _ in range(200)]
    assert refused(answers) == []

    def back():
        now = harmed.status()
        return now["ready"] and now["replicas"][1][f"{door}_pid"] != replica[f"{door}_pid"]

    harmed.wait(back, "the replica is back")
    assert "part_died" in log.read_text()[before:]


class Stranger(BaseHTTPRequestHandler):
    """Somebody's development server: answers 200 with its page to everything."""

    protocol_version = "HTTP/1.1"
    got: ClassVar[list[bytes]] = []

    def do_GET(self):
        page = b"<html>my app</html>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        self.got.append(self.rfile.read(int(self.headers["content-length"])))
        self.do_GET()

    def log_message(self, *_):
        pass


@contextmanager
def stranger_at(port):
    """Take a port as soon as it is free."""
    deadline = time.monotonic() + 30
    while True:
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), Stranger)
            break
        except OSError:
            assert time.monotonic() < deadline
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_whoever_takes_the_port_of_a_slot_is_neither_ready_nor_sent_a_transaction(harmed):
    Stranger.got.clear()
    idle, killed = harmed.ports.serve[4], harmed.ports.serve[1]
    with stranger_at(idle):
        psutil.Process(harmed.status()["replicas"][1]["serve_pid"]).kill()
        with stranger_at(killed):
            answers = [harmed.ask("POST", "/predict", EXAMPLE) for _ in range(50)]
            assert {status for status, _ in answers} <= {200, 502}
            assert all("<html>" not in body for _, body in answers)
            harmed.wait(
                lambda: harmed.status()["replicas"][1]["state"] != "ready",
                "the supervisor has seen the death",
            )
            Stranger.got.clear()
            for _ in range(10):
                assert harmed.status()["replicas"][1]["state"] != "ready", "its child has no port"
                assert refused([harmed.ask("POST", "/predict", EXAMPLE) for _ in range(20)]) == []
            assert Stranger.got == []


def test_replicas_that_all_stall_for_a_while_refuse_nobody(harmed):
    """As on a machine that is too busy for any of them to answer the balancer's checks in time."""
    log = harmed.home / "logs/haproxy.log"
    missed = log.read_text().count("reason: Layer7 timeout")
    replicas = [psutil.Process(replica["serve_pid"]) for replica in harmed.status()["replicas"]]
    with ThreadPoolExecutor(16) as pool:
        try:
            for replica in replicas:
                replica.suspend()
            harmed.wait(
                lambda: log.read_text().count("reason: Layer7 timeout") >= missed + len(replicas),
                "the balancer misses them all",
            )
            asked = [pool.submit(harmed.ask, "POST", "/predict", EXAMPLE) for _ in range(16)]
            time.sleep(1)
        finally:
            for replica in replicas:
                replica.resume()
        answers = [each.result() for each in asked]
    assert refused(answers) == []
    harmed.wait(lambda: harmed.status()["ready"], "all is ready again")


def test_a_replica_starts_with_the_registry_stopped(harmed):
    mlflow = next(c["pid"] for c in harmed.status()["components"] if c["name"] == "mlflow")
    stopped = [psutil.Process(mlflow), *psutil.Process(mlflow).children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        old = harmed.status()["replicas"][2]["serve_pid"]
        psutil.Process(old).kill()
        harmed.wait(
            lambda: (
                harmed.status()["replicas"][2]["serve_pid"] not in {old, None}
                and _answers(harmed, harmed.ports.serve[2])
            ),
            "the replica is ready again",
        )
    finally:
        for process in stopped:
            process.resume()
    harmed.wait(lambda: harmed.status()["ready"], "all is ready again")


def _answers(platform, port):
    try:
        return platform.ask("GET", "/readyz", port=port)[0] == 200
    except OSError:
        return False


def test_a_second_up_says_that_one_runs(platform):
    second = platform.fraudscale("up")
    assert second.returncode == 1
    assert f"process {platform.process.pid}" in second.stderr
    assert platform.status()["ready"]


def test_another_platform_on_the_same_ports_is_refused_with_their_names(platform, tmp_path):
    refused = platform.fraudscale("up", FRAUDSCALE_HOME=str(tmp_path / "other"))
    assert refused.returncode == 1
    assert f"port {platform.ports.entry} (entry) is held by" in refused.stderr
    assert "FRAUDSCALE_PORT_BASE" in refused.stderr


@pytest.mark.last
def test_a_stopped_platform_leaves_nothing_and_starts_again_from_what_it_knows(fragile):
    platform = fragile
    before = platform.ask("GET", "/model")[1]["version"]
    assert platform.stop(signal.SIGINT) == 0
    assert platform.processes() == []
    assert platform.fraudscale("status").returncode == 1
    platform.start()
    assert platform.ask("GET", "/model")[1]["version"] == before, "the second start trains nothing"
    platform.process.kill()  # a crash: nobody is left to stop the parts
    platform.process.wait()
    platform.process = None
    assert platform.processes()
    left = platform.fraudscale("status")
    assert (left.returncode, "kafka            orphan" in left.stdout) == (1, True)
    assert "`fraudscale down` stops them" in left.stdout
    assert platform.fraudscale("topics").stdout == "created: none, all exist\n", "what lives is still found"
    assert platform.fraudscale("down").returncode == 0
    assert platform.processes() == []
