"""How many replicas are wished: `run/scale.json`, this machine's stand-in for a Deployment's scale.

The autoscaler writes it and the supervisor follows it; a person may write it too, as with `kubectl scale`.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from fraudscale import files
from fraudscale.errors import FraudscaleError
from fraudscale.local.install.ports import MAX_REPLICAS, MIN_REPLICAS

Replicas = Annotated[int, msgspec.Meta(ge=MIN_REPLICAS, le=MAX_REPLICAS)]

_NEVER: Final = (0, 0, 0)


class WishRefused(FraudscaleError):
    """The file is no wish for this run; the message says why."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `run/scale.json`."""

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


def read(home: Path, run: str) -> Wish | None:
    """Read the wish for a run; None where there is no file.

    Raises:
        WishRefused: it can't be read, is no wish, or is one for another run.
    """
    file = path(home)
    try:
        wish = msgspec.json.decode(file.read_bytes(), type=Wish)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WishRefused(f"{file}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WishRefused(f"{file}: {error}") from error
    if wish.run != run:
        raise WishRefused(f"{file}: is for the run of {wish.run!r}, and this one began at {run}")
    return wish


def write(home: Path, wish: Wish) -> None:
    """Replace the wish; a reader sees the old or the new one, never a half.

    Raises:
        OSError: it can't be written; the old one is still there.
    """
    files.replace(path(home), msgspec.json.format(msgspec.json.encode(wish), indent=2) + b"\n")


class Follower:
    """Looks again and again, cheaply: the file is read when it was replaced, and what is wrong with it is said once."""

    def __init__(self, home: Path, run: str) -> None:
        self._home = home
        self._run = run
        self._seen = _NEVER

    def news(self) -> Wish | None:
        """Return a wish that is new since the last call.

        Raises:
            WishRefused: there is a new file, and it is none.
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
            return _NEVER
        return found.st_ino, found.st_mtime_ns, found.st_size
