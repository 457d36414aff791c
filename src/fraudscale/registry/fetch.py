"""Registry to verified local copy: what `fetch-model` does, and how a loader gets both."""

import shutil
from collections.abc import Callable
from pathlib import Path

from fraudscale.config import ModelSettings
from fraudscale.metrics import ModelMetrics
from fraudscale.model_loader import (
    CopyUnusable,
    FetchFailed,
    ModelLoader,
    read_copy,
    store,
    temporary_folder,
    write_pointer,
)
from fraudscale.registry import mlflow as registry
from fraudscale.scoring.model import Model, ModelRejected, Version, build
from fraudscale.telemetry.logs import Logger


def fetch_model(settings: ModelSettings, version: str | None = None) -> Path:
    """Bring the alias's model, or the given version's, into the folder of copies, verified; return its place.

    For the alias it also becomes what a start without the registry loads.

    Raises:
        RegistryUnavailable, ModelUnknown: as `registry.Locator.locate`, or the download failed.
        FetchFailed: the artifact must not serve, or the folder can't take it.
    """
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


def default_loader(
    settings: ModelSettings, metrics: ModelMetrics, install: Callable[[Model], None], log: Logger
) -> ModelLoader:
    """The loader of a serving process: asks MLflow's REST API, fetches in a child process."""
    return ModelLoader(settings, metrics, install, log, locate=registry.Locator(settings).locate)


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
