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


def test_a_balancer_that_is_not_there_is_tried_again(routes):
    for _ in range(3):
        routes.follow({"haproxy": slot(1, State.STARTING), "replica-1/serve": slot(7, State.READY)})
    routes.follow({})


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
        connection.recv(65536)
        connection.sendall(said)
