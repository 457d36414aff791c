"""`down` against supervisors that heed it, that don't, and one that it must not touch."""

import subprocess
import sys
from contextlib import contextmanager

import msgspec
import pytest

from fraudscale.local import down
from fraudscale.local.supervisor import state

HOLDER = """
import signal, sys, time
from pathlib import Path
from fraudscale.local.supervisor.state import Lock
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Lock(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(home, kind):
    """A process that holds the lock of a home folder as a supervisor does."""
    command = [sys.executable, "-c", HOLDER, str(home), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


@pytest.mark.parametrize("kind", ["well-behaved", "stubborn"])
def test_a_living_supervisor_is_stopped_and_killed_where_it_hangs(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(down, "WAIT_SECONDS", 0.3 if kind == "stubborn" else 20)
    lines = []
    with holder(tmp_path, kind) as process:
        assert down.down(tmp_path, lines.append) == 0
        assert lines == [f"stopping the platform in {tmp_path} (process {process.pid})", "stopped"]
    with state.Lock(tmp_path):
        pass  # it is free


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the create time is all that there is")
def test_a_step_of_the_wall_clock_hides_no_supervisor(tmp_path):
    lines = []
    with holder(tmp_path, "well-behaved") as process:
        lock = tmp_path / "run" / "lock"
        written = msgspec.json.decode(lock.read_bytes())
        lock.write_bytes(msgspec.json.encode(written | {"created": written["created"] - 3600}))
        assert down.down(tmp_path, lines.append) == 0
        assert lines == [f"stopping the platform in {tmp_path} (process {process.pid})", "stopped"]


def test_a_supervisor_that_takes_the_lock_meanwhile_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(state.Lock, "holder", lambda _: None)
    lines = []
    with state.Lock(tmp_path):
        assert down.down(tmp_path, lines.append) == 1
    assert lines == [f"another process is at work in {tmp_path}; try again in a moment"]


def test_orphans_that_had_to_be_killed_are_counted(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(down.machine, "marked", lambda _: [type("Process", (), {"pid": 1})])
    monkeypatch.setattr(down.machine, "end", lambda processes, grace: len(processes))
    assert down.clean(tmp_path, lines.append) == 1
    assert lines == [
        "a run before this one ended without stopping its 1 processes; stopping them",
        "1 of them did not stop within 8 s and were killed",
    ]
