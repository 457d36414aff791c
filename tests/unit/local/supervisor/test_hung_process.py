"""A process that is stopped is started again, with real processes."""

import socket
import sys
import time
from signal import SIGSTOP

import pytest

from fraudscale.local.components import ready
from fraudscale.local.components.ready import http_ok
from fraudscale.local.supervisor import supervise
from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.machine import LocalMachine
from fraudscale.local.supervisor.supervise import Supervisor


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(supervise, "ASK_READY_SECONDS", 0.05)
    monkeypatch.setattr(supervise, "HUNG_MISSES", 3)
    monkeypatch.setattr(ready, "ASK_SECONDS", 0.5)


def until(supervisor, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        supervisor.step()
        time.sleep(0.02)


@pytest.mark.usefixtures("impatient")
def test_a_stopped_process_is_killed_and_its_successor_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (
        sys.executable,
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path),
        str(port),
    )
    asked = f"http://127.0.0.1:{port}/"
    component = Component("web", command, ready=lambda: http_ok(asked), alive=lambda: http_ok(asked))
    machine, events = LocalMachine(tmp_path, tmp_path / "logs", {}), []
    supervisor = Supervisor(
        machine, [component], report=lambda event: events.append(event.kind), changed=lambda: None
    )
    try:
        until(supervisor, lambda: supervisor.ready)
        first = supervisor.managed["web"].child
        first.signal(SIGSTOP)
        until(supervisor, lambda: "part_hung" in events and supervisor.ready)
        assert supervisor.managed["web"].pid != first.pid
    finally:
        supervisor.force()
        until(supervisor, lambda: supervisor.stopped)
        machine.close()
