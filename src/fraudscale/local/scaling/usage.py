"""Replicas as the metrics API would show them: CPU and memory of the process trees of both containers."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

import psutil

from fraudscale.hpa import Container, Pods
from fraudscale.local.scaling.manifests import Requests
from fraudscale.local.supervisor.state import Replica
from fraudscale.local.supervisor.supervise import State

PENDING: Final = State.WAITING
LEAVING: Final = frozenset({State.STOPPING, State.STOPPED})


@dataclass(frozen=True)
class Clock:
    """The machine's monotonic clock, or one that runs `scale` times as fast: then windows of minutes pass in seconds."""

    scale: float = 1.0

    def now(self) -> float:
        """Seconds, the same in every process of this machine until it restarts; setting the time doesn't touch it."""
        return time.monotonic() * self.scale


class Reading(NamedTuple):
    """Of a process and all its descendants at one moment."""

    created: float
    """Tells the process from a later one with its number."""
    cpu_s: float
    """Used since then; includes descendants that have ended."""
    rss: int
    """Resident bytes: an upper bound of a container's working set, since shared pages count in each process."""


class _Point(NamedTuple):
    at: float
    reading: Reading


def read_trees(pids: Collection[int]) -> dict[int, Reading]:
    """Read the trees under these processes; those that are gone are left out."""
    if not pids:
        return {}
    children: dict[int, list[psutil.Process]] = defaultdict(list)
    running: dict[int, psutil.Process] = {}
    # One walk over the machine's processes for all trees: psutil's own `children` walks for each.
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            children[process.ppid()].append(process)
            running[process.pid] = process
    readings = {}
    for pid in pids:
        with suppress(psutil.Error, KeyError):
            readings[pid] = _read_tree(running[pid], children)
    return readings


def _read_tree(root: psutil.Process, children: Mapping[int, list[psutil.Process]]) -> Reading:
    cpu, rss = _read(root)
    waiting = list(children[root.pid])
    while waiting:
        process = waiting.pop()
        waiting += children[process.pid]
        with suppress(psutil.Error):  # it ended just now: its parent has its time
            its_cpu, its_rss = _read(process)
            cpu, rss = cpu + its_cpu, rss + its_rss
    return Reading(root.create_time(), cpu, rss)


def _read(process: psutil.Process) -> tuple[float, int]:
    with process.oneshot():
        # The last two are of children that have ended; those of a container count as well.
        return sum(process.cpu_times()[:4]), process.memory_info().rss


class Meter:
    """Turns replicas into pods with samples. CPU is the rate between two looks, as metrics-server takes it between two scrapes."""

    def __init__(
        self,
        requests: Requests,
        clock: Clock,
        read: Callable[[Collection[int]], Mapping[int, Reading]] = read_trees,
    ) -> None:
        """Measure nothing yet.

        Args:
            requests: of the containers.
            clock: of all times; CPU seconds stay the machine's own.
            read: reads process trees by pid.
        """
        self._requests = requests
        self._clock = clock
        self._read = read
        self._points: dict[tuple[str, str], _Point] = {}

    def look(self, replicas: Iterable[Replica]) -> list[Pods]:
        """Take a sample of each replica. One has usage from the second look on, and anew after a restart of a process."""
        replicas = list(replicas)
        at = self._clock.now()
        readings = self._read({pid for r in replicas for pid in (r.serve_pid, r.stream_pid) if pid})
        before, self._points = self._points, {}
        return [self._pod(replica, readings, before, at) for replica in replicas]

    def _pod(
        self,
        replica: Replica,
        readings: Mapping[int, Reading],
        before: Mapping[tuple[str, str], _Point],
        at: float,
    ) -> Pods:
        scale, window, containers = self._clock.scale, 0.0, []
        for name, pid in (("serve", replica.serve_pid), ("stream", replica.stream_pid)):
            key, usage = (replica.id, name), None
            if pid is not None and pid in readings:
                self._points[key] = point = _Point(at, readings[pid])
                usage = self._usage(before.get(key), point)
                window = max(window, at - before[key].at if key in before else 0.0)
            containers.append(Container(name, self._requests[name], usage))
        return Pods(
            1,
            tuple(containers),
            name=replica.id,
            phase="Pending" if replica.state == PENDING else "Running",
            deleted=replica.state in LEAVING,
            ready="True" if replica.state == State.READY else "False",
            started=replica.started * scale,
            ready_since=replica.ready_since * scale,
            sampled_at=at,
            window=window,
        )

    def _usage(self, old: _Point | None, new: _Point) -> dict[str, int] | None:
        if old is None or old.reading.created != new.reading.created or new.at <= old.at:
            return None
        seconds = (new.at - old.at) / self._clock.scale
        # A descendant that left the tree takes its time with it.
        used = max(0.0, new.reading.cpu_s - old.reading.cpu_s)
        nanocores = int(1e9 * used / seconds)  # metrics-server's unit, which a quantity then rounds up
        return {"cpu": -(-nanocores // 10**6), "memory": 1000 * new.reading.rss}
