"""The supervisor's machine with real, tiny children: groups, logs, rotation, orphans."""

import os
import socket
import sys
import time
from signal import SIGKILL

import psutil
import pytest

from fraudscale.local.supervisor import machine
from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.supervise import Supervisor


def eventually(condition, seconds=10):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def local(tmp_path):
    made = machine.LocalMachine(tmp_path, tmp_path / "logs", os.environ)
    children, spawn = [], made.spawn
    made.spawn = lambda component: children.append(spawn(component)) or children[-1]
    yield made
    made.close()
    machine.end(machine.marked(tmp_path), grace=0)
    assert all(child.exit_code() is not None for child in children)


def shell(script, name="component", **fields):
    return Component(name, ("sh", "-c", script), **fields)


def run_until(supervisor, condition):
    def turn():
        supervisor.step()
        return condition()

    eventually(turn)


def quiet(machine, *components):
    return Supervisor(machine, components, report=lambda event: None, changed=lambda: None)


def test_a_child_leads_a_session_of_its_own_and_writes_to_its_log(local, tmp_path):
    child = local.spawn(shell("echo out; echo err >&2; exec sleep 60", name="replica-1/serve"))
    log = tmp_path / "logs" / "replica-1-serve.log"
    eventually(lambda: log.read_text() == "out\nerr\n")
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid


def test_a_child_listens_on_a_port_if_one_of_its_group_does(local, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        other = local.spawn(shell("exec sleep 60"))
        assert not other.listens_on(port), "it is this process that does"
        serve = (
            "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
            "print(s.getsockname()[1], flush=True); time.sleep(60)"
        )
        child = local.spawn(shell(f'{sys.executable} -c "{serve}" & wait', name="served"))
        log = tmp_path / "logs" / "served.log"
        eventually(lambda: log.read_text().endswith("\n"))
        its = int(log.read_text())
        assert child.listens_on(its)
        assert not child.listens_on(port)
        assert not other.listens_on(its)


def test_a_child_reads_nothing_and_knows_whom_it_runs_for(local, tmp_path):
    child = local.spawn(shell(f'cat; echo "$EXTRA ${machine.MARK}"', env={"EXTRA": "set"}))
    eventually(lambda: child.exit_code() == 0)
    assert (tmp_path / "logs" / "component.log").read_text() == f"set {tmp_path}\n"


def test_a_command_that_does_not_exist_is_an_os_error(local):
    with pytest.raises(OSError, match="no-such-program"):
        local.spawn(Component("component", ("/no-such-program",)))


def test_the_group_of_a_dead_leader_lives_until_its_last_process_is_gone(local):
    child = local.spawn(shell("sleep 60 & exit 3"))
    eventually(lambda: child.exit_code() == 3)
    assert child.group_lives()
    child.signal_group(SIGKILL)
    eventually(lambda: not child.group_lives())


def test_a_group_of_zombies_does_not_live(local):
    child = local.spawn(shell("exec sleep 60"))
    os.kill(child.pid, SIGKILL)
    eventually(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not child.group_lives()


def test_a_real_start_and_stop_leave_nothing(local, tmp_path):
    supervisor = quiet(
        local, shell("exec sleep 60", "kafka", stop_phase=1), shell("sleep 60 & sleep 60", "mlflow")
    )
    run_until(supervisor, lambda: supervisor.ready)
    assert len(machine.marked(tmp_path)) >= 3
    supervisor.stop()
    run_until(supervisor, lambda: supervisor.stopped)
    assert machine.marked(tmp_path) == []


def test_a_real_child_that_ignores_its_signal_is_killed(local, tmp_path):
    script = "trap '' TERM; echo armed; while :; do sleep 0.05; done"
    supervisor = quiet(local, shell(script, stop_seconds=0.3))
    log = tmp_path / "logs" / "component.log"
    run_until(supervisor, lambda: supervisor.ready and log.read_text() == "armed\n")
    supervisor.stop()
    run_until(supervisor, lambda: supervisor.stopped)
    assert machine.marked(tmp_path) == []


def test_a_killed_child_comes_back_with_another_pid(local):
    supervisor = quiet(local, shell("exec sleep 60"))
    run_until(supervisor, lambda: supervisor.ready)
    first = supervisor.managed["component"].pid
    os.kill(first, SIGKILL)
    run_until(supervisor, lambda: not supervisor.ready)
    run_until(supervisor, lambda: supervisor.ready)
    assert supervisor.managed["component"].pid != first


def test_a_process_that_left_its_group_is_still_found_by_its_mark(local, tmp_path):
    script = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    child = local.spawn(Component("component", (sys.executable, "-c", script)))
    eventually(lambda: child.exit_code() == 0)
    (escaped,) = machine.marked(tmp_path)
    assert os.getpgid(escaped.pid) != child.pid


def test_what_ends_in_time_is_not_killed_and_what_does_not_is(local, tmp_path):
    stubborn = local.spawn(shell("trap '' TERM; echo armed; while :; do sleep 0.05; done"))
    eventually(lambda: (tmp_path / "logs" / "component.log").read_text() == "armed\n")
    willing = local.spawn(shell("exec sleep 60", name="willing"))
    assert machine.end([psutil.Process(stubborn.pid), psutil.Process(willing.pid)], grace=0.3) == 1
    assert not psutil.pid_exists(willing.pid)
    assert not psutil.pid_exists(stubborn.pid)


def test_a_long_log_is_cut_and_its_writer_goes_on_at_the_new_end(tmp_path):
    log = tmp_path / "kafka.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        machine.rotate(tmp_path, limit=399)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "kafka.log.1").read_bytes() == b"old\n" * 100


def test_a_short_log_is_left_alone(tmp_path):
    (tmp_path / "kafka.log").write_bytes(b"old\n")
    machine.rotate(tmp_path, limit=4)
    assert [path.name for path in tmp_path.iterdir()] == ["kafka.log"]


def test_the_logs_of_the_last_run_are_put_aside(tmp_path):
    (tmp_path / "kafka.log").write_text("last run")
    machine.shelve(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kafka.log.1"]


def test_the_last_lines_of_a_log_are_its_last_lines(tmp_path):
    (tmp_path / "kafka.log").write_text("".join(f"line {i}\n" for i in range(10_000)))
    assert machine.last_lines(tmp_path / "kafka.log", 2) == ["line 9998", "line 9999"]
    assert machine.last_lines(tmp_path / "none.log", 2) == []
