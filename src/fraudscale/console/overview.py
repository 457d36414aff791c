"""What the page shows that Prometheus doesn't know: which components run, what the model is, why there are so many replicas."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from fraudscale import clock
from fraudscale.local import running
from fraudscale.local.supervisor import state
from fraudscale.local.supervisor.machine import last_lines

SYNCS: Final = 40
"""Last lines of the autoscaler's log in which its last sync is looked for; most lines are syncs."""
_MODEL: Final = ("version", "alias", "wanted", "loaded_at", "threshold", "trained_at", "training", "metrics")


class Decision(msgspec.Struct, frozen=True):
    """Of an `hpa_synced` in the autoscaler's log: what it decided last, and why."""

    timestamp: str
    reason: str
    message: str
    current_replicas: int
    target_replicas: int
    want: int | None


class Overview(msgspec.Struct, frozen=True):
    """The answer of `/api/overview`."""

    at: str
    """RFC 3339."""
    ready: bool
    components: list[state.ComponentStatus]
    replicas: list[state.Replica]
    jobs: dict[str, str]
    started_at: str | None
    """When the platform was; None where none runs."""
    model: dict[str, Any] | None
    """What the load balancer answers to `/model`; None without an answer."""
    decision: Decision | None


def look(home: Path) -> Overview:
    """Look at the platform of a home folder."""
    status = running.examine(home)
    return Overview(
        at=clock.rfc3339(datetime.now(UTC), "seconds"),
        ready=status.ready,
        components=status.components,
        replicas=status.replicas,
        jobs=status.jobs,
        started_at=status.started_at,
        model=_model(status.entry),
        decision=last_decision(home / "logs" / "autoscaler.log") if status.started_at else None,
    )


def _model(entry: str) -> dict[str, Any] | None:
    answer = running.get_json(entry, "/model") if entry else None
    if not isinstance(answer, dict) or "version" not in answer:
        return None
    return {name: answer[name] for name in _MODEL if name in answer}


def last_decision(log: Path) -> Decision | None:
    """Find the last sync in a log; None where there is none."""
    for line in reversed(last_lines(log, SYNCS)):
        if '"event":"hpa_synced"' in line:
            with suppress(msgspec.DecodeError):  # one that is cut off, or half written
                return msgspec.json.decode(line, type=Decision)
    return None
