"""Which replica slots the balancer may send to: those whose port a replica of ours was seen to hold. The others are in maintenance.

HAProxy asks each slot who answers, 300 ms apart; a port that is given up can be somebody else's sooner than that.
"""

import os
import socket
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from fraudscale.errors import FraudscaleError
from fraudscale.local.components.haproxy import servers
from fraudscale.local.install.ports import MAX_REPLICAS
from fraudscale.local.supervisor.supervise import ManagedComponent, State

TELL_SECONDS: Final = 1.0
LONGEST_PATH: Final = 100
"""Bytes; the kernel takes 107 of a socket's."""


class NotTold(FraudscaleError):
    """The balancer did not do what it was told."""


class _Told(NamedTuple):
    balancer: int
    """Its pid: a new one has forgotten all."""
    slots: frozenset[int]


class Routes:
    """Keeps the balancer current; each call of `follow` looks at all and waits for nothing."""

    def __init__(self, control: Path) -> None:
        """Take the socket by which the balancer is told."""
        self._control = control
        self._holders: dict[int, int] = {}
        self._told: _Told | None = None
        self._refusal: str | None = None
        self._telling: tuple[_Told, Future[None]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="routes")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def follow(self, managed: Mapping[str, ManagedComponent]) -> str | None:
        """Tell the balancer what is new; return what it refuses, once.

        It may not listen yet, or hang: then the next call tries again.
        """
        slots, balancer = self.open_slots(managed), managed.get("haproxy")
        if self._telling is not None:
            told, answer = self._telling
            if not answer.done():
                return None
            self._telling = None
            if (error := answer.exception()) is None:
                self._told = told
            elif isinstance(error, NotTold) and str(error) != self._refusal:
                self._refusal = str(error)
                return self._refusal
        if balancer is None or balancer.pid is None:
            return None
        wanted = _Told(balancer.pid, slots)
        if wanted != self._told:
            self._telling = wanted, self._thread.submit(tell, self._control, slots)
        return None

    def open_slots(self, managed: Mapping[str, ManagedComponent]) -> frozenset[int]:
        """Return the slots (1, 2 …) whose present process was ready once; it may be busy, or draining."""
        for slot in range(1, MAX_REPLICAS + 1):
            serve = managed.get(f"replica-{slot}/serve")
            if serve is None or serve.pid is None:
                self._holders.pop(slot, None)
            elif serve.state is State.READY:
                self._holders[slot] = serve.pid
            elif self._holders.get(slot) != serve.pid:
                self._holders.pop(slot, None)
        return frozenset(self._holders)


def tell(control: Path, slots: Collection[int]) -> None:
    """Open these slots, and put all others in maintenance.

    Raises:
        NotTold: the balancer refuses.
        OSError: it doesn't answer.
    """
    commands = [
        f"set server {server} state {'ready' if slot in slots else 'maint'}" for slot, server in servers()
    ]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TELL_SECONDS)
        _connect(connection, control)
        connection.sendall("; ".join(commands).encode() + b"\n")
        with connection.makefile("rb") as answer:
            said = answer.read().decode(errors="replace").strip()
    if said:
        raise NotTold(f"the balancer answers {said!r}")


def _connect(connection: socket.socket, path: Path) -> None:
    if len(os.fsencode(path)) <= LONGEST_PATH:
        connection.connect(str(path))
        return
    # However deep the folder is, its descriptor has a short name.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
