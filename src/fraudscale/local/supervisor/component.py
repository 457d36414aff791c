"""One component of the platform as data: what to run, what it needs, how to see that it is ready, how to stop it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

READY_SECONDS: Final = 120.0
"""A component that is not ready by then failed to start."""


@dataclass(frozen=True)
class Component:
    """A process that the supervisor runs, or (`once`) a job that must end with exit code 0."""

    name: str
    """Unique; in a replica `replica-1/serve` and `replica-1/stream`. Names its log file too (`/` becomes `-`)."""
    command: tuple[str, ...]
    ready: Callable[[], bool] | None = None
    """Asked again and again, from a thread, must answer within 2 s; None: ready once it has run a moment (a job: ended)."""
    alive: Callable[[], bool] | None = None
    """Asked like `ready`, once it is unready: a process that doesn't say for long that it lives is started again. None: never."""
    needs: tuple[str, ...] = ()
    """Components that must be ready before this one starts the first time; a restart does not wait for them."""
    address: str = ""
    """HOST:PORT or URL to show; "" for none."""
    once: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of the supervisor."""
    ready_seconds: float = READY_SECONDS
    """How long it may take from its start until it is ready; for a job, until it ends."""
    stop_phase: int = 0
    """Components of phase 0 stop first, side by side; then 1, 2 …"""
    stop_seconds: float = 5.0
    """Grace between SIGTERM and the kill of its process group."""

    @property
    def port(self) -> int | None:
        """The port of its address."""
        port = self.address.rstrip("/").rpartition(":")[2]
        return int(port) if port.isdigit() else None

    @property
    def log_name(self) -> str:
        return f"{self.name.replace('/', '-')}.log"
