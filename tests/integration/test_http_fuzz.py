"""Nothing that a client sends is answered with 500, held without an answer, or remembered for ever, by any server of ours.

`make fuzz` sends more: REQUESTS=100000 SEED=….
"""

import json
import random
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from http_endpoint import GOOD

SERVERS = Path(__file__).with_name("all_servers.py")
ROUTES = {
    "serve": (
        "/predict",
        "/predict/batch",
        "/livez",
        "/readyz",
        "/metrics",
        "/model",
        "/openapi.json",
        "/docs",
    ),
    "stream": ("/livez", "/readyz", "/metrics"),
    "autoscaler": ("/livez", "/readyz", "/metrics"),
    "ship-logs": ("/livez", "/readyz", "/metrics"),
    "console": (
        *("/", "/livez", "/readyz", "/api/overview", "/dashboard.json", "/static/console.js"),
        *("/api/v1/query", "/api/v1/query_range", "/api/v1/label/pod/values", "/api/v1/alerts"),
    ),
}
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "BREW",
    "get",
    "PRI",
    "",
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = {
    "accept": (
        "text/plain;version=1",
        "text/plain;version=1.0.0",
        "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
        "*/*",
    ),
    "accept-encoding": ("gzip, deflate, br", "identity;q=0"),
    "authorization": ("Basic eDp5", "Bearer x.y.z"),
    "connection": ("close", "keep-alive", "Upgrade, HTTP2-Settings", "upgrade"),
    "content-encoding": ("gzip", "identity", "br, gzip"),
    "content-length": ("0", "5", "99999999999999999999", "-1", "0x5"),
    "content-type": (
        "application/json",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
    ),
    "cookie": ("a=b; c", "="),
    "expect": ("100-continue", "200-ok"),
    "forwarded": ("for=192.0.2.1;proto=https",),
    "host": ("localhost", "[::1]:8000", "[::1", "a/b@c:99999", "localhost:x"),
    "http2-settings": ("AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",),
    "if-none-match": ('"x"', "*"),
    "origin": ("null", "http://localhost"),
    "range": ("bytes=0-1", "bytes=-1,5-2"),
    "sec-fetch-site": ("none", "cross-site"),
    "te": ("trailers",),
    "traceparent": (TRACE, TRACE[:-2] + "00-x"),
    "tracestate": ("a=1,b=2", "="),
    "trailer": ("x",),
    "transfer-encoding": ("chunked", "gzip, chunked", "identity", "chunked, chunked"),
    "upgrade": ("h2c", "websocket"),
    "x-forwarded-for": ("192.0.2.1, 2001:db8::1", "[::1]:80", "a, b, ,"),
    "x-http-method-override": ("DELETE",),
}
READ = (
    *("accept", "accept", "content-encoding", "content-type", "expect", "host", "sec-fetch-site"),
    *("traceparent", "tracestate", "transfer-encoding", "upgrade", "x-forwarded-for"),
)
"""Headers that our servers look at."""
DEADLINE = 30
"""Seconds that an answer may take: none is a hang."""


class Request(NamedTuple):
    server: str
    method: bytes
    sent: bytes


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Fuzz:
    """Makes requests: each is a plain one in which a few things were changed."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def request(self):
        draw = self._random
        server = draw.choice(("serve", *ROUTES))
        path = draw.choice(ROUTES[server])
        method = "POST" if path.startswith(("/predict", "/api/v1/query")) else draw.choice(("GET", "HEAD"))
        method = method if draw.random() < 0.85 else draw.choice(METHODS)
        body = self._body() if method == "POST" or draw.random() < 0.1 else b""
        headers = [
            ("host", "localhost"),
            ("content-type", draw.choice(("application/json", *HEADERS["content-type"]))),
        ]
        if body or draw.random() < 0.2:
            headers.append(("content-length", str(len(body))))
        for _ in range(draw.choice((0, 1, 2, 3, 5))):
            name = draw.choice(READ if draw.random() < 0.7 else tuple(HEADERS))
            headers = [h for h in headers if h[0] != name or draw.random() < 0.1]
            headers.append((self._case(name), self._value(draw.choice(HEADERS[name]))))
        lines = [f"{method} {self._target(path)} {self._version()}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        return Request(server, method.encode(), head + body)

    def _version(self):
        return (
            "HTTP/1.1"
            if self._random.random() < 0.9
            else self._random.choice(("HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
        )

    def _case(self, name):
        return name if self._random.random() < 0.8 else name.title()

    def _target(self, path):
        draw = self._random
        if draw.random() < 0.8:
            return path
        odd = (
            "%00",
            "%ff",
            "%zz",
            "%",
            "/",
            "//",
            "/../",
            "?",
            "?query=up%7B",
            "?a[]=%ff&&=",
            "#x",
            ";",
            "\\",
            "é",
            "'\"<>",
        )
        place = draw.randrange(len(path) + 1)
        changed = path[:place] + draw.choice(odd) + path[place:]
        return draw.choice(
            (changed, changed, f"http://localhost{changed}", "*", "", path * 300, f"{path}/{changed}")
        )

    def _value(self, value):
        draw = self._random
        if draw.random() < 0.3:
            return value
        place = draw.choice((len(value), draw.randrange(len(value) + 1)))
        odd = draw.choice(
            (
                chr(draw.randrange(256)),
                "x",
                ",",
                ";",
                "=",
                '"',
                " ",
                "\t",
                "%",
                "²",
                "9" * 5000,
                "a" * 3000,
                "",
            )
        )
        return value[:place] + odd + value[place + draw.choice((0, 0, 1)) :]

    def _body(self):
        draw = self._random
        transaction = dict(GOOD)
        for _ in range(draw.choice((0, 0, 1, 2))):
            odd = (
                None,
                True,
                "",
                "x" * 200,
                "\ud800",
                "\x00",
                -1,
                1e308,
                -1e308,
                5e-324,
                10**400,
                2**63,
                24,
                [],
                {},
                0.5,
            )
            transaction[draw.choice([*GOOD, "more"])] = draw.choice(odd)
        record = draw.choice(
            (transaction, transaction, {"transactions": [transaction] * draw.choice((0, 1, 3, 1001))})
        )
        body = json.dumps(record).encode()
        return draw.choice((body, body, body, self._damaged(body)))

    def _damaged(self, body):
        draw = self._random
        place = draw.randrange(len(body))
        return draw.choice(
            (
                body[:place],
                body[:place] + draw.randbytes(draw.choice((1, 1, 4))) + body[place + 1 :],
                b"\xef\xbb\xbf" + body,
                zlib.compress(body),
                body.decode().encode("utf-16"),
                b"[" * draw.choice((1, 5000, 100_000)),
                b"query=up&time=%ff",
                draw.randbytes(draw.choice((1, 100, 70_000))),
            )
        )


@pytest.fixture(scope="module")
def servers(make_artifact, tmp_path_factory):
    """All servers in a process of their own: name → port, and the process."""
    folder = tmp_path_factory.mktemp("artifact")
    make_artifact(folder)
    said = (folder / "stderr").open("w+b")
    with (
        said,
        subprocess.Popen(
            [sys.executable, SERVERS, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        ) as process,
    ):
        try:
            yield json.loads(process.stdout.readline()), psutil.Process(process.pid)
            failed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert json.loads(failed) == []
        said.seek(0)
        assert said.read() == b""


def exchange(port, request):
    """Send a request on a connection of its own; return its answer, or None if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
        try:
            connection.sendall(request.sent)
            with connection.makefile("rb") as answer:
                return read_answer(answer, request.method)
        except (ConnectionResetError, BrokenPipeError):
            return None


def read_answer(answer, method):
    line, headers = answer.readline(), {}
    if not line:
        return None
    while (header := answer.readline()) not in {b"\r\n", b""}:
        name, _, value = header.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    status = int(line.split()[1])
    if status < 200:
        return read_answer(answer, method)
    body = b"" if method.upper() == b"HEAD" else answer.read(int(headers["content-length"]))
    return Answer(status, headers, body)


def complaint(request, answer):
    """What is wrong with an answer; None for nothing."""
    if answer is None:
        return None  # the connection was closed on what is no request, or while it was sent
    if answer.status >= 500:
        return f"{answer.status}"
    if answer.status >= 400:
        if answer.headers["content-type"] != "application/problem+json":
            return f"{answer.status} is no problem"
        if answer.body and json.loads(answer.body)["status"] != answer.status:
            return f"the body says another status than {answer.status}"
    elif answer.status != 200:
        return f"{answer.status}"
    return None


def sizes(process):
    return process.memory_info().rss, process.num_threads(), process.num_fds()


def run(servers, seed, count):
    """Send so many requests; return answers by status. Prints the figures."""
    ports, process = servers
    fuzz, statuses, warm = Fuzz(seed), {}, None
    print(f"seed {seed}")  # noqa: T201 - for the report
    began = time.monotonic()
    for sent in range(count):
        request = fuzz.request()
        answer = exchange(ports[request.server], request)
        assert complaint(request, answer) is None, (seed, request, answer)
        statuses[answer and answer.status] = statuses.get(answer and answer.status, 0) + 1
        if sent == count // 5:
            warm = sizes(process)
    now = sizes(process)
    print(  # noqa: T201
        f"{count} requests in {time.monotonic() - began:.0f} s: {statuses}; memory, threads, files: {warm} → {now}"
    )
    return statuses, warm, now


def test_what_a_client_sends_is_no_error_of_ours(servers, request):
    seed = request.config.getoption("--seed") or random.randrange(2**32)
    statuses, _, _ = run(servers, seed, 2000)
    assert statuses[200] > 200
    assert statuses.keys() >= {200, 400, 404, 405, 415, 422}


@pytest.mark.parametrize("mode", GenerationMode)
def test_what_the_schema_describes_is_answered_as_it_says(servers, mode):
    """Requests made from the schema, with data that fits it and data that does not."""
    ports, _ = servers
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{ports['serve']}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 6
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing in it can be wrong

        @settings(max_examples=20, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(mode))
        def keeps_its_word(case):
            # 3.0 is an integer to JSON Schema, and none to us
            case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=DEADLINE)

        keeps_its_word()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_of_very_many_requests_is_kept(servers, request):
    seed = request.config.getoption("--seed") or random.randrange(2**32)
    _, (memory, threads, files), now = run(servers, seed, request.config.getoption("--requests"))
    assert now[0] < memory + 20 * 2**20
    assert now[1] <= threads + 8
    assert now[2] <= files + 16
