"""The lock, `run/status.json`, and what `status` and `down` make of them."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import psutil
import pytest

from fraudscale.local import running
from fraudscale.local.down import down
from fraudscale.local.supervisor import machine, state
from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.supervise import ManagedComponent, State

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Running:
    def __init__(self, pid):
        self.pid = pid


HALVES = ("serve", "stream")


def managed(name, state=State.READY, pid=None, since=0.0, added=0.0, was_ready=False, **fields):
    child = Running(pid or os.getpid())
    component = Component(name, ("run",), **fields)
    return ManagedComponent(
        component, state=state, child=child, since=since, added=added, was_ready=was_ready
    )


def described(*components, ready=True):
    return state.describe(
        components,
        ready=ready,
        started_at=NOW,
        model=state.ModelInUse("3", "champion"),
        ports={"kafka": 9092},
    )


@contextmanager
def sleeping(**environment):
    with subprocess.Popen(["sleep", "60"], env=os.environ | environment, start_new_session=True) as child:
        yield child
        child.kill()


def test_the_file_has_the_promised_shape(tmp_path):
    state.write(tmp_path, described(managed("kafka", pid=1, address="127.0.0.1:9092")))
    written = json.loads((tmp_path / "run" / "status.json").read_text())
    assert written["components"] == [
        {"name": "kafka", "state": "ready", "address": "127.0.0.1:9092", "pid": 1}
    ]
    assert (written["ready"], written["model"]) == (True, {"version": "3", "alias": "champion"})
    assert (written["started_at"], written["ports"]) == ("2026-11-23T12:00:00Z", {"kafka": 9092})


def test_the_two_halves_of_a_replica_are_one_row():
    (row,) = described(
        managed("replica-1/serve", pid=1, address="127.0.0.1:8101"), managed("replica-1/stream", pid=2)
    ).replicas
    assert row == state.Replica("replica-1", "ready", 1, 2, "127.0.0.1:8101")


def test_a_replica_tells_since_when_it_is_ready_and_a_new_one_since_when_it_starts():
    old = [
        managed(f"replica-1/{half}", since=30.0 + i, added=10.0, was_ready=True)
        for i, half in enumerate(HALVES)
    ]
    new = [managed(f"replica-2/{half}", State.STARTING, since=52.0, added=50.0) for half in HALVES]
    rows = described(*old, *new).replicas
    assert [(row.started, row.ready_since) for row in rows] == [(10.0, 31.0), (50.0, 50.0)]


def test_a_replica_is_what_its_worse_half_is():
    (row,) = described(managed("replica-1/serve"), managed("replica-1/stream", State.RESTARTING)).replicas
    assert row.state == "restarting"


def test_jobs_are_no_components():
    status = described(managed("topics", State.DONE, once=True), managed("kafka"))
    assert ([c.name for c in status.components], status.jobs) == (["kafka"], {"topics": "done"})


def test_what_was_written_is_read_again(tmp_path):
    status = described(managed("kafka"))
    state.write(tmp_path, status)
    assert state.read(tmp_path) == status


DAMAGED = [b"", b"{", b"[]", b'{"ready":"\xff"}', b'{"name":"\xff"}', b"[" * 100_000]
NO_PROCESS = [b'{"name":"x","pid":-1,"created":0}', b'{"name":"x","pid":%d,"created":0}' % 2**70]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_no_file(tmp_path, content):
    state.write(tmp_path, described())
    state.status_path(tmp_path).write_bytes(content)
    assert state.read(tmp_path) is None
    assert running.examine(tmp_path) == state.Status(ready=False)


@pytest.mark.parametrize("content", DAMAGED + NO_PROCESS)
def test_a_damaged_lock_is_held_by_nobody(tmp_path, content):
    path = tmp_path / "run" / "lock"
    path.parent.mkdir()
    path.write_bytes(content)
    assert state.Lock(tmp_path).holder() is None
    with state.Lock(tmp_path):
        pass


def test_a_file_whose_supervisor_is_gone_says_that_nothing_is_ready(tmp_path):
    with sleeping() as gone:
        stale = state.identify("supervisor", gone.pid)
    state.write(tmp_path, state.Status(ready=True, supervisor=stale))
    assert running.examine(tmp_path) == state.Status(ready=False)


def test_of_a_platform_whose_supervisor_was_killed_is_told_what_still_runs(tmp_path):
    """As listed in its file, and as marked where the file doesn't know it; the processes below one are no rows."""
    mark = {machine.MARK: str(tmp_path)}
    with sleeping() as gone, sleeping(**mark) as kafka, sleeping(**mark) as stream, sleeping(**mark) as other:
        status = described(
            managed("kafka", pid=kafka.pid, address="127.0.0.1:9092"),
            managed("haproxy", pid=gone.pid, address="127.0.0.1:8000"),
            managed("replica-1/serve", pid=gone.pid, address="127.0.0.1:8101"),
            managed("replica-1/stream", pid=stream.pid),
        )
        gone.kill()
        gone.wait()
        dead = state.Identity("supervisor", gone.pid, 1.0)
        state.write(tmp_path, msgspec.structs.replace(status, supervisor=dead))
        found = running.examine(tmp_path)
        assert not found.ready
        assert [(one.name, one.state) for one in found.components] == [
            ("kafka", "orphan"),
            ("sleep", "orphan"),
        ]
        assert [(one.id, one.state) for one in found.replicas] == [("replica-1", "orphan")]
        assert {one.pid for one in found.processes} == {kafka.pid, stream.pid, other.pid}
        assert running.as_text(found).splitlines()[-1].endswith("`fraudscale down` stops them")
        assert down(tmp_path, lambda _: None) == 0
        assert running.as_text(running.examine(tmp_path)).startswith("nothing runs here")


def test_a_supervisor_that_has_not_told_yet_what_runs_is_named(tmp_path):
    with state.Lock(tmp_path):
        said = running.as_text(running.examine(tmp_path))
    assert (
        said
        == f"not ready: process {os.getpid()} is at work, and run/status.json does not tell what runs yet"
    )


def test_a_part_that_died_a_moment_ago_is_not_believed_to_be_ready(tmp_path):
    with sleeping() as child:
        state.write(tmp_path, described(managed("kafka", pid=child.pid)))
        assert running.examine(tmp_path).ready
    assert not running.examine(tmp_path).ready


def test_a_later_process_with_the_same_number_is_another_one():
    me = psutil.Process()
    assert state.Identity("me", me.pid, me.create_time()).lives()
    assert not state.Identity("me", me.pid, me.create_time() - 100).lives()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("step", [-7200.0, 3.0, 86400.0])
def test_a_wall_clock_that_was_set_makes_no_process_another_one(step):
    """psutil computes the create time from the boot time, which Linux moves with the wall clock."""
    with sleeping() as child:
        written = state.identify("kafka", child.pid)
        before_the_step = msgspec.structs.replace(written, created=written.created - step)
        assert before_the_step.lives()
        later = msgspec.structs.replace(written, ticks=written.ticks + 1)
        assert not later.lives()
    assert not before_the_step.lives()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_name_with_brackets_and_spaces_hides_no_start(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([program, "60"]) as child:
        try:
            assert state._ticks(child.pid) > state._ticks(1)
        finally:
            child.kill()


def test_an_entry_that_does_not_answer_has_no_model():
    assert running.model_at("http://127.0.0.1:9") is None


def test_a_second_lock_says_who_runs_since_when_and_where(tmp_path):
    with state.Lock(tmp_path):
        state.write(tmp_path, described(managed("haproxy", address="http://127.0.0.1:8000")))
        with pytest.raises(state.AlreadyRuns) as caught, state.Lock(tmp_path):
            pass
    assert f"process {os.getpid()}, since 2" in str(caught.value)
    assert "at http://127.0.0.1:8000" in str(caught.value)


def test_a_lock_whose_holder_was_killed_is_free(tmp_path):
    script = "import os, sys, pathlib; from fraudscale.local.supervisor.state import Lock; Lock(pathlib.Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    lock = state.Lock(tmp_path)
    assert lock.holder() is None
    with lock:
        assert lock.holder().pid == os.getpid()


def test_down_with_nothing_running_says_so(tmp_path):
    said = []
    assert down(tmp_path, said.append) == 0
    assert said == [f"nothing runs in {tmp_path}"]


def test_down_after_a_crash_stops_what_carries_the_mark(tmp_path):
    said = []
    with sleeping(**{machine.MARK: str(tmp_path)}) as orphan:
        assert down(tmp_path, said.append) == 0
        assert not psutil.pid_exists(orphan.pid)
    assert "1 processes" in said[0]


def test_down_after_a_crash_stops_what_the_file_lists_but_not_a_stranger_with_that_number(tmp_path):
    with sleeping() as listed, sleeping() as stranger:
        lists = [state.identify("kafka", listed.pid), state.Identity("mlflow", stranger.pid, 1.0)]
        state.write(tmp_path, state.Status(ready=True, processes=lists))
        assert down(tmp_path, lambda _: None) == 0
        assert not psutil.pid_exists(listed.pid)
        assert stranger.poll() is None
    assert state.read(tmp_path) is None
