"""The platform under attack: clients are told apart by their address, 127.0.0.1 being the one that is trusted."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from test_platform import EXAMPLE

from fraudscale.config import HttpSettings

ATTACKER, GOOD, LORIS, CROWD = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
PER_CLIENT = HttpSettings.model_fields["connections_per_client"].default
MAX_IN_FLIGHT = HttpSettings.model_fields["max_in_flight"].default
HEALTH = ("/livez", "/readyz")
FLOODER = str(Path(__file__).with_name("flooder.py"))


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
def flood(platform, port, connections):
    """Attack a port; give a dictionary that holds how many answers of each status the attacker got, in the end."""
    attacker = [sys.executable, FLOODER, str(port), ATTACKER, str(connections)]
    process, answered = subprocess.Popen(attacker, stdout=subprocess.PIPE, text=True), {}
    try:
        yield answered
    finally:
        process.send_signal(signal.SIGINT)
        answered |= json.loads(process.communicate(timeout=60)[0])


def shed(platform, port):
    """How many requests a replica has refused because too many waited."""
    metrics = ask(platform, "/metrics", source="127.0.0.1", port=port)[2]
    found = re.findall(
        r'^http_requests_total\{.*endpoint="/predict".*status="503".*\} (\d+)', metrics, re.MULTILINE
    )
    return sum(map(int, found))


def watch(platform, port, good):
    """Ask for health as all three clients until the good one is done; return the statuses, and the good one's report."""
    watched = []
    while good.poll() is None:
        watched += [ask(platform, p, source=s, port=port)[0] for p in HEALTH for s in (GOOD, ATTACKER)]
        watched += [ask(platform, p, port=slot)[0] for p in HEALTH for slot in platform.ports.serve[:4]]
        watched += [ask(platform, "/metrics", port=port, source="127.0.0.1")[0]]
        time.sleep(0.2)
    return watched, report(good)


def test_a_good_client_is_served_while_the_balancer_refuses_who_exceeds_the_rate(harmed):
    port = harmed.ports.entry
    calm = report(load(harmed, port, GOOD, 45, 5))
    began = time.monotonic()
    with flood(harmed, port, PER_CLIENT // 2) as answered:
        harmed.wait(lambda: refusal(harmed, port), "the attacker is refused")
        watched, flooded = watch(harmed, port, load(harmed, port, GOOD, 45, 8))
        _, headers, problem = harmed.wait(
            lambda: refusal(harmed, port, **{"X-Forwarded-For": "127.0.0.1"}), "it is refused"
        )
    seconds = time.monotonic() - began
    _tell("the balancer", calm, flooded, answered, seconds)
    assert (calm["errors"], calm["ok"]) == ({}, calm["scheduled"])
    assert flooded["sent"] == flooded["scheduled"] > 200
    assert flooded["ok"] >= 0.99 * flooded["sent"], flooded["errors"]
    assert set(watched) == {200}
    assert (problem["status"], headers["retry-after"]) == (429, "1")
    assert "1000 requests a second (RATE_LIMIT_PER_SECOND)" in problem["detail"]
    assert answered.keys() <= {"200", "429"}
    # The balancer's windows let through five bursts in four times its length; here for two of them at most.
    assert answered["200"] <= 2 * (5 * 2000 + 1.25 * 1000 * seconds)


def test_a_good_client_is_served_while_a_replica_sheds_who_has_most_in_flight(harmed):
    """No rate is set; the attacker has twice as many requests in flight as may wait."""
    port = harmed.ports.serve[0]
    calm, before = report(load(harmed, port, GOOD, 45, 5)), shed(harmed, port)
    began = time.monotonic()
    with flood(harmed, port, 2 * MAX_IN_FLIGHT) as answered:
        harmed.wait(lambda: shed(harmed, port) > before, "the replica sheds")
        watched, flooded = watch(harmed, port, load(harmed, port, GOOD, 45, 8))
    _tell("a replica", calm, flooded, answered, time.monotonic() - began)
    assert flooded["sent"] == flooded["scheduled"] > 200
    assert flooded["ok"] >= 0.99 * flooded["sent"], flooded["errors"]
    assert set(watched) == {200}
    assert answered.keys() == {"200", "503"}
    told = json.loads(
        harmed.fraudscale("logs", "--files", "--event", "client_refused", "--json").stdout.splitlines()[-1]
    )
    assert told["client"] == ATTACKER


def _tell(at, calm, flooded, answered, seconds):
    print(  # noqa: T201 - for the report
        f"\nat {at}: p99 of the good client calm {calm['latency_ms']['p99']:.1f} ms, under attack "
        f"{flooded['latency_ms']['p99']:.1f} ms, {flooded['ok']} of {flooded['sent']} scored; attacker: {answered} in {seconds:.1f} s"
    )


def test_the_balancer_counts_what_it_refuses(harmed):
    def denied():
        metrics = ask(harmed, "/metrics", source="127.0.0.1", port=harmed.ports.haproxy_metrics)[2]
        pattern = r'^haproxy_frontend_requests_denied_total\{proxy="entry"\} (\d+)'
        return int(re.search(pattern, metrics, re.MULTILINE)[1])

    before = denied()
    with flood(harmed, harmed.ports.entry, PER_CLIENT // 2):
        harmed.wait(lambda: denied() > before, "they are counted")


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
