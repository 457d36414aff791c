"""Against a small server on this machine, which answers as it is told."""

import asyncio

import pytest

from fraudscale.load.measure import Item, Measures, StopRequest
from fraudscale.load.over_http import HttpLoad, HttpTarget, Unreachable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Answers each request with the next of some answers; None: not at all; b"": by closing."""

    def __init__(self, answers):
        self.answers = answers
        self.bodies = []
        self.peers = []
        self.arrived_by_then = None
        """Requests that had come when the first silent connection was given up."""

    async def serve(self, reader, writer):
        self.peers.append(writer.get_extra_info("peername")[0])
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                answer = self.answers[(len(self.bodies) - 1) % len(self.answers)]
                if answer is None:
                    try:
                        await reader.read()  # until the client gives up
                    finally:
                        self.arrived_by_then = self.arrived_by_then or len(self.bodies)
                if not answer:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def load(answers, count=30, *, rate=1000, stop=None, after=None, **target):
    """Send `count` items over HTTP; return measures and server."""
    server, measures = Server(answers), Measures(count / rate)
    items = iter([Item(n / rate, b"k", b"body-%d" % n) for n in range(count)])

    async def run():
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        sender = HttpLoad(HttpTarget(url, **target), items, count / rate, measures, stop or StopRequest())
        if after:
            asyncio.get_running_loop().call_later(*after)
        async with listener:
            await sender.run(lambda _: None)

    asyncio.run(run())
    return measures, server


def test_every_item_is_sent_and_answered_over_few_connections():
    measures, server = load([OK])
    assert (measures.sent, measures.ok, dict(measures.errors)) == (30, 30, {})
    assert sorted(server.bodies) == sorted(b"body-%d" % n for n in range(30))
    assert len(server.peers) < 30


def test_statuses_are_counted():
    measures, _ = load([OK, BUSY, BUSY])
    assert (measures.ok, dict(measures.errors)) == (10, {"503": 20})


def test_a_server_that_closes_is_an_error_each_time_and_not_the_end():
    measures, _ = load([OK, b""])
    assert measures.ok + measures.errors["connection"] == 30
    assert measures.errors["connection"] == 15


def test_a_server_that_says_close_gets_new_connections():
    measures, server = load([LAST])
    assert measures.ok == 30
    assert len(server.peers) >= 30


def test_no_request_goes_over_a_connection_that_was_idle_for_long(monkeypatch):
    """Its server may be closing it."""
    monkeypatch.setattr("fraudscale.load.over_http.IDLE_SECONDS", 0.1)
    measures, server = load([OK], count=3, rate=2, connections=1)
    assert (measures.ok, len(server.peers)) == (3, 3)


def test_no_answer_in_time_is_an_error():
    measures, _ = load([None], count=5, timeout=0.2)
    assert dict(measures.errors) == {"timeout": 5}


def test_arrivals_do_not_wait_for_answers():
    """The open loop: silent connections hold up no later send."""
    measures, server = load([None, OK, OK], timeout=2)
    assert (measures.sent, measures.ok, measures.errors["timeout"]) == (30, 20, 10)
    assert server.arrived_by_then == 30


def test_with_too_few_connections_sends_are_late_and_that_is_part_of_the_latency():
    measures, _ = load([None, *[OK] * 9], count=10, rate=20, timeout=1, connections=1)
    assert measures.sent == 10
    assert measures.lateness.ms(100) > 200
    assert measures.latency.ms(100) > 200


def test_what_cannot_be_sent_within_a_timeout_after_the_end_is_left():
    measures, _ = load([None], count=50, timeout=0.2, connections=1)
    assert 1 <= measures.sent < 50


def test_a_stop_ends_the_sending():
    stop = StopRequest()
    measures, _ = load([OK], count=10_000, stop=stop, after=(0.2, stop.ask))
    assert 0 < measures.ok == measures.sent < 10_000
    assert stop.at > 0


def test_requests_come_from_the_source_that_was_asked_for():
    _, server = load([OK], count=3, source="127.0.0.2")
    assert set(server.peers) == {"127.0.0.2"}


def test_a_server_that_is_not_http_is_an_error():
    measures, _ = load([b"SSH-2.0 hello\r\n\r\n"], count=3)
    assert dict(measures.errors) == {"not HTTP": 3}


def test_nobody_there_is_said_at_once():
    sender = HttpLoad(HttpTarget("http://127.0.0.1:9"), iter([]), 1, Measures(1), StopRequest())
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9: .*is the platform up"):
        asyncio.run(sender.run(lambda _: None))
