"""The platform under attack: clients are told apart by their address, 127.0.0.1 being the one that is trusted."""

import http.client
import json
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

import pytest
from test_platform import EXAMPLE

from fraudscale.config import HttpSettings

ATTACKER, GOOD, LORIS, CROWD = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
PER_CLIENT = HttpSettings.model_fields["connections_per_client"].default
HEALTH = ("/livez", "/readyz")


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


def refusal(platform, port, source=ATTACKER, **headers):
    """Ask once; return the answer if it is a refusal."""
    answer = ask(platform, "/predict", EXAMPLE, source, port, **headers)
    return answer if answer[0] == 429 else None


def load(platform, port, source, rate, seconds):
    """Start `fraudscale load` from an address."""
    where = ("--url", f"http://127.0.0.1:{port}", "--source", source, "--connections", "32")
    how = ("--rate", str(rate), "--seconds", str(seconds))
    return subprocess.Popen(
        platform.command("load", "--json", *where, *how),
        env=platform.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def report(process):
    return json.loads(process.communicate(timeout=120)[0])


@contextmanager
def flood(platform, port):
    """Attack a port; give a list that holds the attacker's report in the end."""
    process, reports = load(platform, port, ATTACKER, 400, 300), []
    try:
        platform.wait(lambda: refusal(platform, port), "the attacker is refused")
        yield reports
    finally:
        process.send_signal(signal.SIGINT)
        reports.append(report(process))


@pytest.mark.parametrize("at", ["the balancer", "a replica"])
def test_a_good_client_is_served_while_an_attacker_is_refused(harmed, at):
    port = harmed.ports.entry if at == "the balancer" else harmed.ports.serve[0]
    calm = report(load(harmed, port, GOOD, 45, 5))
    began = time.monotonic()
    with flood(harmed, port) as reports:
        good = load(harmed, port, GOOD, 45, 8)
        watched = []
        while good.poll() is None:
            watched += [ask(harmed, p, source=s, port=port)[0] for p in HEALTH for s in (GOOD, ATTACKER)]
            watched += [ask(harmed, p, port=slot)[0] for p in HEALTH for slot in harmed.ports.serve[:4]]
            watched += [ask(harmed, "/metrics", port=port, source="127.0.0.1")[0]]
            time.sleep(0.2)
        flooded = report(good)
        # The attacker gets its rate still, so not each of its requests is refused.
        _, headers, problem = harmed.wait(
            lambda: refusal(harmed, port, **{"X-Forwarded-For": "127.0.0.1"}), "it is refused"
        )
    seconds = time.monotonic() - began
    (attacker,) = reports
    print(  # noqa: T201 - for the report
        f"\nat {at}: p99 of the good client calm {calm['latency_ms']['p99']:.1f} ms, under attack "
        f"{flooded['latency_ms']['p99']:.1f} ms; attacker: {attacker['ok']} scored, {attacker['errors']} in {seconds:.1f} s"
    )
    assert (calm["errors"], calm["ok"]) == ({}, calm["scheduled"])
    assert flooded["sent"] == flooded["scheduled"] > 200
    assert flooded["ok"] >= 0.99 * flooded["sent"], flooded["errors"]
    assert set(watched) == {200}
    assert (problem["status"], headers["retry-after"]) == (429, "1")
    assert "RATE_LIMIT_PER_SECOND" in problem["detail"]
    assert attacker["errors"].keys() == {"429"}
    assert attacker["errors"]["429"] > attacker["ok"] >= 100
    # The balancer's windows let through five bursts in four times its length.
    assert attacker["ok"] <= 2 * (5 * 100 + 1.25 * 50 * seconds)


def test_the_balancer_counts_what_it_refuses(harmed):
    def denied():
        metrics = ask(harmed, "/metrics", source="127.0.0.1", port=harmed.ports.haproxy_metrics)[2]
        pattern = r'^haproxy_frontend_requests_denied_total\{proxy="entry"\} (\d+)'
        return int(re.search(pattern, metrics, re.MULTILINE)[1])

    before = denied()
    with flood(harmed, harmed.ports.entry):
        pass
    assert denied() > before


def test_a_trusted_client_is_not_limited(harmed):
    for port in (harmed.ports.entry, harmed.ports.serve[0]):
        answers = [ask(harmed, "/predict", EXAMPLE, "127.0.0.1", port) for _ in range(250)]
        assert [answer for answer in answers if answer[0] != 200] == []


def test_a_client_with_too_many_connections_is_told_so(harmed):
    with ExitStack() as stack:
        for _ in range(PER_CLIENT):
            stack.enter_context(socket.create_connection(("127.0.0.1", harmed.ports.entry), 30, (CROWD, 0)))
        # The balancer may still be taking them in.
        entry = harmed.ports.entry
        _, headers, problem = harmed.wait(lambda: refusal(harmed, entry, CROWD), "it has too many")
        assert headers["retry-after"] == "1"
        assert "CONNECTIONS_PER_CLIENT" in problem["detail"]
        assert ask(harmed, "/predict", EXAMPLE)[0] == 200
    harmed.wait(lambda: ask(harmed, "/predict", EXAMPLE, source=CROWD)[0] == 200, "it may again")


def test_slow_connections_are_closed_and_the_platform_answers(harmed):
    """Heads that never end: more than a client may have open are closed at once, the others after 5 s."""
    with ExitStack() as stack:
        slow = []
        for _ in range(2 * PER_CLIENT + 20):
            connection = stack.enter_context(socket.socket())
            connection.bind((LORIS, 0))
            connection.settimeout(30)
            _unless_closed(connection.connect, ("127.0.0.1", harmed.ports.entry))
            slow.append(connection)
        for connection in slow:
            _unless_closed(connection.sendall, b"POST /predict HTTP/1.1\r\nhost: x\r\n")
        answers = [ask(harmed, "/predict", EXAMPLE) for _ in range(20)]
        assert [answer for answer in answers if answer[0] != 200] == []
        assert ask(harmed, "/livez")[0] == 200
        # Each read ends: a connection that stayed open would time out.
        ends = [_unless_closed(connection.recv, 65536) for connection in slow]
    told = [end for end in ends if end]
    assert 1 <= len(told) <= 2 * PER_CLIENT
    assert all(end.startswith(b"HTTP/1.1 408 ") for end in told)


def _unless_closed(act, argument):
    """Do something with a connection; None if the other side has closed or broken it off."""
    try:
        return act(argument)
    except TimeoutError:
        raise
    except OSError:
        return None
