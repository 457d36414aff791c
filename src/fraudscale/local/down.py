"""Stops a platform from outside: a living supervisor by its signal, and whatever a crashed one left behind."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import psutil

from fraudscale.local.supervisor import machine, state

WAIT_SECONDS: Final = 17.0
"""A supervisor promises to be gone in 15."""
GRACE_SECONDS: Final = 8.0
"""What orphans get between the signal and the kill."""


def down(home: Path, say: Callable[[str], None]) -> int:
    """Stop the platform of a home folder, however it got there; with nothing running, say so.

    Returns:
        Exit code 0; 1 if something survived.
    """
    supervisor = state.Lock(home).holder()
    if supervisor:
        say(f"stopping the platform in {home} (process {supervisor.pid})")
        _stop(supervisor)
    try:
        with state.Lock(home):
            cleaned = clean(home, say)
    except state.AlreadyRuns as error:
        say(str(error))
        return 1
    say("stopped" if supervisor or cleaned else f"nothing runs in {home}")
    return 0


def clean(home: Path, say: Callable[[str], None]) -> int:
    """End what a supervisor that died left running; to be called by the lock's holder. Return how many processes."""
    left = {process.pid: process for process in [*_listed(home), *machine.marked(home)]}
    if left:
        say(f"a run before this one ended without stopping its {len(left)} processes; stopping them")
        killed = machine.end(list(left.values()), GRACE_SECONDS)
        if killed:
            say(f"{killed} of them did not stop within {GRACE_SECONDS:.0f} s and were killed")
    state.status_path(home).unlink(missing_ok=True)
    return len(left)


def _stop(supervisor: state.Identity) -> None:
    with suppress(ProcessLookupError, psutil.Error):
        process = psutil.Process(supervisor.pid)
        os.kill(supervisor.pid, SIGTERM)
        _, hanging = psutil.wait_procs([process], WAIT_SECONDS)
        if hanging:
            # `clean` then finds its children without it.
            os.kill(supervisor.pid, SIGKILL)
            psutil.wait_procs([process], 2)


def _listed(home: Path) -> list[psutil.Process]:
    """Find what the status file lists, for systems that hide the environment of processes."""
    status = state.read(home)
    found = []
    for identity in status.processes if status else []:
        with suppress(psutil.Error):
            if identity.lives():
                leader = psutil.Process(identity.pid)
                found += [leader, *leader.children(recursive=True)]
    return found
