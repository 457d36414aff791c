"""Registry to verified local copy: what `fetch-model` does, and how a serving process lets a child do it.

The download needs MLflow's client, and an artifact is unknown bytes until it is verified: neither may slow down or kill
a process that serves.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event
from typing import Final

from fraudscale.config import ModelSettings
from fraudscale.errors import InputError
from fraudscale.registry import mlflow as registry
from fraudscale.registry.copies import (
    CopyUnusable,
    FetchFailed,
    read_copy,
    store,
    temporary_folder,
    write_pointer,
)
from fraudscale.scoring.model import VERSION_NUMBER, ModelRejected, Version, build

FETCH_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
"""Between two looks at whether the child has ended."""


class NoVersion(InputError):
    """A version of the registry is a number."""


def fetch_model(settings: ModelSettings, version: str | None = None) -> Path:
    """Bring the alias's model, or the given version's, into the folder of copies, verified; return its place.

    For the alias it also becomes what a start without the registry loads.

    Raises:
        RegistryUnavailable, ModelUnknown: as `registry.Locator.locate`, or the download failed.
        FetchFailed: the artifact must not serve, or the folder can't take it.
        NoVersion: the version is no number.
    """
    if version is not None and not VERSION_NUMBER.fullmatch(version):
        raise NoVersion(f"version {version[:80]!r}: must be a number such as 3")
    wanted = registry.Locator(settings).locate(version)
    cache = settings.model_cache_dir
    try:
        place = _copy(settings, wanted)
        if version is None:
            write_pointer(cache, wanted)
    except ModelRejected as error:
        raise FetchFailed(f"version {wanted.version} must not serve: {error}; register another") from error
    except OSError as error:
        raise FetchFailed(f"{cache} can't take the copy: {error}; free space, or make it writable") from error
    return place


def _copy(settings: ModelSettings, wanted: Version) -> Path:
    cache = settings.model_cache_dir
    try:
        build(*read_copy(cache, wanted.digest), version=wanted.version, alias=wanted.alias)
    except CopyUnusable:
        return _download(settings, wanted)
    return cache / wanted.digest


def _download(settings: ModelSettings, wanted: Version) -> Path:
    cache = settings.model_cache_dir
    cache.mkdir(parents=True, exist_ok=True)
    folder = temporary_folder(cache)
    try:
        return store(cache, registry.fetch(settings, wanted.version, folder), wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_in_child(settings: ModelSettings, version: Version, stopping: Event) -> None:
    """Run `fraudscale fetch-model` in a process of its own, which has our environment, settings and working folder.

    Raises:
        FetchFailed: it failed (the message has its last line), took too long, or we stop.
    """
    command = [sys.executable, "-m", "fraudscale.cli", "fetch-model", "--version", version.version]
    # Said, even where they are defaults: the child would look for the platform of its home folder.
    where = {
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "MODEL_CACHE_DIR": str(settings.model_cache_dir),
    }
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command, env=os.environ | where, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
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
        if stopping.wait(_LOOK_SECONDS):
            raise FetchFailed("the process stops, so fetch-model was ended")
        if time.monotonic() > deadline:
            raise FetchFailed(
                f"fetch-model took longer than {FETCH_SECONDS:.0f} s; is the artifact store slow?"
            )
