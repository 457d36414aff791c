"""The folder of verified copies of models, which all processes of a machine share.

    <digest>/       an artifact as `scoring/model.py` describes it, and origin.json: the registry's number for it
    current.json    `Pointer`: what served last, so that a start without the registry knows what to load
    pin             optional, written by a person: a registry version (`7`) or a digest, which then serves instead of
                    the alias; whitespace around it is ignored; removing the file returns to the alias
    <digest>.lock   held while one process fetches, so that the others wait for its copy

A copy never changes once it has its name: it is written elsewhere, synced, and renamed.
"""

import fcntl
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Final, TypeVar

import msgspec

from fraudscale import files
from fraudscale.errors import FraudscaleError
from fraudscale.scoring.model import (
    MANIFEST,
    SERVED_FILES,
    ModelRejected,
    Version,
    build,
    digest_of,
    read_manifest,
    verify_files,
)

POINTER: Final = "current.json"
PIN: Final = "pin"
ORIGIN: Final = "origin.json"
PIN_ALIAS: Final = "pin"
"""Stands for the alias where a pin chose the model."""

_ABANDONED_SECONDS: Final = 3600.0
"""A temporary folder of this age belongs to a fetch that was killed."""
_RETRY_SECONDS: Final = 0.1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class CopyUnusable(FraudscaleError):
    """There is no intact local copy of an artifact."""


class FetchFailed(FraudscaleError):
    """The registry's artifact did not become a verified local copy."""


class Origin(msgspec.Struct, frozen=True):
    """`origin.json`: where a copy came from."""

    version: str


class Pointer(msgspec.Struct, frozen=True):
    """`current.json`: the model that served last, and the digest of the one before it."""

    version: str
    alias: str
    digest: str
    previous: str | None = None


def read_copy(cache: Path, digest: str) -> tuple[bytes, dict[str, bytes]]:
    """Read a copy and compare it with its digest: the manifest's bytes, and the bytes of each served file.

    Raises:
        CopyUnusable: missing or damaged.
    """
    folder = cache / digest
    try:
        manifest = (folder / MANIFEST).read_bytes()
        served = {name: (folder / name).read_bytes() for name in SERVED_FILES}
    except OSError as error:
        raise CopyUnusable(f"{folder} can't be read: {error}") from error
    try:
        _verify(manifest, served, digest)
    except ModelRejected as error:
        raise CopyUnusable(f"{folder} is damaged: {error}") from error
    return manifest, served


def store(cache: Path, folder: Path, version: Version) -> Path:
    """Verify a downloaded artifact like a model that is to serve, and give it its place among the copies.

    The download lies in the same file system as the copies, and is moved.

    Raises:
        ModelRejected: the artifact is not what the registry promised, or must not serve.
        OSError: the disk is full, or the folder read-only.
    """
    manifest = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
    served = {name: (folder / name).read_bytes() for name in SERVED_FILES if (folder / name).is_file()}
    _verify(manifest, served, version.digest)
    build(manifest, served, version=version.version, alias=version.alias)
    (folder / ORIGIN).write_bytes(msgspec.json.encode(Origin(version.version)))
    for path in (*folder.iterdir(), folder):
        files.sync(path)
    place = cache / version.digest
    _set_aside(place)
    folder.rename(place)
    files.sync(cache)
    return place


def _verify(manifest: bytes, served: Mapping[str, bytes], digest: str) -> None:
    if (actual := digest_of(manifest)) != digest:
        raise ModelRejected(f"{MANIFEST} has the digest {actual}, wanted {digest}")
    verify_files(read_manifest(manifest), served)


def _set_aside(place: Path) -> None:
    """Free the name of a damaged copy; a reader in this moment finds none, and looks again."""
    if place.exists():
        aside = temporary_folder(place.parent)
        place.rename(aside / place.name)
        shutil.rmtree(aside, ignore_errors=True)


def known(cache: Path) -> list[Version]:
    """All local copies with a known origin, newest first; the alias is that of a pin."""
    found = [
        (_modified(folder), Version(origin.version, PIN_ALIAS, folder.name))
        for folder in cache.glob("[0-9a-f]*")
        if _DIGEST.fullmatch(folder.name) and (origin := _read(folder / ORIGIN, Origin)) is not None
    ]
    return [version for _, version in sorted(found, key=lambda item: item[0], reverse=True)]


def read_pointer(cache: Path) -> Pointer | None:
    """Read `current.json`: None if it is missing or damaged."""
    return _read(cache / POINTER, Pointer)


def last_good(cache: Path) -> list[Version]:
    """What to serve without the registry: the model that served last, then the one before it."""
    pointer = read_pointer(cache)
    if pointer is None:
        return []
    previous = [replace(v, alias=pointer.alias) for v in known(cache) if v.digest == pointer.previous]
    return [Version(pointer.version, pointer.alias, pointer.digest), *previous]


def temporary_folder(cache: Path) -> Path:
    """Make a folder for a download beside the copies; one that a killed process leaves is removed later."""
    return Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))


def write_pointer(cache: Path, version: Version) -> None:
    """Note that this version serves; to be called once it passed every check.

    Raises:
        OSError: the disk is full, or the folder read-only.
    """
    old = read_pointer(cache)
    previous = None if old is None else old.previous if old.digest == version.digest else old.digest
    new = Pointer(version.version, version.alias, version.digest, previous)
    if new != old:
        files.replace(cache / POINTER, msgspec.json.encode(new))
    if _read(cache / version.digest / ORIGIN, Origin) != Origin(version.version):
        files.replace(cache / version.digest / ORIGIN, msgspec.json.encode(Origin(version.version)))


def prune(cache: Path, keep: int) -> list[str]:
    """Remove all copies but the `keep` newest, the current, the previous and the pinned; return what went."""
    pointer, pin = read_pointer(cache), read_pin(cache)
    found = known(cache)
    kept = {version.digest for version in found[:keep]}
    kept |= {pointer.digest, pointer.previous or ""} if pointer else set()
    removed = [v.digest for v in found if v.digest not in kept and pin not in {v.version, v.digest}]
    for digest in removed:
        shutil.rmtree(cache / digest, ignore_errors=True)
        (cache / f"{digest}.lock").unlink(missing_ok=True)
    for abandoned in cache.glob(".fetch-*"):
        if time.time() - _modified(abandoned) > _ABANDONED_SECONDS:
            shutil.rmtree(abandoned, ignore_errors=True)
    return removed


def read_pin(cache: Path) -> str | None:
    """What the pin says, None without one."""
    try:
        return (cache / PIN).read_text(errors="replace").strip() or None
    except OSError:
        return None


R = TypeVar("R", Origin, Pointer)


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process was faster to remove it
        return time.time()


@contextmanager
def locked(cache: Path, digest: str, seconds: float, stopping: Event) -> Iterator[None]:
    """Hold the right to fetch a copy; the system frees it if its holder dies.

    Raises:
        FetchFailed: another process still holds it after `seconds`, or we stop.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{digest}.lock"
    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        while not _try_lock(file.fileno()):
            if stopping.wait(_RETRY_SECONDS) or time.monotonic() > deadline:
                raise FetchFailed(f"another process still holds {path}; it fetches the same model")
        yield


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
