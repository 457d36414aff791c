"""Which slots are open to the balancer."""

import socket
import threading
from types import SimpleNamespace

import pytest

from fraudscale.local.routes import NotTold, Routes, tell
from fraudscale.local.supervisor.supervise import State


def slot(pid, state):
    return SimpleNamespace(pid=pid, state=state)


@pytest.fixture
def routes(tmp_path):
    made = Routes(tmp_path / "control")
    yield made
    made.close()


def test_a_slot_is_open_from_when_its_process_was_ready_until_that_process_is_gone(routes):
    life = [
        (None, State.WAITING, False),
        (7, State.STARTING, False),
        (7, State.READY, True),
        (7, State.STARTING, True),  # it answers late
        (7, State.READY, True),
        (None, State.RESTARTING, False),
        (8, State.STARTING, False),
        (8, State.READY, True),
        (9, State.STARTING, False),  # two steps between two looks
        (9, State.READY, True),
        (9, State.STOPPING, True),  # it drains
    ]
    seen = [routes.open_slots({"replica-5/serve": slot(pid, state)}) == {5} for pid, state, _ in life]
    assert seen == [is_open for *_, is_open in life]
    assert routes.open_slots({}) == set()


def test_a_replicas_kafka_consumer_opens_nothing(routes):
    assert routes.open_slots({"replica-1/stream": slot(7, State.READY)}) == set()


def test_a_balancer_that_is_not_there_is_tried_again_until_it_was_told_and_then_left_alone(routes, tmp_path):
    managed = {"haproxy": slot(1, State.STARTING), "replica-1/serve": slot(7, State.READY)}
    routes.follow(managed)
    assert isinstance(routes._telling[1].exception(10), OSError)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        routes.follow(managed)
        told = _answer(listener, b"")
        assert routes._telling[1].exception(10) is None
    assert b"replica-1 state ready; " in told
    assert b"replica-2 state maint" in told
    routes.follow(managed)
    assert routes._telling is None
    routes.follow(managed | {"haproxy": slot(2, State.STARTING)})
    assert routes._telling is not None, "a new balancer has forgotten all"


def test_what_a_balancer_refuses_is_told_once(routes, monkeypatch):
    def refuse(control, slots):
        raise NotTold("No such server")

    monkeypatch.setattr("fraudscale.local.routes.tell", refuse)
    managed, said = {"haproxy": slot(1, State.READY)}, []
    for _ in range(4):
        said.append(routes.follow(managed))
        if routes._telling is not None:
            routes._telling[1].exception(10)
    assert said == [None, "No such server", None, None]


def test_a_balancer_that_refuses_is_no_balancer_that_was_told(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        answerer = threading.Thread(target=_answer, args=(listener, b"No such server.\n"))
        answerer.start()
        with pytest.raises(NotTold, match="No such server"):
            tell(tmp_path / "control", {1})
        answerer.join()


def _answer(listener, said):
    connection, _ = listener.accept()
    with connection:
        asked = connection.recv(65536)
        connection.sendall(said)
    return asked
