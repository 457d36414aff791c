"""What a machine's platform tells about itself: `run/lock` (one `up` a home folder) and `run/status.json`.

The supervisor is the only writer of both; `status`, `down`, the console and the autoscaler read.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self, TypeVar

import msgspec
import psutil

from fraudscale import clock, files
from fraudscale.errors import FraudscaleError
from fraudscale.local.supervisor.supervise import ManagedComponent, State

T = TypeVar("T")

CLOCK_SECONDS: Final = 2.0
"""So far two readings of a process's create time may differ where the system computes it from the wall clock."""


class Identity(msgspec.Struct, frozen=True):
    """A process, told apart from a later one with the same number."""

    name: str
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    created: float
    """Seconds since the epoch, by the wall clock of that moment."""
    ticks: int = 0
    """From the machine's boot to its start: a figure that no change of the wall clock moves. 0 where the system tells none."""

    def lives(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            zombie = process.status() == psutil.STATUS_ZOMBIE
            # Numbers are given again after a while; number and start together are given once.
            return not zombie and self._started_with(process)
        except psutil.Error:
            return False

    def _started_with(self, process: psutil.Process) -> bool:
        if self.ticks:
            return _ticks(self.pid) == self.ticks
        return abs(process.create_time() - self.created) < CLOCK_SECONDS


class ComponentStatus(msgspec.Struct, frozen=True):
    """A component that is no replica's."""

    name: str
    state: str
    address: str
    pid: int | None


class Replica(msgspec.Struct, frozen=True):
    """A `serve` and a `stream`; `ready` once both are, else the state of the one that is not.

    Times are seconds of the machine's monotonic clock, which all processes share and nobody sets.
    """

    id: str
    state: str
    serve_pid: int | None
    stream_pid: int | None
    address: str
    started: float = 0.0
    """When the slot was taken; a process that is restarted doesn't change it."""
    ready_since: float = 0.0
    """When it last became ready, or stopped being so; `started` until the first time."""


class ModelInUse(msgspec.Struct, frozen=True):
    """Which model the entry scores with, as far as known."""

    version: str | None = None
    alias: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The content of `run/status.json`."""

    ready: bool
    components: list[ComponentStatus] = []
    replicas: list[Replica] = []
    model: ModelInUse = ModelInUse()
    jobs: dict[str, str] = {}
    """Components that run once at the start, and their states."""
    started_at: str | None = None
    supervisor: Identity | None = None
    processes: list[Identity] = []
    """All that the supervisor started and that may still run; each leads a process group."""
    ports: dict[str, int] = {}

    @property
    def entry(self) -> str:
        return next((c.address for c in self.components if c.name == "haproxy"), "")


class AlreadyRuns(FraudscaleError):
    """Another supervisor holds this home folder; the message says which, since when and where it answers."""


def identify(name: str, pid: int) -> Identity:
    """Tell a running process apart from later ones; one that ended just now gets an identity that never lives."""
    try:
        return Identity(name, pid, psutil.Process(pid).create_time(), _ticks(pid))
    except psutil.Error:
        return Identity(name, pid, 0.0)


def _ticks(pid: int) -> int:
    """Read when a process started from Linux itself: psutil adds the time of the boot, which moves with the wall clock."""
    try:
        # The name, in brackets, may hold anything; `starttime` is field 22 (proc_pid_stat(5)).
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


class Lock:
    """The right to run a platform in a home folder; the kernel takes it back when its holder dies, however it does."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "run" / "lock"

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            AlreadyRuns: another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Children don't inherit the descriptor (PEP 446), so that an orphan can't hold the lock.
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise AlreadyRuns(self._describe_holder()) from error
        # The content is for people and for `down`; the right itself is the kernel's lock, which can't be stale.
        me = identify("supervisor", os.getpid())
        os.truncate(self._file, 0)
        os.pwrite(self._file, msgspec.json.encode(me), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.truncate(self._file, 0)  # who lives on without it is no holder
        os.close(self._file)

    def holder(self) -> Identity | None:
        """Return who took the lock last, if that process still lives."""
        holder = _decode(self._path, Identity)
        return holder if holder and holder.lives() else None

    def _describe_holder(self) -> str:
        holder, status = self.holder(), read(self._home)
        if holder is None:
            return f"another process is at work in {self._home}; try again in a moment"
        since = datetime.fromtimestamp(holder.created, UTC).astimezone().isoformat(" ", "seconds")
        where = f", at {status.entry}" if status and status.entry else ""
        return (
            f"a platform runs in {self._home} already: process {holder.pid}, since {since}{where}. "
            "`fraudscale down` stops it; FRAUDSCALE_HOME and FRAUDSCALE_PORT_BASE give a second one its own room"
        )


def status_path(home: Path) -> Path:
    return home / "run" / "status.json"


def read(home: Path) -> Status | None:
    """Read what the last supervisor wrote, whether or not it still lives; None if nothing readable is there."""
    return _decode(status_path(home), Status)


def _decode(path: Path, kind: type[T]) -> T | None:
    """Read a file that only a supervisor writes; None for what a damaged disk or another program made of it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def write(home: Path, status: Status) -> None:
    """Replace `run/status.json`; a reader sees the old or the new one, never a half."""
    files.replace(status_path(home), msgspec.json.format(msgspec.json.encode(status), indent=2))


def describe(
    components: Iterable[ManagedComponent],
    *,
    ready: bool,
    started_at: datetime,
    model: ModelInUse,
    ports: Mapping[str, int],
    used: Iterable[ComponentStatus] = (),
) -> Status:
    """Put the supervisor's components into the shape of `run/status.json`.

    Args:
        components: the supervisor's.
        ready: whether the whole platform is.
        started_at: of the supervisor; with a zone.
        model: what the entry said last.
        ports: the table of this run.
        used: components that are used and were not started by us.
    """
    components = list(components)
    single = [managed for managed in components if "/" not in managed.component.name]
    return Status(
        ready=ready,
        components=[*(_component(managed) for managed in single if not managed.component.once), *used],
        replicas=_replicas(components),
        model=model,
        jobs={managed.component.name: managed.state.value for managed in single if managed.component.once},
        started_at=clock.rfc3339(started_at, "seconds"),
        supervisor=identify("supervisor", os.getpid()),
        processes=[identify(managed.component.name, managed.pid) for managed in components if managed.pid],
        ports=dict(ports),
    )


def _component(managed: ManagedComponent) -> ComponentStatus:
    return ComponentStatus(
        managed.component.name, managed.state.value, managed.component.address, managed.pid
    )


def _replicas(components: Iterable[ManagedComponent]) -> list[Replica]:
    # The two processes of a replica are one line for a reader, as a pod is with its two containers.
    halves: dict[str, dict[str, ManagedComponent]] = {}
    for managed in components:
        replica, slash, half = managed.component.name.partition("/")
        if slash:
            halves.setdefault(replica, {})[half] = managed
    return [_replica(name, components) for name, components in halves.items()]


def _replica(name: str, components: Mapping[str, ManagedComponent]) -> Replica:
    serve, stream = components.get("serve"), components.get("stream")
    states = [managed.state for managed in components.values()]
    # The worse half speaks: a replica that scores over HTTP alone is not ready.
    state = next((s for s in states if s is not State.READY), State.READY)
    return Replica(
        name,
        state.value,
        serve.pid if serve else None,
        stream.pid if stream else None,
        serve.component.address if serve else "",
        started=min(managed.added for managed in components.values()),
        ready_since=max(_ready_since(managed) for managed in components.values()),
    )


def _ready_since(managed: ManagedComponent) -> float:
    return managed.since if managed.was_ready else managed.added
