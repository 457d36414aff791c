"""The folder of downloads in the user's cache, which clones share.

A component appears there whole or not at all, whatever is killed and however many of us run.
"""

import fcntl
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from fraudscale.config import SettingsError
from fraudscale.errors import FraudscaleError

Say = Callable[[str], None]
"""Takes one line for the person who waits."""


class MissingComponent(FraudscaleError):
    """Something that the platform needs is neither here nor to be had; the message says what to do."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"{name} is missing: {remedy}")
        self.name = name
        self.remedy = remedy


class DownloadFolder:
    """Makes folders in it, one after the other; counts what had to be downloaded."""

    def __init__(self, path: Path, say: Say) -> None:
        """Take a folder, which is made with the first download.

        Raises:
            SettingsError: it begins with `~`, and the user has no home folder.
        """
        try:
            self.path = path.expanduser().resolve()
        except RuntimeError as error:
            raise SettingsError(
                f"FRAUDSCALE_CACHE={str(path)!r}: where that is nobody knows; set HOME, or FRAUDSCALE_CACHE to a folder of yours"
            ) from error
        self.downloaded = 0
        """Bytes."""
        self.seconds = 0.0
        self.say = say

    def whole(self, target: Path, title: str, make: Callable[[Path], int]) -> Path:
        """Return a folder, made by `make(draft) -> bytes` if it isn't there yet, and then put in place in one step.

        Raises:
            MissingComponent: it can't be made; the message says why.
        """
        if target.is_dir():
            return target
        # One lock for all packages of a distribution: apt's lists serve one of us at a time.
        with self._locked(target.relative_to(self.path).parts[0]):
            if not target.is_dir():  # another process may have made it while we waited
                self._make(target, title, make)
        return target

    def _make(self, target: Path, title: str, make: Callable[[Path], int]) -> None:
        began = time.monotonic()
        self.say(f"{title}: downloading")
        # What an interrupted run left in the draft is used again where `make` can tell that it is good.
        draft = target.with_name(f"{target.name}.part")
        draft.mkdir(parents=True, exist_ok=True)
        size = make(draft)
        draft.replace(target)
        seconds = time.monotonic() - began
        self.downloaded += size
        self.seconds += seconds
        self.say(f"{title}: {megabytes(size)} in {seconds:.1f} s")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self.path / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise MissingComponent(
                name,
                f"can't write to {path.parent} ({error.strerror}); set FRAUDSCALE_CACHE to a folder of yours",
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"{path.stem}: another process is downloading it; waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def run(
    command: Sequence[str],
    what: str,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run a command that brings or checks `what`; return what it prints.

    Raises:
        MissingComponent: it failed.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise MissingComponent(
            what, f"`{Path(command[0]).name}` failed: {' '.join(last)}; install it by hand, on PATH"
        )
    return done.stdout


def machine() -> str:
    """Name the kind of machine that programs are for: `linux-x86_64`."""
    return f"{sys.platform}-{platform.machine().lower()}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
