"""The operating system as the supervisor sees it: children that lead groups of their own, their logs, their end."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Final

import psutil

from fraudscale.doubts import SUPERVISED
from fraudscale.local.supervisor.component import Component

MARK: Final = SUPERVISED
"""In the environment of every process that a supervisor starts: the home folder it runs for."""
LOG_BYTES: Final = 20 * 1024 * 1024
"""A longer log becomes `<name>.log.1`, whose predecessor goes: each component keeps at most twice as much."""


class ChildProcess:
    """A child that leads its own session, so that Ctrl-C on the terminal reaches the supervisor alone."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()  # this also reaps it: a zombie would keep its group alive

    def signal(self, which: Signals) -> None:
        self._process.send_signal(which)

    def signal_group(self, which: Signals) -> None:
        signal_group(self.pid, which)

    def group_lives(self) -> bool:
        return group_lives(self.pid)

    def listens_on(self, port: int) -> bool:
        """Tell whether a process of its group does; yes too where the system doesn't say."""
        for pid in psutil.pids():
            if group_of(pid) != self.pid:
                continue
            try:
                sockets = psutil.Process(pid).net_connections("tcp")
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                return True
            if any(s.status == psutil.CONN_LISTEN and s.laddr and s.laddr.port == port for s in sockets):
                return True
        return False


class LocalMachine:
    """Starts components for a home folder, their output appended to files in `logs`."""

    def __init__(self, home: Path, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = {**environment, MARK: str(home.resolve())}
        # Each worker may hang for the 2 s of one unlucky question; the others go on.
        self._askers = ThreadPoolExecutor(8, thread_name_prefix="ready")

    def now(self) -> float:
        return time.monotonic()

    def spawn(self, component: Component) -> ChildProcess:
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / component.log_name).open("ab") as log:
            process = subprocess.Popen(
                component.command,
                env={**self._environment, **component.env},
                # A component that asks for input would wait for ever.
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: one signal reaches all that it starts, and Ctrl-C on the terminal reaches none of it.
                start_new_session=True,
            )
        return ChildProcess(process)

    def ask(self, ready: Callable[[], bool]) -> Future[bool]:
        return self._askers.submit(ready)

    def close(self) -> None:
        # A question that hangs must not hold up the exit; it ends with this process.
        self._askers.shutdown(wait=False, cancel_futures=True)


def signal_group(group: int, which: Signals) -> None:
    """Send a signal to every process of a group; one that is gone (on macOS: that waits to be reaped) is fine."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, which)


def group_lives(group: int) -> bool:
    """Tell whether a group has a process that is more than a zombie.

    In a container whose first process reaps nothing, orphans stay zombies for ever: no signal ends those.
    """
    try:
        os.killpg(group, 0)  # signal 0 only asks: the walk over all processes below is dear
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return any(group_of(process.pid) == group for process in _running())


def marked(home: Path) -> list[psutil.Process]:
    """Find the processes that some supervisor started for this home folder, directly or not."""
    # By the environment and not by parentage: an orphan's parent is process 1, and its group may be one of its own.
    value = str(home.resolve())
    return [process for process in _running() if _environment(process).get(MARK) == value]


def end(processes: list[psutil.Process], grace: float) -> int:
    """Ask processes to stop, side by side; kill those that still live after `grace` seconds. Return how many."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, grace)
    for process in alive:
        with suppress(psutil.Error):
            process.send_signal(SIGKILL)
    psutil.wait_procs(alive, 2)  # without this a caller that looks at once would still see them
    return len(alive)


def rotate(logs: Path, limit: int = LOG_BYTES) -> None:
    """Copy and cut every log longer than `limit` bytes.

    The writers keep their descriptors and go on at the new end, since those append; what they write between the copy
    and the cut is lost.
    """
    for log in logs.glob("*.log"):
        if log.stat().st_size <= limit:
            continue
        # With a full disk there is no copy, and cutting is what helps.
        with suppress(OSError):
            shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def shelve(logs: Path) -> None:
    """Put the logs of the run before this one aside, so that a log tells of one run."""
    logs.mkdir(parents=True, exist_ok=True)
    for log in logs.glob("*.log"):
        log.replace(log.with_suffix(".log.1"))


def last_lines(log: Path, count: int) -> list[str]:
    """Read the end of a log; nothing where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 200 * count))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def _running() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def group_of(pid: int) -> int | None:
    """The process group of a process; None once it is gone."""
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _environment(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}
