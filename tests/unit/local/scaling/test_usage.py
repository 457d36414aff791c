"""Replicas as pods with samples: rates, restarts, readiness; and the reading of real process trees."""

import os
import subprocess
import sys

import psutil
import pytest

from fraudscale.hpa.pods import usage
from fraudscale.local.scaling.usage import Clock, Meter, Reading, read_trees
from fraudscale.local.supervisor.state import Replica

REQUESTS = {name: {"cpu": 50, "memory": 1000} for name in ("serve", "stream")}


class Machine(Clock):
    """A clock that a test moves, and processes whose use it sets."""

    def __init__(self, scale=1.0):
        super().__init__(scale)
        object.__setattr__(self, "time", 1000.0)
        object.__setattr__(self, "processes", {})

    def now(self):
        return self.time * self.scale

    def read(self, pids):
        return {pid: self.processes[pid] for pid in pids if pid in self.processes}

    def use(self, pid, cpu_s, rss=100, created=1.0):
        self.processes[pid] = Reading(created, cpu_s, rss)

    def pass_(self, seconds):
        object.__setattr__(self, "time", self.time + seconds)


def replica(state="ready", serve=1, stream=2, **fields):
    return Replica("replica-1", state, serve, stream, "", **fields)


def look(machine, meter, **fields):
    (pod,) = meter.look([replica(**fields)])
    return pod


@pytest.mark.parametrize("scale", [1, 10])
def test_cpu_is_the_rate_of_real_seconds_between_two_looks_and_memory_the_last_look_s(scale):
    machine = Machine(scale)
    meter = Meter(REQUESTS, machine, machine.read)
    machine.use(1, 10.0)
    machine.use(2, 20.0)
    assert usage(look(machine, meter), "cpu") is None
    machine.pass_(15)
    machine.use(1, 10.6, rss=300)
    machine.use(2, 20.9, rss=500)
    pod = look(machine, meter)
    assert usage(pod, "cpu", "serve") == 40  # 0.6 s in 15 s
    assert usage(pod, "cpu") == 100
    assert usage(pod, "memory") == 800_000
    assert (pod.sampled_at, pod.window) == (1015 * scale, 15 * scale)


def test_a_process_that_was_restarted_has_no_sample_until_its_second_look():
    machine = Machine()
    meter = Meter(REQUESTS, machine, machine.read)
    machine.use(1, 10.0)
    machine.use(2, 20.0)
    look(machine, meter)
    machine.pass_(15)
    machine.use(2, 0.5, created=2.0)  # same number, other process
    assert usage(look(machine, meter), "cpu") is None
    machine.pass_(15)
    machine.use(2, 2.0, created=2.0)
    assert usage(look(machine, meter), "cpu") == 100


def test_a_replica_whose_half_is_gone_has_no_sample():
    machine = Machine()
    meter = Meter(REQUESTS, machine, machine.read)
    machine.use(1, 10.0)
    for _ in range(2):
        pod = look(machine, meter, state="restarting", stream=None)
        machine.pass_(15)
    assert usage(pod, "cpu") is None
    assert (pod.phase, pod.ready, pod.deleted) == ("Running", "False", False)


@pytest.mark.parametrize(
    ("state", "phase", "deleted", "ready"),
    [
        ("waiting", "Pending", False, "False"),
        ("starting", "Running", False, "False"),
        ("ready", "Running", False, "True"),
        ("stopping", "Running", True, "False"),
    ],
)
def test_the_states_of_the_supervisor_are_those_of_a_pod(state, phase, deleted, ready):
    machine = Machine(scale=10)
    pod = look(machine, Meter(REQUESTS, machine, machine.read), state=state, started=900.0, ready_since=905.0)
    assert (pod.phase, pod.deleted, pod.ready) == (phase, deleted, ready)
    assert (pod.started, pod.ready_since) == (9000.0, 9050.0)


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_a_tree_is_read_with_its_living_and_its_ended_descendants():
    """A shell whose first child has burnt 0.3 s and ended, and whose second has a child that holds 60 MB."""
    hold = "import sys; x = bytearray(60_000_000); print(chr(33), flush=True); sys.stdin.read()"
    script = f'{sys.executable} -c "{BURN}"; sh -c \'{sys.executable} -c "{hold}"; true\'; true'
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout.readline() == "!\n"
        reading = read_trees([shell.pid])[shell.pid]
        alone = psutil.Process(shell.pid)
        assert reading.created == alone.create_time()
        assert reading.cpu_s >= 0.3
        assert reading.rss > 60_000_000 > alone.memory_info().rss
        shell.stdin.close()


def test_a_process_that_is_gone_is_left_out():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert read_trees([gone.pid]) == {}
    assert read_trees([os.getpid()])[os.getpid()].rss > 0
