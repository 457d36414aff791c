"""Local copies to a verified, warmed model: swap, pin, last good; one plain thread, the same in both doors.

The folder of copies is shared by all processes of a machine:

    <digest>/       an artifact as `scoring/model.py` describes it, and origin.json: the registry's number for it
    current.json    `Pointer`: what served last, so that a start without the registry knows what to load
    pin             optional, written by a person: a registry version (`7`) or a digest, which then serves instead of
                    the alias; whitespace around it is ignored; removing the file returns to the alias
    <digest>.lock   held while one process fetches, so that the others wait for its copy

A copy never changes once it has its name: it is written elsewhere, synced, and renamed.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Final, Protocol, TypeVar

import msgspec

from fraudscale.config import ModelSettings
from fraudscale.errors import FraudscaleError
from fraudscale.metrics import ModelMetrics
from fraudscale.scoring.model import (
    MANIFEST,
    SERVED_FILES,
    Model,
    ModelRejected,
    Version,
    build,
    digest_of,
    read_manifest,
    verify_files,
)
from fraudscale.telemetry.logs import Logger

POINTER: Final = "current.json"
PIN: Final = "pin"
ORIGIN: Final = "origin.json"
PIN_ALIAS: Final = "pin"
"""Stands for the alias where a pin chose the model."""

FETCH_SECONDS: Final = 60.0
MAX_BACK_OFF_SECONDS: Final = 300.0
_ABANDONED_SECONDS: Final = 3600.0
"""A temporary folder of this age belongs to a fetch that was killed."""
_RETRY_SECONDS: Final = 0.1

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"[0-9]{1,18}")


class CopyUnusable(FraudscaleError):
    """There is no intact local copy of an artifact."""


class FetchFailed(FraudscaleError):
    """The registry's artifact did not become a verified local copy."""


class PinInvalid(FraudscaleError):
    """The pin names no model that can be found."""


class NoModelFound(FraudscaleError):
    """The registry gives no answer, and no local copy served before."""


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
        files = {name: (folder / name).read_bytes() for name in SERVED_FILES}
    except OSError as error:
        raise CopyUnusable(f"{folder} can't be read: {error}") from error
    try:
        _verify(manifest, files, digest)
    except ModelRejected as error:
        raise CopyUnusable(f"{folder} is damaged: {error}") from error
    return manifest, files


def store(cache: Path, folder: Path, version: Version) -> Path:
    """Verify a downloaded artifact like a model that is to serve, and give it its place among the copies.

    Args:
        cache: the folder of copies.
        folder: the download, in the same file system; it is moved.
        version: what was asked for.

    Raises:
        ModelRejected: the artifact is not what the registry promised, or must not serve.
        OSError: the disk is full, or the folder read-only.
    """
    manifest = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
    files = {name: (folder / name).read_bytes() for name in SERVED_FILES if (folder / name).is_file()}
    _verify(manifest, files, version.digest)
    build(manifest, files, version=version.version, alias=version.alias)
    (folder / ORIGIN).write_bytes(msgspec.json.encode(Origin(version.version)))
    for path in (*folder.iterdir(), folder):
        _sync(path)
    place = cache / version.digest
    _set_aside(place)
    folder.rename(place)
    _sync(cache)
    return place


def _verify(manifest: bytes, files: Mapping[str, bytes], digest: str) -> None:
    if (actual := digest_of(manifest)) != digest:
        raise ModelRejected(f"{MANIFEST} has the digest {actual}, wanted {digest}")
    verify_files(read_manifest(manifest), files)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _set_aside(place: Path) -> None:
    """Free the name of a damaged copy; a reader in this moment finds none, and looks again."""
    if place.exists():
        aside = temporary_folder(place.parent)
        place.rename(aside / place.name)
        shutil.rmtree(aside, ignore_errors=True)


def copies(cache: Path) -> list[Version]:
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
    previous = [replace(v, alias=pointer.alias) for v in copies(cache) if v.digest == pointer.previous]
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
        _replace(cache / POINTER, msgspec.json.encode(new))
    if _read(cache / version.digest / ORIGIN, Origin) != Origin(version.version):
        _replace(cache / version.digest / ORIGIN, msgspec.json.encode(Origin(version.version)))


def prune(cache: Path, keep: int) -> list[str]:
    """Remove all copies but the `keep` newest, the current, the previous and the pinned; return what went."""
    pointer, pin = read_pointer(cache), read_pin(cache)
    found = copies(cache)
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


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # the next reader may be another user: an init container, say
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process was faster to remove it
        return time.time()


class Locate(Protocol):
    """Asks the registry which version the alias, or the given number, stands for; may raise anything."""

    def __call__(self, version: str | None = None) -> Version: ...


class Fetch(Protocol):
    """Makes a local copy of a version, or raises; gives up once `stopping` is set."""

    def __call__(self, version: Version, stopping: Event) -> None: ...


def fetch_in_child(version: Version, stopping: Event) -> None:
    """Run `fraudscale fetch-model` in a process of its own, which has our environment and working folder.

    Raises:
        FetchFailed: it failed (the message has its last line), took too long, or we stop.
    """
    command = [sys.executable, "-m", "fraudscale.cli", "fetch-model", "--version", version.version]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait_for(child, stopping)
        finally:
            child.kill()
            child.wait()
        if child.returncode != 0:
            output.seek(0)
            lines = output.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
            raise FetchFailed(f"fetch-model ended with code {child.returncode}: {last}")


def _wait_for(child: subprocess.Popen[bytes], stopping: Event) -> None:
    deadline = time.monotonic() + FETCH_SECONDS
    while child.poll() is None:
        if stopping.wait(_RETRY_SECONDS):
            raise FetchFailed("the process stops, so fetch-model was ended")
        if time.monotonic() > deadline:
            raise FetchFailed(
                f"fetch-model took longer than {FETCH_SECONDS:.0f} s; is the artifact store slow?"
            )


@contextlib.contextmanager
def _locked(path: Path, stopping: Event) -> Iterator[None]:
    """Hold a lock among processes, which the system frees if its holder dies."""
    deadline = time.monotonic() + 2 * FETCH_SECONDS
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


class _BackOff:
    """When to try again what failed: after two polls, four, eight …, five minutes at most."""

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._failures: dict[str, tuple[int, float]] = {}

    def holds(self, key: str, now: float) -> bool:
        return key in self._failures and now < self._failures[key][1]

    def failed(self, key: str, now: float) -> float:
        """Note a failure; return the seconds to wait."""
        times = self._failures.get(key, (0, 0.0))[0] + 1
        seconds = min(MAX_BACK_OFF_SECONDS, self._poll_seconds * 2.0 ** min(times, 20))
        self._failures[key] = times, now + seconds
        return seconds

    def clear(self) -> None:
        self._failures.clear()


class ModelLoader:
    """Keeps the model that should serve serving: the pin's, else the registry's, else the last good copy.

    `install` is called from the loader's own thread, with a model that passed every check. Whatever fails, the model
    that serves stays; the failure is counted, logged, and tried again with growing pauses.
    """

    def __init__(
        self,
        settings: ModelSettings,
        metrics: ModelMetrics,
        install: Callable[[Model], None],
        log: Logger,
        *,
        locate: Locate,
        fetch: Fetch = fetch_in_child,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = settings.model_cache_dir
        self._copies = settings.model_copies
        self._poll_seconds = settings.model_poll_seconds
        self._metrics = metrics
        self._install = install
        self._log = log
        self._locate = locate
        self._fetch = fetch
        self._clock = clock
        self._serving: Version | None = None
        self._registry_lost = False
        self._back_off = _BackOff(settings.model_poll_seconds)
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="model-loader", daemon=True)

    def start(self) -> None:
        """Begin loading, and polling; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop polling, ending a fetch that runs; wait for the thread, `timeout` seconds at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def check(self) -> None:
        """Poll once: find out which model should serve, and load it unless it does."""
        pin = read_pin(self._cache)
        if pin is not None:
            self._follow_pin(pin)
        # A pin that can't be loaded keeps what serves; only a process with nothing to serve looks further.
        if pin is None or self._serving is None:
            self._follow_registry()
        if self._serving is None:
            self._start_from_last_good()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.check()
            except Exception:  # a thread that died would look like a registry that never changes
                self._log.exception("model_loader_failed")
            self._stopping.wait(self._poll_seconds)

    def _follow_pin(self, pin: str) -> None:
        serving = self._serving
        if serving is None or serving.alias != PIN_ALIAS or pin not in {serving.version, serving.digest}:
            self._attempt(f"pin {pin}", "pin", lambda: self._pinned(pin))

    def _pinned(self, pin: str) -> Version:
        for version in copies(self._cache):
            if pin in {version.version, version.digest}:
                return version
        if not _VERSION.fullmatch(pin):
            raise PinInvalid(
                f'{self._cache / PIN} says "{pin}": neither a version nor the digest of a local copy; '
                "write one of these, or remove the file"
            )
        return replace(self._locate(pin), alias=PIN_ALIAS)

    def _follow_registry(self) -> None:
        wanted = self._ask_registry()
        if wanted is not None and wanted != self._serving:
            self._attempt_version(wanted, "registry")

    def _ask_registry(self) -> Version | None:
        try:
            wanted = self._locate()
        except Exception as error:  # whatever kept the registry from answering, what serves stays
            if not self._registry_lost:
                self._log.warning("registry_unavailable", error=str(error), serving=self._serving_version())
            self._registry_lost = True
            return None
        if self._registry_lost:
            self._log.info("registry_back", serving=self._serving_version(), wanted=wanted.version)
        self._registry_lost = False
        return wanted

    def _start_from_last_good(self) -> None:
        candidates = last_good(self._cache)
        for version in candidates:
            if self._serving is None:
                self._attempt_version(version, "last_good", fetch=False)
        if self._registry_lost and not candidates:
            self._attempt("nothing", "last_good", self._nothing)

    def _nothing(self) -> Version:
        raise NoModelFound(
            f"the registry gives no answer and {self._cache} holds no model that served before; start the registry"
        )

    def _attempt_version(self, version: Version, source: str, *, fetch: bool = True) -> None:
        key = f"{source} {version.version} {version.digest}"
        self._attempt(key, source, lambda: version, fetch=fetch)

    def _attempt(self, key: str, source: str, find: Callable[[], Version], *, fetch: bool = True) -> None:
        if self._back_off.holds(key, self._clock()):
            return
        begin = time.perf_counter()
        version: Version | None = None
        try:
            version = find()
            model = self._load(version, fetch=fetch)
            self._install(model)
        except Exception as error:  # a bad artifact may raise anything; the model that serves must not suffer
            if not self._stopping.is_set():
                self._note_failure(key, source, version, error, time.perf_counter() - begin)
            return
        self._serving = version
        self._back_off.clear()
        self._note_success(model, source, time.perf_counter() - begin)
        self._remember(version)

    def _load(self, version: Version, *, fetch: bool) -> Model:
        try:
            manifest, files = read_copy(self._cache, version.digest)
        except CopyUnusable:
            if not fetch:
                raise
            self._fetch_once(version)
            manifest, files = read_copy(self._cache, version.digest)
        return build(manifest, files, version=version.version, alias=version.alias)

    def _fetch_once(self, version: Version) -> None:
        """Fetch, unless another process does: then wait for its copy."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with _locked(self._cache / f"{version.digest}.lock", self._stopping):
            try:
                read_copy(self._cache, version.digest)
            except CopyUnusable:
                self._fetch(version, self._stopping)

    def _note_success(self, model: Model, source: str, seconds: float) -> None:
        self._metrics.loads.labels("success").value += 1
        self._metrics.load_duration.labels().observe(seconds)
        self._log.info(
            "model_loaded",
            version=model.version,
            alias=model.alias,
            digest=model.digest,
            source=source,
            seconds=round(seconds, 3),
            parity_rows=model.parity.rows,
            max_difference=model.parity.max_difference,
        )

    def _note_failure(
        self, key: str, source: str, version: Version | None, error: Exception, seconds: float
    ) -> None:
        self._metrics.loads.labels("failure").value += 1
        self._metrics.errors.labels("system").value += 1
        self._metrics.load_duration.labels().observe(seconds)
        self._log.error(
            "model_load_failed",
            version=version.version if version else None,
            digest=version.digest if version else None,
            source=source,
            error=f"{type(error).__name__}: {error}",
            seconds=round(seconds, 3),
            retry_seconds=self._back_off.failed(key, self._clock()),
            serving=self._serving_version(),
        )

    def _remember(self, version: Version) -> None:
        try:
            write_pointer(self._cache, version)
            prune(self._cache, self._copies)
        except OSError as error:
            self._log.warning(
                "model_pointer_not_written",
                error=f"{error}; free space in {self._cache} or make it writable, or a start without the registry "
                "may load an older model",
            )

    def _serving_version(self) -> str | None:
        return self._serving.version if self._serving else None
