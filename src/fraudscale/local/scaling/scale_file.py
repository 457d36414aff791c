"""How many replicas should run: `run/scale.json`, this machine's stand-in for a Deployment's scale sub-resource.

The autoscaler writes it and the supervisor reconciles the replicas with it; a person may write it too, as with
`kubectl scale`.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from fraudscale import files
from fraudscale.errors import FraudscaleError
from fraudscale.local.install.ports import MAX_REPLICAS, MIN_REPLICAS

Replicas = Annotated[int, msgspec.Meta(ge=MIN_REPLICAS, le=MAX_REPLICAS)]

_ABSENT: Final = (0, 0, 0)


class ScaleRefused(FraudscaleError):
    """The file does not say how many replicas this run should have; the message says why."""


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `run/scale.json`: how many replicas are desired."""

    replicas: Replicas
    run: str
    """`started_at` in the `run/status.json` of the run that it is for."""
    why: str = ""
    at: str = ""
    """RFC 3339, for people."""


def path(home: Path) -> Path:
    return home / "run" / "scale.json"


def memory_path(home: Path) -> Path:
    """Where the autoscaler keeps what a restart of it must not forget."""
    return home / "run" / "autoscaler.json"


def forget(home: Path) -> None:
    """Remove what an earlier run left: a new one begins with the least number of replicas, and without a past."""
    for file in (path(home), memory_path(home)):
        file.unlink(missing_ok=True)


def read(home: Path, run: str) -> Scale | None:
    """Read the file for a run; None where there is none.

    Raises:
        ScaleRefused: it can't be read, is not valid, or is for another run.
    """
    file = path(home)
    try:
        desired = msgspec.json.decode(file.read_bytes(), type=Scale)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ScaleRefused(f"{file}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ScaleRefused(f"{file}: {error}") from error
    if desired.run != run:
        raise ScaleRefused(f"{file}: is for the run of {desired.run!r}, and this one began at {run}")
    return desired


def write(home: Path, desired: Scale) -> None:
    """Replace the file; a reader sees the old or the new one, never a half.

    Raises:
        OSError: it can't be written; the old one is still there.
    """
    files.replace(path(home), msgspec.json.format(msgspec.json.encode(desired), indent=2) + b"\n")


class ScaleWatcher:
    """Looks again and again, cheaply: the file is read when it was replaced, and what is wrong with it is said once."""

    def __init__(self, home: Path, run: str) -> None:
        self._home = home
        self._run = run
        self._seen = _ABSENT

    def news(self) -> Scale | None:
        """Return what the file says if it is new since the last call.

        Raises:
            ScaleRefused: there is a new file, and it can't be used.
        """
        seen = self._stamp()
        if seen == self._seen:
            return None
        self._seen = seen
        return read(self._home, self._run)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = path(self._home).stat()
        except OSError:
            return _ABSENT
        return found.st_ino, found.st_mtime_ns, found.st_size
