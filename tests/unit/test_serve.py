"""How a replica serves and stops: the drain, the server around it, and the whole composition."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.request

import pytest
import structlog

from fraudscale import serve
from fraudscale.config import (
    HttpSettings,
    LogSettings,
    ModelSettings,
    ReplicaSettings,
    SettingsError,
    TracingSettings,
)
from fraudscale.serve import Drain, DrainingServer


def test_a_drain_is_over_its_seconds_after_it_has_begun(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(serve.time, "monotonic", lambda: now[0])
    drain = Drain(3)
    assert (drain.begun, drain.over) == (False, False)
    drain.begin()
    for after, over in ((0.0, False), (2.9, False), (3.0, True), (60.0, True)):
        now[0] = 100.0 + after
        assert (drain.begun, drain.over) == (True, over)


async def nothing(scope, receive, send):
    pass


def test_the_first_signal_drains_and_the_second_forces():
    server = DrainingServer(nothing, drain := Drain(3600), 5)
    assert not asyncio.run(server.on_tick(1))
    server.handle_exit(signal.SIGTERM, None)
    assert drain.begun
    assert not asyncio.run(server.on_tick(2)), "it goes on answering"
    assert not server.should_exit
    server.handle_exit(signal.SIGTERM, None)
    assert server.force_exit
    assert asyncio.run(server.on_tick(3))


def test_a_drain_that_is_over_ends_the_server():
    server = DrainingServer(nothing, Drain(0), 5)
    server.handle_exit(signal.SIGINT, None)
    assert asyncio.run(server.on_tick(1))
    assert not server.force_exit


@pytest.mark.parametrize(("seconds", "timeout"), [(7.9, 7), (0.2, 1)])
def test_what_is_in_flight_has_whole_seconds_to_finish(seconds, timeout):
    assert DrainingServer(nothing, Drain(0), seconds).config.timeout_graceful_shutdown == timeout


def settings(port):
    return (
        ReplicaSettings(_env_file=None, replica_id="replica-9"),
        HttpSettings(_env_file=None, http_port=port),
        ModelSettings(_env_file=None),
        LogSettings(_env_file=None, log_format="json"),
        TracingSettings(_env_file=None),
    )


@pytest.fixture
def _restore_logging():
    yield
    structlog.reset_defaults()


class NoRegistry:
    """In the place of the loader: the registry has nothing."""

    def __init__(self, *_):
        self.calls = []

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")


@pytest.mark.usefixtures("_restore_logging")
def test_a_replica_answers_until_a_signal_and_closes_its_port(monkeypatch, capfdbinary):
    loader = NoRegistry()
    monkeypatch.setattr(serve, "default_loader", lambda *_: loader)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answered = []

    def ask_and_signal():
        # Only once it answers: before, the signal's handler may be the one that ends the process.
        while not answered:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=30) as answer:
                    answered.append(json.load(answer))
            except OSError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_and_signal, daemon=True)
    asking.start()
    assert serve.run(*settings(port)) == 0
    asking.join()
    assert answered == [{"status": "alive"}]
    assert loader.calls == ["start", "stop"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    first, last = (json.loads(line) for line in capfdbinary.readouterr().out.splitlines())
    assert (first["event"], first["address"]) == ("serve_started", f"127.0.0.1:{port}")
    assert (last["event"], last["forced"], last["replica_id"]) == ("serve_stopped", False, "replica-9")


@pytest.mark.usefixtures("_restore_logging")
def test_a_port_that_is_taken_is_named_with_its_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"HTTP_PORT={port}: can't listen on 127.0.0.1:{port}"):
            serve.run(*settings(port))


def test_another_programs_number_of_workers_is_not_read(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    assert DrainingServer(None, Drain(0), 1).config.workers == 1


def test_a_client_that_hangs_up_with_requests_queued_is_told_to_the_one_that_runs_and_no_error(caplog):
    begun, told = threading.Event(), threading.Event()

    async def waiting(scope, receive, send):
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})
        told.set()

    server = DrainingServer(waiting, Drain(0), 1)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(3 * b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert begun.wait(10)
    is_told = told.wait(10)
    server.should_exit = True
    thread.join(20)
    assert is_told
    assert caplog.text == ""
