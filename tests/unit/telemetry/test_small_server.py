"""What the console and the probes share: one small server in a thread."""

import http.client
import json
import socket

import pytest

from fraudscale.telemetry import small_server
from fraudscale.telemetry.asgi import listen
from fraudscale.telemetry.small_server import PLAIN, Rejected, Reply, SmallServer, in_thread


async def answer(request):
    match request.path:
        case "/echo":
            return Reply(200, PLAIN, await request.body(10))
        case "/asked":
            return Reply(200, PLAIN, f"{request.method} {request.query} {request.headers['x-a']}".encode())
        case "/thread":
            return await in_thread(lambda: Reply(200, PLAIN, b"from a thread"))
        case "/broken":
            return await in_thread(lambda: 1 / 0)
    raise Rejected(404, f"nothing is at {request.path}", {"X-Why": "a reason"})


@pytest.fixture
def serve():
    """Start a server; all that were started stop at the end."""
    running = []

    def serve(**kwargs):
        server = SmallServer(
            listen("SOME_PORT", "127.0.0.1", 0),
            answer,
            methods=("GET", "HEAD", "POST"),
            headers={"X-Frame": "no"},
            **kwargs,
        )
        server.start()
        running.append(server)
        return server

    yield serve
    for server in running:
        server.stop()


@pytest.fixture
def ask(serve):
    server = serve()

    def ask(method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    return ask


def test_a_handler_sees_the_request_as_it_was_sent(ask):
    assert ask("GET", "/asked?a=%20", **{"X-A": "1"})[2] == b"GET a=%20 1"
    status, headers, body = ask("HEAD", "/asked?", **{"X-A": "1"})
    assert (status, headers["Content-Length"], body) == (200, "6", b"")
    assert json.loads(ask("GET", "/%61sked")[2])["detail"] == "nothing is at /%61sked"


def test_every_answer_has_the_headers_of_the_server_and_its_own(ask):
    status, headers, _ = ask("GET", "/nothing")
    assert (status, headers["X-Frame"], headers["X-Why"]) == (404, "no", "a reason")
    assert headers["Content-Type"] == "application/problem+json"
    assert ask("POST", "/echo", b"x")[1]["X-Frame"] == "no"


def test_other_methods_are_told_what_is_allowed(ask):
    for method in ("PUT", "BREW"):
        status, headers, body = ask(method, "/echo")
        assert (status, headers["Allow"]) == (405, "GET, HEAD, POST")
        assert json.loads(body)["detail"] == "only GET, HEAD and POST"


def test_a_body_has_a_bound(ask):
    assert ask("POST", "/echo", b"x" * 10)[::2] == (200, b"x" * 10)
    status, headers, body = ask("POST", "/echo", b"x" * 11)
    assert (status, headers["Connection"]) == (413, "close")
    assert json.loads(body)["title"] == "Content Too Large"


def test_a_body_that_trickles_in_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(small_server, "BODY_SECONDS", 0.05)
    answered = raw(serve(), b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
    assert answered.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_work_in_a_thread_gives_its_result_or_an_error_that_is_logged(ask, caplog):
    assert ask("GET", "/thread")[2] == b"from a thread"
    status, _, body = ask("GET", "/broken")
    assert (status, b"division" in body) == (500, False)
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


def raw(server, sent):
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(sent)
        return connection.makefile("rb").read()


def test_what_is_no_request_gets_a_problem_and_the_connection_is_closed(serve):
    head, _, body = raw(serve(), b"how are you?\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["status"] == 400


@pytest.mark.parametrize("cut", [20, 200])
def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_not_lost(serve, cut):
    server = serve()
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\nUpgrade: h2c\r\n"
    )
    last = b"GET /thread HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    sent = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + offer + b"\r\n12345" + last
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(sent[:cut])
        raw(server, last)  # the server has read the piece before the next one is sent
        connection.sendall(sent[cut:])
        answered = connection.makefile("rb").read()
    assert answered.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"\r\n\r\n12345HTTP" in answered


@pytest.mark.parametrize("sent", [b"", b"GET /echo HT", b"GET /asked HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\r\n"])
def test_a_connection_that_stays_silent_is_closed(serve, sent):
    answered = raw(serve(idle_seconds=1), sent)  # ends with the connection
    assert answered == b"" or answered.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_port_is_free_again_after_the_stop(serve):
    server = serve()
    port = server.port
    raw(server, b"GET /thread HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    server.stop()
    listen("SOME_PORT", "127.0.0.1", port).close()
