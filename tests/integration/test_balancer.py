"""A real HAProxy with the configuration of one machine: whom it takes for a replica, and whom it refuses."""

import http.client
import json
import os
import re
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from fraudscale.config import AlertSettings, HttpSettings, KafkaSettings, LocalSettings, ModelSettings
from fraudscale.local import routes
from fraudscale.local.components import assembly, haproxy
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.debian import HAPROXY, Packages
from fraudscale.local.install.folder import DownloadFolder
from fraudscale.local.install.ports import HOST, Ports, claim_block
from fraudscale.local.supervisor.supervise import State
from fraudscale.telemetry.asgi import REPLICA_HEADER


def wait(condition):
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Slot(ThreadingHTTPServer):
    """Whoever has the port of a slot: answers 200 to everything, and keeps what it is sent."""

    daemon_threads = True

    def __init__(self, port, identity=None, kind="application/json"):
        self.got, self.identity, self.kind = [], identity, kind
        super().__init__((HOST, port), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """A check is over once its headers are there, and the body breaks off."""

    def server_close(self):
        self.shutdown()
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"{}" if self.server.kind == "application/json" else b"<html>my app</html>"
        self.send_response(200)
        if self.server.identity:
            self.send_header(REPLICA_HEADER, self.server.identity)
        self.send_header("content-type", self.server.kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.got.append(self.rfile.read(int(self.headers["content-length"])))
        self.do_GET()

    def log_message(self, *_):
        pass


class Balancer:
    """HAProxy on ports of its own, in a folder whose path is longer than a socket's may be."""

    def __init__(self, folder, ports, **http):
        downloads = Packages(DownloadFolder(LocalSettings.read().fraudscale_cache, print))
        tools = SimpleNamespace(
            haproxy=downloads.programs([HAPROXY])[HAPROXY],
            haproxy_libraries=downloads.libraries(HAPROXY.package),
            haproxy_exports=True,
        )
        local = LocalSettings(fraudscale_home=folder)
        http = HttpSettings(_env_file=None, **http)
        self.ports = ports
        self.blueprint = Blueprint(
            local, ModelSettings(), KafkaSettings(), http, AlertSettings(), tools, ports
        )
        self.control = self.blueprint.run / haproxy.SOCKET
        for path, content in haproxy.files(self.blueprint).items():
            assembly.write(path, content)
        self.start()

    def start(self):
        made = haproxy.component(self.blueprint)
        self.process = subprocess.Popen(made.command, env=os.environ | made.env)

    def answers(self):
        wait(lambda: self.ask("/livez", "GET") is not None)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def replica(self, slot, **more):
        return Slot(self.ports.serve[slot - 1], f"replica-{slot}@{self.blueprint.run_id}", **more)

    def ask(self, path="/predict", method="POST", source=HOST):
        """Return status and content type of an answer; None for none."""
        connection = http.client.HTTPConnection(
            HOST, self.ports.entry, timeout=30, source_address=(source, 0)
        )
        try:
            content = json.dumps({}) if method == "POST" else None
            connection.request(method, path, content, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers["content-type"]
        except OSError:
            return None
        finally:
            connection.close()

    def opens(self, *slots):
        wait(lambda: not self.fails(routes.tell, self.control, slots))

    def fails(self, act, *arguments):
        try:
            act(*arguments)
        except OSError:
            return True
        return False


@pytest.fixture
def start(tmp_path):
    with claim_block() as base:
        made = []

        def start(**http):
            made.append(Balancer(tmp_path / ("deep" * 30), Ports.at(base), **http))
            return made[-1].answers()

        yield start
        for each in made:
            each.kill()


@pytest.fixture
def balancer(start):
    return start()


@pytest.fixture
def holding():
    """Hold ports of slots; given up in the end."""
    held = []

    def hold(make, *arguments, **more):
        held.append(make(*arguments, **more))
        return held[-1]

    yield hold
    for slot in held:
        slot.server_close()


def test_nobody_gets_a_transaction_but_replicas_of_this_run_in_slots_that_are_open(balancer, holding):
    ours = holding(balancer.replica, 1)
    port = balancer.ports.serve
    strangers = [
        holding(Slot, port[1], kind="text/html"),
        holding(Slot, port[2], identity="replica-3@another-run"),
        holding(Slot, port[3], identity=f"replica-1@{balancer.blueprint.run_id}"),
    ]
    closed = holding(balancer.replica, 5)
    assert balancer.ask()[0] == 503, "all slots are in maintenance at the start"
    balancer.opens(1, 2, 3, 4)
    wait(lambda: balancer.ask("/readyz", "GET")[0] == 200)
    # a slot that is opened counts as up until its first check
    wait(lambda: _up(balancer) == {"replica-1"})
    for stranger in strangers:
        stranger.got.clear()
    ours.got.clear()
    assert {balancer.ask() for _ in range(40)} == {(200, "application/json")}
    assert len(ours.got) == 40
    assert [stranger.got for stranger in (*strangers, closed)] == [[], [], [], []]


def _up(balancer):
    """Names of the checked slots that HAProxy calls up."""
    connection = http.client.HTTPConnection(HOST, balancer.ports.haproxy_metrics, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return set(
        re.findall(
            r'^haproxy_server_status\{proxy="replicas",server="(replica-\d)",state="UP"\} 1$',
            text,
            re.MULTILINE,
        )
    )


def test_a_stranger_between_two_checks_is_nobodys_prediction(balancer, holding):
    holding(balancer.replica, 1, kind="text/html")
    balancer.opens(1)
    wait(lambda: balancer.ask("/readyz", "GET")[0] == 200)
    assert balancer.ask() == (502, "application/problem+json")
    assert balancer.ask("/docs", "GET") == (200, "text/html")


def test_the_supervisor_opens_what_is_ready_closes_what_died_and_tells_a_new_balancer_again(
    balancer, holding
):
    holding(balancer.replica, 1)
    route = routes.Routes(balancer.control)
    serve = SimpleNamespace(pid=7, state=State.STARTING)
    managed = {"haproxy": SimpleNamespace(pid=balancer.process.pid), "replica-1/serve": serve}

    def status_is(expected):
        route.follow(managed)
        return balancer.ask()[0] == expected

    route.follow(managed)
    assert balancer.ask()[0] == 503, "it was never ready"
    serve.state = State.READY
    wait(lambda: status_is(200))
    balancer.kill()
    balancer.start()
    balancer.answers()
    managed["haproxy"].pid = balancer.process.pid
    wait(lambda: status_is(200))
    serve.pid, serve.state = None, State.RESTARTING
    wait(lambda: status_is(503))
    serve.pid, serve.state = 8, State.STARTING
    for _ in range(5):
        assert status_is(503), "its successor is not ready yet"
    route.close()


def test_a_client_above_its_rate_is_refused_a_trusted_one_and_others_are_not(start, holding):
    balancer = start(rate_limit_per_second=10)
    holding(balancer.replica, 1)
    balancer.opens(1)
    wait(lambda: balancer.ask("/readyz", "GET")[0] == 200)
    assert {balancer.ask() for _ in range(200)} == {(200, "application/json")}, "127.0.0.1 is trusted"
    stranger = [balancer.ask(source="127.0.0.2") for _ in range(60)]
    assert stranger[:20] == [(200, "application/json")] * 20, "the burst"
    assert stranger[-1] == (429, "application/problem+json")
    assert balancer.ask("/livez", "GET", source="127.0.0.2")[0] == 200
    assert balancer.ask(source="127.0.0.3")[0] == 200
