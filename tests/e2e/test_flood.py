"""The platform under attack: clients are told apart by their address, 127.0.0.1 being the one that is trusted."""

import http.client
import json
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

from test_platform import EXAMPLE

ATTACKER, GOOD, LORIS = "127.0.0.2", "127.0.0.3", "127.0.0.4"
PER_CLIENT = 64
"""Connections; the default of `CONNECTIONS_PER_CLIENT`."""


def ask(platform, path, body=None, source=GOOD, port=None, **headers):
    """Return status, headers and decoded body of a request from one of this machine's addresses."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port or platform.ports.entry, timeout=30, source_address=(source, 0)
    )
    try:
        content = None if body is None else json.dumps(body)
        connection.request(
            "POST" if content else "GET", path, content, {"content-type": "application/json"} | headers
        )
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, answer.headers, json.loads(text) if text.startswith("{") else text
    finally:
        connection.close()


def load(platform, source, rate, seconds, *more):
    """Start `fraudscale load` from an address."""
    options = ("--source", source, "--rate", str(rate), "--seconds", str(seconds), "--connections", "32")
    return subprocess.Popen(
        platform.command("load", "--json", "--even", *options, *more),
        env=platform.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def report(process):
    return json.loads(process.communicate(timeout=120)[0])


@contextmanager
def flood(platform, rate):
    """Attack the balancer; give a list that holds the attacker's report in the end."""
    process, reports = load(platform, ATTACKER, rate, 300), []
    try:
        platform.wait(lambda: ask(platform, "/model", source=ATTACKER)[0] == 429, "the attacker is refused")
        yield reports
    finally:
        process.send_signal(signal.SIGINT)
        reports.append(report(process))


def test_a_good_client_is_served_while_an_attacker_is_refused(platform):
    calm = report(load(platform, GOOD, 20, 4))
    began = time.monotonic()
    with flood(platform, 400) as reports:
        good = load(platform, GOOD, 20, 5)
        watched = []
        while good.poll() is None:
            for path in ("/livez", "/readyz"):
                watched += [ask(platform, path, source=source)[0] for source in (GOOD, ATTACKER)]
                watched += [ask(platform, path, port=port)[0] for port in platform.ports.serve[:4]]
            time.sleep(0.2)
        flooded = report(good)
        status, headers, problem = ask(
            platform, "/predict", EXAMPLE, ATTACKER, **{"X-Forwarded-For": "127.0.0.1"}
        )
    seconds = time.monotonic() - began
    attacker = reports[0]
    print(  # noqa: T201 - for the report
        f"p99 of the good client: calm {calm['latency_ms']['p99']:.1f} ms, under attack "
        f"{flooded['latency_ms']['p99']:.1f} ms; attacker: {attacker['ok']} scored, {attacker['errors']} in {seconds:.1f} s"
    )
    assert flooded["sent"] >= 90
    assert flooded["ok"] >= 0.99 * flooded["sent"], flooded["errors"]
    assert set(watched) == {200}
    assert (status, problem["status"], headers["retry-after"]) == (429, 429, "1")
    assert attacker["errors"]["429"] > attacker["ok"]
    # The balancer counts in windows that slide in steps, so it is not exact to the request.
    assert attacker["ok"] <= 1.5 * (100 + 50 * seconds)
    metrics = ask(platform, "/metrics", source="127.0.0.1", port=platform.ports.haproxy_metrics)[2]
    denied = re.search(
        r'^haproxy_frontend_requests_denied_total\{proxy="entry"\} (\d+)', metrics, re.MULTILINE
    )
    assert int(denied[1]) >= attacker["errors"]["429"]


def test_a_replica_asked_directly_has_limits_of_its_own(platform):
    port = platform.ports.serve[0]
    attacker = report(load(platform, ATTACKER, 400, 2, "--url", f"http://127.0.0.1:{port}"))
    assert attacker["ok"] >= 100
    assert "429" in attacker["errors"]
    assert attacker["errors"].keys() <= {"429", "503"}  # 503: a busy machine kept it waiting past the deadline
    assert ask(platform, "/predict", EXAMPLE, port=port)[0] == 200
    assert {ask(platform, "/predict", EXAMPLE, "127.0.0.1", port)[0] for _ in range(150)} == {200}


def test_slow_connections_are_closed_and_the_platform_answers(platform):
    """Heads that never end: more than a client may have open are closed at once, the others after 5 s."""
    with ExitStack() as stack:
        slow = []
        for _ in range(PER_CLIENT + 20):
            connection = stack.enter_context(socket.socket())
            connection.bind((LORIS, 0))
            connection.settimeout(30)
            _unless_closed(connection.connect, ("127.0.0.1", platform.ports.entry))
            slow.append(connection)
        for connection in slow:
            _unless_closed(connection.sendall, b"POST /predict HTTP/1.1\r\nhost: x\r\n")
        assert {ask(platform, "/predict", EXAMPLE)[0] for _ in range(20)} == {200}
        assert ask(platform, "/livez")[0] == 200
        # Each read ends: a connection that stayed open would time out.
        ends = [_unless_closed(connection.recv, 65536) for connection in slow]
    told = [end for end in ends if end]
    assert 1 <= len(told) <= PER_CLIENT
    assert all(end.startswith(b"HTTP/1.1 408 ") for end in told)


def _unless_closed(act, argument):
    """Do something with a connection; None if the other side has closed or broken it off."""
    try:
        return act(argument)
    except TimeoutError:
        raise
    except OSError:
        return None
